"""A subject computed by every peer: outputs checked first, then interleaved rounds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from fusedsplit.bench import harness
from fusedsplit.bench.ladder import Cell
from fusedsplit.bench.program import ProviderUnavailable
from race.inference import PEERS, YARDSTICK
from race.inference.keras_programs import exact
from race.inference.subjects import Subject
from race.remote import Remote

# An output may err by four times what Keras' own program errs, or by some units in the last place of its largest
# number: enough for another order of summation and for folded weights, far too little for a wrong program.
_RATIO, _FLOOR = 4.0, 1e-5
_MODE = "forward"

Say = Callable[[str], None]


class Field:
    """The peers' processes, and why those that take no part do not."""

    def __init__(self, names: Sequence[str], threads: int, patience: float, say: Say):
        self.threads, self.patience, self.say = threads, patience, say
        self.peers: dict[str, Remote] = {}
        self.missing: dict[str, str] = {}
        for name in names:
            self._start(name)

    def _start(self, name: str) -> None:
        target, environment = PEERS[name]
        limits = {v: str(self.threads) for v in ("FUSEDSPLIT_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
        try:
            self.peers[name] = Remote(target, {**limits, "NPROC": str(self.threads), **environment}, self.patience)
            self.peers[name].ask("configure", self.threads)
        except ProviderUnavailable as error:
            self.miss(name, error)

    def miss(self, what: str, reason: object) -> None:
        """Says once why something is not measured."""
        if what not in self.missing:
            self.missing[what] = str(reason)
            self.say(f"{what}: skipped: {reason}")

    def revive(self) -> None:
        """New processes for those that have ended."""
        for name in [name for name, peer in self.peers.items() if not peer.alive]:
            self._start(name)

    def close(self) -> None:
        for peer in self.peers.values():
            peer.close()


@dataclasses.dataclass(frozen=True)
class _Form:
    """One program of a peer, as the harness sees it."""

    peer: Remote
    name: str

    def repetitions(self, min_sample: float) -> int:
        return self.peer.ask("repetitions", self.name, min_sample)

    def sample(self, repetitions: int) -> float:
        return self.peer.ask("sample", self.name, repetitions)


class Contest:
    """One subject."""

    def __init__(self, field: Field, subject: Subject):
        self.field, self.subject = field, subject
        self.exact = exact(subject)
        self.loaded: dict[str, Remote] = {}
        field.revive()
        for name, peer in field.peers.items():
            try:
                for form, reason in peer.ask("load", subject).items():
                    field.miss(f"{subject.name}, {form}", reason)
                self.loaded[name] = peer
            except ProviderUnavailable as error:
                field.miss(f"{subject.name}, {name}", error)

    def measure(self, batch: int, rounds: int) -> Cell:
        """Checks and times every form at one batch; what is wrong is not timed."""
        inputs = self.subject.rows(batch)
        truth = self.exact(inputs)
        errors: dict[str, float] = {}
        forms: dict[str, _Form] = {}
        for name, peer in list(self.loaded.items()):
            try:
                outputs = peer.ask("prepare", inputs)
            except ProviderUnavailable as error:
                self.field.miss(f"{self.subject.name} from batch {batch}, {name}", error)
                del self.loaded[name]
                continue
            errors |= {form: error_of(ys, truth) for form, ys in outputs.items()}
            forms |= {form: _Form(peer, form) for form in outputs}
        problems = disagreements(errors)
        timings = harness.race({n: f for n, f in forms.items() if not problems[n]}, rounds=rounds)
        return Cell(self.subject.name, batch, _MODE, self.subject.flops(batch), timings, problems)


def error_of(outputs: Sequence[np.ndarray], truth: Sequence[np.ndarray]) -> float:
    """The largest error, as a share of the largest number of its output; infinite where shapes differ."""
    if [y.shape for y in outputs] != [t.shape for t in truth]:
        return float("inf")
    return max(float(np.max(np.abs(y - t)) / max(np.max(np.abs(t)), 1e-30)) for y, t in zip(outputs, truth))


def disagreements(errors: Mapping[str, float]) -> dict[str, str]:
    """For each form why its output is not the subject's; empty where it is."""
    allowed = max(_RATIO * errors.get(YARDSTICK, 0.0), _FLOOR)
    return {
        name: "" if error <= allowed else f"expected an error of at most {allowed:.1e}. Received: {error:.1e}"
        for name, error in errors.items()
    }
