"""Eager calls of layers: the short way around Keras' own `Layer.__call__` is taken only where nothing is lost by it."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.layers import Dense, Layer

import fusedsplit as fs
from fusedsplit.backends import op

needs_op = pytest.mark.skipif(op.problem() is not None, reason=f"op: {op.problem()}")
X = tf.constant(np.linspace(-1, 1, 60, dtype="float32").reshape(6, 10))


def layer_of(cls=fs.SplitDense, **kwargs):
    layer = cls(Dense(8), [Dense(4, activation="relu"), Dense(6)], **kwargs)
    layer.build((None, 10))
    return layer


@contextlib.contextmanager
def keras_calls():
    """How often Keras' own way is gone, counted by the layer's input check."""
    calls = []
    original = Layer._assert_input_compatibility

    def counting(self, *args):
        if isinstance(self, fs.SplitDense):
            calls.append(self)
        return original(self, *args)

    Layer._assert_input_compatibility = counting
    try:
        yield calls
    finally:
        Layer._assert_input_compatibility = original


@needs_op
def test_a_plain_call_takes_the_short_way():
    layer = layer_of()
    with keras_calls() as calls:
        layer(X)
    assert not calls


class Zeros(fs.SplitDense):
    def call(self, inputs, training=None):
        return 0 * super().call(inputs, training=training)


def test_a_subclass_has_its_own_call():
    layer = layer_of(Zeros)
    assert np.abs(layer(X)).max() == np.abs(tf.function(layer)(X)).max() == 0


def test_a_call_that_is_replaced_is_called(monkeypatch):
    layer, other = layer_of(), layer_of()
    assert np.abs(layer(X)).max() > 0
    original = layer.call
    layer.call = lambda inputs, training=None: 0 * original(inputs)
    assert np.abs(layer(X)).max() == 0 and np.abs(other(X)).max() > 0
    monkeypatch.setattr(fs.SplitDense, "call", lambda self, inputs, training=None: 0 * inputs)
    assert np.abs(other(X)).max() == 0


class Masked(fs.SplitDense):
    def compute_mask(self, inputs, previous_mask):
        return inputs[..., 0] > 0


def test_a_subclass_may_make_masks():
    np.testing.assert_array_equal(layer_of(Masked)(X)._keras_mask, X[:, 0] > 0)


def test_the_layers_own_activity_regularizer_counts():
    layer = layer_of(activity_regularizer=keras.regularizers.L2(0.1))
    layer(X, training=False)  # Keras' own way
    (expected,) = layer.losses
    for _ in range(2):
        layer(X)
        (loss,) = layer.losses
        assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    layer = layer_of()
    layer(X)
    layer.activity_regularizer = keras.regularizers.L2(0.1)
    layer(X)
    assert len(layer.losses) == 1
    layer.activity_regularizer = None
    layer(X)
    assert not layer.losses


class Parent(Layer):
    """Calls a layer, giving it what it was given or what `cast` makes of it."""

    def __init__(self, inner, cast=None, **kwargs):
        super().__init__(**kwargs)
        self.inner, self.cast = inner, cast

    def build(self, shape):
        self.inner.build(shape)

    def call(self, x):
        return self.inner(x if self.cast is None else tf.cast(x, self.cast))


@pytest.mark.parametrize("cast", [None, "float32"])
def test_a_float32_layer_within_a_mixed_parent(cast):
    inner = layer_of(dtype="float32")
    parent = Parent(inner, cast, dtype="mixed_bfloat16")
    y = parent(X)
    assert y.dtype == "float32"
    x = X if cast else tf.cast(tf.cast(X, "bfloat16"), "float32")
    expected = tf.cast(tf.cast(x, "bfloat16"), "float32")  # what the parent itself makes of its input
    np.testing.assert_allclose(y, inner(expected), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(y, tf.function(parent)(X))


def test_variables_are_those_of_a_stateless_scope():
    layer = layer_of()
    assert np.abs(layer(X)).max() > 0
    zeros = [(v, tf.zeros(v.shape)) for v in layer.variables]
    with keras.StatelessScope(zeros):
        assert np.abs(layer(X)).max() == 0
    assert np.abs(layer(X)).max() > 0


@pytest.mark.skipif(not hasattr(keras, "RematScope"), reason="this Keras has no remat")
def test_remat_is_kept(monkeypatch):
    rematerialized = []
    with keras.RematScope(mode="full"):
        layer = layer_of()
    monkeypatch.setattr(
        layer, "rematerialized_call", lambda fn, *args, **kwargs: rematerialized.append(fn) or fn, raising=True
    )
    layer(X)
    assert len(rematerialized) == 1


def test_a_policy_or_an_input_spec_that_is_set_later_holds():
    layer = layer_of()
    layer(X)
    layer.input_spec = keras.layers.InputSpec(min_ndim=3)
    with pytest.raises(ValueError, match="min_ndim=3"):
        layer(X)
    layer = layer_of()
    layer.dtype_policy = "bfloat16"
    with keras_calls() as calls:
        layer(X)
    assert calls


def test_training_of_an_outer_call_reaches_dropout():
    inner = fs.SplitDense(Dense(8), [[keras.layers.Dropout(0.9), Dense(4)], None])
    outer = keras.Sequential([inner])
    outer(X)
    assert np.abs(outer(X, training=True) - outer(X)).max() > 0


@needs_op
def test_an_outer_call_alone_loses_nothing():
    outer = keras.Sequential([layer_of(), layer_of_width(10)])
    outer(X)
    with keras_calls() as calls:
        outer(X)
    assert not calls


def layer_of_width(width):
    layer = fs.SplitDense(Dense(4), [None, Dense(3)])
    layer.build((None, width))
    return layer


def test_losses_of_an_earlier_call_are_cleared_as_keras_does():
    layer, plain = layer_of(), Dense(3)
    for each in (layer, plain):
        each(X)
        each.add_loss(tf.constant(1.0))
        each(X)
    assert layer.losses == plain.losses == []


# Variables are kept from call to call: every way in which a layer may get others is seen.


def replaced_kernel(layer):
    layer.stem[0]._kernel = keras.Variable(np.ones((10, 8), "float32"))


def replaced_bias(layer):
    layer.branches[0][0].bias = keras.Variable(np.ones(4, "float32"))


def built_again(layer):
    layer.stem[0].build((None, 10))
    layer.stem[0].bias.assign(np.ones(8))


def whole_layer_built_again(layer):
    built_again(layer)
    layer.build((None, 10))


def lora(layer):
    layer.stem[0].enable_lora(2)
    layer.stem[0].lora_kernel_b.assign(np.ones((2, 8)))


def lora_of_a_branch_of_a_branch(layer):
    layer.branches[1][0].branches[0][0].enable_lora(2)
    layer.branches[1][0].branches[0][0].lora_kernel_b.assign(np.ones((2, 3)))


def quantized(layer):
    layer.stem[0].quantize("int8")


def assigned(layer):
    layer.set_weights([w + 1 for w in layer.get_weights()])


def another_value(layer):
    layer.stem[0]._kernel._value = tf.Variable(np.ones((10, 8), "float32"))


def regularized(layer):
    layer.branches[0][0].activity_regularizer = keras.regularizers.L2(1.0)


def regularized_within(layer):
    layer.branches[1][0].activity_regularizer = keras.regularizers.L2(1.0)


CHANGES = (
    replaced_kernel,
    replaced_bias,
    built_again,
    whole_layer_built_again,
    lora,
    lora_of_a_branch_of_a_branch,
    quantized,
    assigned,
    another_value,
    regularized,
    regularized_within,
)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.filterwarnings("ignore::fusedsplit.FusedSplitWarning")
def test_no_weight_is_stale(change):
    layer = fs.SplitDense(Dense(8), [Dense(4, activation="relu"), fs.MergeDense([Dense(3), Dense(2)])])
    layer.build((None, 10))
    before = layer(X).numpy()
    for each in layer._flatten_layers():
        each._tracker.unlock()
    change(layer)
    for _ in range(2):
        found = layer(X)
        with fs.use_backend("reference"):
            np.testing.assert_allclose(found, layer(X), rtol=1e-5, atol=1e-6)
    assert len(layer.losses) == change.__name__.startswith("regularized")
    assert layer.losses or np.abs(found - before).max() > 1e-3


def test_params_are_the_variables_themselves():
    layer = layer_of()
    for _ in range(2):
        assert [p is w.value for p, w in zip(layer.params, layer.weights, strict=True)] == [True] * 6
    with keras.StatelessScope([(v, tf.zeros(v.shape)) for v in layer.variables]):
        assert all(np.abs(p).max() == 0 for p in layer.params[:1])
    layer.stem[0].enable_lora(2)
    assert not isinstance(layer.params[0], tf.Variable) and layer.params[1] is layer.stem[0].bias.value


def test_nothing_is_kept_of_a_layer_whose_policy_may_change_within():
    layer = fs.SplitDense(Dense(8, dtype=keras.dtype_policies.DTypePolicyMap()), [Dense(3), None])
    layer.build((None, 10))
    np.testing.assert_allclose(layer(X), fs.reference(layer)(X), rtol=1e-5, atol=1e-6)
    assert layer.computation()._kept_variables() is None


@pytest.mark.parametrize(("activation", "loss"), [("sigmoid", "binary"), ("softmax", "categorical")])
def test_a_saturated_loss_by_hand_is_keras(activation, loss):
    """Without a tape the logits are read as well."""
    layer = fs.SplitDense(Dense(4), [Dense(2), None], head=Dense(2, activation=activation))
    layer.build((None, 10))
    layer.head[-1].bias.assign([0.0, 60.0])
    function, target = keras.losses.get(f"{loss}_crossentropy"), tf.constant([[1.0, 0.0]] * 6)
    expected = function(target, fs.reference(layer)(X))
    assert float(expected[0]) > 25
    np.testing.assert_allclose(function(target, layer(X)), expected, rtol=1e-5)
