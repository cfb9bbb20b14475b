"""What Keras does with layers: config, cloning, saving, masks, losses, training, sub-layer features."""

import itertools
import json
import pickle
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as kl
from keras.layers import Dense, Dropout

import fusedsplit as fs
from fusedsplit import config
from fusedsplit.backends import op

pytestmark = pytest.mark.filterwarnings("ignore::fusedsplit.FusedSplitWarning")
X = np.linspace(-1, 1, 60, dtype="float32").reshape(6, 10)


@keras.saving.register_keras_serializable(package="tests")
def halved(x):
    return x / 2


def split_dense(**kwargs) -> fs.SplitDense:
    return fs.SplitDense(
        [Dense(5, activation="tanh"), Dense(8)],
        [[Dense(4, activation=kl.LeakyReLU(negative_slope=0.1)), kl.Activation("relu"), Dense(3)], None],
        split=[3, 5],
        head=[Dense(6, kernel_regularizer="l2"), Dense(1)],
        **kwargs,
    )


def model_of(layer, width: int = 10) -> keras.Model:
    x = keras.Input((width,))
    return keras.Model(x, layer(x))


def test_config_is_json_and_round_trips():
    layer = split_dense(name="mine")
    layer.build((None, 10))
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(layer)))
    again = keras.saving.deserialize_keras_object(config)
    assert again.name == "mine" and again.split_sizes == (3, 5)
    again.build((None, 10))
    again.set_weights(layer.get_weights())
    np.testing.assert_array_equal(again(X), layer(X))
    assert again.get_config() == fs.SplitDense.from_config(layer.get_config()).get_config()


def test_config_keeps_shared_sublayers_shared():
    shared = Dense(3)
    layer = fs.SplitDense.from_config(fs.SplitDense(Dense(8), [shared, [shared]]).get_config())
    assert layer.branches[0][0] is layer.branches[1][0]


def test_config_survives_pickle():
    config = pickle.loads(pickle.dumps(split_dense().get_config()))
    assert fs.SplitDense.from_config(config).split_sizes == (3, 5)


def test_an_unregistered_activation_raises_when_the_config_is_made():
    def unknown(x):
        return x

    for activation in (unknown, lambda x: x):
        layer = fs.SplitDense(Dense(4, activation=activation), [None, None])
        with pytest.raises(ValueError, match="register_keras_serializable.*Received: activation="):
            layer.get_config()


def test_a_registered_activation_round_trips():
    layer = fs.SplitDense(Dense(4, activation=halved), [None, None])
    again = fs.SplitDense.from_config(layer.get_config())
    assert again.stem[0].activation is halved


def test_clone_model():
    model = model_of(split_dense())
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    np.testing.assert_array_equal(clone(X), model(X))


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_saving_whole_models(suffix, tmp_path):
    model = model_of(split_dense())
    model.save(tmp_path / f"m{suffix}")
    loaded = keras.models.load_model(tmp_path / f"m{suffix}")
    np.testing.assert_array_equal(loaded(X), model(X))


def test_saving_weights(tmp_path):
    model, other = model_of(split_dense()), model_of(split_dense())
    model.save_weights(tmp_path / "m.weights.h5")
    other.load_weights(tmp_path / "m.weights.h5")
    np.testing.assert_array_equal(other(X), model(X))


