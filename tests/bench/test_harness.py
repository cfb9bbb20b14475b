"""Interleaved timing, with a clock of our own."""

from __future__ import annotations

import math

import pytest

from fusedsplit.bench import harness


class _Clock:
    """A clock that only calls advance."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[str] = []

    def __call__(self) -> float:
        return self.now

    def call(self, name: str, seconds: float):
        def run() -> None:
            self.calls.append(name)
            self.now += seconds

        return run


def test_rounds_are_interleaved_and_samples_are_long_enough() -> None:
    clock = _Clock()
    calls = {"a": clock.call("a", 0.3e-3), "b": clock.call("b", 2e-3), "c": clock.call("c", 5e-3)}
    timings = harness.interleave(calls, rounds=7, min_sample=2e-3, clock=clock)
    runs = [name for i, name in enumerate(clock.calls) if i == 0 or clock.calls[i - 1] != name]
    assert runs == ["a", "b", "c"] * 8  # once to calibrate, then seven rounds
    assert list(timings) == ["a", "b", "c"]
    assert timings["a"].repetitions * 0.3e-3 >= 2e-3
    assert (timings["b"].repetitions, timings["c"].repetitions) == (1, 1)
    for name, seconds in (("a", 0.3e-3), ("b", 2e-3), ("c", 5e-3)):
        assert len(timings[name].samples) == 7
        assert timings[name].median == pytest.approx(seconds)


def test_first_calls_are_not_timed() -> None:
    clock = _Clock()
    first = [1.0]

    def call() -> None:
        clock.now += first.pop() if first else 1e-3

    assert harness.interleave({"x": call}, clock=clock)["x"].worst == pytest.approx(1e-3)


def test_timing_summarizes() -> None:
    timing = harness.Timing((3e-6, 1e-6, 2e-6), 10)
    assert (timing.best, timing.median, timing.worst) == (1e-6, 2e-6, 3e-6)
    assert timing.as_json()["median_us"] == pytest.approx(2)


def test_geometric_mean() -> None:
    assert harness.geometric_mean([2, 8]) == pytest.approx(4)
    assert math.isnan(harness.geometric_mean([]))
