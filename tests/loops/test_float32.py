"""In single precision the native run is as near to the double precision one as Keras' own."""

import keras
import numpy as np
import pytest

import fusedsplit as fs
from fusedsplit.bench.precision import keras_in
from tests.loops.side_by_side import ROWS, branches, check, classes, floats, regularized


@pytest.fixture(autouse=True, scope="module")
def float64():
    """In the place of that of all files here: each run has its own precision."""


def trained(dtype, loop, loss, optimizer, units, x, y):
    with keras_in(dtype):
        model = fs.fuse(branches(units, "softmax" if units > 1 else None), loop=loop)
        rng = np.random.default_rng(3)
        model.set_weights([rng.normal(size=w.shape).astype("float32") * 0.5 for w in model.get_weights()])
        model.compile(getattr(keras.optimizers, optimizer)(0.01), loss, run_eagerly=loop == "keras")
        history = model.fit(x, y, batch_size=16, epochs=5, shuffle=False, verbose=0)
        return np.concatenate([w.astype("float64").ravel() for w in model.get_weights()]), history.history["loss"]


@pytest.mark.parametrize(
    ("loss", "optimizer", "units"),
    [("mse", "SGD", 1), ("mse", "RMSprop", 1), ("sparse_categorical_crossentropy", "Adam", 3)],
)
def test_distance_from_double_precision(loss, optimizer, units):
    x = floats(ROWS, 6).astype("float32")
    y = classes(3) if units == 3 else floats(ROWS, 1, seed=2).astype("float32")
    exact, by_keras, native = (
        trained(dtype, loop, loss, optimizer, units, x, y)
        for dtype, loop in (("float64", "keras"), ("float32", "keras"), ("float32", "native"))
    )
    ours, theirs = (np.linalg.norm(found[0] - exact[0]) for found in (native, by_keras))
    assert 0 < ours <= 2 * theirs
    np.testing.assert_allclose(native[1], exact[1], rtol=1e-5)


def test_regularizers():
    with keras_in("float32"):
        check(regularized, lambda: {"optimizer": "sgd", "loss": "mse"}, floats(ROWS, 6), floats(ROWS, 1), rtol=1e-5)
