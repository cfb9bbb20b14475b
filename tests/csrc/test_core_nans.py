"""NaN and infinities in relu's derivative, on every way that it is applied: as TensorFlow's ReluGrad has them."""

from __future__ import annotations

import numpy as np
import pytest

from fusedsplit.plan import Activation, Dense, Merge, Param, Plan, Range, Value
from tests.csrc.numpy_plan import Case
from tests.csrc.on_core import LINEAR, RELU, backward, core


def relu_then_dense(width: int, units: int, readers: int) -> Plan:
    """relu(x), by a step whose own derivative is 1, into a product: its epilogue masks the gradient with one reader."""
    hidden, outputs = Value(width, "hidden"), [Value(units, "output")] * readers
    relu = Merge("add", ((Range(0, 0, width), 1.0),), None, None, RELU, Range(1, 0, width))
    products = [Dense(Range(1, 0, width), i, None, LINEAR, Range(2 + i, 0, units)) for i in range(readers)]
    params = (Param((width, units)),) * readers
    return Plan((Value(width, "input"), hidden, *outputs), params, (relu, *products)).validate()


def relu_grad(dy: np.ndarray, x: np.ndarray) -> np.ndarray:
    import tensorflow as tf

    return tf.raw_ops.ReluGrad(gradients=dy, features=tf.nn.relu(x)).numpy()


def special_case(plan: Plan, rows: int, dtype) -> Case:
    """NaN and both signs everywhere in x; NaN and infinities in some rows of the outputs' gradients."""
    rng = np.random.default_rng(rows)
    width = plan.values[0].width
    x = rng.normal(size=(rows, width)).astype(dtype)
    x[rng.random(x.shape) < 0.1] = np.nan
    x[rng.random(x.shape) < 0.1] = 0
    params = [rng.normal(size=p.shape).astype(dtype) for p in plan.params]
    grads = [rng.normal(size=(rows, plan.values[i].width)).astype(dtype) for i in plan.outputs]
    for dy in grads:
        for row, value in enumerate((np.nan, np.inf, -np.inf)):
            dy[row::7, 0] = value
    return Case(plan, [x], params, [], grads)


# Products of at most 4 columns (here: the relu's) and sums of 32 terms or more are computed in another way.
@pytest.mark.parametrize("width", [1, 4, 5, 40])
@pytest.mark.parametrize("units", [3, 40, 600])
@pytest.mark.parametrize("readers", [1, 2])
def test_relu_gradients_are_those_of_tensorflow(isa, width, units, readers):
    plan = relu_then_dense(width, units, readers)
    for dtype in (np.float32, np.float64):
        for threads, rows in ((1, 1), (1, 6), (4, 6), (1, 40), (4, 100), (1, 600)):
            core.set_threads(threads)
            case = special_case(plan, rows, dtype)
            with np.errstate(invalid="ignore"):
                dh = sum(dy @ kernel.T for dy, kernel in zip(case.output_grads, case.params))
            want = relu_grad(dh, case.inputs[0])
            for save in (True, False):
                got = backward(case, save)[0]
                np.testing.assert_array_equal(np.isfinite(got), np.isfinite(want))
                np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
                np.testing.assert_array_equal(got[np.isinf(want)], want[np.isinf(want)])


def test_a_masked_nan_of_an_output_s_own_relu(isa):
    """There the derivative is applied as the gradient comes in."""
    for width in (1, 3, 17, 100):
        values = (Value(width, "input"), Value(width, "output"))
        step = Merge("add", ((Range(0, 0, width), 1.0),), None, None, Activation("relu"), Range(1, 0, width))
        case = special_case(Plan(values, (), (step,)).validate(), 50, np.float32)
        np.testing.assert_array_equal(backward(case)[0], relu_grad(case.output_grads[0], case.inputs[0]))
