"""Whatever breaks a fit off: weights, optimizer and History are those of the last finished step, and fit goes on."""

import gc
import signal
import threading

import keras
import numpy as np
import pytest

import fusedsplit as fs
from fusedsplit.loops import _keras_private as private
from fusedsplit.loops import variables
from tests.loops.side_by_side import ROWS, X, Y, assert_same, branches, close, run

OPTIONS = {"batch_size": 16, "shuffle": False, "verbose": 0}


@pytest.fixture
def interruptible():
    """A shell's background jobs are deaf to interrupts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def adam():
    return {"optimizer": keras.optimizers.Adam(0.02), "loss": "mse", "metrics": ["mae"]}


class Break(keras.callbacks.Callback):
    """Raises at a hook, the so-and-so-many-eth time."""

    def __init__(self, hook, at, error):
        super().__init__()
        self.left = at
        setattr(self, hook, self.hook)
        self.error = error

    def hook(self, *_, **__):
        self.left -= 1
        if self.left < 0:
            raise self.error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("broken off")])
@pytest.mark.parametrize(
    ("hook", "at"), [("on_train_batch_end", 4), ("on_train_batch_begin", 2), ("on_epoch_end", 1), ("on_epoch_begin", 1)]
)
def test_an_exception_in_a_callback(hook, at, error):
    def train(model):
        with pytest.raises(type(error)):
            model.fit(X, Y, epochs=3, callbacks=[Break(hook, at, error)], **OPTIONS)
        kept = dict(model.history.history)
        assert len(kept.get("loss", [])) in (0, 1)
        return kept, model.fit(X, Y, epochs=2, **OPTIONS)

    assert_same(*(run(branches, adam, train, loop) for loop in ("keras", "native")))


@pytest.mark.skipif(private.counts_steps_past_the_end(), reason="a generator is left to this Keras")
def test_an_exception_in_a_generator():
    def data():
        yield X[:16], Y[:16]
        yield X[16:32], Y[16:32]
        raise RuntimeError("no more")

    def train(model):
        with pytest.raises(RuntimeError, match="no more"):
            model.fit(data(), steps_per_epoch=3, epochs=2, verbose=0)

    def two_steps(model):
        model.fit(X[:32], Y[:32], **OPTIONS)

    broken, whole = run(branches, adam, train, "native"), run(branches, adam, two_steps, "native")
    for a, b in zip(broken.weights + broken.optimizer, whole.weights + whole.optimizer):
        close(a, b, 1e-15)


def test_an_interrupt_within_an_epoch_that_nobody_watches(interruptible):
    """No callback is asked until the end: the signal is heard between two calls of the core."""
    x, y = np.tile(X, (4000, 1)), np.tile(Y, (4000, 1))
    model = fs.fuse(branches(), loop="native")
    model.compile(**adam())
    model.fit(X, Y, **OPTIONS)
    timer = threading.Timer(0.3, lambda: __import__("_thread").interrupt_main())
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        model.fit(x, y, batch_size=4, epochs=1000, verbose=0)
    done = int(model.optimizer.iterations.numpy())
    assert done > 3 and len(model.history.history.get("loss", [])) < 1000
    assert np.isfinite(model.evaluate(X, Y, verbose=0)[0])
    model.fit(X, Y, **OPTIONS)
    assert int(model.optimizer.iterations.numpy()) == done + 3


@pytest.mark.parametrize("bad", [3, -1])
def test_a_class_out_of_range_is_named_before_anything_changes(bad):
    y = np.random.default_rng(1).integers(0, 3, ROWS)
    y[17] = bad
    model = fs.fuse(branches(3, "softmax"), loop="native")
    model.compile("adam", "sparse_categorical_crossentropy")
    before = model.get_weights()
    with pytest.raises(ValueError, match=rf"{bad}.*17|17.*{bad}"):
        model.fit(X, y, **OPTIONS)
    assert all((a == b).all() for a, b in zip(before, model.get_weights()))


def test_no_memory_is_shared_with_variables():
    """A buffer that is well aligned is one that TensorFlow would take for its own."""
    room = np.zeros(64 * 64 + 8)
    start = (-room.ctypes.data % 64) // 8
    buffer = room[start : start + 64 * 64].reshape(64, 64)
    variable = keras.Variable(np.zeros((64, 64)))
    buffer[:] = 1
    variables.write(variable, buffer)
    buffer[:] = 5
    assert (variable.numpy() == 1).all()
    seen = variables.read(variable)
    variable.assign_add(np.ones((64, 64)))
    assert (seen == 1).all() and (variable.numpy() == 2).all()


def test_weights_stay_when_another_fit_runs():
    model = fs.fuse(branches(), loop="native")
    model.compile(**adam())
    model.fit(X, Y, **OPTIONS)
    held = [v.value for v in model.weights]
    kept = [np.array(v) for v in held]
    read = [variables.read(v) for v in model.weights]
    model.fit(X, Y, epochs=5, **OPTIONS)
    gc.collect()
    assert all((a == b).all() for a, b in zip(read, kept))


def test_two_models_from_two_threads():
    expected = run(branches, adam, lambda m: m.fit(X, Y, epochs=50, **OPTIONS), "native")
    models = []
    for _ in range(2):
        keras.utils.set_random_seed(0)
        models.append(fs.fuse(branches(), loop="native"))
        models[-1].compile(**adam())
    threads = [threading.Thread(target=m.fit, args=(X, Y), kwargs={"epochs": 50, **OPTIONS}) for m in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for model in models:
        for a, b in zip(expected.weights, model.get_weights()):
            assert (a == b).all()


def test_compile_fit_fuse_fit_unfuse_fit():
    """The optimizer's state goes along."""

    def by_keras(model):
        for _ in range(3):
            model.fit(X, Y, **OPTIONS)

    def through(model):
        plain = fs.unfuse(model)
        plain.fit(X, Y, **OPTIONS)
        again = fs.fuse(plain, loop="native")
        again.fit(X, Y, **OPTIONS)
        fs.unfuse(again).fit(X, Y, **OPTIONS)

    a, b = run(branches, adam, by_keras, "keras"), run(branches, adam, through, "native")
    for x, y in zip(a.weights + a.optimizer, b.weights + b.optimizer):
        close(x, y, 1e-9)


def test_a_saved_model_goes_on_where_it_was(tmp_path):
    def whole(model):
        model.fit(X, Y, epochs=4, **OPTIONS)

    def twice(model):
        model.fit(X, Y, epochs=2, **OPTIONS)
        model.save(tmp_path / "m.keras")
        loaded = keras.models.load_model(tmp_path / "m.keras")
        loaded.loop = "native"
        loaded.fit(X, Y, epochs=2, **OPTIONS)
        return loaded

    a, b = run(branches, adam, whole, "native"), run(branches, adam, twice, "native")
    for x, y in zip(a.weights, b.result.get_weights()):
        close(x, y, 1e-15)


def test_nan_goes_where_keras_lets_it_go():
    y = Y.copy()
    y[20] = np.nan
    runs = [run(branches, adam, lambda m: m.fit(X, y, epochs=1, **OPTIONS), loop) for loop in ("keras", "native")]
    assert_same(*runs)
    assert np.isnan(runs[1].history["loss"][0])
