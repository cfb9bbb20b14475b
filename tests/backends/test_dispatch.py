"""dispatch.py: which backend runs, explicit choices, the one warning, the functional form."""

import contextlib
import types
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.layers import Dense, Dropout

import fusedsplit as fs
from fusedsplit.backends import dispatch, op
from fusedsplit.backends.base import CallContext
from fusedsplit.plan import PLAN_VERSION
from tests import children

needs_op = pytest.mark.skipif(op.problem() is not None, reason=f"op: {op.problem()}")


def layer_of(*branches, **kwargs):
    layer = fs.SplitDense(Dense(8), [Dense(4, activation="relu"), *branches], **kwargs)
    layer.build((None, 10))
    return layer


def ops_of(function) -> set[str]:
    graph = function.graph.as_graph_def()
    return {n.op for n in graph.node} | {n.op for f in graph.library.function for n in f.node_def}


X = np.linspace(-1, 1, 50, dtype="float32").reshape(5, 10)


@needs_op
def test_auto_takes_the_op_in_graphs():
    layer = layer_of(Dense(6))
    assert "FusedsplitForward" in ops_of(tf.function(layer).get_concrete_function(tf.TensorSpec([None, 10])))


@needs_op
@pytest.mark.parametrize("units, runs_op", [(256, True), (1024, False)])
def test_a_graph_leaves_wide_products_to_tensorflow(units, runs_op):
    layer = fs.SplitDense(Dense(units), [Dense(units), None])
    layer.build((None, 1024))
    function = tf.function(layer).get_concrete_function(tf.TensorSpec([None, 1024]))
    assert ("FusedsplitForward" in ops_of(function)) == runs_op
    choices = fs.explain(layer).choices
    assert choices["eager"].startswith("op")
    assert choices["graph"].startswith("op" if runs_op else "reference (7.9e+05 multiplications a product")


@needs_op
def test_auto_inside_xla_takes_no_op_that_xla_cannot_compile():
    layer = layer_of(Dense(6))
    function = tf.function(layer, jit_compile=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fs.FusedSplitWarning)
        found = function(X)
        concrete = function.get_concrete_function(tf.TensorSpec([5, 10]))
    assert "FusedsplitForward" not in ops_of(concrete)
    np.testing.assert_allclose(found, fs.reference(layer)(X), rtol=1e-5, atol=1e-6)


@needs_op
def test_xla_is_seen_through_nested_functions():
    layer = layer_of(Dense(6))

    @tf.function(jit_compile=True)
    def outer(x):
        return tf.cond(tf.reduce_sum(x) > 0, lambda: tf.function(layer)(x), lambda: layer(x) * 1.0)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fs.FusedSplitWarning)
        np.testing.assert_allclose(outer(X), layer(X), rtol=1e-5, atol=1e-6)


def test_an_explicit_backend_never_falls_back():
    layer = layer_of(Dense(6, activation="mish"), backend="tf")
    with pytest.raises(ValueError, match="(?s)'tf' was chosen explicitly.*mish.*is not one that can be fused"):
        layer(X)


def test_use_backend_overrides_the_layer_and_restores():
    layer = layer_of(Dense(6), backend="reference")
    with fs.use_backend("tf"):
        concrete = tf.function(layer).get_concrete_function(tf.TensorSpec([None, 10]))
        with fs.use_backend("xla"):
            pass
        assert dispatch._forced.get() == "tf"
    assert dispatch._forced.get() is None
    assert "FusedsplitForward" not in ops_of(concrete)


def test_the_environment_fills_in_for_auto(setenv):
    layer = layer_of(Dense(6))
    context = CallContext("float32")
    setenv("FUSEDSPLIT_BACKEND", "tf")
    assert dispatch.choose("auto", layer.computation().plan(), context).name == "tf"
    assert dispatch.choose("xla", layer.computation().plan(), context).name == "xla"
    setenv("FUSEDSPLIT_BACKEND", "nope")
    with pytest.raises(ValueError, match="FUSEDSPLIT_BACKEND: expected one of .* Received: 'nope'"):
        dispatch.choose("auto", layer.computation().plan(), context)


