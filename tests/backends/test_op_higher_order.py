"""Second and higher orders, forward mode and jacobians of the op."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from fusedsplit.backends import op
from fusedsplit.backends.tf import execute
from tests.backends.test_op_gradients import TANH, case_tensors, runner
from tests.csrc.numpy_plan import RandomPlan

pytestmark = pytest.mark.skipif(op.problem() is not None, reason=f"the op is not usable: {op.problem()}")


def second_order(execute_plan, inputs, params, function):
    def double(*sources):
        with tf.GradientTape() as outer:
            outer.watch(sources)
            with tf.GradientTape() as inner:
                inner.watch(sources)
                y = execute_plan(sources[: len(inputs)], sources[len(inputs) :])[0]
                loss = tf.reduce_sum(y * y)
            firsts = inner.gradient(loss, sources)
            total = tf.add_n([tf.reduce_sum(tf.sin(g)) for g in firsts if g is not None])
        return outer.gradient(total, sources)

    return (tf.function(double) if function else double)(*inputs, *params)


@pytest.mark.parametrize("function", [False, True])
def test_second_order(function):
    inputs, params, _, _ = case_tensors(TANH)
    received = second_order(runner(TANH), inputs, params, function)
    expected = second_order(lambda *a: execute(TANH, *a), inputs, params, False)
    for got, want in zip(received, expected, strict=True):
        np.testing.assert_allclose(got, want, atol=1e-10)


@pytest.mark.parametrize("function", [False, True])
def test_third_order(function):
    inputs, params, _, _ = case_tensors(TANH)

    def third(execute_plan):
        def f(x):
            tapes = [tf.GradientTape() for _ in range(3)]
            with tapes[0]:
                tapes[0].watch(x)
                with tapes[1]:
                    tapes[1].watch(x)
                    with tapes[2]:
                        tapes[2].watch(x)
                        y = tf.reduce_sum(execute_plan([x], params)[0] ** 2)
                    d1 = tf.reduce_sum(tapes[2].gradient(y, x) ** 2)
                d2 = tf.reduce_sum(tapes[1].gradient(d1, x) ** 2)
            return tapes[0].gradient(d2, x)

        return f

    call = third(runner(TANH))
    received = (tf.function(call) if function else call)(inputs[0])
    np.testing.assert_allclose(received, third(lambda *a: execute(TANH, *a))(inputs[0]), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("seed", range(12))
def test_second_order_of_all_steps(seed):
    plan = RandomPlan(np.random.default_rng(200 + seed), max_width=4).make()
    inputs, params, points, _ = case_tensors(plan, 3, seed)
    received = second_order(lambda i, p: op.OP.run(plan, i, p, points), inputs, params, False)
    expected = second_order(lambda i, p: execute(plan, i, p, points), inputs, params, False)
    for got, want in zip(received, expected, strict=True):
        got = tf.zeros([]) if got is None else got  # no path and a derivative of zero are the same here
        want = tf.zeros_like(got) if want is None else want
        # TensorFlow's float64 gelu holds a float32 constant, which the op does not: 1e-7 of the largest element.
        np.testing.assert_allclose(got, np.broadcast_to(want, want.shape), atol=1e-7 * max(1, np.abs(want).max()))


def test_second_order_while_recording_is_stopped():
    inputs, params, _, _ = case_tensors(TANH)
    with tf.GradientTape() as outer:
        outer.watch(inputs[0])
        with tf.GradientTape() as inner:
            inner.watch(inputs[0])
            (y,) = op.OP.run(TANH, inputs, params)
        first = inner.gradient(y, inputs[0])
    with tf.GradientTape() as idle, idle.stop_recording():
        received = outer.gradient(first, inputs[0])
    with tf.GradientTape() as outer:
        outer.watch(inputs[0])
        with tf.GradientTape() as inner:
            inner.watch(inputs[0])
            (y,) = execute(TANH, inputs, params)
        first = inner.gradient(y, inputs[0])
    np.testing.assert_allclose(received, outer.gradient(first, inputs[0]), atol=1e-12)


@pytest.mark.parametrize("function", [False, True])
def test_forward_mode(function):
    inputs, params, _, _ = case_tensors(TANH)
    tangents = [tf.ones_like(inputs[0]), tf.ones_like(params[0])]

    def jvp(execute_plan):
        def f(x, *params):
            with tf.autodiff.ForwardAccumulator([x, params[0]], tangents) as accumulator:
                (y,) = execute_plan([x], params)
            return accumulator.jvp(y)

        return f

    call = jvp(runner(TANH))
    received = (tf.function(call) if function else call)(inputs[0], *params)
    np.testing.assert_allclose(received, jvp(lambda *a: execute(TANH, *a))(inputs[0], *params), atol=1e-12)


def test_forward_mode_beside_a_tape():
    """The tape watches the params, the accumulator the input: both derivatives are right."""
    inputs, params, _, _ = case_tensors(TANH)

    def both(execute_plan):
        with (
            tf.autodiff.ForwardAccumulator(inputs[0], tf.ones_like(inputs[0])) as accumulator,
            tf.GradientTape() as tape,
        ):
            tape.watch(params)
            (y,) = execute_plan(inputs, params)
        return [accumulator.jvp(y), *tape.gradient(y, params)]

    for got, want in zip(both(runner(TANH)), both(lambda *a: execute(TANH, *a)), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-12)


@pytest.mark.parametrize("pfor", [False, True])
@pytest.mark.parametrize("function", [False, True])
def test_jacobians(function, pfor):
    inputs, params, _, _ = case_tensors(TANH)

    def jacobians(execute_plan):
        def f(x, *params):
            with tf.GradientTape(persistent=True) as tape:
                tape.watch([x, *params])
                (y,) = execute_plan([x], params)
            whole = tape.jacobian(y, [x, params[0], params[2]], experimental_use_pfor=pfor)
            return [*whole, tape.batch_jacobian(y, x, experimental_use_pfor=pfor)]

        return f

    call = jacobians(runner(TANH))
    received = (tf.function(call) if function else call)(inputs[0], *params)
    expected = jacobians(lambda *a: execute(TANH, *a))(inputs[0], *params)
    for got, want in zip(received, expected, strict=True):
        np.testing.assert_allclose(got, want, atol=1e-12)


@pytest.mark.parametrize("stacked", ["inputs", "params", "both"])
def test_vectorized_map(stacked):
    inputs, params, _, _ = case_tensors(TANH)
    xs = tf.stack([inputs[0], inputs[0] * 2, inputs[0] - 1])
    kernels = tf.stack([params[0], params[0] * 2, params[0] - 1])

    def f(execute_plan):
        def each(pair):
            x = inputs[0] if stacked == "params" else pair[0]
            kernel = params[0] if stacked == "inputs" else pair[1]
            with tf.GradientTape() as tape:
                tape.watch([x, kernel])
                (y,) = execute_plan([x], [kernel, *params[1:]])
            return [y, *tape.gradient(y, [x, kernel])]

        return each

    received = tf.vectorized_map(f(runner(TANH)), (xs, kernels))
    expected = tf.map_fn(f(lambda *a: execute(TANH, *a)), (xs, kernels), fn_output_signature=[tf.float64] * 3)
    for got, want in zip(received, expected, strict=True):
        np.testing.assert_allclose(got, want, atol=1e-12)


def test_hessian():
    inputs, params, _, _ = case_tensors(TANH, rows=2)

    def hessian(execute_plan):
        x = inputs[0]
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                y = tf.reduce_sum(execute_plan([x], params)[0] ** 2)
            first = inner.gradient(y, x)
        return outer.jacobian(first, x)

    np.testing.assert_allclose(hessian(runner(TANH)), hessian(lambda *a: execute(TANH, *a)), atol=1e-10)
