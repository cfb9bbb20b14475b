"""`evaluate` and `test_on_batch` natively are Keras'."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from fusedsplit.loops import _keras_private as private
from tests.loops.side_by_side import (
    IS_OLD,
    ROWS,
    W,
    X,
    Y,
    assert_same,
    branches,
    classes,
    close,
    floats,
    regularized,
    run,
    two_outputs,
    with_dropout,
    with_normalization,
)


def same(make, compiled, *data, **options):
    given = {"batch_size": 16, "verbose": 0, **options}
    runs = [run(make, compiled, lambda m: m.evaluate(*data, **given), loop) for loop in ("keras", "native")]
    a, b = (r.result for r in runs)
    if isinstance(a, dict):
        assert list(a) == list(b)
        a, b = list(a.values()), list(b.values())
    assert type(a) is type(b)
    close(a, b, 1e-9)
    assert_same(*runs)
    return runs


def mse(**more):
    return lambda: {"optimizer": "sgd", "loss": "mse", "metrics": ["mae"], "weighted_metrics": ["mse"], **more}


@pytest.mark.parametrize("make", [branches, regularized, with_dropout, with_normalization])
def test_evaluate(make):
    if make is regularized and not private.rounds_regularizers():
        pytest.skip("this Keras' L1 is float32 throughout")
    same(make, mse(), X, Y, return_dict=True)


def test_options():
    same(branches, mse(), X, Y, sample_weight=W, steps=2)
    same(branches, mse(steps_per_execution=2), X, Y, batch_size=None)
    same(branches, lambda: {"loss": "mse"}, X, Y)


def test_two_outputs():
    compiled = mse(
        loss=["mse", "sparse_categorical_crossentropy"], metrics=[["mae"], ["accuracy"]], weighted_metrics=None
    )
    same(two_outputs, compiled, [X, floats(ROWS, 3, seed=4)], [Y, classes(3)], sample_weight=[W, W**2])


def test_a_dataset():
    data = tf.data.Dataset.from_tensor_slices((X, Y, W)).batch(16)
    same(branches, mse(), data, batch_size=None)


def test_weights_are_read_at_the_call():
    def train(model):
        found = [model.evaluate(X, Y, verbose=0)]
        kernel = model.get_layer("left").kernel
        kernel.assign(kernel * 2)
        return [*found, model.evaluate(X, Y, verbose=0)]

    runs = [run(branches, lambda: {"loss": "mse"}, train, loop) for loop in ("keras", "native")]
    close(runs[0].result, runs[1].result, 1e-9)
    assert runs[1].result[0] != runs[1].result[1]


def test_weights_of_a_normalization_are_read_at_the_call():
    def train(model):
        model.get_layer("norm").moving_variance.assign([2.0] * 8)
        return model.evaluate(X, Y, verbose=0)

    runs = [run(with_normalization, lambda: {"loss": "mse"}, train, loop) for loop in ("keras", "native")]
    close(runs[0].result, runs[1].result, 1e-9)


def test_callbacks():
    seen = []

    class Look(keras.callbacks.Callback):
        def on_test_begin(self, logs=None):
            seen.append(logs)
            self.model.get_layer("left").kernel.assign(np.ones((4, 4)))

        def on_test_batch_end(self, batch, logs=None):
            seen.append((batch, *logs.values()))

        def on_test_end(self, logs=None):
            seen.append(tuple(logs.values()))

    same(branches, mse(), X, Y, callbacks=[Look()])
    half = len(seen) // 2
    assert half == 5
    for a, b in zip(seen[1:half], seen[half + 1 :]):
        close(a, b, 1e-9)


@pytest.mark.skipif(IS_OLD, reason="this Keras goes on where the last call ended; its own is left to it")
def test_on_batch():
    def train(model):
        twice = [model.test_on_batch(X[:9], Y[:9]) for _ in range(2)]
        return [*twice, model.test_on_batch(X[:9], Y[:9], sample_weight=W[:9])]

    runs = [run(branches, mse(run_eagerly=False), train, loop) for loop in ("keras", "native")]
    close(runs[0].result, runs[1].result, 1e-9)
    assert_same(*runs)