@pytest.mark.parametrize("call", [lambda: fs.use_backend("cuda").__enter__(), lambda: dispatch.check_name("cuda")])
def test_unknown_backends_are_refused(call):
    with pytest.raises(ValueError, match="expected 'auto' or one of .* Received: 'cuda'"):
        call()


@needs_op
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_runs_on_plain_tensorflow_and_op_says_why(dtype):
    layer = fs.SplitDense(Dense(8, dtype=dtype), [Dense(4, dtype=dtype), None])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fs.FusedSplitWarning)
        assert layer(X).dtype == dtype
    with fs.use_backend("op"), pytest.raises(ValueError, match=f"float32 and float64 only, not for {dtype}"):
        layer(X)


def test_saving_traces_plain_tensorflow_even_over_an_explicit_backend(fused_backend, tmp_path):
    layer = layer_of(Dense(6), backend=fused_backend)
    module = tf.Module()
    module.layer = layer
    module.f = tf.function(lambda x: layer(x), input_signature=[tf.TensorSpec([None, 10])])
    x = keras.Input((10,))
    model = keras.Model(x, layer(x))
    model.export(tmp_path / "saved")
    loaded = tf.saved_model.load(tmp_path / "saved")
    for signature in loaded.signatures.values():
        assert not any(name.startswith("Fusedsplit") for name in ops_of(signature))
    np.testing.assert_allclose(loaded.serve(X), layer(X), rtol=1e-5, atol=1e-6)


def test_the_fallback_warning_comes_once_and_says_how_to_silence_it():
    code = """
import warnings, numpy as np, fusedsplit as fs
from keras.layers import Dense
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(3):
        fs.SplitDense(Dense(4, activation="mish"), [None, None])(np.ones((2, 3), "float32"))
caught = [str(w.message) for w in caught if issubclass(w.category, fs.FusedSplitWarning)]
print(len(caught), "mish" in caught[0], "FUSEDSPLIT_BACKEND" in caught[0])
"""
    assert children.run(code).stdout.split() == [
        "1",
        "True",
        "True",
    ]


def test_verbose_dispatch_prints_each_choice(setenv, capsys):
    setenv("FUSEDSPLIT_VERBOSE", "dispatch")
    layer = layer_of(Dense(6), backend="tf")
    layer(X)
    assert f"fusedsplit: {layer.name} -> tf (explicitly chosen)" in capsys.readouterr().err


def test_explain_names_the_backend_of_every_situation():
    layer = layer_of([Dense(6), Dropout(0.5)])
    explanation = fs.explain(layer)
    assert set(explanation.choices) == {
        "eager",
        "eager, training",
        "graph",
        "graph, training",
        "inside XLA",
        "saving, export",
    }
    inside = "tf" if op.problem() or op.xla_problem() else "op"
    assert explanation.choices["inside XLA"].startswith(inside)
    assert f"plan v{PLAN_VERSION}" in str(explanation)


def test_explain_without_a_plan_says_why():
    text = str(fs.explain(layer_of(Dense(6, activation="mish"))))
    assert "no plan: Dense" in text and "mish" in text


# The functional form.


def test_split_dense_is_the_layer(backend):
    layer = layer_of(Dense(6))
    expected = layer(X)
    found = fs.split_dense(X, layer.params, layer.spec, backend)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    arrays = [p.numpy() for p in layer.params]
    np.testing.assert_allclose(fs.split_dense(tf.constant(X), arrays, layer.spec, backend), found)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda x, p: (x[:, :9], p),
            r"`inputs\[0\]`: expected shape \(..., 10\) of rank 2 or more. Received: \(5, 9\)",
        ),
        (lambda x, p: (x[0], p), r"`inputs\[0\]`: expected shape .* Received: \(10,\)"),
        (lambda x, p: ([x, x], p), "`inputs`: expected 1 tensors. Received: 2"),
        (lambda x, p: (x, p[:-1]), "`params`: expected 6 tensors. Received: 5"),
        (lambda x, p: (x, [p[0][:, :7], *p[1:]]), r"`params\[0\]`: expected shape \(10, 8\). Received: \(10, 7\)"),
        (lambda x, p: (tf.cast(x, "float64"), p), r"one dtype. Received: \['float32', 'float64'\]"),
    ],
)
def test_split_dense_refuses_what_does_not_fit(change, message):
    layer = layer_of(Dense(6))
    inputs, params = change(tf.constant(X), [tf.convert_to_tensor(p) for p in layer.params])
    with pytest.raises(ValueError, match=message):
        fs.split_dense(inputs, params, layer.spec)


