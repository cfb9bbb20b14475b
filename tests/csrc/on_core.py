"""The core on NumPy arrays, and NumPy beside it, for the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pytest

from fusedsplit.native import library
from fusedsplit.plan import Activation, Plan
from tests.csrc.numpy_plan import Case, Run

if library.core_problem() is not None:
    pytest.skip(f"the core is not usable: {library.core_problem()}", allow_module_level=True)
core = library.core()

ISAS = core.isas()
LINEAR, RELU, TANH = Activation(), Activation("relu"), Activation("tanh")


def by_isa(name: str, values: Sequence, spared: Sequence) -> pytest.MarkDecorator:
    """Every value on every instruction set; those spared, on all but the newest, in the full run alone."""
    cells = [
        pytest.param(isa, value, marks=pytest.mark.full if value in spared and isa != ISAS[-1] else ())
        for isa in ISAS
        for value in values
    ]
    return pytest.mark.parametrize(("isa", name), cells, indirect=["isa"])


def program(plan: Plan, dtype):
    return (core.Program32 if dtype == np.float32 else core.Program64)(plan.encode())


def forward(case: Case, save: bool = False):
    made = program(case.plan, case.inputs[0].dtype)
    return made.forward(case.inputs, case.params, case.points, save)


def backward(case: Case, save: bool = True, wanted=None):
    made = program(case.plan, case.inputs[0].dtype)
    outputs, saved = made.forward(case.inputs, case.params, case.points, save)
    wanted = [True] * (len(case.inputs) + len(case.params)) if wanted is None else wanted
    input_grads, param_grads = made.backward(
        case.inputs, case.params, case.points, outputs, saved, case.output_grads, wanted
    )
    return [*input_grads, *param_grads]


def check_against_numpy(case: Case, bound: float = 1e-11) -> None:
    """Values and gradients, with and without saved values, up to `bound` of the largest element of each."""
    pairs = [*zip(forward(case)[0], numpy_forward(case), strict=True)]
    grads = numpy_backward(case)
    for save in (True, False):
        pairs += zip(backward(case, save), grads, strict=True)
    for got, want in pairs:
        np.testing.assert_allclose(got, want, rtol=0, atol=bound * max(1.0, np.abs(want).max(initial=0)))


def check_rows_alone(case: Case, parts: Iterable[tuple[int, int]]) -> None:
    """Rows have the same bits in parts of the batch, with and without saved values."""
    (whole,) = forward(case)[0]
    for start, stop in parts:
        part = case.rows(start, stop)
        for save in (False, True):
            assert forward(part, save)[0][0].tobytes() == whole[start:stop].tobytes(), (start, stop)


def numpy_forward(case: Case):
    return Run(case.plan, case.inputs, case.params, case.points).outputs


def numpy_backward(case: Case):
    run = Run(case.plan, case.inputs, case.params, case.points)
    input_grads, param_grads = run.gradients(case.output_grads)
    return [*input_grads, *param_grads]
