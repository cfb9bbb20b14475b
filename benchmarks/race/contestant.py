"""What every contestant is: it holds calls by name, and times them in its own process when it is asked to."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from fusedsplit.bench import harness
from fusedsplit.bench.program import ProviderUnavailable

# No thread of a contestant may still be looking for work when the next one is timed. ONNX Runtime's look for 41 ms:
# unseen, they took a CPU from the next ones (the Predictor 446 us for 243, LiteRT 660 for 301). A look outlasts two
# ticks (of 4 ms at 250 Hz), at which the kernel adds a running thread's time to its process': a look of 1 ms saw none.
_LOOK, _IDLE, _PATIENCE = 10e-3, 1e-3, 5.0


class Contestant:
    """Base class; a subclass fills `calls`.

    Attributes:
        threads: how many every call may use.
        calls: by name; each returns when its work is done.
        units: by name, how many units of work (steps, epochs) a call does, where it is more than one.
    """

    def __init__(self) -> None:
        self.threads = 2
        self.calls: dict[str, Callable[[], object]] = {}
        self.units: dict[str, int] = {}

    def configure(self, threads: int) -> None:
        """Said before anything is computed. Who asks for no number of threads (XLA) goes by the CPUs that there are."""
        self.threads = threads
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])

    def names(self) -> list[str]:
        return list(self.calls)

    def repetitions(self, name: str, min_sample: float) -> int:
        repetitions = harness.repetitions_for(self.calls[name], min_sample)
        _settle()
        return repetitions

    def sample(self, name: str, repetitions: int) -> float:
        """Seconds a unit; one call before them brings what others left in the caches, or asleep, to life."""
        call = self.calls[name]
        if repetitions > 1:
            call()
        seconds = harness.sample(call, repetitions)
        _settle()
        return seconds / self.units.get(name, 1)


def _settle() -> None:
    """Returns when the threads of this process have stopped spinning.

    Raises:
        ProviderUnavailable: if they do not; nobody else can be timed beside them.
    """
    end = time.perf_counter() + _PATIENCE
    while time.perf_counter() < end:
        before = time.process_time()
        time.sleep(_LOOK)
        if time.process_time() - before < _IDLE:
            return
    raise ProviderUnavailable(f"its threads still compute {_PATIENCE:g} s after its last call")
