"""How a fused model is made of a Keras model: what comes along, and what stays as it was."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as kl

import fusedsplit as fs
from tests.models import keras_models as models

pytestmark = pytest.mark.filterwarnings("ignore::fusedsplit.FusedSplitWarning")
CASES = {
    "functional": models.functional,
    "sequential": models.sequential,
    "normalized": models.normalized,
    "two inputs": models.two_inputs,
}


@pytest.fixture(params=CASES)
def model(request):
    return CASES[request.param]()


def inputs_of(model):
    xs = [models.rows(7, *x.shape[1:], seed=i) for i, x in enumerate(model.inputs)]
    return xs if len(xs) > 1 else xs[0]


def close(a, b, scale=1.0):
    keras.tree.map_structure(lambda p, q: np.testing.assert_allclose(p, q, rtol=2e-5 * scale, atol=2e-6 * scale), a, b)


def paths(model):
    return [v.path for v in model.variables]


def own_layers(model):
    """All but the input layers, which a Sequential does not show."""
    return [layer for layer in model.layers if not isinstance(layer, kl.InputLayer)]


def own_names(model):
    return [layer.name for layer in own_layers(model)]


def test_same_layers_and_variables(model):
    fused = fs.fuse(model)
    assert isinstance(fused, fs.FusedModel) and len(fused.regions) >= 1
    assert own_layers(fused) == own_layers(model)
    assert [id(v) for v in fused.variables] == [id(v) for v in model.variables] and paths(fused) == paths(model)
    assert [id(v) for v in fused.trainable_variables] == [id(v) for v in model.trainable_variables]
    assert [x is y for x, y in zip(fused.inputs, model.inputs)] and fused.outputs[0] is model.outputs[0]
    assert fused.name == model.name
    close(fused(inputs_of(model)), model(inputs_of(model)))
    close(fused.predict(inputs_of(model), verbose=0), model.predict(inputs_of(model), verbose=0))


def test_the_original_is_untouched(model):
    model.compile("adam", "mse")
    optimizer = model.optimizer
    nodes = {layer: list(layer._inbound_nodes) for layer in model.layers}
    outgoing = {layer: list(layer._outbound_nodes) for layer in model.layers}
    names = [layer.name for layer in model.layers]
    outputs = {layer.name: layer.output for layer in model.layers}
    fused = fs.fuse(model)
    fused(inputs_of(model))
    fs.unfuse(fused)
    assert {layer: list(layer._inbound_nodes) for layer in model.layers} == nodes
    assert {layer: list(layer._outbound_nodes) for layer in model.layers} == outgoing
    assert [layer.name for layer in model.layers] == names and model.optimizer is optimizer
    assert all(fused.get_layer(name).output is output for name, output in outputs.items())
    assert all(model.get_layer(name).output is output for name, output in outputs.items())


def test_flags_and_policy_come_along():
    model = models.functional()
    model.trainable = False
    assert not fs.fuse(model).trainable and not fs.unfuse(fs.fuse(model)).trainable
    assert fs.fuse(model).trainable_variables == []
    model.trainable = True
    model.layers[1].trainable = False
    fused = fs.fuse(model)
    assert fused.trainable and not fused.layers[1].trainable
    assert len(fused.trainable_variables) == len(model.trainable_variables) == len(model.variables) - 2
    model.dtype_policy = "mixed_bfloat16"
    assert fs.fuse(model).dtype_policy.name == "mixed_bfloat16"
    assert fs.unfuse(fs.fuse(model)).dtype_policy.name == "mixed_bfloat16"


def test_a_lazily_built_sequential():
    """Its batch size is frozen in its graph, and means nothing."""
    model = models.sequential(built=False)
    x = models.rows(5)
    model(x)
    fused = fs.fuse(model)
    for n in (5, 1, 9, 0):
        assert fused(models.rows(n)).shape == (n, 2)
        close(fused(models.rows(n)), model(models.rows(n)))
    close(fused.predict(models.rows(9), batch_size=4, verbose=0), model.predict(models.rows(9), verbose=0))
    assert [layer.name for layer in fused.layers[1:]] == [layer.name for layer in model.layers]


def test_compile_state_comes_along():
    model = models.functional()
    shared = keras.metrics.MeanAbsoluteError(name="shared")
    model.compile(
        keras.optimizers.Adam(0.01),
        keras.losses.Huber(),
        loss_weights=0.5,
        metrics=["mse", shared],
        weighted_metrics=["mae"],
        steps_per_execution=2,  # Keras 3.5 loses an execution that is cut short
    )
    fused = fs.fuse(model)
    plain = fs.unfuse(fused)
    for other in (fused, plain):
        assert other.compiled and other.optimizer is model.optimizer and other.loss is model.loss
        assert other.steps_per_execution == 2 and other.jit_compile == model.jit_compile
        assert other._compile_config.config.keys() == model._compile_config.config.keys()
        assert other._compile_config.config["loss_weights"] == 0.5
        assert other._compile_metrics is not model._compile_metrics and other._loss_tracker is not model._loss_tracker
        x, y = models.data()
        found = other.evaluate(x, y, verbose=0, return_dict=True, sample_weight=np.ones(64))
        expected = model.evaluate(x, y, verbose=0, return_dict=True, sample_weight=np.ones(64))
        assert found.keys() == expected.keys()
        close(found, expected)
        assert any(m is shared for m in other._compile_metrics.metrics)
    assert not fs.fuse(models.functional()).compiled


@pytest.mark.parametrize("options", [{"jit_compile": True}, {"run_eagerly": True}])
def test_how_it_is_compiled_comes_along(options):
    model = models.functional()
    model.compile("sgd", "mse", **options)
    fused = fs.fuse(model)
    assert (fused.jit_compile, fused.run_eagerly) == (model.jit_compile, model.run_eagerly)


def test_a_scaled_loss_is_not_scaled_twice():
    model = models.functional(dtype="mixed_float16")
    model.dtype_policy = "mixed_float16"
    for scale in (True, False):
        model.compile("sgd", "mse", auto_scale_loss=scale)
        assert fs.fuse(model).optimizer is model.optimizer


def test_fuse_of_a_fused_model_is_another_over_the_same_graph():
    model = models.functional()
    model.compile("sgd", "mse")
    once = fs.fuse(model, backend="tf")
    twice = fs.fuse(once, backend="xla")
    assert twice is not once and (once.backend, twice.backend) == ("tf", "xla")
    assert twice.optimizer is model.optimizer and twice.layers == once.layers and twice.outputs[0] is once.outputs[0]


def test_unfuse_and_fuse_again(model):
    plain = fs.unfuse(fs.fuse(model))
    assert not isinstance(plain, fs.FusedModel) and plain.name == model.name and paths(plain) == paths(model)
    again = fs.fuse(plain)
    assert len(again.regions) >= 1
    close(again(inputs_of(model)), plain(inputs_of(model)))


def test_config_and_clone(model):
    fused = fs.fuse(model, backend="tf")
    config = fused.get_config()
    assert "backend" not in config and "loop" not in config and "layers" in config
    for again in (fs.FusedModel.from_config(config), keras.models.clone_model(fused)):
        assert isinstance(again, fs.FusedModel) and again.backend == "auto" and again.name == fused.name
        assert own_names(again) == own_names(fused)  # Keras' clones have other names of input layers
        again.set_weights(fused.get_weights())
        assert len(again.regions) == len(fused.regions)
        close(again(inputs_of(model)), fused(inputs_of(model)))


def test_a_new_compile_reads_the_layers_again():
    model = models.functional()
    fused = fs.fuse(model)
    x = models.rows()
    fused(x)
    model.layers[1].activation = keras.activations.relu
    fused.compile("sgd", "mse")
    close(fused(x), model(x))
    assert fused.schedule() is fused.schedule()


def test_explicit_backends(fused_backend):
    model = models.functional()
    fused = fs.fuse(model, backend=fused_backend)
    close(fused(models.rows()), model(models.rows()))
    close(tf.function(fused)(models.rows()), model(models.rows()))
    ops = models.ops_of(fused, models.rows())
    assert ("FusedsplitForward" in ops) == (fused_backend == "op")


def test_summary_and_names():
    model = models.functional(name="mine")
    lines: list[str] = []
    fs.fuse(model).summary(print_fn=lines.append)
    assert 'Model: "mine"' in "\n".join(lines) and "mine_stem" in "\n".join(lines)


def test_nested_models_are_inlined_and_stay_layers():
    x = keras.Input((models.WIDTH,))
    inner = models.functional(name="inner")
    y = keras.Sequential([kl.Input((2,)), kl.Dense(4, activation="relu"), kl.Dense(3)])(inner(kl.Dense(6)(x)))
    model = keras.Model(x, y)
    fused = fs.fuse(model)
    assert fused.get_layer("inner") is inner and len(fused.regions) == 1
    assert {layer.name for layer in fused.regions[0].layers} >= {"inner_stem"}
    close(fused(models.rows()), model(models.rows()))
    assert paths(fused) == paths(model)
