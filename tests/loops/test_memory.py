"""Memory of native loops: it does not grow, and where it is refused nothing is lost."""

from pathlib import Path

import pytest

import fusedsplit as fs
from tests import children
from tests.loops.side_by_side import X, Y, branches

STATM = Path("/proc/self/statm")
pytestmark = pytest.mark.skipif(not STATM.exists(), reason="this system says in another way how much memory is used")


def test_ten_thousand_epochs_take_no_more_than_one_thousand():
    model = fs.fuse(branches(), loop="native")
    model.compile("adam", "mse", metrics=["mae"])

    def pages(epochs):
        model.fit(X, Y, epochs=epochs, batch_size=23, validation_data=(X[:9], Y[:9]), verbose=0)
        return int(STATM.read_text().split()[1])

    pages(1000)
    before = pages(1000)
    assert (pages(10_000) - before) * 4096 < 4 << 20  # what History holds is about 2 MiB


REFUSED = """
import resource
import keras, numpy as np, fusedsplit as fs
from keras.layers import Dense, Input

a = Input((1024,))
h = Dense(1024, activation="relu")(Dense(1024, activation="relu")(a))
model = fs.fuse(keras.Model(a, Dense(1)(h)), loop="native")
model.compile("adam", "mse")
model.optimizer.build(model.trainable_variables)
x = np.random.default_rng(0).normal(size=(2048, 1024)).astype("float32")
y = x[:, :1].copy()

def refused(**options):
    "Trains where no more than a few MiB can be had."
    before = [v.numpy() for v in (*model.variables, *model.optimizer.variables)]
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (6 << 20), resource.RLIM_INFINITY))
    try:
        model.fit(x, y, verbose=0, **options)
    except MemoryError:
        pass
    else:
        raise AssertionError("there was enough")
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
    after = [v.numpy() for v in (*model.variables, *model.optimizer.variables)]
    assert all((a == b).all() for a, b in zip(before, after))

refused(batch_size=32, epochs=1)  # the trainer's own weights and slots
model.fit(x[:32], y[:32], verbose=0, epochs=2)
refused(batch_size=2048)  # the lanes of a large batch
losses = model.fit(x, y, batch_size=2048, epochs=20, verbose=0).history["loss"]
assert losses[-1] < losses[0] and int(model.optimizer.iterations) == 22
"""


def test_refused_memory_is_an_error_after_which_fit_goes_on():
    result = children.run(REFUSED)
    assert result.returncode == 0, result.stderr[-3000:]
