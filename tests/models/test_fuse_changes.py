"""Layers that change after `fuse`, and those that compute otherwise while training."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as kl

import fusedsplit as fs
from tests.models import keras_models as models

pytestmark = pytest.mark.filterwarnings("ignore::fusedsplit.FusedSplitWarning")
X = models.rows()


def same(fused, model, **kwargs):
    """Equal outputs, in eager mode and in a graph."""
    expected = model(X, **kwargs)
    np.testing.assert_allclose(fused(X, **kwargs), expected, rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(tf.function(lambda: fused(X, **kwargs))(), expected, rtol=2e-5, atol=2e-6)


def gradients(model, weights, training=True):
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.sin(model(X, training=training))) + sum(model.losses)
    return tape.gradient(loss, [w.value for w in weights])


def close(a, b):
    for x, y in zip(a, b, strict=True):
        np.testing.assert_allclose(tf.convert_to_tensor(x), tf.convert_to_tensor(y), rtol=2e-4, atol=2e-5)


# After `fuse`.


def test_new_weights():
    model = models.functional()
    fused = fs.fuse(model)
    traced = tf.function(fused)
    traced(X), fused(X)
    fused.set_weights([w + 0.25 for w in model.get_weights()])
    model.layers[1].kernel.assign(model.layers[1].kernel * 2)
    same(fused, model)
    np.testing.assert_allclose(traced(X), model(X), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("make", [models.functional, models.normalized])
def test_other_variables(make):
    """A layer that is built again has new ones."""
    model = make()
    fused = fs.fuse(model)
    fused(X)
    for layer in model.layers:
        if isinstance(layer, (kl.Dense, kl.BatchNormalization)):
            layer._tracker.unlock()
            layer.build(layer.input.shape)
            for variable in layer.variables:
                variable.assign(tf.random.uniform(variable.shape, 0.5, 1.5))
    same(fused, model)


def test_lora():
    model = models.functional()
    fused = fs.fuse(model, backend="tf")
    fused(X)
    layer = model.layers[1]
    layer.enable_lora(2)
    layer.lora_kernel_b.assign(tf.ones_like(layer.lora_kernel_b))
    same(fused, model)
    assert len(fused.trainable_weights) == len(model.trainable_weights)
    close(gradients(fused, model.trainable_weights), gradients(model, model.trainable_weights))


def test_quantization():
    model = models.functional()
    fused = fs.fuse(model)
    fused(X)
    model.layers[1].quantize("int8")
    same(fused, model)
    fused.backend = "tf"
    with pytest.raises(ValueError, match="is quantized"):
        fused(X)


def test_an_activity_regularizer():
    model = models.functional()
    fused = fs.fuse(model)
    fused(X)
    assert fused.losses == []
    model.layers[1].activity_regularizer = keras.regularizers.L2(0.1)
    same(fused, model)
    fused(X), model(X)
    assert len(fused.losses) == 1
    model(X)
    expected = [float(x) for x in model.losses]
    fused(X)
    np.testing.assert_allclose([float(x) for x in fused.losses], expected, rtol=1e-5)
    close(gradients(fused, model.trainable_weights), gradients(model, model.trainable_weights))


def test_trainable_flags():
    model = models.functional()
    fused = fs.fuse(model)
    model.layers[1].trainable = False
    assert [w.path for w in fused.trainable_weights] == [w.path for w in model.trainable_weights]
    fused.trainable = False
    assert not any(layer.trainable for layer in model.layers)


def test_regularizers_of_weights():
    model = models.functional(kernel_regularizer="l2")
    fused = fs.fuse(model)
    assert len(fused.losses) == len(model.losses) == 1
    close(gradients(fused, model.trainable_weights), gradients(model, model.trainable_weights))


def test_stateless_calls():
    """Values that are given take the place of the variables, those that a plan's params are computed from as well."""
    model = models.normalized()
    fused = fs.fuse(model)
    fused(X)
    groups = (model.trainable_variables, model.non_trainable_variables)
    given = [[v.value + tf.cast(0.5, v.dtype) for v in variables] for variables in groups]
    found, _ = fused.stateless_call(*given, X, training=False)
    expected, _ = model.stateless_call(*given, X, training=False)
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-6)


