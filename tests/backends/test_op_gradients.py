"""Gradients of the op, in every way in which TensorFlow takes them."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from fusedsplit.backends import op
from fusedsplit.backends.tf import execute
from fusedsplit.plan import Activation, Dense, Param, Plan, Range, Value
from tests.backends.test_op import SEED2, TOLERANCE, tensors
from tests.csrc.numpy_plan import RandomPlan, Run, fill, split_dense_plan

pytestmark = pytest.mark.skipif(op.problem() is not None, reason=f"the op is not usable: {op.problem()}")

TANH = split_dense_plan(3, [2, 3], [2, 2], Activation("tanh"), Activation("silu"))
LINEAR = Activation()
# x @ k0 and tanh(x @ k1): two outputs.
TWO = Plan(
    (Value(3, "input"), Value(2, "output"), Value(2, "output")),
    (Param((3, 2)), Param((3, 2))),
    (
        Dense(Range(0, 0, 3), 0, None, LINEAR, Range(1, 0, 2)),
        Dense(Range(0, 0, 3), 1, None, Activation("tanh"), Range(2, 0, 2)),
    ),
).validate()


def case_tensors(plan, rows=4, seed=0, dtype="float64"):
    case = fill(plan, rows, np.random.default_rng(seed)).cast(dtype)
    return *tensors(case), [tf.constant(dy) for dy in case.output_grads]


def gradients(mode: str, execute_plan, inputs, params, points, dys):
    """Gradients of the outputs by inputs and params, in one of the ways to ask for them."""
    sources = [*inputs, *params]

    def taped(*sources):
        with tf.GradientTape() as tape:
            tape.watch(sources)
            outputs = execute_plan(sources[: len(inputs)], sources[len(inputs) :], points)
        return tape.gradient(outputs, sources, output_gradients=dys)

    if mode == "eager":
        return taped(*sources)
    if mode == "tape in a function":
        return tf.function(taped)(*sources)
    function = tf.function(lambda *s: execute_plan(s[: len(inputs)], s[len(inputs) :], points))
    with tf.GradientTape() as tape:
        tape.watch(sources)
        outputs = function(*sources)
    return tape.gradient(outputs, sources, output_gradients=dys)


MODES = ("eager", "tape in a function", "tape around a function")


def runner(plan):
    return lambda inputs, params, points=(): op.OP.run(plan, inputs, params, points)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_random_plans_equal_numpy(mode, dtype):
    for seed in range(40 if mode == "eager" else 6):
        rng = np.random.default_rng(seed)
        case = fill(RandomPlan(rng).make(), int(rng.integers(1, 40)), rng)
        if dtype == "float32" and any(getattr(step, "op", "") in ("max", "min") for step in case.plan.steps):
            continue  # which one wins may differ between precisions
        input_grads, param_grads = Run(case.plan, case.inputs, case.params, case.points).gradients(case.output_grads)
        dys = [tf.constant(dy, dtype) for dy in case.output_grads]
        received = gradients(mode, runner(case.plan), *tensors(case.cast(dtype)), dys)
        for got, want in zip(received, [*input_grads, *param_grads], strict=True):
            limit = TOLERANCE[dtype] * 10 * max(1.0, np.abs(want).max())
            np.testing.assert_allclose(got, want, rtol=0, atol=limit, err_msg=f"seed {seed}")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("leading", [(0,), (1,), (2, 3), (3, 0)])
def test_leading_dimensions(mode, leading):
    inputs, params, points, dys = case_tensors(TANH, int(np.prod(leading)))
    expected = gradients("eager", lambda *a: execute(TANH, *a), inputs, params, points, dys)
    shaped = [tf.reshape(x, [*leading, x.shape[-1]]) for x in inputs]
    dys = [tf.reshape(dy, [*leading, dy.shape[-1]]) for dy in dys]
    received = gradients(mode, runner(TANH), shaped, params, points, dys)
    assert received[0].shape == shaped[0].shape
    for got, want in zip(received, expected, strict=True):
        np.testing.assert_allclose(tf.reshape(got, want.shape), want, atol=1e-12)


@pytest.mark.parametrize("mode", MODES)
def test_an_unused_output(mode):
    inputs, params, points, dys = case_tensors(TWO)
    received = gradients(mode, lambda *a: op.OP.run(TWO, *a)[:1], inputs, params, points, dys[:1])
    expected = gradients("eager", lambda *a: execute(TWO, *a)[:1], inputs, params, points, dys[:1])
    for got, want in zip(received, expected, strict=True):
        want = tf.zeros_like(got) if want is None else want
        np.testing.assert_allclose(got, want, atol=1e-12)


@pytest.mark.parametrize("function", [False, True])
def test_only_what_is_watched_is_computed(function):
    inputs, params, _, _ = case_tensors(TANH)
    wanted = []
    wrappers = op._loaded().wrappers

    def gradient(x, *params):
        with tf.GradientTape() as tape:
            tape.watch(params[2])
            (y,) = op.OP.run(TANH, [x], params)
        return tape.gradient(y, params[2])

    class Spy:
        fusedsplit_forward = staticmethod(wrappers.fusedsplit_forward)

        @staticmethod
        def fusedsplit_backward(**kwargs):
            wanted.append(list(kwargs["wanted"]))
            return wrappers.fusedsplit_backward(**kwargs)

    loaded = op._loaded()
    loaded.wrappers = Spy
    try:
        received = (tf.function(gradient) if function else gradient)(inputs[0], *params)
    finally:
        loaded.wrappers = wrappers
    assert wanted == [[0, 0, 0, 1, 0, 0, 0]]
    assert received.shape == params[2].shape


def smooth(plan) -> bool:
    """Whether numerical differences mean something everywhere."""
    kinks = {"relu", "relu6", "hard_sigmoid", "leaky_relu", "selu", "elu", "max", "min"}
    names = {getattr(step, "op", "") for step in plan.steps}
    names |= {step.activation.name for step in plan.steps if hasattr(step, "activation")}
    return not names & kinks


@pytest.mark.parametrize("seed", [s for s in range(400) if smooth(RandomPlan(np.random.default_rng(s), 5).make())][:8])
def test_numerical_gradient(seed):
    plan = RandomPlan(np.random.default_rng(seed), 5).make()
    inputs, params, points, _ = case_tensors(plan, 2, seed)
    analytic, numeric = tf.test.compute_gradient(
        lambda *s: op.OP.run(plan, s[: len(inputs)], s[len(inputs) :], points)[0], [*inputs, *params], delta=1e-5
    )
    for a, n in zip(analytic, numeric, strict=True):
        np.testing.assert_allclose(a, n, atol=1e-6, rtol=1e-6)


def test_persistent_tape():
    inputs, params, points, dys = case_tensors(TANH)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(params)
        (y,) = op.OP.run(TANH, inputs, params)
    first = tape.gradient(y, params, output_gradients=dys[0])
    again = tape.gradient(y, params, output_gradients=dys[0])
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("function", [False, True])
def test_indexed_slices(function):
    inputs, params, _, _ = case_tensors(TANH)

    def gather(execute_plan):
        def f(*params):
            with tf.GradientTape() as tape:
                tape.watch(params)
                (y,) = execute_plan(inputs, params)
                loss = tf.reduce_sum(tf.gather(y, [2, 0, 2]))
            return tape.gradient(loss, params)

        return f

    call = gather(runner(TANH))
    received = (tf.function(call) if function else call)(*params)
    for got, want in zip(received, gather(lambda *a: execute(TANH, *a))(*params), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-12)


@pytest.mark.parametrize("function", [False, True])
def test_recompute_grad(function):
    inputs, params, _, dys = case_tensors(TANH)

    def f(*params):
        with tf.GradientTape() as tape:
            tape.watch(params)
            y = tf.recompute_grad(lambda *p: op.OP.run(TANH, inputs, p)[0])(*params)
        return tape.gradient(y, params, output_gradients=dys[0])

    received = (tf.function(f) if function else f)(*params)
    expected = gradients("eager", lambda *a: execute(TANH, *a), inputs, params, (), dys)[1:]
    for got, want in zip(received, expected, strict=True):
        np.testing.assert_allclose(got, want, atol=1e-12)


def test_inside_while_and_cond():
    square = split_dense_plan(4, [2, 2], [2, 2], Activation("tanh"), LINEAR)
    inputs, params, _, _ = case_tensors(square)

    def loop(execute_plan):
        @tf.function
        def f(x, flag, *params):
            with tf.GradientTape() as tape:
                tape.watch([x, *params])
                y = x
                for _ in tf.range(3):
                    (y,) = execute_plan([y], params)
                if flag:
                    (y,) = execute_plan([y], params)
                loss = tf.reduce_sum(y**2)
            return tape.gradient(loss, [x, *params])

        return f(inputs[0], tf.constant(True), *params)

    for got, want in zip(loop(runner(square)), loop(lambda *a: execute(square, *a)), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-12)


def test_a_graph_that_a_session_has_run():
    """There the forward node cannot change any more: backward recomputes."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        inputs, params, _, _ = case_tensors(TANH)
        (y,) = op.OP.run(TANH, inputs, params)
        session.run(y)
        received = session.run(tf.compat.v1.gradients(y, params))
    inputs, params, _, _ = case_tensors(TANH)
    expected = gradients("eager", lambda *a: execute(TANH, *a), inputs, params, (), None)[1:]
    for got, want in zip(received, expected, strict=True):
        np.testing.assert_allclose(got, want, atol=1e-12)


def test_fit_and_a_saved_function_agree():
    """Gradients after a function was traced for inference first."""
    inputs, params, _, dys = case_tensors(SEED2)
    function = tf.function(lambda *p: op.OP.run(SEED2, inputs, p)[0])
    function(*params)
    with tf.GradientTape() as tape:
        tape.watch(params)
        y = function(*params)
    expected = gradients("eager", lambda *a: execute(SEED2, *a), inputs, params, (), dys)[1:]
    for got, want in zip(tape.gradient(y, params, output_gradients=dys[0]), expected, strict=True):
        np.testing.assert_allclose(got, want, atol=1e-12)
