"""What a contestant is: it binds its programs to rows, and times them when it is asked to.

Every program is called in the cheapest way its interface has: its input lies in its own kind of tensor, its output is
left where it puts it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from fusedsplit.bench import harness
from fusedsplit.bench.program import ProviderUnavailable
from race.inference.subjects import Subject

# No thread of a contestant may still be looking for work when the next one is timed.
_LOOK, _IDLE, _PATIENCE = 1e-3, 0.3e-3, 0.2


class Bound(NamedTuple):
    """A program with its input: a call that returns when its work is done, and its result as NumPy arrays."""

    call: Callable[[], Any]
    arrays: Callable[[Any], Sequence[np.ndarray]]


class Peer:
    """Base class of the contestants; a subclass says how its programs are bound."""

    threads = 2

    def __init__(self) -> None:
        self.subject: Subject
        self.bound: dict[str, Bound] = {}

    def configure(self, threads: int) -> None:
        """How many threads every program may use, said before anything is computed."""
        self.threads = threads

    def load(self, subject: Subject) -> dict[str, str]:
        """Gets ready for a subject; returns the forms that cannot compute it, with the reasons."""
        self.subject, self.bound = subject, {}
        return {}

    def bind(self, inputs: Sequence[np.ndarray]) -> dict[str, Bound]:
        """The programs by name, for these rows."""
        raise NotImplementedError

    def prepare(self, inputs: Sequence[np.ndarray]) -> dict[str, list[np.ndarray]]:
        """Binds the programs, calls each once, and gives their outputs, each as (rows, columns)."""
        self.bound = {}  # What is no longer needed goes first.
        self.bound = self.bind(inputs)
        outputs = {}
        for name, (call, arrays) in self.bound.items():
            found = [np.asarray(y) for y in arrays(call())]
            outputs[name] = [np.array(y.reshape(-1, y.shape[-1])) for y in found]
        return outputs

    def repetitions(self, name: str, min_sample: float) -> int:
        return harness.repetitions_for(self.bound[name].call, min_sample)

    def sample(self, name: str, repetitions: int) -> float:
        """Seconds a call; one before them brings what others left in the caches, or asleep, to life."""
        call = self.bound[name].call
        if repetitions > 1:
            call()
        seconds = harness.sample(call, repetitions)
        _settle()
        return seconds


def _settle() -> None:
    """Returns when the threads of this process have stopped spinning."""
    end = time.perf_counter() + _PATIENCE
    while time.perf_counter() < end:
        before = time.process_time()
        time.sleep(_LOOK)
        if time.process_time() - before < _IDLE:
            return


def on_rows(inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Leading axes joined, as a plan sees its inputs."""
    return [np.ascontiguousarray(x.reshape(-1, x.shape[-1])) for x in inputs]


__all__ = ["Bound", "Peer", "ProviderUnavailable", "on_rows"]
