"""Kernels that many steps share: packed once, with the bits that a kernel for each step would give."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from fusedsplit.plan import LINEAR, Dense, Merge, Param, Plan, Range, Value
from tests.csrc.numpy_plan import Case, fill
from tests.csrc.on_core import RELU, TANH, backward, check_against_numpy, forward, program
from tests.plan.test_plan import products

# With one block and with several, below and above the rows from which kernels are packed and joined.
ROWS = (1, 5, 60, 130, 600)


def towers(inputs: int, widths: list[int], count: int) -> Plan:
    """The same products, one for each width, of `count` neighbouring parts of one input; every other one has a bias."""
    params = [Param((inputs, width)) for width in widths] + [Param((width,)) for width in widths]
    total, steps, at = sum(widths), [], 0
    for t in range(count):
        for i, width in enumerate(widths):
            src, dst = Range(0, t * inputs, (t + 1) * inputs), Range(1, at, at + width)
            steps.append(Dense(src, i, len(widths) + i if i % 2 else None, (RELU, TANH)[t % 2], dst))
            at += width
    return Plan(
        (Value(count * inputs, "input"), Value(count * total, "output")), tuple(params), tuple(steps)
    ).validate()


def through_two(inputs: int, units: int) -> Plan:
    """One kernel used on the input, on what that gives, and in part on what a branch gives."""
    values = (Value(inputs, "input"), Value(inputs, "hidden"), Value(inputs, "hidden"), Value(units, "output"))
    steps = (
        Dense(Range(0, 0, inputs), 0, 1, TANH, Range(1, 0, inputs)),
        Dense(Range(1, 0, inputs), 0, None, LINEAR, Range(2, 0, inputs)),
        Dense(Range(2, 0, inputs), 2, None, RELU, Range(3, 0, units)),
    )
    return Plan(values, (Param((inputs, inputs)), Param((inputs,)), Param((inputs, units))), steps).validate()


PLANS = {
    "wide": towers(40, [100], 5),
    "joined": towers(12, [5, 9], 6),
    "dots": towers(50, [3, 1], 4),
    "twice": towers(20, [7, 7, 30], 3),
    "in a row": through_two(70, 50),
}


def with_own_params(case: Case) -> Case:
    """The same computation in which every step has params of its own."""
    params, arrays, steps = [], [], []

    def own(param: int | None) -> int | None:
        if param is None:
            return None
        params.append(case.plan.params[param])
        arrays.append(case.params[param])
        return len(params) - 1

    for step in case.plan.steps:
        steps.append(dataclasses.replace(step, kernel=own(step.kernel), bias=own(step.bias)))
    plan = Plan(case.plan.values, tuple(params), tuple(steps)).validate()
    return Case(plan, case.inputs, arrays, case.points, case.output_grads)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("name", PLANS)
def test_values_and_gradients(name, rows):
    check_against_numpy(fill(PLANS[name], rows, np.random.default_rng(1)))


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("name", PLANS)
def test_bits_are_those_of_separate_kernels(isa, name, rows):
    case = fill(PLANS[name], rows, np.random.default_rng(2)).cast(np.float32)
    apart = with_own_params(case)
    for save in (False, True):
        assert forward(case, save)[0][0].tobytes() == forward(apart, save)[0][0].tobytes()
    assert backward(case)[0].tobytes() == backward(apart)[0].tobytes()


def test_ten_thousand_uses_are_packed_once():
    inputs, units = 64, 96
    many, one = (program(products(inputs, units, count), np.float32) for count in (10_000, 1))
    # Beside the packed kernel there are shards of its gradient, as many as one use has.
    assert many.workspace_bytes(4096) <= 2 * one.workspace_bytes(4096)
    case = fill(products(inputs, units, 10_000), 65, np.random.default_rng(3)).cast(np.float32)
    (whole,) = forward(case)[0]
    (alone,) = forward(fill(products(inputs, units, 1), 65, np.random.default_rng(3)).cast(np.float32))[0]
    assert whole[:, :units].tobytes() == alone.tobytes() == whole[:, -units:].tobytes()


def test_a_product_of_many_factors_takes_no_scratch_for_each():
    count = 1 << 16
    merge = Merge("mul", ((Range(0, 0, 100), 1.0),) * count, None, None, LINEAR, Range(1, 0, 100))
    plan = Plan((Value(100, "input"), Value(100, "output")), (), (merge,)).validate()
    # What the sources themselves are noted in is most of it.
    assert program(plan, np.float32).scratch_bytes < 8 << 20


@pytest.mark.parametrize(("count", "width"), [(3, 70), (1500, 70), (1500, 2)])
def test_gradients_of_products_of_many_factors(count, width):
    sources = tuple((Range(0, i % 7, i % 7 + width), 1.0) for i in range(count - 1)) + ((Range(1, 0, 1), 1.0),)
    merge = Merge("mul", sources, None, None, LINEAR, Range(2, 0, width))
    plan = Plan((Value(width + 6, "input"), Value(1, "input"), Value(width, "output")), (), (merge,)).validate()
    case = fill(plan, 5, np.random.default_rng(4))
    case.inputs[0] = np.exp(case.inputs[0] / count)  # so that the product is of the order of one
    check_against_numpy(case, bound=1e-9)
