"""Params packed once: the bits of a forward call on params that are not, whatever the rows, threads and arrays."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from tests.csrc.numpy_plan import Case, RandomPlan, fill, split_dense_plan
from tests.csrc.on_core import LINEAR, RELU, TANH, core, forward
from tests.csrc.test_core_joins import PLANS as JOINS
from tests.csrc.test_core_shared import PLANS as SHARED

PLANS = {
    **JOINS,
    **SHARED,
    "cut": split_dense_plan(300, [700, 200, 130], [33, 3, 200], LINEAR, TANH),
    "small": split_dense_plan(10, [4, 4], [4, 6], LINEAR, RELU),
}
# Each height of a tile, few and many rows, several blocks.
ROWS = (1, 2, 3, 4, 5, 6, 7, 8, 20, 95, 128, 513)


def freeze(case: Case, threads: int = 0):
    """On params that are gone once it is made."""
    params = [np.array(p) for p in case.params]
    is_double = case.inputs[0].dtype == np.float64
    points = [int(p) for p in case.points]
    made = core.frozen(case.plan.encode(), is_double, params, points, threads, [], [], None)
    for p in params:
        p.fill(np.nan)
    return made


def run(made, case: Case):
    rows = len(case.inputs[0])
    outputs = [np.full((rows, case.plan.values[v].width), np.nan, case.inputs[0].dtype) for v in case.plan.outputs]
    made.run(rows, case.inputs, outputs)
    return outputs


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", PLANS)
def test_bits_are_those_of_forward(isa, name, dtype):
    cases = [fill(PLANS[name], rows, np.random.default_rng(rows)).cast(dtype) for rows in ROWS]
    params = cases[0].params
    for threads in (1, 2, 5):
        core.set_threads(threads)
        made = freeze(cases[0])
        for case in cases:
            case.params = params
            assert run(made, case)[0].tobytes() == forward(case)[0][0].tobytes(), (threads, len(case.inputs[0]))


@pytest.mark.parametrize("seed", range(40))
def test_random_plans(seed):
    plan = RandomPlan(np.random.default_rng(seed), 1 + 3 * seed).make()
    made = None
    for rows in (0, 1, 5, 40, 150, 600):
        case = fill(plan, rows, np.random.default_rng(seed)).cast(np.float32)
        rng = np.random.default_rng(seed)
        case.points = [np.asarray(rng.integers(-2, 40), np.int32) for _ in case.points]
        if made is None:
            first, made = case, freeze(case)
        case.params, case.points = first.params, first.points
        for got, want in zip(run(made, case), forward(case)[0], strict=True):
            assert got.tobytes() == want.tobytes(), rows


def test_arrays_that_do_not_fit_are_refused():
    case = fill(PLANS["small"], 3, np.random.default_rng(1)).cast(np.float32)
    made, x, y = freeze(case), case.inputs[0], np.zeros((3, 10), np.float32)
    for rows, inputs, outputs in (
        (2, [x], [y]),
        (-1, [x], [y]),
        (3, [], [y]),
        (3, [x, x], [y]),
        (3, [x.astype(np.float64)], [y]),
        (3, [x.astype(">f4")], [y]),
        (3, [x[:, :9]], [y]),
        (3, [np.asfortranarray(x)], [y]),
        (3, [x], [y[:2]]),
    ):
        with pytest.raises(ValueError, match="expected the (in|out)puts of the plan"):
            made.run(rows, inputs, outputs)
    y.flags.writeable = False
    with pytest.raises(ValueError, match="expected the outputs"):
        made.run(3, [x], [y])
    with pytest.raises(TypeError):
        made.run(3, x, y)
    with pytest.raises(ValueError, match="params: expected"):
        core.frozen(case.plan.encode(), False, case.params[:-1], [], 0, [], [], None)


@pytest.mark.parametrize("name", ["small", "cut"])
def test_many_threads_at_once(name):
    case = fill(PLANS[name], 300, np.random.default_rng(2)).cast(np.float32)
    made, want, wrong = freeze(case), forward(case)[0][0].tobytes(), []

    def work():
        for _ in range(30):
            if run(made, case)[0].tobytes() != want:
                wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
