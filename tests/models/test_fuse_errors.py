"""What `fuse` and `unfuse` refuse, and what they say."""

import keras
import numpy as np
import pytest
from keras import layers as kl

import fusedsplit as fs
from fusedsplit.models import operations
from tests.models import keras_models as models


def refused(kind, words, *args, **kwargs):
    with pytest.raises(kind) as error:
        fs.fuse(*args, **kwargs)
    text = str(error.value)
    assert "expected" in text and "Received: " in text, text
    for word in words:
        assert word in text, text


@pytest.mark.parametrize("thing", [None, 3, "model.keras", kl.Dense(3), keras.Model, [models.functional()]])
def test_not_a_model(thing):
    refused(TypeError, ["a keras.Model"], thing)


def test_a_model_of_tf_keras():
    """The class of another package; that package need not be there."""
    base = type("Functional", (), {"__module__": "tf_keras.src.engine.functional"})
    mine = type("Mine", (base,), {})
    for cls in (base, mine):
        refused(TypeError, ["tf_keras", "Keras 3"], cls())


def test_a_sequential_that_grew():
    """Keras goes on tracking the graphs that it had before."""
    model = keras.Sequential([keras.Input((6,)), kl.Dense(5), kl.Dense(4)])
    model.pop()
    for _ in range(2):
        model(np.zeros((2, 6)))
        model.add(kl.Dense(4, activation="relu"))
    model.build((None, 6))
    fused = fs.fuse(model)
    assert len(fused.regions) == 1 and fused.weights == model.weights
    np.testing.assert_allclose(fused(np.ones((2, 6))), model(np.ones((2, 6))), rtol=1e-6)
    model.head = keras.Model(model.inputs, kl.Dense(2)(model.layers[0].output))
    refused(ValueError, ["functional", "outside of it"], model)


def test_an_unbuilt_sequential():
    refused(ValueError, ["keras.Input", "build", "'lazy'"], models.sequential("lazy", built=False))
    refused(ValueError, ["not built"], keras.Sequential())


class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = kl.Dense(2)

    def call(self, x):
        return self.dense(x)


def test_a_subclassed_model():
    model = Subclassed(name="mine")
    refused(ValueError, ["Subclassed 'mine'", "functional models inside it"], model)
    model(models.rows())
    refused(ValueError, ["keras.Model(inputs, outputs)"], model)


def overriding(*names):
    def method(self, *args, **kwargs):
        raise AssertionError("never called")

    return type("Mine", (keras.Model,), dict.fromkeys(names, method))


@pytest.mark.parametrize(
    "name",
    ["call", "__call__", "train_step", "test_step", "predict_step", "compute_loss", "compute_metrics", "fit", "compile"]
    + ["evaluate", "predict", "train_on_batch"],
)
def test_a_functional_subclass_with_overrides(name):
    x = keras.Input((4,))
    model = overriding(name)(x, kl.Dense(2)(x))
    refused(ValueError, [f"overrides {name};", "Mine"], model)


def test_all_overrides_are_named_those_of_a_base_as_well():
    x = keras.Input((4,))
    base = overriding("train_step", "helper")
    model = type("Derived", (base,), {"test_step": lambda self, data: None})(x, kl.Dense(2)(x))
    refused(ValueError, ["overrides test_step, train_step;"], model)


def test_an_overridden_property():
    class Mine(keras.Model):
        @property
        def metrics(self):
            return []

    x = keras.Input((4,))
    refused(ValueError, ["overrides metrics;"], Mine(x, kl.Dense(2)(x)))


def test_a_functional_subclass_that_only_builds_is_fused():
    class Mine(keras.Model):
        def __init__(self, units):
            x = keras.Input((6,))
            super().__init__(x, kl.Dense(units)(kl.Dense(4, activation="relu")(x)))
            self.units = units

        def get_config(self):
            return {"units": self.units}

        def twice(self):
            return 2 * self.units

    fused = fs.fuse(Mine(3))
    assert len(fused.regions) == 1 and fused(models.rows()).shape == (12, 3)


@pytest.mark.parametrize(
    "add",
    [
        lambda m: setattr(m, "extra", kl.Dense(4, name="extra")),
        lambda m: setattr(m, "extras", [kl.Dense(4, name="extra")]),
        lambda m: m.add_weight(shape=(3,), name="extra"),
        lambda m: setattr(m, "extra", keras.Variable([1.0], trainable=False, name="extra")),
        lambda m: setattr(m, "extra", keras.metrics.Mean(name="extra")),
    ],
    ids=["layer", "list of layers", "add_weight", "variable", "metric"],
)
def test_state_outside_the_graph(add):
    model = models.functional()
    add(model)
    refused(ValueError, ["extra outside of it"], model)


@pytest.mark.parametrize("backend", ["cuda", "", None, 3])
def test_no_such_backend(backend):
    refused(ValueError, ["`backend`", "'auto'", repr(backend)], models.functional(), backend=backend)


@pytest.mark.parametrize("loop", ["fast", "", None, 3])
def test_no_such_loop(loop):
    refused(ValueError, ["`loop`", "'auto'", "'native'", "'keras'", repr(loop)], models.functional(), loop=loop)


def test_loops():
    for loop in ("auto", "native", "keras"):
        assert len(fs.fuse(models.functional(), loop=loop).regions) == 1


@pytest.mark.parametrize("thing", [None, kl.Dense(3), models.functional()])
def test_unfuse_of_what_is_not_fused(thing):
    with pytest.raises(TypeError, match="expected a fusedsplit.FusedModel. Received: "):
        fs.unfuse(thing)


def test_an_explicit_backend_that_cannot_run():
    """What becomes known after the graph was read is no reason for a silent change of backend."""
    fused = fs.fuse(models.functional(), backend="tf")
    fused(models.rows())
    fused.layers[1].activity_regularizer = keras.regularizers.L2()
    with pytest.raises(ValueError, match="tf: .*activity regularizer"):
        fused(models.rows())
    fused.backend = "auto"
    fused(models.rows())


def test_keras_on_something_else(monkeypatch):
    model = models.functional()
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    refused(ValueError, ["Keras to run on TensorFlow", "KERAS_BACKEND=tensorflow", "'jax'"], model)


@pytest.mark.parametrize("given", [None, 3.0, []])
def test_a_lowering_that_gives_no_view(given, monkeypatch):
    class Halve(kl.Layer):
        def call(self, x):
            return x * 0.5

    monkeypatch.setattr(operations, "_LOWERINGS", dict(operations._LOWERINGS))
    fs.fuse.register(Halve)(lambda layer, program, x: given)
    x = keras.Input((4,))
    model = keras.Model(x, kl.Dense(2)(Halve(name="mine")(kl.Dense(4, activation="relu")(x))))
    with pytest.raises(TypeError, match="mine.*a View for each of its 1 outputs. Received: "):
        fs.fuse(model)(np.ones((2, 4), "float32"))


def test_a_lowering_that_is_no_function():
    class Halve(kl.Layer):
        pass

    with pytest.raises(TypeError, match="expected a function .*Received: 0.5"):
        fs.fuse.register(Halve)(0.5)
