"""The processes of a race."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from fusedsplit.bench import harness
from fusedsplit.bench.harness import MIN_SAMPLE_SECONDS, Timing
from fusedsplit.bench.program import ProviderUnavailable
from race.remote import Remote

# A class that runs in a process of its own ("module:Class"), and variables that this process needs.
Target = tuple[str, dict[str, str]]


class Field:
    """The contestants' processes, and why those that take no part do not.

    Args:
        peers: by name.
        threads: of each.
        patience: seconds that one may take for an answer.
        say: prints a line.
    """

    def __init__(self, peers: Mapping[str, Target], threads: int, patience: float, say: Callable[[str], None]):
        self.targets, self.threads, self.patience, self.say = peers, threads, patience, say
        self.peers: dict[str, Remote] = {}
        self.missing: dict[str, str] = {}
        for name in peers:
            self._start(name)

    def _start(self, name: str) -> None:
        target, environment = self.targets[name]
        limits = {v: str(self.threads) for v in ("FUSEDSPLIT_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
        try:
            self.peers[name] = Remote(target, {**limits, **environment}, self.patience)
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

    def race(
        self, forms: Mapping[str, Form], where: str, rounds: int, min_sample: float = MIN_SAMPLE_SECONDS
    ) -> dict[str, Timing]:
        """Interleaved rounds; without those whose process ends in them.

        Args:
            forms: by name.
            where: of what this is a race, for the line about one that is lost.
            rounds: samples of each.
            min_sample: seconds that a sample lasts at least.
        """
        forms = dict(forms)
        while True:
            try:
                return harness.race(forms, rounds=rounds, min_sample=min_sample)
            except ProviderUnavailable as error:
                lost = [name for name, form in forms.items() if not form.peer.alive]
                if not lost:
                    raise
                for name in lost:
                    self.miss(f"{where}, {name}", error)
                    del forms[name]

    def close(self) -> None:
        for peer in self.peers.values():
            peer.close()


@dataclasses.dataclass(frozen=True)
class Form:
    """One call of a contestant, as the harness sees it.

    With `once` it is a long one: a sample is one call, after one to warm up.
    """

    peer: Remote
    name: str
    once: bool = False

    def repetitions(self, min_sample: float) -> int:
        if self.once:
            self.sample(1)
            return 1
        return self.peer.ask("repetitions", self.name, min_sample)

    def sample(self, repetitions: int) -> float:
        return self.peer.ask("sample", self.name, repetitions)
