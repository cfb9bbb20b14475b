"""Keras' callbacks, and a user's, see and change what they see and change in Keras' own loop."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import fusedsplit as fs
from fusedsplit.loops.callbacks import Watch
from tests.loops.side_by_side import IS_OLD, X, Y, assert_same, branches, check, close, floats, run

HELD = (floats(20, 6, seed=8).astype("float64"), floats(20, 1, seed=9).astype("float64"))


def adam(**more):
    return lambda: {"optimizer": keras.optimizers.Adam(0.02), "loss": "mse", "metrics": ["mae"], **more}


def test_early_stopping():
    made = lambda: [  # noqa: E731
        keras.callbacks.EarlyStopping(monitor="val_loss", patience=1, restore_best_weights=True, min_delta=0.3)
    ]
    runs = check(branches, adam(), X, Y, callbacks=made, validation_data=HELD, epochs=12)
    assert len(runs[1].history["loss"]) < 12


def test_learning_rates():
    made = lambda: [  # noqa: E731
        keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.5 if epoch else rate),
        keras.callbacks.ReduceLROnPlateau(monitor="loss", patience=1, factor=0.1, min_delta=10.0),
    ]
    runs = check(branches, adam(), X, Y, callbacks=made, epochs=5)
    assert len(set(runs[1].history["learning_rate"])) > 2


def test_checkpoints_by_epoch_and_by_batch(tmp_path):
    kept = []

    def made():
        kept.append(tmp_path / str(len(kept)))
        return [
            keras.callbacks.ModelCheckpoint(f"{kept[-1]}-{{epoch}}.weights.h5", save_weights_only=True),
            keras.callbacks.ModelCheckpoint(
                f"{kept[-1]}-batch-{{batch}}.weights.h5", save_weights_only=True, save_freq=2
            ),
            keras.callbacks.ModelCheckpoint(f"{kept[-1]}-best.keras", monitor="loss", save_best_only=True),
        ]

    runs = check(branches, adam(), X, Y, callbacks=made)
    loaded = keras.models.load_model(tmp_path / "1-best.keras")
    close(runs[1].model.predict(X, verbose=0), loaded.predict(X, verbose=0), 1e-12)
    files = [sorted(p.name[1:] for p in tmp_path.glob(f"{i}-*")) for i in range(2)]
    assert files[0] == files[1] and len(files[0]) > 4
    for name in files[0]:
        if name.endswith(".h5"):
            weights = []
            for i in range(2):
                runs[i].model.load_weights(tmp_path / f"{i}{name}")
                weights.append(runs[i].model.get_weights())
            for a, b in zip(*weights):
                close(a, b, 1e-9, name)


def test_terminate_on_nan():
    x = X.copy()
    x[20] = np.nan
    runs = check(branches, adam(), x, Y, callbacks=lambda: [keras.callbacks.TerminateOnNaN()], epochs=3)
    assert int(runs[1].model.optimizer.iterations.numpy()) == 2


def test_csv_logger(tmp_path):
    kept = []

    def made():
        kept.append(tmp_path / f"{len(kept)}.csv")
        return [keras.callbacks.CSVLogger(str(kept[-1]))]

    check(branches, adam(), X, Y, callbacks=made, validation_data=HELD)
    texts = [[line.split(",") for line in path.read_text().splitlines()] for path in kept]
    assert texts[0][0] == texts[1][0] and len(texts[1]) == 4
    close(np.array(texts[0][1:], float), np.array(texts[1][1:], float), 1e-9)


def test_backup_and_restore(tmp_path):
    class Break(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise RuntimeError("broken off")

    def train(model):
        backup = lambda: keras.callbacks.BackupAndRestore(str(tmp_path / model.loop))  # noqa: E731
        options = {"batch_size": 16, "shuffle": False, "verbose": 0, "epochs": 4}
        with pytest.raises(RuntimeError, match="broken off"):
            model.fit(X, Y, callbacks=[backup(), Break()], **options)
        for v in model.weights:
            v.assign(v * 0)
        return model.fit(X, Y, callbacks=[backup()], **options)

    runs = [run(branches, adam(), train, loop) for loop in ("keras", "native")]
    assert_same(*runs)
    assert len(runs[1].history["loss"]) == 2


@pytest.mark.parametrize("on_epoch", [True, False])
def test_swapping_averages(on_epoch):
    def compiled():
        return {"optimizer": keras.optimizers.SGD(0.05, use_ema=True, ema_momentum=0.8), "loss": "mse"}

    made = lambda: [keras.callbacks.SwapEMAWeights(swap_on_epoch=on_epoch)]  # noqa: E731
    check(branches, compiled, X, Y, callbacks=made, validation_data=HELD)


def test_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    made = lambda: [keras.callbacks.TensorBoard(str(tmp_path), histogram_freq=1)]  # noqa: E731
    check(branches, adam(), X, Y, callbacks=made, validation_data=HELD)
    assert list(tmp_path.rglob("events*"))


def test_tqdm(capsys):
    tqdm = pytest.importorskip("tqdm.keras")
    check(branches, adam(), X, Y, callbacks=lambda: [tqdm.TqdmCallback(verbose=2)])


class Meddler(keras.callbacks.Callback):
    """Looks at everything, and changes weights, slots and the learning rate around batches and epochs."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def note(self, event, at, logs):
        model = self.model
        slots = [] if event == "epoch begin" else model.optimizer.variables  # Keras makes them at the first step
        state = [float(keras.ops.sum(v)) for v in (*model.weights, *slots)]
        self.seen.append((event, at, dict(logs or {}), state))

    def on_train_batch_begin(self, batch, logs=None):
        self.note("epoch begin", batch, logs)
        if batch == 1:
            kernel = self.model.get_layer("left").kernel
            kernel.assign(kernel * 0.9)

    def on_train_batch_end(self, batch, logs=None):
        self.note("end", batch, logs)
        if batch == 0:
            bias = self.model.get_layer("stem").bias
            bias.assign(bias + 0.1)

    def on_test_batch_end(self, batch, logs=None):
        self.note("test end", batch, logs)

    def on_test_begin(self, logs=None):
        self.note("test begin", 0, logs)

    def on_epoch_begin(self, epoch, logs=None):
        self.note("epoch begin", epoch, logs)
        self.model.optimizer.learning_rate = 0.01 / (1 + epoch)

    def on_epoch_end(self, epoch, logs=None):
        self.note("epoch end", epoch, logs)
        self.model.optimizer._momentums[0].assign(self.model.optimizer._momentums[0] * 0.5)


