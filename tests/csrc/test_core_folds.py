"""Merges that are computed by the products which write their sources, where blocks of rows run through all steps."""

from __future__ import annotations

import numpy as np
import pytest

from fusedsplit.plan import Activation, Dense, Merge, Param, Plan, Range, Value
from tests.csrc.numpy_plan import fill
from tests.csrc.on_core import LINEAR, RELU, TANH, check_against_numpy, check_rows_alone, forward

GELU = Activation("gelu")
ROWS = (0, 1, 5, 13, 200, 600)


def merged(
    op: str,
    activations: list[Activation],
    *,
    inputs: int = 20,
    units: int = 37,
    scales: list[float] | None = None,
    last: Activation = LINEAR,
    order: list[int] | None = None,
    residual: bool = False,
    head: bool = False,
) -> Plan:
    """One Dense for each activation, all of one input, merged in `order`.

    residual: a second input is the first source as well. head: a Dense reads the result, so that the result is hidden.
    """
    values = [Value(inputs, "input"), Value(units, "input"), Value(units, "hidden" if head else "output")]
    params, steps, sources = [], [], []
    for i, activation in enumerate(activations):
        params += [Param((inputs, units)), Param((units,))]
        steps.append(Dense(Range(0, 0, inputs), 2 * i, 2 * i + 1, activation, Range(3 + i, 0, units)))
        sources.append(Range(3 + i, 0, units))
    values += [Value(units, "hidden")] * len(activations)
    sources = [sources[i] for i in order or range(len(sources))]
    if residual:
        sources.insert(0, Range(1, 0, units))
    factors = scales or [1.0] * len(sources)
    steps.append(Merge(op, tuple(zip(sources, factors, strict=True)), None, None, last, Range(2, 0, units)))
    if head:
        values.append(Value(3, "output"))
        params.append(Param((units, 3)))
        steps.append(Dense(Range(2, 0, units), len(params) - 1, None, RELU, Range(len(values) - 1, 0, 3)))
    return Plan(tuple(values), tuple(params), tuple(steps)).validate()


PLANS = {
    **{op: merged(op, [RELU, LINEAR, RELU]) for op in ("add", "mul", "max", "min")},
    "one source": merged("add", [RELU], scales=[-0.5]),
    "average, then relu": merged("add", [LINEAR] * 4, scales=[0.25] * 4, last=RELU),
    "gated": merged("mul", [LINEAR, TANH]),
    "gate first": merged("mul", [GELU, LINEAR], scales=[1.0, -2.0]),
    "long sums": merged("add", [RELU, RELU], inputs=300),
    "few columns": merged("add", [TANH], inputs=40, units=3, residual=True),
    "other order of two": merged("add", [RELU, LINEAR], order=[1, 0]),
    "other order of three": merged("add", [RELU, LINEAR, TANH], order=[2, 0, 1]),
    "residual": merged("add", [RELU], residual=True, last=RELU),
    "residual, two branches": merged("mul", [RELU, TANH], residual=True),
    "hidden": merged("mul", [RELU, RELU], head=True),
}


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("name", PLANS)
def test_values_and_gradients(isa, name, rows):
    check_against_numpy(fill(PLANS[name], rows, np.random.default_rng(1)))


@pytest.mark.parametrize("name", PLANS)
def test_a_row_does_not_depend_on_its_batch(isa, name):
    """Nor on whether values are saved for backward, which then also writes the sources."""
    case = fill(PLANS[name], 300, np.random.default_rng(2)).cast(np.float32)
    check_rows_alone(case, ((0, 1), (5, 37), (100, 230), (3, 203)))


def test_a_nan_reaches_the_result(isa):
    for name in ("add", "mul", "max", "min", "gated", "residual"):
        case = fill(PLANS[name], 9, np.random.default_rng(3))
        case.inputs[0][4, 2] = np.nan
        (y,) = forward(case)[0]
        assert np.isnan(y[4]).all(), name
        assert np.isfinite(np.delete(y, 4, axis=0)).all(), name
