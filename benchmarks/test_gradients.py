"""Forward and the gradients of all weights, as a concrete function with the upstream gradient given."""

from __future__ import annotations


def test_gradients(benchmark, prepare) -> None:
    benchmark(prepare("gradients"))
