"""Interleaved timing: A B C A B C …, so that whatever disturbs the machine disturbs all contestants alike."""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

ROUNDS = 7
# One sample lasts at least this long, far above the clock's resolution and a scheduler's hiccup.
MIN_SAMPLE_SECONDS = 4e-3
_MAX_REPETITIONS = 100_000

Call = Callable[[], object]


class Sampler(Protocol):
    """A contestant that times itself, wherever it is."""

    def repetitions(self, min_sample: float) -> int:
        """How many calls last `min_sample` seconds."""

    def sample(self, repetitions: int) -> float:
        """Seconds per call."""


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds per call, one for each round; each is a mean over `repetitions` calls."""

    samples: tuple[float, ...]
    repetitions: int

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    @property
    def best(self) -> float:
        return min(self.samples)

    @property
    def worst(self) -> float:
        return max(self.samples)

    def as_json(self) -> dict[str, object]:
        return {
            "median_us": self.median * 1e6,
            "min_us": self.best * 1e6,
            "max_us": self.worst * 1e6,
            "samples_us": [s * 1e6 for s in self.samples],
            "repetitions": self.repetitions,
        }


def sample(call: Call, repetitions: int, clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds per call."""
    start = clock()
    for _ in range(repetitions):
        call()
    return (clock() - start) / repetitions


def repetitions_for(call: Call, min_sample: float, clock: Callable[[], float] = time.perf_counter) -> int:
    """How many calls make a sample of `min_sample` seconds; the first two (tracing, compiling) do not count."""
    call()
    call()
    repetitions = 1
    while True:
        elapsed = sample(call, repetitions, clock) * repetitions
        if elapsed >= min_sample or repetitions >= _MAX_REPETITIONS:
            return repetitions
        growth = min_sample / elapsed if elapsed > 0 else 10
        repetitions = min(_MAX_REPETITIONS, math.ceil(repetitions * min(10.0, 1.1 * growth)))


@dataclasses.dataclass(frozen=True)
class _Here:
    """A call of this very process."""

    call: Call
    clock: Callable[[], float]

    def repetitions(self, min_sample: float) -> int:
        return repetitions_for(self.call, min_sample, self.clock)

    def sample(self, repetitions: int) -> float:
        if repetitions > 1:
            self.call()  # What the previous contestant left in the caches, or asleep, is not this one's cost.
        return sample(self.call, repetitions, self.clock)


def interleave(
    contestants: Mapping[str, Call],
    *,
    rounds: int = ROUNDS,
    min_sample: float = MIN_SAMPLE_SECONDS,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Times calls round by round.

    Args:
        contestants: name -> a call that returns when its work is done.
        rounds: samples of each contestant.
        min_sample: how long one sample lasts at least, in seconds.
        clock: the clock, in seconds; a parameter for tests.

    Returns:
        name -> its timing, in the contestants' order.
    """
    return race({n: _Here(call, clock) for n, call in contestants.items()}, rounds=rounds, min_sample=min_sample)


def race(
    samplers: Mapping[str, Sampler], *, rounds: int = ROUNDS, min_sample: float = MIN_SAMPLE_SECONDS
) -> dict[str, Timing]:
    """The same for contestants that time themselves."""
    repetitions = {name: sampler.repetitions(min_sample) for name, sampler in samplers.items()}
    samples: dict[str, list[float]] = {name: [] for name in samplers}
    for _ in range(rounds):
        for name, sampler in samplers.items():
            samples[name].append(sampler.sample(repetitions[name]))
    return {name: Timing(tuple(s), repetitions[name]) for name, s in samples.items()}


def geometric_mean(ratios: Iterable[float]) -> float:
    """NaN when there are none."""
    logs = [math.log(r) for r in ratios]
    return math.exp(sum(logs) / len(logs)) if logs else math.nan
