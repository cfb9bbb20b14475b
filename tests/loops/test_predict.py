"""`predict` and `predict_on_batch` natively are Keras'."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.layers import Concatenate, Dense, Input, Reshape

import fusedsplit as fs
from tests.loops.side_by_side import (
    ROWS,
    X,
    branches,
    close,
    deep,
    floats,
    two_outputs,
    with_dropout,
    with_normalization,
)


def dicts():
    x, z = Input((6,), name="x"), Input((3,), name="a")
    h = Dense(8, activation="relu")(Concatenate()([x, z]))
    return keras.Model({"x": x, "a": z}, {"one": Dense(2)(h), "two": Dense(3)(h)})


def of_time():
    x = Input((None, 6))
    h = Dense(8, activation="relu")(x)
    return keras.Model(x, Dense(3)(Dense(5, activation="tanh")(h)))


def shaped():
    x = Input((2, 3))
    h = Dense(8, activation="relu")(Reshape((6,))(x))
    return keras.Model(x, Reshape((2, 4))(Dense(8)(h)))


class Batches(keras.utils.PyDataset):
    """One batch too many, of no rows."""

    def __init__(self, *arrays):
        super().__init__()
        self._arrays = arrays

    def __len__(self):
        return ROWS // 16 + 2

    def __getitem__(self, index):
        return tuple(a[index * 16 : index * 16 + 16] for a in self._arrays)


def both(make, *data, method="predict", **options):
    model = fs.fuse(make())
    found = []
    for loop in ("keras", "native"):
        model.loop = loop
        found.append(getattr(model, method)(*data, **({"verbose": 0, **options} if method == "predict" else options)))
    keras.tree.assert_same_structure(*found)
    for a, b in zip(*map(keras.tree.flatten, found)):
        assert type(b) is np.ndarray and a.dtype == b.dtype and a.shape == b.shape
        close(a, b, 1e-12)
    return found


@pytest.mark.parametrize("make", [branches, deep, with_dropout, with_normalization])
@pytest.mark.parametrize("method", ["predict", "predict_on_batch"])
def test_predict(make, method):
    both(make, X, method=method)


@pytest.mark.parametrize("method", ["predict", "predict_on_batch"])
def test_structures(method):
    z = floats(ROWS, 3, seed=4)
    both(two_outputs, [X, z], method=method)
    both(two_outputs, {"x": X, "z": z}, method=method)
    both(dicts, {"x": X, "a": z}, method=method)
    both(of_time, floats(7, 4, 6), method=method)
    both(shaped, floats(7, 2, 3), method=method)


def test_options():
    both(branches, X, batch_size=7)
    both(branches, X, batch_size=7, steps=3)
    both(branches, X.astype("float32"))
    both(branches, np.ones((4, 6), "int32"))
    both(branches, tf.data.Dataset.from_tensor_slices(X).batch(8))
    both(branches, X[:1], verbose=1)


def test_generators():
    def batches():
        yield (X[:8],)
        yield (X[8:20],)

    model = fs.fuse(branches(), loop="native")
    close(model.predict(X[:20], verbose=0), model.predict(batches(), verbose=0), 1e-12)


def test_callbacks():
    seen = []

    class Look(keras.callbacks.Callback):
        def on_predict_begin(self, logs=None):
            self.model.get_layer("left").kernel.assign(np.ones((4, 4)))

        def on_predict_batch_end(self, batch, logs=None):
            seen.append((batch, np.asarray(logs["outputs"])))
            self.model.stop_predicting = batch == 3

    both(branches, X, batch_size=8, callbacks=[Look()])
    assert [b for b, _ in seen] == [0, 1, 2, 3] * 2
    close(seen[0][1], seen[4][1], 1e-12)


def test_weights_are_read_at_the_call():
    model = fs.fuse(branches(), loop="native")
    before = model.predict(X, verbose=0)
    kernel = model.get_layer("left").kernel
    kernel.assign(kernel * 2)
    after = model.predict_on_batch(X)
    assert not np.allclose(before, after)
    model.loop = "keras"
    close(model.predict(X, verbose=0), after, 1e-12)


@pytest.mark.parametrize("method", ["predict", "predict_on_batch"])
def test_kernels_that_lora_computes(method):
    def with_lora():
        model = branches()
        layer = model.get_layer("left")
        layer.enable_lora(2)
        layer.lora_kernel_b.assign(np.ones(layer.lora_kernel_b.shape))
        return model

    both(with_lora, X, method=method)


def test_batches_of_no_rows():
    both(branches, Batches(X))


def test_what_is_given_out_is_the_callers():
    model = fs.fuse(branches(), loop="native")
    first = model.predict(X, verbose=0)
    kept = first.copy()
    model.predict(-X, verbose=0)
    assert (first == kept).all()


@pytest.mark.parametrize("x", [np.ones((4, 5)), np.ones((4, 6, 1, 1)), np.array([["a"] * 6])])
def test_errors_are_those_of_keras(x):
    errors = []
    for loop in ("keras", "auto"):
        model = fs.fuse(branches(), loop=loop)
        with pytest.raises(Exception) as error:  # noqa: PT011
            model.predict(x, verbose=0)
        errors.append(type(error.value))
    assert errors[0] is errors[1]
