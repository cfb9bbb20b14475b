"""The core's activations on every ISA against Keras: NaN and infinities, accuracy next to TensorFlow's, tails.

`csrc/core/tools/ulp.cc` measures the errors themselves, over every float.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import special

from fusedsplit.native import library
from fusedsplit.plan import ACTIVATIONS

if library.core_problem() is not None:
    pytest.skip(f"the core is not usable: {library.core_problem()}", allow_module_level=True)
core = library.core()

GELU_TANH_SLOPE = 2 * np.sqrt(2 / np.pi)
SELU_SCALE, SELU_ALPHA = 1.0507009873554805, 1.6732632423543772

# (name, alpha). Negative alphas take the derivative from the argument, the others from the output.
CASES = [
    *((name, 0.0) for name in ACTIVATIONS if name not in ("leaky_relu", "elu")),
    *(("leaky_relu", alpha) for alpha in (0.25, 2.0, -1.0, 0.0)),
    *(("elu", alpha) for alpha in (1.0, 0.5, -1.0, 0.0)),
]
# TensorFlow rounds the constants of gelu to float32 even in float64: 4e-9 of the result.
RTOL = {np.float32: 3e-5, np.float64: 1e-7}


@pytest.fixture(autouse=True)
def restore():
    isa = core.isa()
    yield
    core.set_isa(isa)


@pytest.fixture(params=core.isas())
def isa(request):
    assert core.set_isa(request.param)
    return request.param


def keras_function(name: str, alpha: float) -> Callable[[tf.Tensor], tf.Tensor]:
    if name == "gelu_tanh":
        return functools.partial(keras.activations.gelu, approximate=True)
    if name == "elu":
        return functools.partial(keras.activations.elu, alpha=alpha)
    if name == "leaky_relu":
        return functools.partial(keras.activations.leaky_relu, negative_slope=alpha)
    return getattr(keras.activations, name)


def by_keras(name: str, alpha: float, x: np.ndarray, dy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    with tf.GradientTape() as tape:
        tensor = tf.constant(x)
        tape.watch(tensor)
        y = keras_function(name, alpha)(tensor)
    return y.numpy(), tape.gradient(y, tensor, output_gradients=tf.constant(dy)).numpy()


def by_core(name: str, alpha: float, x: np.ndarray, dy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    kind = ACTIVATIONS.index(name)
    return core.activate(kind, alpha, x), core.activate_grad(kind, alpha, x, dy)


def edges(dtype) -> np.ndarray:
    """Where formulas change, and their neighbours on both sides; infinities, NaN, over- and underflow."""
    inner = np.array([-3, -1, 0, 0.5, 3, 6], dtype)
    around = np.concatenate([inner, np.nextafter(inner, dtype(-9)), np.nextafter(inner, dtype(9))])
    tiny = np.abs(around) < np.finfo(dtype).tiny
    far = np.array([np.nan, np.inf, -np.inf, -0.0, -20, 20, -90, 88.5, -750, 750, 1e15, -1e15], dtype)
    return np.concatenate([around[~tiny], inner[2:3], far])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name,alpha", CASES)
def test_nan_and_infinities_as_in_keras(isa, name, alpha, dtype):
    x = edges(dtype)
    for upstream in (1.0, -2.0, 0.0, np.nan, np.inf):
        if upstream == np.inf and name in ("gelu", "gelu_tanh"):
            continue  # TensorFlow's chain of products meets 0 * infinity, ours is one product
        dy = np.full_like(x, upstream)
        expected, received = by_keras(name, alpha, x, dy), by_core(name, alpha, x, dy)
        what = f"{name}({alpha}) on {isa}, dy {upstream}"
        # TensorFlow's gelu_tanh cancels below 0, and 1 - y * y near the ends of tanh: an absolute error.
        np.testing.assert_allclose(received[0], expected[0], RTOL[dtype], RTOL[dtype] / 10, err_msg=what)
        np.testing.assert_allclose(received[1], expected[1], RTOL[dtype], RTOL[dtype] / 10, err_msg=what)


def logistic(z):
    e = np.exp(-np.abs(z))
    return np.where(z < 0, e, 1) / (1 + e)


def gelu_tanh_logit(x):
    return GELU_TANH_SLOPE * x * (1 + 0.044715 * x * x)


# name: (value, derivative), each free of cancellation in float64 where the float32 result is not tiny.
REFERENCES = {
    "elu": (lambda x: np.where(x > 0, x, np.expm1(x)), lambda x: np.where(x > 0, 1, np.exp(x))),
    "selu": (
        lambda x: SELU_SCALE * np.where(x > 0, x, SELU_ALPHA * np.expm1(x)),
        lambda x: SELU_SCALE * np.where(x < 0, SELU_ALPHA * np.exp(x), 1),
    ),
    "gelu": (
        lambda x: x * special.ndtr(x),
        lambda x: special.ndtr(x) + x * np.exp(-x * x / 2) / np.sqrt(2 * np.pi),
    ),
    "gelu_tanh": (
        lambda x: x * logistic(gelu_tanh_logit(x)),
        lambda x: (
            logistic(gelu_tanh_logit(x))
            * (1 + x * logistic(-gelu_tanh_logit(x)) * GELU_TANH_SLOPE * (1 + 3 * 0.044715 * x * x))
        ),
    ),
    "silu": (lambda x: x * logistic(x), lambda x: logistic(x) * (1 + x * logistic(-x))),
    "sigmoid": (logistic, lambda x: logistic(x) * logistic(-x)),
    "tanh": (np.tanh, lambda x: 4 * logistic(2 * x) * logistic(-2 * x)),
    "softplus": (lambda x: np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))), logistic),
    "softsign": (lambda x: x / (1 + np.abs(x)), lambda x: (1 + np.abs(x)) ** -2.0),
    "exponential": (np.exp, np.exp),
}
# Beside these the bound is 2^-23 |x| as well: what is left of 1 or of x after a subtraction.
TO_THE_LAST_PLACES = {"sigmoid", "tanh", "softplus", "softsign", "exponential"}


def float32_sample(stride: int) -> np.ndarray:
    """Finite, normal floats of every size up to 10,000, in rising order."""
    x = np.arange(0, 2**32, stride, dtype=np.uint64).astype(np.uint32).view(np.float32)
    return np.sort(x[np.isfinite(x) & (np.abs(x) >= np.finfo(np.float32).tiny) & (np.abs(x) < 1e4)])


def errors_of(y: np.ndarray, exact: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Absolute, and in units of the last place; what is lost below the smallest normal number counts as none."""
    limits = np.finfo(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        rounded = exact.astype(np.float32)
        error = np.where(rounded == y, 0, np.abs(y.astype(np.float64) - exact))
        error = np.where((np.abs(exact) < 2 * float(limits.tiny)) & (error <= limits.tiny), 0, error)
        return error, error / np.spacing(np.clip(np.abs(rounded), limits.tiny, limits.max)).astype(np.float64)


def largest_nearby(values: np.ndarray, reach: int = 32) -> np.ndarray:
    padded = np.pad(values, reach, mode="edge")
    return np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1).max(axis=1)


