"""Real architectures: what of each is fused, what is left alone, and that both compute the same."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import fusedsplit as fs
from fusedsplit.bench import architectures
from fusedsplit.bench.precision import keras_in
from fusedsplit.models import operations
from tests.layers import test_seeds

SMALL = {
    "mmoe": lambda: architectures.mmoe(13, 3, (9, 7), (5,), 2),
    "ple": lambda: architectures.ple(11, 1, 2, 2, (8, 6), (5,), 2),
    "grn": lambda: architectures.grn(9, 7, 0.1, 2),
    "grn_vsn": lambda: architectures.grn_vsn(4, 5, 0.1),
    "vae": lambda: architectures.vae(20, 12, 3),
    "nbeats": lambda: architectures.nbeats(9, 3, 8, 4, 2),
    "swiglu": lambda: architectures.swiglu(8, 12, 2),
    "tabnet_step": lambda: architectures.tabnet_step(10, 6),
    "tabm": lambda: architectures.tabm(7, 6, 2, 4),
    "mlp": lambda: architectures.mlp(10, (8, 7), 0.2),
    "dcn_v2": lambda: architectures.dcn_v2(12, 2, 5, (8, 6)),
}
# The share of calls that run in regions at inference, and while training; and what is left then, by class.
EXPECTED = {
    "mmoe": (1, set(), set()),
    "ple": (1, set(), set()),
    "grn": (1, set(), set()),
    "grn_vsn": (1, set(), set()),
    "vae": (2, {"Sampling"}, {"Sampling"}),
    "nbeats": (1, set(), set()),
    "swiglu": (1, set(), set()),
    "tabnet_step": (1, set(), {"BatchNormalization", "Dense", "GetItem", "Sigmoid", "Multiply", "Add", "Relu"}),
    "tabm": (1, set(), set()),
    "mlp": (1, set(), {"BatchNormalization", "Dense"}),
    "dcn_v2": (1, set(), set()),
}


@pytest.fixture(autouse=True)
def _scale_is_known(monkeypatch):
    """TabM's own layer, taught to `fuse` as a user would."""
    monkeypatch.setattr(operations, "_LOWERINGS", dict(operations._LOWERINGS))

    @fs.fuse.register(architectures.Scale)
    def scale(layer, program, x):
        return program.scale_by(x, program.weight(layer, "weight"))


def _made(name: str, dtype: str = "float32") -> tuple[keras.Model, np.ndarray]:
    with keras_in(dtype):
        model = SMALL[name]()
    rng = np.random.default_rng(3)
    for w in model.weights:
        if "float" in w.dtype:
            sign = 1 if "variance" in w.path else np.sign(rng.normal(size=w.shape))
            w.assign(rng.uniform(0.1, 0.9, w.shape) * sign)
    extra = architectures.ARCHITECTURES[name].extra
    shape = (6, *((3,) if extra else ()), model.inputs[0].shape[-1])
    return model, rng.normal(size=shape).astype(dtype)


@pytest.mark.parametrize("name", SMALL)
def test_regions(name):
    fused = fs.fuse(_made(name)[0])
    count, left, left_training = EXPECTED[name]
    inference, training = fused.schedule(training=False), fused.schedule(training=True)
    assert len(inference.regions) == count
    assert {type(call.operation).__name__ for call in inference.reasons} == left
    assert {type(call.operation).__name__ for call in training.reasons} <= left_training
    assert all(inference.reasons.values()) and all(training.reasons.values())


def _run(model, x, weights):
    with tf.GradientTape() as tape:
        ys = keras.tree.flatten(model(x, training=False))
        loss = tf.add_n([tf.reduce_sum(tf.sin(y)) for y in ys])
    return [*ys, *tape.gradient(loss, weights, unconnected_gradients="zero")]