# Training or not.


def test_dropout_draws_keras_numbers():
    def build():
        keras.utils.set_random_seed(3)
        x = keras.Input((6,))
        shared = kl.Dropout(0.5, seed=11)
        h = shared(kl.Dense(8, activation="relu")(shared(kl.Dense(6)(x))))
        return keras.Model(x, kl.Dense(4)(kl.Dropout(0.3)(h)))

    model, fused = build(), fs.fuse(build())
    assert len(fused.schedule(training=True).regions) == 1
    for _ in range(3):
        np.testing.assert_allclose(fused(X, training=True), model(X, training=True), rtol=1e-5, atol=1e-6)
    close(gradients(fused, fused.trainable_weights), gradients(model, model.trainable_weights))
    assert np.ptp(fused(X, training=True) - fused(X, training=True)) > 0
    same(fused, model)


def test_batch_normalization_in_both_modes():
    model = models.normalized()
    other = models.twin(model)
    fused = fs.fuse(other)
    assert len(fused.regions) == 1
    assert "looks across rows" in str(fused.schedule(training=True).reasons)
    bn, bn2 = (next(layer for layer in m.layers if isinstance(layer, kl.BatchNormalization)) for m in (model, other))
    for _ in range(3):
        for m in (model, fused):
            m.get_layer(index=3).seed_generator.state.assign([0, 5])
        np.testing.assert_allclose(fused(X, training=True), model(X, training=True), rtol=2e-5, atol=2e-6)
        close(bn2.weights, bn.weights)
    assert float(tf.reduce_max(tf.abs(bn.moving_mean))) > 0
    same(fused, model)
    close(gradients(fused, other.trainable_weights, False), gradients(model, model.trainable_weights, False))


def test_frozen_batch_normalization():
    model = models.normalized()
    fused = fs.fuse(model)
    bn = next(layer for layer in model.layers if isinstance(layer, kl.BatchNormalization))
    bn.moving_mean.assign(tf.ones_like(bn.moving_mean))
    bn.trainable = False
    model.get_layer(index=3).rate = 0.0
    same(fused, model, training=True)
    np.testing.assert_array_equal(bn.moving_mean, np.ones(8))


@pytest.mark.parametrize("where", ["layer", "nested"])
def test_training_baked_into_the_graph(where):
    """`layer(x, training=True)` holds where the caller says nothing, and only there."""
    x = keras.Input((6,))
    norm = kl.BatchNormalization()
    inner = norm if where == "layer" else keras.Sequential([kl.Input((6,)), norm])
    h = inner(kl.Dense(6, activation="relu")(x), training=True)
    model = keras.Model(x, kl.Dense(2)(kl.Dense(4)(h)))
    norm.momentum = 1.0  # so that a call leaves no trace
    norm.moving_mean.assign(tf.ones(6))
    fused = fs.fuse(model)
    for kwargs in ({}, {"training": None}, {"training": True}, {"training": False}):
        same(fused, model, **kwargs)
    assert np.abs(model(X) - model(X, training=False)).max() > 1e-3


def test_training_comes_from_the_layer_around():
    """A fused model within a layer takes part in its mode, in eager mode too."""

    class Around(kl.Layer):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def call(self, x, training=None):
            return self.inner(x)

    keras.utils.set_random_seed(3)
    x = keras.Input((6,))
    drop = kl.Dropout(0.5, seed=1)
    fused = fs.fuse(keras.Model(x, kl.Dense(2)(drop(kl.Dense(8)(x)))))
    around = Around(fused)
    tensor = tf.constant(X)
    assert np.abs(around(tensor, training=True) - fused(tensor)).max() > 1e-3
    np.testing.assert_allclose(around(tensor, training=False), fused(tensor), rtol=1e-6)


def test_a_subclass_of_a_fused_model_computes_what_it_says():
    class Doubled(fs.FusedModel):
        def call(self, inputs, training=None, mask=None):
            return 2 * super().call(inputs, training=training, mask=mask)

    model = models.functional()
    doubled = Doubled(model.inputs[0], model.outputs[0])
    for x in (X, tf.constant(X)):
        np.testing.assert_allclose(doubled(x), 2 * model(x), rtol=1e-5, atol=1e-6)
