"""Random functional models: a fused one computes the same, whatever stands in it."""

from __future__ import annotations

import os
import random

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fusedsplit as fs
from fusedsplit.backends import op
from tests.models.random_graphs import Drawn

# A hundredth of a minute each; `FUSEDSPLIT_RANDOM_GRAPHS=2000` for an evening's search.
EXAMPLES = int(os.environ.get("FUSEDSPLIT_RANDOM_GRAPHS", "40"))
_SETTINGS = settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=EXAMPLES < 100
)
BACKEND = "tf" if op.problem() else "op"


def _run(model, x, weights):
    with tf.GradientTape() as tape:
        ys = keras.tree.flatten(model(x, training=False))
        loss = tf.add_n([tf.reduce_sum(tf.sin(y)) for y in ys])
    return [*ys, *tape.gradient(loss, weights, unconnected_gradients="zero")]


def _check(model) -> None:
    fused = fs.fuse(model, backend=BACKEND)
    rng = np.random.default_rng(0)
    x = [rng.normal(size=(5, i.shape[-1])) for i in model.inputs]
    x = x if len(x) > 1 else x[0]
    weights = [w.value for w in model.trainable_weights]
    assert [w.path for w in fused.weights] == [w.path for w in model.weights]
    for expected, found in zip(_run(model, x, weights), _run(fused, x, weights), strict=True):
        scale = np.max(np.abs(expected), initial=1.0)
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12 * scale)


@_SETTINGS
@given(st.integers(0, 2**40))
def test_supported_operations(seed):
    _check(Drawn(random.Random(seed), unsupported=False).model)


@_SETTINGS
@given(st.integers(0, 2**40))
def test_unsupported_operations_are_left_alone(seed):
    model = Drawn(random.Random(seed), unsupported=True).model
    _check(model)
    fused = fs.fuse(model)
    schedule = fused.schedule()
    inside = {call for region in schedule.regions for call in region.calls}
    assert inside.isdisjoint(schedule.reasons)
    assert inside | set(schedule.reasons) == set(fused.graph.calls)


def test_most_of_what_is_supported_is_fused():
    """The search would be worth little if most models were left as they are."""
    fused = calls = 0
    for seed in range(10):
        model = fs.fuse(Drawn(random.Random(seed), unsupported=False).model)
        calls += len(model.graph.calls)
        fused += sum(len(region.calls) for region in model.regions)
    assert fused > 0.8 * calls


@pytest.mark.parametrize("seed", range(3))
def test_while_training(seed):
    """The other schedule; dropout draws from seeds that both models share, so it is left out."""
    drawn = Drawn(random.Random(seed), unsupported=False)
    model = drawn.model
    for layer in model.layers:
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0.0
    fused = fs.fuse(model, backend=BACKEND)
    x = [np.random.default_rng(1).normal(size=(6, i.shape[-1])) for i in model.inputs]
    moving = list(model.non_trainable_weights)
    before = [w.numpy() for w in moving]
    expected = keras.tree.flatten(model(x if len(x) > 1 else x[0], training=True))
    after = [w.numpy() for w in moving]
    for w, value in zip(moving, before):
        w.assign(value)
    found = keras.tree.flatten(fused(x if len(x) > 1 else x[0], training=True))
    for a, b in zip(expected, found, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-11, atol=1e-12)
    for w, value in zip(moving, after):
        np.testing.assert_allclose(w.numpy(), value, rtol=1e-11)
