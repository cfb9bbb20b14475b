"""Files of fused models: `.keras`, weights, checkpoints, SavedModels, TFLite."""

import pickle

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as kl

import fusedsplit as fs
from tests import children
from tests.models import keras_models as models

pytestmark = pytest.mark.filterwarnings("ignore::fusedsplit.FusedSplitWarning")
X = models.rows()


@pytest.fixture(params=["functional", "sequential", "normalized"])
def model(request):
    return getattr(models, request.param)()


def equal(a, b):
    np.testing.assert_array_equal(np.asarray(a(X)), np.asarray(b(X)))


def test_keras_file(model, tmp_path):
    """The loaded model is fused, with the state of its optimizer; where and how it ran is not in the file."""
    x, y = models.data()
    fused = fs.fuse(model, backend="tf")
    fused.compile("adam", "mse", metrics=["mae"])
    fused.fit(x, y, epochs=1, verbose=0)
    fused.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert isinstance(loaded, fs.FusedModel) and loaded.backend == "auto" and len(loaded.regions) == len(fused.regions)
    np.testing.assert_allclose(loaded(X), fused(X), rtol=1e-5, atol=1e-6)
    assert loaded.compiled and int(loaded.optimizer.iterations) == int(fused.optimizer.iterations) > 0
    for a, b in zip(loaded.optimizer.variables, fused.optimizer.variables):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
    assert loaded.evaluate(x, y, verbose=0, return_dict=True).keys() == {"loss", "mae"}


def test_unfused_file_is_plain(tmp_path):
    """It loads where fusedsplit is not installed."""
    fused = fs.fuse(models.functional())
    fs.unfuse(fused).save(tmp_path / "m.keras")
    np.savez(tmp_path / "check.npz", x=X, y=fused(X))
    code = f"""
import sys
sys.modules["fusedsplit"] = None
import keras, numpy as np
data = np.load(r"{tmp_path / "check.npz"}")
model = keras.models.load_model(r"{tmp_path / "m.keras"}")
np.testing.assert_allclose(model(data["x"]), data["y"], rtol=1e-5, atol=1e-6)
"""
    result = children.run(code)
    assert result.returncode == 0, result.stderr


def test_keras_file_loads_without_naming_fusedsplit(tmp_path):
    fs.fuse(models.functional()).save(tmp_path / "m.keras")
    code = f"import fusedsplit, keras; print(keras.models.load_model(r'{tmp_path / 'm.keras'}').count_params())"
    result = children.run(code)
    assert result.returncode == 0, result.stderr


def test_pickle(model):
    fused = fs.fuse(model)
    again = pickle.loads(pickle.dumps(fused))
    assert isinstance(again, fs.FusedModel)
    equal(again, fused)


@pytest.mark.parametrize("direction", ["plain to fused", "fused to plain"])
def test_weights_files(model, direction, tmp_path):
    fused = fs.fuse(models.twin(model))
    source, target = (model, fused) if direction == "plain to fused" else (fused, model)
    source.set_weights([w + 0.5 for w in source.get_weights()])
    source.save_weights(tmp_path / "w.weights.h5")
    target.load_weights(tmp_path / "w.weights.h5")
    for a, b in zip(model.get_weights(), fused.get_weights()):
        np.testing.assert_array_equal(a, b)


def around(inner):
    """A plain model that contains others: what contains a fused one must read the files of what contains none."""
    x = keras.Input((models.WIDTH,))
    ys = [model(kl.Dense(models.WIDTH)(x)) for model in inner]
    return keras.Model(x, kl.Dense(2)(kl.Concatenate()(ys)))


@pytest.mark.parametrize("direction", ["plain to fused", "fused to plain"])
def test_weights_files_of_a_model_that_contains_fused_ones(direction, tmp_path):
    kinds = [models.functional, models.sequential, models.functional, models.sequential]
    plain = around([kind() for kind in kinds])
    mixed = around([fs.fuse(kind()) if i else kind() for i, kind in enumerate(kinds)])
    source, target = (plain, mixed) if direction == "plain to fused" else (mixed, plain)
    source.save_weights(tmp_path / "w.weights.h5")
    target.load_weights(tmp_path / "w.weights.h5")
    for a, b in zip(plain.get_weights(), mixed.get_weights()):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_allclose(mixed(X), plain(X), rtol=1e-5, atol=1e-6)


def test_a_model_that_contains_fused_ones(tmp_path):
    mixed = around([fs.fuse(models.functional()), fs.fuse(models.sequential())])
    mixed.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert sum(isinstance(layer, fs.FusedModel) for layer in loaded.layers) == 2
    equal(loaded, mixed)
    assert len(fs.fuse(mixed).regions) == 1  # inlined
    np.testing.assert_allclose(fs.fuse(mixed)(X), mixed(X), rtol=1e-5, atol=1e-6)


def test_the_names_that_keras_sees():
    """Weights files go by them; to Python the class is what it is called."""
    fused = fs.fuse(models.functional(name="f"))
    assert type(fused).__qualname__ == "FusedModel" and type(fused) is fs.FusedModel
    assert fused.get_config()["name"] == "f" and repr(fused) == "<FusedModel name=f, built=True>"
    assert keras.saving.serialize_keras_object(fused)["registered_name"] == "fusedsplit>FusedModel"


def test_checkpoints(tmp_path):
    x, y = models.data()
    fused = fs.fuse(models.functional())
    fused.compile("adam", "mse")
    save = keras.callbacks.ModelCheckpoint
    whole, weights = tmp_path / "m.keras", tmp_path / "w.weights.h5"
    fused.fit(x, y, epochs=2, verbose=0, callbacks=[save(str(whole)), save(str(weights), save_weights_only=True)])
    assert isinstance(keras.models.load_model(whole), fs.FusedModel)
    equal(keras.models.load_model(whole), fused)
    other = models.twin(fs.unfuse(fused))
    other.set_weights([0 * w for w in other.get_weights()])
    other.load_weights(weights)
    np.testing.assert_allclose(other(X), fused(X), rtol=1e-5, atol=1e-6)


def graph_ops(path):
    graph = tf.saved_model.load(str(path)).signatures["serving_default"].graph.as_graph_def()
    return {n.op for n in graph.node} | {n.op for f in graph.library.function for n in f.node_def}


@pytest.mark.parametrize("how", ["model.export", "tf.saved_model.save"])
def test_saved_models_hold_no_op_of_ours(how, model, backend_in_grids, tmp_path):
    fused = fs.fuse(model, backend=backend_in_grids)
    expected = fused(X)
    if how == "model.export":
        fused.export(str(tmp_path / "saved"))
    else:
        tf.saved_model.save(fused, str(tmp_path / "saved"))
    assert not any(op.startswith("Fusedsplit") for op in graph_ops(tmp_path / "saved"))
    (found,) = tf.saved_model.load(str(tmp_path / "saved")).signatures["serving_default"](tf.constant(X)).values()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_tflite_from_a_saved_model(model, tmp_path):
    fused = fs.fuse(model)
    fused.export(str(tmp_path / "saved"))
    flat = tf.lite.TFLiteConverter.from_saved_model(str(tmp_path / "saved")).convert()
    interpreter = tf.lite.Interpreter(model_content=flat)
    (entry,) = interpreter.get_input_details()
    interpreter.resize_tensor_input(entry["index"], X.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(entry["index"], X)
    interpreter.invoke()
    found = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    np.testing.assert_allclose(found, model(X), rtol=1e-5, atol=1e-6)
