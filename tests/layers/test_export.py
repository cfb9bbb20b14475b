"""What is exported holds no custom op, and runs where fusedsplit is not installed."""

import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.layers import Activation, Dense

import fusedsplit as fs
from fusedsplit import config
from fusedsplit.backends import op
from tests import children

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


# Loads SavedModels in a process in which importing fusedsplit fails; prints what was wrong with each.
LOADER = """
import json, sys
sys.modules["fusedsplit"] = None
import numpy as np, tensorflow as tf
found = {}
for path in sys.argv[1:]:
    try:
        data = np.load(path + "/check.npz")
        loaded = tf.saved_model.load(path)
        signature = loaded.signatures["serving_default"]
        (y,) = signature(tf.constant(data["x"])).values()
        np.testing.assert_allclose(y, data["y"], rtol=1e-5, atol=1e-6)
        graph = signature.graph.as_graph_def()
        ops = {n.op for n in graph.node} | {n.op for f in graph.library.function for n in f.node_def}
        assert not any(op.startswith("Fusedsplit") for op in ops), ops
        found[path] = ""
    except Exception as error:
        found[path] = f"{type(error).__name__}: {error}"
print(json.dumps(found))
"""


def exported(model: keras.Model, path: Path) -> None:
    model.export(path)


def saved(model: keras.Model, path: Path) -> None:
    signature = tf.function(lambda x: {"y": model(x)}, input_signature=[tf.TensorSpec([None, 10])])
    module = tf.Module()
    module.model = model
    module.serve = signature
    tf.saved_model.save(module, str(path), signatures=signature)


def traced_by_hand(model: keras.Model, path: Path) -> None:
    with fs.use_backend("tf"):
        concrete = tf.function(model).get_concrete_function(tf.TensorSpec([None, 10]))
    module = tf.Module()
    module.model = model
    tf.saved_model.save(module, str(path), signatures=concrete)


BACKENDS = [name for name in config.BACKENDS if name != "op" or op.problem() is None]
WAYS = {f"{how.__name__} {backend}": (how, backend) for how in (exported, saved) for backend in BACKENDS}
WAYS["traced by hand"] = (traced_by_hand, "auto")


@pytest.fixture(scope="module")
def problems(tmp_path_factory) -> dict[str, str]:
    """Way of saving -> what was wrong where fusedsplit is not installed, "" for nothing."""
    paths = {}
    for name, (how, backend) in WAYS.items():
        paths[name] = path = tmp_path_factory.mktemp("saved") / "model"
        model = model_of(backend)
        how(model, path)
        np.savez(path / "check.npz", x=X, y=model(X))
    result = children.run(LOADER, *map(str, paths.values()))
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout.splitlines()[-1])
    return {name: found[str(path)] for name, path in paths.items()}


@pytest.mark.parametrize("way", WAYS)
def test_saved_models_run_without_fusedsplit(way, problems):
    assert problems[way] == ""


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