# Devices.

GPU = "/job:localhost/replica:0/task:0/device:GPU:0"


@needs_op
def test_the_op_says_where_the_inputs_are():
    context = CallContext("float32", device="GPU:0")
    (reason,) = op.OP.not_supported_reasons(None, context)
    assert "the inputs are on GPU:0" in reason
    plan = layer_of(Dense(6)).computation().plan()
    assert dispatch.choose("auto", plan, context).name == "xla"
    assert dispatch.choose("auto", plan, context._replace(eager=False)).name == "tf"
    assert "GPU:0" in dispatch.choose("auto", plan, context).why
    with pytest.raises(ValueError, match="(?s)'op' was chosen explicitly.*the inputs are on GPU:0.*xla: can run"):
        dispatch.choose("op", plan, context)


def test_running_where_the_inputs_are_is_no_fallback_to_warn_of(recwarn, monkeypatch):
    monkeypatch.setattr(dispatch, "_warned", False)
    context = CallContext("float32", device="GPU:0")
    choice = dispatch.choose("auto", layer_of(Dense(6)).computation().plan(), context)
    dispatch.report(choice, "it")
    assert not [w for w in recwarn if issubclass(w.category, fs.FusedSplitWarning)]


@pytest.fixture
def a_gpu(monkeypatch):
    """A machine that has one, as far as dispatch asks."""
    monkeypatch.setattr(dispatch, "_accelerators", lambda: ("GPU:0",))


@pytest.mark.parametrize(
    ("device", "expected"), [(GPU, "GPU:0"), (GPU.replace("GPU:0", "CPU:1"), None), ("/device:TPU:3", "TPU:3")]
)
def test_eager_tensors_are_asked_for_their_device(device, expected, a_gpu):
    x = types.SimpleNamespace(device=device)
    assert dispatch.current_context("float32", [tf.constant(X), x]).device == expected


def test_no_device_is_asked_for_where_there_are_only_cpus():
    assert dispatch._accelerators() == ()
    assert dispatch.current_context("float32", [types.SimpleNamespace(device=GPU)]).device is None