@pytest.mark.parametrize("order", ["import fusedsplit, keras", "import keras, fusedsplit"])
def test_loading_in_a_fresh_process_needs_only_the_imports(order, tmp_path):
    model = model_of(split_dense())
    model.save(tmp_path / "m.keras")
    np.save(tmp_path / "x.npy", X)
    code = f"""
{order}
import numpy as np
model = keras.models.load_model(r"{tmp_path / "m.keras"}")
np.save(r"{tmp_path / "y.npy"}", model(np.load(r"{tmp_path / "x.npy"}")))
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), model(X), rtol=1e-6, atol=1e-6)


def test_masks_pass_as_through_dense(backend):
    embedded = kl.Embedding(7, 10, mask_zero=True)(np.array([[1, 2, 0, 0], [3, 0, 0, 0]]))
    with fs.use_backend(backend):
        fused = fs.SplitDense(Dense(8), [Dense(3), None])(embedded)
    plain = Dense(8)(embedded)
    np.testing.assert_array_equal(fused._keras_mask, plain._keras_mask)


@pytest.mark.parametrize(
    ("activation", "loss", "target"),
    [("sigmoid", "binary_crossentropy", [[0.0]]), ("softmax", "categorical_crossentropy", [[1.0, 0.0]])],
)
def test_a_saturated_last_activation_keeps_its_gradient(activation, loss, target, backend):
    units = len(target[0])
    layer = fs.SplitDense(Dense(4), [Dense(2), None], head=Dense(units, activation=activation))
    layer.build((None, 10))
    weights = layer.get_weights()
    weights[-1] = np.array([60.0, 120.0][-units:] if units == 1 else [0.0, 60.0])
    layer.set_weights(weights)
    reference = fs.reference(layer)
    x = X[:1] * 1e-3

    def loss_and_gradient(f):
        with tf.GradientTape() as tape:
            value = tf.reduce_mean(keras.losses.get(loss)(tf.constant(target), f(x)))
        return float(value), tape.gradient(value, layer.head[-1].bias.value).numpy()

    expected = loss_and_gradient(reference)
    with fs.use_backend(backend):
        found = loss_and_gradient(layer)
        graph = tf.function(layer)
    assert found[0] == pytest.approx(expected[0], rel=1e-5) and found[0] > 50
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-4, atol=1e-6)
    assert np.abs(found[1]).max() > 0.5
    assert graph(x).shape == (1, units)


# Keras refuses to jit what runs eagerly, and takes "auto" for True or False.
HOW = {"jit": (True, False), "graph": (False, False), "auto": ("auto", False), "eager": (False, True)}
# The op in every way, and every form in one.
TRAINED = [("op", how) for how in HOW] + [("reference", "eager"), ("xla", "graph"), ("tf", "eager")]
REST = [cell for cell in itertools.product(config.BACKENDS, HOW) if cell not in TRAINED and cell[1] != "auto"]


@pytest.mark.parametrize(
    ("backend", "how"), [*TRAINED, *(pytest.param(*cell, marks=pytest.mark.full) for cell in REST)]
)
def test_fit_evaluate_predict_equal_the_unfused_model(backend, how, rng):
    jit_compile, run_eagerly = HOW[how]
    if backend == "op" and op.problem():
        pytest.skip(f"op: {op.problem()}")
    if backend == "op" and jit_compile and op.xla_problem():
        pytest.skip(op.xla_problem())
    x = rng.normal(size=(70, 10)).astype("float32")
    y = (x[:, :1] > 0).astype("float32")

    def make():
        branches = [Dense(4, activation="relu"), Dense(6)]
        layer = fs.SplitDense(
            Dense(8, activation="relu"), branches, head=Dense(1, activation="sigmoid"), backend=backend
        )
        layer.build((None, 10))
        return layer

    layer, twin = make(), make()
    twin.set_weights(layer.get_weights())
    fused, unfused = model_of(layer), fs.reference(twin)
    histories = []
    for model in (fused, unfused):
        model.compile(
            keras.optimizers.SGD(0.1), "binary_crossentropy", jit_compile=jit_compile, run_eagerly=run_eagerly
        )
        data = tf.data.Dataset.from_tensor_slices((x, y)).batch(16)
        history = model.fit(data, epochs=3, verbose=0).history["loss"]
        histories.append([*history, model.evaluate(x, y, verbose=0), *model.predict(x, verbose=0).ravel()])
    np.testing.assert_allclose(*histories, rtol=2e-4, atol=1e-5)


def test_steps_per_execution(fused_backend):
    model = model_of(split_dense(backend=fused_backend))
    model.compile("adam", "mse", jit_compile=False, steps_per_execution=2)
    history = model.fit(X, X[:, :1], batch_size=2, epochs=2, verbose=0).history["loss"]
    assert history[1] < history[0]


def test_regularizer_losses_are_counted():
    layer = split_dense()
    layer(X)
    assert len(layer.losses) == 1


# Features of sub-layers: fused, or sent to the reference with the reason.


def routed(layer) -> str:
    return "; ".join(layer.unfusable_reasons())


def equal_to_reference(layer, x=X):
    with fs.use_backend("reference"):
        expected = layer(x)
    np.testing.assert_allclose(layer(x), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("noise", [None, (None, 1)], ids=["each element", "whole rows"])
def test_dropout_while_training_draws_what_keras_draws(noise, backend):
    def make():
        keras.utils.set_random_seed(11)
        layer = fs.SplitDense(Dense(8), [[Dense(40), Dropout(0.5, noise_shape=noise), Dense(3)], [Dropout(0.2)]])
        layer.build((None, 10))
        return layer

    layer, twin = make(), make()
    expected = [fs.reference(twin)(X, training=True).numpy() for _ in range(3)]
    with fs.use_backend(backend):
        found = [layer(X, training=True).numpy() for _ in range(3)]
        np.testing.assert_array_equal(layer(X), layer(X, training=False))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert np.abs(found[0] - found[1]).max() > 0


@pytest.mark.parametrize("merge", ["concat", None])
def test_the_reference_counts_the_layers_own_activity_regularizer(merge):
    inner = fs.SplitDense(Dense(4), [None, Dense(2)], activity_regularizer="l1")
    layer = fs.SplitDense(Dense(8), [[Dense(3), inner], None], merge=merge, activity_regularizer="l2")
    x = np.random.default_rng(0).normal(size=(7, 5)).astype("float32")
    layer(x)
    reference = fs.reference(layer)
    reference(x)
    assert len(reference.losses) == len(layer.losses) > 0
    np.testing.assert_allclose(sum(reference.losses), sum(layer.losses), rtol=1e-6)
    assert [v.path for v in reference.weights] == [v.path for v in layer.weights]


def test_activity_regularizers_are_counted():
    layer = fs.SplitDense(Dense(8, activity_regularizer="l2"), [None, None])
    layer(X)
    assert "activity regularizer" in routed(layer)
    assert len(layer.losses) == 1 and float(layer.losses[0]) > 0


def test_lora_is_fused_and_its_gradients_flow(fused_backend):
    stem = Dense(8)
    layer = fs.SplitDense(stem, [Dense(3), None])
    layer(X)
    stem.enable_lora(2)
    stem.lora_kernel_b.assign(np.ones(stem.lora_kernel_b.shape))
    assert routed(layer) == ""
    equal_to_reference(layer)
    with fs.use_backend(fused_backend), tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(X) ** 2)
    gradients = tape.gradient(loss, [v.value for v in layer.trainable_variables])
    assert all(g is not None and np.abs(g).max() > 0 for g in gradients)


def test_quantized_sublayers_are_called_themselves():
    layer = fs.SplitDense(Dense(8), [Dense(3), None])
    layer(X)
    layer.stem[0].quantize("int8")
    assert "quantized (int8)" in routed(layer)
    equal_to_reference(layer)


def test_subclasses_of_dense_are_called_themselves():
    class Doubled(Dense):
        def call(self, inputs):
            return 2 * super().call(inputs)

    layer = fs.SplitDense(Doubled(8), [Dense(3), None])
    equal_to_reference(layer)
    assert "subclass of Dense" in routed(layer)


def test_mixed_policies_are_called_themselves():
    layer = fs.SplitDense(Dense(8, dtype="mixed_bfloat16"), [Dense(3, dtype="mixed_bfloat16"), None])
    assert layer(X).dtype == "bfloat16"
    assert "mixed dtype policy" in routed(layer)


def test_trainable_switches():
    layer = fs.SplitDense(Dense(8), [Dense(3), None])
    layer(X)
    layer.stem[0].trainable = False
    assert len(layer.trainable_variables) == 2
    with tf.GradientTape() as tape:
        y = layer(X)
    gradients = tape.gradient(y, [v.value for v in layer.trainable_variables])
    assert all(g is not None for g in gradients)
    layer.trainable = False
    assert not layer.trainable_variables


def test_constraints_hold_after_training():
    layer = fs.SplitDense(Dense(8, kernel_constraint="non_neg"), [Dense(3), None])
    model = model_of(layer)
    model.compile("sgd", "mse", jit_compile=False)
    model.fit(X, np.ones((6, 7)), verbose=0)
    assert layer.stem[0].kernel.numpy().min() >= 0


def test_stateless_call(fused_backend):
    layer = fs.SplitDense(Dense(8), [Dense(3), None], backend=fused_backend)
    expected = layer(X)
    zeros = [tf.zeros(v.shape) for v in layer.trainable_variables]
    found, _ = layer.stateless_call(zeros, [], X)
    assert np.abs(found).max() == 0
    found, _ = layer.stateless_call([v.value for v in layer.trainable_variables], [], X)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_symbolic_calls_trace_nothing():
    x = keras.Input((None, 10))
    y = fs.SplitDense(Dense(8), [Dense(3), None])(x)
    assert tuple(y.shape) == (None, None, 7) and y.dtype == "float32"
    parts = fs.MergeDense([Dense(3), Dense(4)], merge=None)(x)
    assert [tuple(p.shape) for p in parts] == [(None, None, 3), (None, None, 4)]