@pytest.mark.parametrize("execution", [1, 2, 3])
def test_a_callback_with_batch_hooks_that_reads_and_writes(execution):
    kept = []

    def made():
        kept.append(Meddler())
        return [kept[-1]]

    _, native = check(
        branches,
        adam(steps_per_execution=execution),
        X,
        Y,
        callbacks=made,
        validation_data=HELD,
        validation_batch_size=8,
    )
    if native is None:
        return
    assert [s[:2] for s in kept[0].seen] == [s[:2] for s in kept[1].seen]
    for a, b in zip(kept[0].seen, kept[1].seen):
        assert list(a[2]) == list(b[2]) and all(type(v) is float for v in b[2].values())
        close(list(a[2].values()), list(b[2].values()), 1e-9, str(a[:2]))
        close(a[3], b[3], 1e-8, str(a[:2]))


def test_stopping_in_mid_epoch():
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = batch == 1

    check(branches, adam(), X, Y, callbacks=lambda: [Stop()])


def test_older_names_of_batch_hooks():
    class Older(keras.callbacks.Callback):
        def on_batch_begin(self, batch, logs=None):
            self.model.get_layer("left").bias.assign_add([0.1] * 4)

    check(branches, adam(), X, Y, callbacks=lambda: [Older()])


def test_a_lambda_callback():
    seen = []
    made = lambda: [keras.callbacks.LambdaCallback(on_train_batch_end=lambda b, logs: seen.append(logs["loss"]))]  # noqa: E731
    check(branches, adam(), X, Y, callbacks=made)
    close(seen[: len(seen) // 2], seen[len(seen) // 2 :], 1e-9)


def test_epoch_logs_are_sorted_numbers():
    seen = []
    made = lambda: [keras.callbacks.LambdaCallback(on_epoch_end=lambda e, logs: seen.append(list(logs.items())))]  # noqa: E731
    check(branches, adam(), X, Y, callbacks=made, validation_data=HELD)
    assert [[k for k, _ in logs] for logs in seen[:3]] == [[k for k, _ in logs] for logs in seen[3:]]
    assert all(type(v) is float for logs in seen for _, v in logs)


def test_a_list_of_callbacks_of_the_users_own():
    def train(model):
        listed = keras.callbacks.CallbackList(None, add_history=True, add_progbar=False, model=model, epochs=2, steps=3)
        return model.fit(X, Y, batch_size=16, epochs=2, shuffle=False, callbacks=listed)

    assert_same(*(run(branches, adam(), train, loop) for loop in ("keras", "native")))


@pytest.mark.parametrize("verbose", [1, 2, "auto"])
def test_what_is_printed(capsys, verbose):
    if IS_OLD and verbose != 2:
        pytest.skip("this Keras' bar shows a mean of what it was told along the way, which is less often natively")
    printed = []
    for loop in ("keras", "native"):
        run(branches, adam(), lambda m: m.fit(X, Y, batch_size=16, epochs=2, shuffle=False, verbose=verbose), loop)  # noqa: B023
        text = capsys.readouterr().out.replace("\x08", "").replace("\r", "\n")
        lines = [line for line in text.splitlines() if line.strip()]
        printed.append(
            [line.rstrip().split(" - ")[-2:] if "loss" in line else line for line in (*lines[:1], lines[-1])]
        )
    assert printed[0] == printed[1]


def test_who_sees_each_batch(tmp_path):
    """Keras' own classes that work by the epoch have hooks around a batch, but do nothing there."""

    class Mine(keras.callbacks.ModelCheckpoint):
        pass

    path = str(tmp_path / "m.keras")
    seen = {
        "": [
            keras.callbacks.ModelCheckpoint(path),
            keras.callbacks.BackupAndRestore(str(tmp_path)),
            keras.callbacks.EarlyStopping(),
            keras.callbacks.TensorBoard(str(tmp_path), write_graph=False),
        ],
        "logs": [keras.callbacks.TerminateOnNaN()],
        "state": [
            keras.callbacks.ModelCheckpoint(path, save_freq=2),
            Mine(path),
            Meddler(),
            keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: None),
        ],
    }
    model = branches()
    for what, callbacks in seen.items():
        for callback in callbacks:
            watch = Watch(keras.callbacks.CallbackList([callback], model=model, add_history=True))
            assert watch.train == what and watch.state, callback
    assert not Watch(keras.callbacks.CallbackList(None, model=model, add_history=True, add_progbar=True)).state


def test_the_step_that_hooks_are_told_of_an_execution():
    """Its last one, or, before Keras 3.12, its first."""
    told = []
    for loop in ("keras", "native"):
        seen = []
        hooks = [f"on_{what}_batch_{when}" for what in ("train", "test", "predict") for when in ("begin", "end")]
        look = keras.callbacks.Callback()
        for hook in hooks:
            setattr(look, hook, lambda batch, logs=None, hook=hook, seen=seen: seen.append((hook, batch)))
        model = fs.fuse(branches(), loop=loop)
        model.compile("sgd", "mse", steps_per_execution=2)
        options = {"batch_size": 8, "verbose": 0, "callbacks": [look]}
        model.fit(X[:32], Y[:32], **options)
        model.evaluate(X[:32], Y[:32], **options)
        model.predict(X[:32], **options)
        data = tf.data.Dataset.from_tensor_slices((X[:32], Y[:32])).batch(8)
        options["batch_size"] = None
        model.fit(data, **options)
        model.evaluate(data, **options)
        model.predict(data, **options)
        told.append(seen)
    assert told[0] == told[1] and len(told[1]) == 24
