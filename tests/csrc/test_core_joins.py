"""Products of few columns and one source, which are computed as one where there are many rows."""

from __future__ import annotations

import numpy as np
import pytest

from fusedsplit.plan import Activation, Dense, Mix, Param, Plan, Range, Row, Value
from tests.csrc.numpy_plan import fill
from tests.csrc.on_core import LINEAR, RELU, TANH, check_against_numpy, check_rows_alone

GELU = Activation("gelu")
# Around the rows from which products are joined, and from which kernels are packed.
ROWS = (1, 7, 127, 128, 300, 512, 700)


def heads(inputs: int, widths: list[int], activations: list[Activation]) -> Plan:
    """One Dense for each width, all on the same input, side by side in one output; every other one has a bias."""
    total = sum(widths)
    params, steps, at = [], [], 0
    for i, (width, activation) in enumerate(zip(widths, activations, strict=True)):
        kernel = len(params)
        params.append(Param((inputs, width)))
        bias = None
        if i % 2 == 0:
            bias = len(params)
            params.append(Param((width,)))
        steps.append(Dense(Range(0, 0, inputs), kernel, bias, activation, Range(1, at, at + width)))
        at += width
    return Plan((Value(inputs, "input"), Value(total, "output")), tuple(params), tuple(steps)).validate()


def experts(inputs: int, count: int, units: int) -> Plan:
    """A softmax gate over experts that read the same columns: hidden values that are written before their turn."""
    values = [Value(inputs, "input"), Value(units, "output"), *[Value(units, "hidden")] * count]
    params, steps = [], []
    for e in range(count):
        params.append(Param((inputs, units)))
        steps.append(Dense(Range(0, 0, inputs), e, None, (RELU, TANH, GELU)[e % 3], Range(2 + e, 0, units)))
    gate = len(values)
    values += [Value(count, "hidden"), Value(count, "hidden")]
    params.append(Param((inputs, count)))
    steps.append(Dense(Range(0, 0, inputs), count, None, LINEAR, Range(gate, 0, count)))
    steps.append(Row("softmax", Range(gate, 0, count), Range(gate + 1, 0, count)))
    sources = tuple(Range(2 + e, 0, units) for e in range(count))
    steps.append(Mix(Range(gate + 1, 0, count), sources, Range(1, 0, units)))
    return Plan(tuple(values), tuple(params), tuple(steps)).validate()


PLANS = {
    "two heads": heads(40, [20, 20], [LINEAR, LINEAR]),
    "two scalars": heads(64, [1, 2], [TANH, RELU]),
    "thin": heads(77, [4, 8, 1, 3, 13], [LINEAR, TANH, RELU, GELU, Activation("softplus")]),
    "long": heads(700, [4, 4, 20], [RELU, GELU, LINEAR]),
    "experts": experts(33, 7, 5),
}


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("name", PLANS)
def test_values_and_gradients(isa, name, rows):
    check_against_numpy(fill(PLANS[name], rows, np.random.default_rng(1)))


@pytest.mark.parametrize("name", PLANS)
def test_a_row_does_not_depend_on_its_batch(isa, name):
    case = fill(PLANS[name], 700, np.random.default_rng(2)).cast(np.float32)
    check_rows_alone(case, ((0, 1), (5, 37), (100, 230), (100, 227), (3, 603)))