@pytest.mark.parametrize("name", SMALL)
def test_equal_in_float64(name, fused_backend):
    if name == "vae":
        pytest.skip("what it draws differs from call to call")
    if fused_backend == "xla" and name not in ("mmoe", "grn", "tabnet_step"):
        pytest.skip("XLA compiles for seconds; three models stand for all")
    model, x = _made(name, "float64")
    weights = [w.value for w in model.trainable_weights]
    fused = fs.fuse(model, backend=fused_backend)
    for expected, found in zip(_run(model, x, weights), _run(fused, x, weights), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12 * np.max(np.abs(expected), initial=1.0))


# Tracing takes seconds: one stands for all.
@pytest.mark.parametrize(
    "name", ["tabnet_step", *(pytest.param(name, marks=pytest.mark.full) for name in ("mmoe", "grn_vsn", "swiglu"))]
)
def test_equal_in_float32_graphs(name):
    model, x = _made(name)
    fused = fs.fuse(model)
    exact = _made(name, "float64")[0]
    exact.set_weights(model.get_weights())
    truths = keras.tree.flatten(exact(x.astype("float64")))
    theirs = keras.tree.flatten(tf.function(lambda x: model(x, training=False))(x))
    ours = keras.tree.flatten(tf.function(lambda x: fused(x, training=False))(x))
    for truth, plain, found in zip(*([y.numpy() for y in ys] for ys in (truths, theirs, ours)), strict=True):
        own = np.max(np.abs(plain - truth))
        assert np.max(np.abs(found - truth)) <= 2 * max(own, 2.0**-22 * np.max(np.abs(truth)))


def test_the_random_part_of_a_vae_is_left_alone():
    model, x = _made("vae")
    fused = fs.fuse(model)
    for expected, found in zip(model(x)[1:], fused(x)[1:], strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    ((call, reason),) = fused.schedule().reasons.items()
    assert type(call.operation).__name__ == "Sampling" and "not known to be row-wise" in reason


def test_a_layer_of_the_users_is_left_alone_until_it_is_registered(monkeypatch):
    monkeypatch.delitem(operations._LOWERINGS, architectures.Scale)
    fused = fs.fuse(_made("tabm")[0])
    assert {type(c.operation).__name__ for c in fused.schedule().reasons} >= {"Scale"}


def test_lstm_cells_are_left_untouched():
    x = keras.Input((5, 4))
    model = keras.Model(x, keras.layers.Dense(2)(keras.layers.LSTM(6)(x)))
    fused = fs.fuse(model)
    assert not fused.regions
    np.testing.assert_array_equal(fused(np.ones((2, 5, 4), "float32")), model(np.ones((2, 5, 4), "float32")))


SEEDS = {
    "000 example 1": (lambda: test_seeds.split_recombine_model(10, 8), [10]),
    "000 example 2": (lambda: test_seeds.split_process_recombine_model(10, 8, 4, 6), [10]),
    "000 example 3": (lambda: test_seeds.dynamic_split_recombine_model(10, 8), [10]),
    "003 example 1": (test_seeds.two_inputs_model, [10, 5]),
    "003 example 2": (test_seeds.added_model, [10]),
    "003 example 3": (test_seeds.custom_merge_model, [10, 5]),
}


@pytest.mark.parametrize("name", SEEDS)
def test_the_seeds_programs_as_they_are_written(name, rng):
    make, widths = SEEDS[name]
    model = make()
    fused = fs.fuse(model)
    (region,) = fused.regions
    assert {*region.calls} == {*fused.graph.calls} and not fused.schedule(training=True).reasons
    x = [rng.normal(size=(33, w)).astype("float32") for w in widths]
    x = x if len(x) > 1 else x[0]
    np.testing.assert_allclose(fused(x), model(x), rtol=1e-5, atol=1e-6)
    model.compile("adam", "mse")
    fused = fs.fuse(model)
    y = rng.normal(size=(33, 1)).astype("float32")
    assert np.isfinite(fused.fit(x, y, epochs=2, verbose=0).history["loss"]).all()
