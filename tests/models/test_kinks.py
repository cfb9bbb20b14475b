"""Where functions are not smooth, and where numbers are none: derivatives at ties, and NaN and infinities."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as kl
from keras import ops

import fusedsplit as fs

WIDTH = 4
BACKENDS = [name for name, state in fs.info().backends.items() if name in ("op", "xla", "tf") and not state]
ROWS = [
    [0.0, -0.0, 1.0, -1.0],
    [0.0, 0.0, 0.0, 0.0],
    [1.0, 1.0, -1.0, -1.0],
    [0.5, 2.0, -3.0, 3.0],
    [6.0, -6.0, 3.0, 0.25],
]
NO_NUMBERS = [[np.nan, 0.0, np.nan, 1.0], [np.inf, -np.inf, 1.0, 0.0], [-np.inf, 2.0, np.nan, np.inf]]
LIMITS = np.array([0.0, 1.0, -1.0, 2.0])
FIRST = np.array([True, False, True, False])


def ones_beside(x):
    return tf.concat([tf.ones_like(x[:, :2]), x[:, 2:]], 1)


FUNCTIONS = {
    "maximum with 0": lambda x: tf.maximum(x, 0.0),
    "0 on the left": lambda x: tf.maximum(tf.zeros([], x.dtype), x),
    "ops.maximum with 0": lambda x: ops.maximum(x, 0),
    "minimum with 0": lambda x: tf.minimum(x, 0.0),
    "ops.minimum, 0 on the left": lambda x: ops.minimum(0.0, x),
    "maximum with 1": lambda x: tf.maximum(x, 1.0),
    "minimum with a vector": lambda x: tf.minimum(x, tf.constant(LIMITS, x.dtype)),
    "maximum, a vector on the left": lambda x: tf.maximum(tf.constant(LIMITS[None], x.dtype), x),
    "ops.clip": lambda x: ops.clip(x, -1.0, 1.0),
    "clip_by_value": lambda x: tf.clip_by_value(x, 0.0, 6.0),
    "ops.relu": ops.relu,
    "tf.nn.relu": tf.nn.relu,
    "relu6": tf.nn.relu6,
    "ops.leaky_relu": lambda x: ops.leaky_relu(x, 0.25),
    "leaky relu by hand": lambda x: tf.where(x > 0, x, 0.25 * x),
    "leaky relu by maximum": lambda x: tf.maximum(0.25 * x, x),
    "elu": lambda x: keras.activations.elu(x, 0.5),
    "selu": ops.selu,
    "hard_sigmoid": ops.hard_sigmoid,
    "maximum of two": lambda x: tf.maximum(x, x[:, ::-1]),
    "max": lambda x: x + ops.max(x, axis=1, keepdims=True),
    "min": lambda x: x + ops.min(x, axis=1, keepdims=True),
    "max of a stack": lambda x: tf.reduce_max(tf.stack([x, x[:, ::-1], x * x], axis=1), axis=1),
    "min of a stack": lambda x: tf.reduce_min(tf.stack([x, x[:, ::-1], x * x], axis=2), axis=2),
    "a constant beside": ones_beside,
    "a constant in between": lambda x: tf.where(FIRST, tf.ones_like(x), x),
    "zeros in between": lambda x: ops.where(FIRST, x, 0.0),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_derivatives_at_ties_are_those_of_keras(backend, dtype):
    model = model_of(FUNCTIONS.values(), dtype)
    jitted = backend == "xla"  # of which selu has another slope at 0
    check(fs.fuse(model, backend=backend), model, FUNCTIONS, tf.constant(ROWS, dtype), jitted)


# XLA's own maximum loses a NaN.
@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "xla"])
@pytest.mark.parametrize(
    "name",
    ["maximum with 0", "0 on the left", "ops.clip", "ops.relu", "max", "min of a stack", "a constant beside"],
)
def test_nan_and_infinities_are_those_of_keras(name, backend):
    model = model_of([FUNCTIONS[name]], "float32")
    check(fs.fuse(model, backend=backend), model, [name], tf.constant(NO_NUMBERS), False)


def model_of(functions, dtype):
    """All functions of one input, and a product, without which there is no region."""
    x = keras.Input((WIDTH,), dtype=dtype)
    ys = [kl.Lambda(function, output_shape=(WIDTH,), dtype=dtype)(x) for function in functions]
    return keras.Model(x, [*ys, kl.Dense(WIDTH, use_bias=False, dtype=dtype)(x)])


def check(fused, model, names, x, jitted):
    assert len(fused.regions) == 1, fs.explain(fused)
    weights = tf.cast(tf.reshape(tf.range(1, 1 + tf.size(x)), x.shape), x.dtype)

    def results(m):
        """For each function what it gives, and the derivative of each of these numbers by what it reads."""
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(x)
            *ys, _ = m(x)
        return [(y, tape.gradient(y, x, output_gradients=weights)) for y in ys]

    keras_results = tf.function(results, jit_compile=True)(model) if jitted else results(model)
    for name, *both in zip(names, results(fused), keras_results, strict=True):
        for got, want in zip(*both):
            np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6, err_msg=name)