@needs_op
def test_an_eager_call_on_a_gpu_goes_no_short_way(a_gpu, monkeypatch):
    layer = layer_of(Dense(6))
    expected = layer(X)
    monkeypatch.setattr(dispatch, "_device_of", lambda tensors: "GPU:0")
    monkeypatch.setattr(op.OP, "run", None)
    monkeypatch.setattr(dispatch, "_warned", True)
    x = tf.constant(X)
    np.testing.assert_allclose(layer(x), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(fs.split_dense(x, layer.params, layer.spec), expected, rtol=1e-5, atol=1e-6)


@needs_op
@pytest.mark.parametrize(
    ("devices", "runs_op"),
    [
        ([], False),  # where TensorFlow places everything on the GPU
        (["/GPU:0"], False),
        (["/CPU:0"], True),
        (["/GPU:0", "/CPU:0"], True),
        (["/CPU:0", "/GPU:0"], False),
        (["/CPU:0", "/job:localhost"], True),
        (["/CPU:0", None], False),
    ],
)
@pytest.mark.parametrize("nested", [False, True], ids=["in the function", "around a nested one"])
def test_a_graph_is_asked_for_its_device(devices, runs_op, nested, a_gpu):
    layer = layer_of(Dense(6))

    @tf.function(autograph=False)
    def function(x):
        with contextlib.ExitStack() as stack:
            for device in devices:
                stack.enter_context(tf.device(device))
            return tf.function(layer.call)(x) if nested else layer(x)

    assert ("FusedsplitForward" in ops_of(function.get_concrete_function(tf.TensorSpec([None, 10])))) == runs_op


@needs_op
def test_a_graph_is_placed_where_its_caller_is(a_gpu):
    layer = layer_of(Dense(6))
    with tf.device("/CPU:0"):
        assert "FusedsplitForward" in ops_of(tf.function(layer).get_concrete_function(tf.TensorSpec([None, 10])))


@needs_op
def test_another_cpu_is_a_cpu():
    code = """
import numpy as np, tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
import fusedsplit as fs
from keras.layers import Dense
layer = fs.SplitDense(Dense(8), [Dense(4), None], backend="op")
x = np.ones((3, 10), "float32")
expected = layer(x)
with tf.device("CPU:1"):
    x = tf.constant(x)
    assert x.device.endswith("CPU:1"), x.device
    for y in (layer(x), tf.function(layer)(x)):
        np.testing.assert_allclose(y, expected, rtol=1e-6)
"""
    done = children.run(code)
    assert done.returncode == 0, done.stderr


# Backends that a config names.


def saved_and_loaded(layer, tmp_path) -> keras.Model:
    x = keras.Input((10,), dtype=layer.compute_dtype)
    keras.Model(x, layer(x)).save(tmp_path / "m.keras")
    return keras.models.load_model(tmp_path / "m.keras")


def bfloat16_op():
    """What the op cannot run."""
    return fs.SplitDense(Dense(8, dtype="bfloat16"), [Dense(4, dtype="bfloat16"), None], backend="op")


def test_a_loaded_choice_gives_way_with_the_warning(tmp_path, monkeypatch):
    layer = bfloat16_op()
    with pytest.raises(ValueError, match="'op' was chosen explicitly"):
        layer(X)
    model = saved_and_loaded(layer, tmp_path)
    (loaded,) = [each for each in model.layers if isinstance(each, fs.SplitDense)]
    loaded.set_weights(layer.get_weights())
    monkeypatch.setattr(dispatch, "_warned", False)
    with pytest.warns(fs.FusedSplitWarning, match="'tf' instead of|'xla' instead of") as warned:
        found = [model(X), loaded(X), tf.function(loaded)(X)]
    assert len(warned) == 1
    with fs.use_backend("tf"):
        np.testing.assert_allclose(*(tf.cast(y, "float32") for y in (found[1], layer(X))), rtol=1e-2, atol=1e-2)
    assert loaded.backend == "op" and loaded.get_config()["backend"] == "op"


def test_what_is_said_in_code_about_a_loaded_layer_is_explicit(tmp_path):
    layer = bfloat16_op()
    layer.build((None, 10))
    for again in (fs.SplitDense.from_config(layer.get_config()), keras.models.clone_model(model_of(layer)).layers[-1]):
        again.backend = "op"
        with pytest.raises(ValueError, match="'op' was chosen explicitly"):
            again(X)
        with pytest.raises(ValueError, match="`backend`: expected 'auto' or one of .* Received: 'gpu'"):
            again.backend = "gpu"
    again = fs.SplitDense.from_config(layer.get_config())
    with fs.use_backend("op"), pytest.raises(ValueError, match="'op' was chosen explicitly"):
        again(X)


def model_of(layer) -> keras.Model:
    x = keras.Input((10,), dtype=layer.compute_dtype)
    return keras.Model(x, layer(x))


def test_a_loaded_choice_holds_where_it_can(tmp_path, capsys, setenv):
    model = saved_and_loaded(layer_of(Dense(6), backend="tf"), tmp_path)
    setenv("FUSEDSPLIT_VERBOSE", "dispatch")
    model(X)
    assert "-> tf (" in capsys.readouterr().err
    choices = fs.explain(model.layers[-1]).choices
    assert all(choice.startswith("tf (") and "saved" in choice for choice in choices.values())


def test_explain_says_what_a_loaded_choice_gives_way_to():
    layer = bfloat16_op()
    layer.build((None, 10))
    assert fs.explain(layer).choices["eager"].startswith("raises")
    again = fs.SplitDense.from_config(layer.get_config())
    again.build((None, 10))
    assert "'op', with which it was saved, cannot" in fs.explain(again).choices["eager"]


def test_the_environments_choice_is_explicit_too(setenv, recwarn, monkeypatch):
    """A reason against the op is none to warn of where another backend was asked for."""
    setenv("FUSEDSPLIT_BACKEND", "tf")
    monkeypatch.setattr(dispatch, "_warned", False)
    fs.SplitDense(Dense(8, dtype="bfloat16"), [Dense(4, dtype="bfloat16"), None])(X)
    assert not [w for w in recwarn if issubclass(w.category, fs.FusedSplitWarning)]
