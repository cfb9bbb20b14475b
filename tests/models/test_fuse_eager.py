"""The short way of a call in eager mode, and where it must not be taken."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as kl

import fusedsplit as fs
from fusedsplit.models import eager
from tests.models import keras_models as models

pytestmark = pytest.mark.filterwarnings("ignore::fusedsplit.FusedSplitWarning")
X = models.rows()


def short(fused, *args, **kwargs):
    return eager.call(fused, args, kwargs)


def close(a, b):
    keras.tree.map_structure(lambda p, q: np.testing.assert_allclose(p, q, rtol=2e-5, atol=2e-6), a, b)


@pytest.mark.parametrize("make", [models.functional, models.sequential, models.normalized])
def test_one_tensor_or_array(make, backend):
    model = make()
    fused = fs.fuse(model, backend=backend)
    for x in (X, tf.constant(X)):
        for kwargs in ({}, {"training": False}, {"training": None}):
            close(short(fused, x, **kwargs), model(x, **kwargs))
            close(fused(x, **kwargs), model(x, **kwargs))


def test_lists():
    model = models.two_inputs()
    fused = fs.fuse(model)
    arrays = [models.rows(32, 10), models.rows(32, 5)]
    for xs in (arrays, tuple(arrays), [tf.constant(arrays[0]), arrays[1]]):
        close(short(fused, xs), model(arrays))


def test_gradients_and_logits_are_there():
    model = models.functional(last="sigmoid")
    fused = fs.fuse(model)
    found = []
    for m in (fused, model):
        with tf.GradientTape() as tape:
            y = m(X, training=True) if m is model else short(m, X, training=True)
            loss = tf.reduce_sum(y)
        assert hasattr(y, "_keras_logits")
        found.append(tape.gradient(loss, [v.value for v in model.trainable_variables]))
    close(*found)


def test_several_outputs():
    x = keras.Input((6,))
    h = kl.Dense(4, activation="tanh")(x)
    p, q = kl.Dense(2)(h), kl.Dense(3)(h)
    for outputs in ([p, q], (q, p, q), {"p": p, "q": q}, [p], [[p]], {"both": [p, (q,)]}):
        model = keras.Model(x, outputs)
        found = short(fs.fuse(model), X)
        keras.tree.assert_same_structure(found, model(X))
        close(found, model(X))


def test_rows_of_several_axes():
    x = keras.Input((None, 6))
    model = keras.Model(x, kl.Dense(2)(kl.Dense(4, activation="relu")(x)))
    given = models.rows(3, 5, 6)
    close(short(fs.fuse(model), given), model(given))


@pytest.mark.parametrize(
    "x",
    [
        pytest.param(X.astype("float64"), id="another dtype"),
        pytest.param(X[:, :5], id="another width"),
        pytest.param(X[..., None], id="another rank"),
        pytest.param(X.tolist(), id="a list"),
        pytest.param(tf.Variable(X), id="a variable"),
        pytest.param(tf.RaggedTensor.from_tensor(X), id="ragged"),
        pytest.param(keras.KerasTensor((None, 6)), id="symbolic"),
        pytest.param(X.view(np.matrix), id="a subclass of an array"),
    ],
)
def test_what_keras_must_see(x):
    assert short(fs.fuse(models.functional()), x) is None


def test_calls_that_keras_must_see():
    fused = fs.fuse(models.functional())
    assert short(fused, X, mask=None) is None and short(fused, X, training=tf.constant(True)) is None
    assert short(fused, X, False) is None
    masked = tf.constant(X)
    masked._keras_mask = tf.ones(12, bool)
    assert short(fused, masked) is None
    two = fs.fuse(models.two_inputs())
    assert short(two, [models.rows(4, 10), models.rows(1, 5)]) is None
    assert short(two, {"a": models.rows(4, 10), "b": models.rows(4, 5)}) is None
    traced = []
    tf.function(lambda x: traced.append(short(fused, x)))(X)
    assert traced == [None]


def test_models_that_keras_must_run():
    x = keras.Input((6,))
    h = kl.Dense(3)(kl.Dense(4, activation="relu")(x))
    part = keras.Model(x, kl.UnitNormalization()(h))
    assert len(fs.fuse(part).regions) == 1 and short(fs.fuse(part), X) is None
    assert short(fs.fuse(keras.Model(x, [h, x])), X) is None
    normalized = fs.fuse(models.normalized())
    assert short(normalized, X) is not None and short(normalized, X, training=True) is None


def test_an_input_in_the_outputs():
    x = keras.Input((6,))
    model = keras.Model(x, [kl.Dense(3)(kl.Dense(4)(x)), x])
    close(fs.fuse(model)(X), model(X))


def test_what_is_replaced_is_called(monkeypatch):
    fused, other = fs.fuse(models.functional()), fs.fuse(models.functional())
    assert np.abs(fused(X)).max() > 0
    original = fused.call
    fused.call = lambda inputs, training=None, mask=None: 0 * original(inputs)
    assert np.abs(fused(X)).max() == 0 and np.abs(other(X)).max() > 0
    monkeypatch.setattr(fs.FusedModel, "call", lambda self, inputs, training=None, mask=None: 0 * inputs)
    assert np.abs(other(X)).max() == 0


def test_another_input_spec_counts():
    fused = fs.fuse(models.functional())
    fused(X)
    fused.input_spec = kl.InputSpec(shape=(4, models.WIDTH))
    with pytest.raises(ValueError, match="incompatible"):
        fused(X)


def test_scopes_of_keras():
    """Within them a variable has another value than its own."""
    model = models.functional()
    fused = fs.fuse(model)
    kernel = model.layers[1].kernel
    with keras.StatelessScope(state_mapping=[(kernel, tf.zeros_like(kernel.value))]):
        found, expected = fused(X), model(X)
    close(found, expected)
    assert np.abs(found - model(X)).max() > 1e-3


def test_the_backend_is_checked_when_it_is_set():
    fused = fs.fuse(models.functional())
    with pytest.raises(ValueError, match="`backend`: expected"):
        fused.backend = "gpu"
