"""Forward, as a concrete function: what a model's predict and a served function run."""

from __future__ import annotations


def test_forward(benchmark, prepare) -> None:
    benchmark(prepare("forward"))