@pytest.mark.parametrize("name", REFERENCES)
def test_errors_are_small_and_below_twice_tensorflows(isa, name):
    x = float32_sample(19_997)
    wide, alpha = x.astype(np.float64), 1.0 if name == "elu" else 0.0
    ones = np.ones_like(x)
    limit = 6 if isa == "baseline" else 4
    results = zip(by_core(name, alpha, x, ones), by_keras(name, alpha, x, ones), REFERENCES[name], strict=True)
    for what, (received, other, reference) in zip(("value", "slope"), results, strict=True):
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            exact = reference(wide)
        (absolute, ours), (_, theirs) = errors_of(received, exact), errors_of(other, exact)
        by_x = what == "slope" or name not in TO_THE_LAST_PLACES
        small = (ours <= limit) | (by_x & (absolute <= 2.0**-23 * np.abs(wide)))
        at = x[np.argmax(np.where(small, 0, ours))]
        assert small.all(), f"{name} {what} on {isa} at {at}: {ours[x == at]} ULP"
        # Among neighbours: TensorFlow may be right by chance at any one of them.
        behind = (ours > limit) & (ours > 2 * largest_nearby(theirs))
        at = x[np.argmax(np.where(behind, ours, 0))]
        assert not behind.any(), f"{name} {what} on {isa} at {at}: {ours[x == at]} ULP, Keras {theirs[x == at]}"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name,alpha", CASES)
def test_a_result_does_not_depend_on_its_place(isa, name, alpha, dtype):
    rng = np.random.default_rng(5)
    x, dy = rng.normal(0, 3, 70).astype(dtype), rng.normal(0, 3, 70).astype(dtype)
    whole = by_core(name, alpha, x, dy)
    for start, stop in [(0, n) for n in range(1, 70)] + [(n, 70) for n in range(1, 20)]:
        part = by_core(name, alpha, x[start:stop].copy(), dy[start:stop].copy())
        for received, expected in zip(part, whole, strict=True):
            assert received.tobytes() == expected[start:stop].tobytes()
