"""float64.py: a traced function in float64 is what one writes in float64 by hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as kl

from fusedsplit.tools.float64 import Traced


def _gradients(function, x, variables=()):
    """Value, gradient and second-order gradient, of the sum of its squares."""
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            y = function(x)
            squares = y**2
        first = inner.gradient(squares, [x, *variables])
        along = tf.add_n([tf.reduce_sum(g**2) for g in first])
    return [y, *first, *outer.gradient(along, [x, *variables])]


BY_HAND = {
    "tanh": tf.tanh,
    "silu": lambda x: x / (1 + tf.exp(-x)),
    "softplus": lambda x: tf.math.log1p(tf.exp(-tf.abs(x))) + tf.maximum(x, 0),
    "softmax": lambda x: tf.exp(x) / tf.reduce_sum(tf.exp(x), -1, keepdims=True),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_layers_are_what_one_writes_in_float64(name, rng):
    """Registered gradients included: TensorFlow's own of silu refers to the float32 graph that it was traced in."""
    dense = kl.Dense(4, activation=name)
    dense.build((None, 3))
    dense.bias.assign(rng.normal(size=4))
    x = rng.normal(size=(5, 3)).astype("float32")
    variables = [dense.kernel.value, dense.bias.value]
    traced = Traced(lambda xs: _gradients(dense, xs[0], variables), [x])
    kernel, bias = (tf.Variable(np.asarray(v), dtype="float64") for v in variables)
    exact = _gradients(lambda x: BY_HAND[name](x @ kernel + bias), tf.constant(x, "float64"), [kernel, bias])
    for found, own, right in zip(traced.run_in_float64([x]), traced.run([x]), exact, strict=True):
        scale = np.abs(right).max()
        np.testing.assert_allclose(found, right, rtol=1e-12, atol=1e-13 * scale)
        assert 0 < np.abs(own - right).max() < 1e-4 * scale


def test_a_gradient_of_ones_own_is_kept(rng):
    @tf.custom_gradient
    def reversed_(x):
        return tf.identity(x), lambda dy: -0.5 * dy

    x = rng.normal(size=(3, 2)).astype("float32")
    _, first, _ = Traced(lambda xs: _gradients(reversed_, xs[0]), [x]).run_in_float64([x])
    np.testing.assert_allclose(first, -x.astype("float64"), rtol=1e-15)  # where TensorFlow's is 2 x


def test_functions_loops_and_branches_are_rewritten_too(rng):
    inner = tf.function(lambda t: tf.sin(t) * 0.5, autograph=False)

    def function(x):
        x = tf.while_loop(lambda i, a: i < 3, lambda i, a: (i + 1, inner(a) + a), [0, x])[1]
        return tf.cond(tf.reduce_sum(x) > 0, lambda: inner(x), lambda: -inner(x))

    x = rng.normal(size=(3, 2)).astype("float32")
    traced = Traced(lambda xs: _gradients(function, xs[0]), [x])
    exact = _gradients(function, tf.constant(x, "float64"))
    for _ in range(2):  # the names of functions do not clash
        for found, right in zip(Traced(lambda xs: _gradients(function, xs[0]), [x]).run_in_float64([x]), exact):
            np.testing.assert_allclose(found, right, rtol=1e-13)
    assert any(np.abs(own - right).max() > 0 for own, right in zip(traced.run([x]), exact))


def test_lstm_layers_run_in_float64(rng):
    lstm = kl.LSTM(3)
    x = rng.normal(size=(2, 4, 5)).astype("float32")
    lstm(x)
    wide = kl.LSTM(3, dtype="float64")
    wide.build((2, 4, 5))
    wide.set_weights(lstm.get_weights())
    (found,) = Traced(lambda xs: [lstm(xs[0])], [x]).run_in_float64([x])
    np.testing.assert_allclose(found, np.asarray(wide(x.astype("float64"))), rtol=1e-13)


def test_dropout_draws_what_it_draws_in_float32(rng):
    dropout = kl.Dropout(0.5, seed=3)
    x = rng.normal(size=(20, 10)).astype("float32")
    traced = Traced(lambda xs: [dropout(xs[0], training=True)], [x])
    state = np.asarray(dropout.seed_generator.state)
    (wide,) = traced.run_in_float64([x])
    assert np.array_equal(np.asarray(dropout.seed_generator.state), state)
    (again,) = traced.run_in_float64([x])
    assert np.array_equal(wide, again)
    (own,) = traced.run([x])
    np.testing.assert_array_equal(own, wide)
    assert not np.array_equal(np.asarray(dropout.seed_generator.state), state)


def test_variables_and_constants_of_any_kind(rng):
    """Variables that are no layer's, those that the function changes, tensors from outside, integers."""
    variable, counter = tf.Variable([1 / 3, 2.0]), tf.Variable(0)
    outside = tf.constant([1 / 7, 1.0])

    def function(xs):
        variable.assign_add([1.0, 1.0])
        counter.assign_add(1)
        return [xs[0] * variable + outside, xs[1] + counter]

    x, n = rng.normal(size=(3, 2)).astype("float32"), np.arange(3, dtype="int32")
    wide = lambda t: np.asarray(t, "float64")  # noqa: E731
    traced = Traced(function, [x, n])
    for _ in range(2):
        y, m = traced.run_in_float64([x, n])
        np.testing.assert_allclose(y, wide(x) * (wide(tf.constant([1 / 3, 2.0])) + 1) + wide(outside), rtol=1e-15)
        np.testing.assert_array_equal(m, n + 1)
    assert counter.numpy() == 0
    doubled, _ = traced.run_in_float64([x, n], lambda array: 2 * array)
    np.testing.assert_allclose(
        doubled, 2 * wide(x) * (2 * wide(tf.constant([1 / 3, 2.0])) + 1) + 2 * wide(outside), rtol=1e-15
    )


def test_float64_functions_come_out_as_they_are(rng):
    dense = kl.Dense(4, activation="gelu", dtype="float64")
    x = rng.normal(size=(5, 3))
    dense.build((None, 3))
    traced = Traced(lambda xs: [dense(xs[0])], [x])
    np.testing.assert_allclose(traced.run_in_float64([x])[0], traced.run([x])[0], rtol=1e-14)


def test_half_precision_becomes_double_as_well(rng):
    x = rng.normal(size=(5, 3)).astype("float16")
    traced = Traced(lambda xs: [keras.ops.tanh(xs[0]) * 3], [x])
    np.testing.assert_allclose(traced.run_in_float64([x])[0], np.tanh(x.astype("float64")) * 3, rtol=1e-13)
