"""The core through pybind11 against NumPy: every ISA, edges of the tiles, long sums, random plans."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from fusedsplit.plan import ACTIVATIONS, Activation, Dense, Param, Plan, Range, Value
from tests.csrc.numpy_plan import Case, RandomPlan, fill, split_dense_plan
from tests.csrc.on_core import (
    LINEAR,
    RELU,
    TANH,
    backward,
    by_isa,
    core,
    forward,
    numpy_backward,
    numpy_forward,
)

WIDTHS = (1, 2, 3, 15, 16, 17, 31, 33, 47, 48, 49, 100, 257)
EPS = {np.float32: 2.0**-24, np.float64: 2.0**-53}  # of one rounding


def magnitudes(case: Case) -> Case:
    """Every number replaced by its magnitude: gives the sums of |x| |w| that rounding errors grow with."""

    def absolute(arrays):
        return [np.abs(a) for a in arrays]

    steps = tuple(dataclasses.replace(step, activation=LINEAR) for step in case.plan.steps)
    plan = dataclasses.replace(case.plan, steps=steps)
    return Case(plan, absolute(case.inputs), absolute(case.params), case.points, absolute(case.output_grads))


def assert_accurate(received, expected, plain, bounds, dtype, what: str) -> None:
    """Per element: at most twice the error of NumPy in the same precision, or of the rounding of its sums."""
    for i, (got, want, other, bound) in enumerate(zip(received, expected, plain, bounds, strict=True)):
        error = np.abs(got.astype(np.float64) - want)
        limit = np.maximum(2 * np.abs(other - want).max(initial=0), 8 * EPS[dtype] * np.abs(bound))
        worst = np.unravel_index(np.argmax(error - limit), error.shape) if error.size else ()
        assert np.all(error <= limit), f"{what} result {i} at {worst}: {got[worst]} instead of {want[worst]}"


def check_accuracy(plan: Plan, rows: int, dtype, seed: int = 0) -> None:
    """Forward of a Dense plan, and backward where its activations are linear (else errors are not of sums alone)."""
    case64 = fill(plan, rows, np.random.default_rng(seed)).cast(dtype).cast(np.float64)
    case, bound = case64.cast(dtype), magnitudes(case64)
    what = f"{dtype.__name__} {rows} rows, {core.isa()}\n{plan}\n"
    functions = [(lambda c: forward(c)[0], numpy_forward)]
    if all(step.activation == LINEAR for step in plan.steps):
        functions.append((backward, numpy_backward))
    for ours, theirs in functions:
        assert_accurate(ours(case), theirs(case64), theirs(case), theirs(bound), dtype, what)


def check_exactly(plan: Plan, rows: int, dtype) -> None:
    """On numbers of few bits every sum is exact, in any order: relu's plans give the very numbers of NumPy."""
    rng = np.random.default_rng(rows)

    def few_bits(arrays):
        return [rng.integers(-2, 3, a.shape).astype(dtype) / 4 for a in arrays]

    case = fill(plan, rows, rng)
    case = Case(plan, few_bits(case.inputs), few_bits(case.params), [], few_bits(case.output_grads))
    for save in (False, True):
        received = [*forward(case)[0], *backward(case, save)]
        expected = [*numpy_forward(case.cast(np.float64)), *numpy_backward(case.cast(np.float64))]
        for i, (got, want) in enumerate(zip(received, expected, strict=True)):
            np.testing.assert_array_equal(got, want, f"{i} of {plan} on {core.isa()}, {rows} rows")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("width", WIDTHS)
def test_one_dense_at_the_edges_of_the_tiles(isa, width, dtype):
    for other, rows in itertools.product((1, 3, 17, 48, 100), (1, 2, 37)):
        for d, u in ((width, other), (other, width)):
            for activation in (TANH, LINEAR):
                step = Dense(Range(0, 0, d), 0, 1, activation, Range(1, 0, u))
                plan = Plan((Value(d, "input"), Value(u, "output")), (Param((d, u)), Param((u,))), (step,))
                check_accuracy(plan, rows, dtype)


SHAPES = [
    (10, [4, 4], [4, 6]),
    (128, [64] * 4, [64] * 4),
    (77, [13, 50, 127, 140], [5, 40, 31, 260]),
    (5, [3], [7]),
    (64, [1, 2, 3, 15, 16, 17, 31, 33, 47, 48, 49, 1, 2, 3, 5, 6, 7], [3] * 17),
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@by_isa("rows", (1, 2, 7, 37, 300), spared=(300,))
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_split_dense(isa, shape, rows, dtype):
    check_exactly(split_dense_plan(*shape, LINEAR, RELU), rows, dtype)
    check_exactly(split_dense_plan(*shape, RELU, LINEAR, bias=False), rows, dtype)
    check_accuracy(split_dense_plan(*shape, LINEAR, LINEAR), rows, dtype)
    check_accuracy(split_dense_plan(*shape, TANH, TANH, bias=False), rows, dtype)


@pytest.mark.parametrize("d, u, rows", [(5000, 3, 4), (4097, 33, 2), (6, 5, 10000), (33, 40, 5003)])
def test_long_sums(isa, d, u, rows):
    """Sums of thousands of terms, along the input and (for weight gradients) along the batch."""
    check_accuracy(split_dense_plan(d, [u], [7], LINEAR, LINEAR), rows, np.float32)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_random_plans(isa, dtype):
    tolerance = 1e-11 if dtype == np.float64 else 3e-4
    for seed in range(320 if dtype == np.float64 else 80):
        rng = np.random.default_rng(seed)
        case64 = fill(RandomPlan(rng).make(), int(rng.choice([1, 2, 5, 37, 130])), rng)
        switches = any(getattr(step, "op", "") in ("max", "min") for step in case64.plan.steps)
        case = case64.cast(dtype)
        pairs = list(zip(forward(case)[0], numpy_forward(case64), strict=True))
        if dtype == np.float64 or not switches:  # which one wins may differ between precisions
            pairs += zip(backward(case), numpy_backward(case64), strict=True)
        for got, want in pairs:
            limit = tolerance * max(1.0, np.abs(want).max(initial=0))
            np.testing.assert_allclose(got, want, rtol=0, atol=limit, err_msg=f"seed {seed}\n{case.plan}")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_in_both_epilogues(isa, name, dtype):
    activation = Activation(name, {"leaky_relu": 0.2, "elu": 0.7}.get(name, 0.0))
    plan = split_dense_plan(9, [5, 12], [33, 4], activation, activation)
    tolerance = 1e-12 if dtype == np.float64 else 2e-5
    for rows in (1, 2, 37):
        case64 = fill(plan, rows, np.random.default_rng(1))
        case = case64.cast(dtype)
        pairs = [*zip(forward(case)[0], numpy_forward(case64)), *zip(backward(case), numpy_backward(case64))]
        for got, want in pairs:
            np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * max(1.0, np.abs(want).max()))
