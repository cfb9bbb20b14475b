"""Eager calls, as a user makes them outside any tf.function."""

from __future__ import annotations


def test_eager(benchmark, prepare) -> None:
    benchmark(prepare("eager"))
