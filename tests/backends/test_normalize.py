"""Normalized rows in every backend: against keras.layers.LayerNormalization, and derivatives of every order."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from fusedsplit.backends import op
from fusedsplit.backends.tf import TF
from fusedsplit.backends.xla import XLA
from fusedsplit.plan import PlanBuilder

BACKENDS = {"tf": TF, "xla": XLA, "op": op.OP}
EPSILON = 1e-3
ROUNDING = {"float32": 2.0**-24, "float64": 2.0**-53}


def layer_norm(width: int):
    """gain * normalize(x) + shift: what LayerNormalization over the last axis lowers to."""
    build = PlanBuilder()
    x, normal, y = build.input(width), build.hidden(width), build.output(width)
    build.row("normalize", x, normal, EPSILON)
    build.merge("add", ((normal, 1.0),), y, build.param((width,)), build.param((width,)))
    return build.plan()


@pytest.fixture(params=BACKENDS)
def backend(request):
    if request.param == "op" and op.problem() is not None:
        pytest.skip(f"the op is not usable: {op.problem()}")
    return BACKENDS[request.param]


def taped(call, sources, dy):
    with tf.GradientTape() as tape:
        tape.watch(sources)
        y = call(*sources)
    return y, *tape.gradient(y, sources, output_gradients=dy)


def by_plan(backend, width: int):
    plan = layer_norm(width)
    return lambda x, gain, shift: backend.run(plan, [x], [gain, shift])[0]


def by_keras(x, gain, shift):
    layer = keras.layers.LayerNormalization(epsilon=EPSILON, dtype=x.dtype.name)
    layer.build(x.shape)
    return layer.stateless_call([gain, shift], [], x)[0]


def arrays(shape, seed: int = 0, offset: float = 0.0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape) + offset
    return [x, rng.standard_normal(shape[-1]), rng.standard_normal(shape[-1])], rng.standard_normal(shape)


def cast(values, dtype):
    return [tf.constant(v, dtype) for v in values]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("offset", [0.0, 100.0])
@pytest.mark.parametrize("width", [1, 2, 7, 16, 33, 256, 1000])
def test_at_most_twice_the_error_of_keras(backend, width, offset, dtype):
    """Values and gradients of the rows, the gain and the shift."""
    sources, dy = arrays((37, width), offset=offset)
    sources = [np.asarray(s, dtype).astype(np.float64) for s in sources]
    dy = np.asarray(dy, dtype).astype(np.float64)
    exact = taped(by_plan(TF, width), cast(sources, "float64"), tf.constant(dy))
    received = taped(by_plan(backend, width), cast(sources, dtype), tf.constant(dy, dtype))
    unfused = taped(by_keras, cast(sources, dtype), tf.constant(dy, dtype))
    for got, want, other in zip(received, exact, unfused, strict=True):
        largest = 1 + np.abs(want).max()
        assert got.dtype == dtype
        limit = max(2 * np.abs(other - tf.cast(want, dtype)).max(), 32 * ROUNDING[dtype] * largest)
        # The exact values are float64's own where the dtype is.
        limit += 1e-11 * largest * (1 + offset) if dtype == "float64" else 0
        np.testing.assert_allclose(got, want, rtol=0, atol=limit)


@pytest.mark.parametrize("shape", [(2, 5, 6), (0, 6), (3, 0, 6)])
def test_leading_dimensions(backend, shape):
    sources, dy = arrays(shape)
    received = taped(by_plan(backend, 6), cast(sources, "float64"), tf.constant(dy))
    expected = taped(by_keras, cast(sources, "float64"), tf.constant(dy))
    for got, want in zip(received, expected, strict=True):
        assert got.shape == want.shape
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-12)


ROWS = {
    "nan": [np.nan, 1, 2, 3],
    "inf": [np.inf, 1, 2, 3],
    "both infinities": [-np.inf, np.inf, 0, 1],
    "overflow of the squares": [1e30, -1e30, 0, 2e30],
    "overflow of the sum": [3e38, 3e38, 3e38, 3e38],
    "constant": [5, 5, 5, 5],
    "zeros": [0, 0, 0, 0],
    "tiny": [1e-30, -1e-30, 0, 2e-30],
}


@pytest.mark.parametrize("name", ROWS)
def test_what_keras_gives_for_rows_at_the_edge(backend, name):
    """Beside a row that must not change."""
    x = np.array([ROWS[name], [1, -2, 3, 0.5]], np.float32)
    sources = cast([x, [1.0, -0.5, 2, 1], [0.1, 0.2, 0.3, 0.4]], "float32")
    dy = tf.constant([[1.0, 2, 3, -1]] * 2)
    received = taped(by_plan(backend, 4), sources, dy)
    expected = taped(by_keras, sources, dy)
    for got, want in zip(received, expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-4)


def second_order(call, sources, dy, weights):
    """Derivatives, by the sources and dy, of a weighted sum of all gradients."""
    with tf.GradientTape() as outer:
        outer.watch([*sources, dy])
        firsts = taped(call, sources, dy)[1:]
        total = tf.add_n([tf.reduce_sum(w * g) for w, g in zip(weights, firsts)])
    return total, outer.gradient(total, [*sources, dy], unconnected_gradients="zero")


@pytest.mark.parametrize("width", [1, 3, 17])
def test_second_order_equals_differences_of_the_first(backend, width):
    """Keras itself holds the mean constant in its gradient, and so has another second derivative."""
    sources, dy = arrays((5, width))
    everything = cast([*sources, dy], "float64")
    weights = cast(arrays((5, width), seed=1)[0], "float64")
    call = by_plan(backend, width)
    _, received = second_order(call, everything[:3], everything[3], weights)
    rng = np.random.default_rng(2)
    for i, place in enumerate(everything):
        direction = tf.constant(rng.standard_normal(place.shape))
        sums = []
        for step in (1e-5, -1e-5):
            moved = [p + step * direction if j == i else p for j, p in enumerate(everything)]
            sums.append(second_order(call, moved[:3], moved[3], weights)[0])
        along = tf.reduce_sum(received[i] * direction)
        np.testing.assert_allclose(along, (sums[0] - sums[1]) / 2e-5, rtol=1e-6, atol=1e-6)


def test_third_order(backend):
    (x, *rest), _ = arrays((2, 5))
    x, rest = tf.constant(x), cast(rest, "float64")

    def third(call):
        tapes = [tf.GradientTape() for _ in range(3)]
        with tapes[0]:
            tapes[0].watch(x)
            with tapes[1]:
                tapes[1].watch(x)
                with tapes[2]:
                    tapes[2].watch(x)
                    y = tf.reduce_sum(tf.sin(call(x, *rest)))
                first = tf.reduce_sum(tf.sin(tapes[2].gradient(y, x)))
            second = tf.reduce_sum(tf.sin(tapes[1].gradient(first, x)))
        return tapes[0].gradient(second, x)

    np.testing.assert_allclose(third(by_plan(backend, 5)), third(by_plan(TF, 5)), rtol=1e-9, atol=1e-9)


@pytest.mark.skipif(op.problem() is not None, reason=f"the op is not usable: {op.problem()}")
@pytest.mark.parametrize("jit", [False, True])
def test_the_op_in_a_function(jit):
    if jit and op.xla_problem() is not None:
        pytest.skip(f"XLA cannot call the op: {op.xla_problem()}")
    sources, dy = arrays((40, 17))
    sources, dy = cast(sources, "float64"), tf.constant(dy)
    call = by_plan(op.OP, 17)
    received = tf.function(lambda *s: taped(call, s, dy), jit_compile=jit)(*sources)
    for got, want in zip(received, taped(by_plan(TF, 17), sources, dy), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-11)
