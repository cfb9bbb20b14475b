"""A subject computed by every peer: outputs checked first, then interleaved rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from fusedsplit.bench.ladder import Cell
from fusedsplit.bench.program import ProviderUnavailable
from race.field import Field, Form
from race.inference import YARDSTICK
from race.inference.keras_programs import exact
from race.inference.subjects import Subject
from race.remote import Remote

# An output may err by four times what Keras' own program errs, or by some units in the last place of its largest
# number: enough for another order of summation and for folded weights, far too little for a wrong program.
_RATIO, _FLOOR = 4.0, 1e-5
_MODE = "forward"


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
        forms: dict[str, Form] = {}
        for name, peer in list(self.loaded.items()):
            try:
                outputs = peer.ask("prepare", inputs)
            except ProviderUnavailable as error:
                self.field.miss(f"{self.subject.name} from batch {batch}, {name}", error)
                del self.loaded[name]
                continue
            errors |= {form: error_of(ys, truth) for form, ys in outputs.items()}
            forms |= {form: Form(peer, form) for form in outputs}
        problems = disagreements(errors)
        right = {name: form for name, form in forms.items() if not problems[name]}
        timings = self.field.race(right, f"{self.subject.name} {batch}", rounds)
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
