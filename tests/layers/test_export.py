"""What is exported holds no custom op, and runs where fusedsplit is not installed."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.layers import Activation, Dense

import fusedsplit as fs

pytestmark = pytest.mark.filterwarnings("ignore::fusedsplit.FusedSplitWarning")
X = np.linspace(-1, 1, 60, dtype="float32").reshape(6, 10)


def model_of(backend: str) -> keras.Model:
    layer = fs.SplitDense(
        Dense(12, activation="tanh"),
        [Dense(3, activation="relu"), [Activation("sigmoid"), Dense(2)], None],
        head=Dense(4, activation="softmax"),
        backend=backend,
    )
    x = keras.Input((10,))
    return keras.Model(x, layer(x))


def assert_runs_without_fusedsplit(path, expected) -> None:
    """Loads the SavedModel in a process in which importing fusedsplit fails."""
    np.savez(path / "check.npz", x=X, y=expected)
    code = f"""
import sys
sys.modules["fusedsplit"] = None
import numpy as np, tensorflow as tf
data = np.load(r"{path / "check.npz"}")
loaded = tf.saved_model.load(r"{path}")
signature = loaded.signatures["serving_default"]
(y,) = signature(tf.constant(data["x"])).values()
np.testing.assert_allclose(y, data["y"], rtol=1e-5, atol=1e-6)
graph = signature.graph.as_graph_def()
ops = {{n.op for n in graph.node}} | {{n.op for f in graph.library.function for n in f.node_def}}
assert not any(op.startswith("Fusedsplit") for op in ops), ops
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("how", ["model.export", "tf.saved_model.save"])
def test_saved_models(how, backend, tmp_path):
    model = model_of(backend)
    if how == "model.export":
        model.export(tmp_path / "saved")
    else:
        signature = tf.function(lambda x: {"y": model(x)}, input_signature=[tf.TensorSpec([None, 10])])
        module = tf.Module()
        module.model = model
        module.serve = signature
        tf.saved_model.save(module, str(tmp_path / "saved"), signatures=signature)
    assert_runs_without_fusedsplit(tmp_path / "saved", model(X))


def test_tflite_from_a_saved_model(tmp_path):
    model = model_of("auto")
    model.export(tmp_path / "saved")
    flat = tf.lite.TFLiteConverter.from_saved_model(str(tmp_path / "saved")).convert()
    interpreter = tf.lite.Interpreter(model_content=flat)
    (entry,) = interpreter.get_input_details()
    interpreter.resize_tensor_input(entry["index"], X.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(entry["index"], X)
    interpreter.invoke()
    found = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    np.testing.assert_allclose(found, model(X), rtol=1e-5, atol=1e-6)


def test_a_function_traced_by_hand_under_use_backend(tmp_path):
    model = model_of("auto")
    with fs.use_backend("tf"):
        concrete = tf.function(model).get_concrete_function(tf.TensorSpec([None, 10]))
    module = tf.Module()
    module.model = model
    tf.saved_model.save(module, str(tmp_path / "saved"), signatures=concrete)
    assert_runs_without_fusedsplit(tmp_path / "saved", model(X))


def test_onnx(tmp_path):
    tf2onnx = pytest.importorskip("tf2onnx", reason="tf2onnx is not installed")
    model = model_of("auto")
    model.export(tmp_path / "saved")
    command = [sys.executable, "-m", "tf2onnx.convert", "--saved-model", str(tmp_path / "saved")]
    result = subprocess.run([*command, "--output", str(tmp_path / "m.onnx")], capture_output=True, text=True)
    if result.returncode and "fusedsplit" not in result.stderr.lower():
        pytest.skip(f"tf2onnx {tf2onnx.__version__} does not support TensorFlow {tf.__version__}")
    assert (tmp_path / "m.onnx").exists(), result.stderr


def test_the_profile_names_the_layer(backend):
    """What a TensorFlow profile shows are node names: each starts with the name of the layer that it belongs to."""
    layer = fs.SplitDense(Dense(8), [Dense(3), None], name="my_block", backend=backend)
    concrete = tf.function(lambda x: layer(x)).get_concrete_function(tf.TensorSpec([None, 10]))
    products = {"FusedsplitForward", "MatMul", "StatefulPartitionedCall", "PartitionedCall"}
    names = [node.name for node in concrete.graph.as_graph_def().node if node.op in products]
    assert names and all(name.startswith("my_block") for name in names)
