"""Every kind of data that Keras' fit takes."""

import warnings

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
    both,
    branches,
    check,
    classes,
    floats,
    run,
    two_outputs,
)


def sgd(**more):
    return lambda: {"optimizer": keras.optimizers.SGD(0.05, momentum=0.5), "loss": "mse", "metrics": ["mae"], **more}


def by_arrays(**options):
    return check(branches, sgd(), X, Y, sample_weight=W, epochs=2, **options)


def native(*data, compiled=None, make=branches, **options):
    given = {"epochs": 2, "batch_size": 16, "shuffle": False, "verbose": 0, **options}
    return run(make, compiled or sgd(), lambda model: model.fit(*data, **given), "native")


class Sequence(keras.utils.PyDataset):
    def __len__(self):
        return -(-ROWS // 16)

    def __getitem__(self, i):
        rows = slice(16 * i, 16 * i + 16)
        return X[rows], Y[rows], W[rows]


def batches(epochs=2):
    for _ in range(epochs):
        for i in range(len(Sequence())):
            yield Sequence()[i]


@pytest.fixture(scope="module")
def expected():
    return by_arrays()[1]


@pytest.mark.parametrize(
    "kind", ["tensors", "lists", "one column less", "memory map", "strided", "float32", "dict", "other layout"]
)
def test_arrays_of_any_kind(expected, kind, tmp_path):
    x, y, w = X, Y, W
    if kind == "tensors":
        x, y, w = map(tf.constant, (x, y, w))
    elif kind == "lists":
        x, y, w = [x], [y], [w]
    elif kind == "one column less":
        y, w = y[:, 0], w[:, np.newaxis]
    elif kind == "memory map":
        x = np.memmap(tmp_path / "x", "float64", "w+", shape=X.shape)
        x[:] = X
    elif kind == "strided":
        x = np.repeat(X, 2, axis=0)[::2]
    elif kind == "float32":
        x = X.astype("float32")
    elif kind == "dict":
        x = {"x": X}
    else:
        x = np.asfortranarray(X)
    found = native(x, y, sample_weight=w)
    assert_same(expected, found, rtol=1e-5 if kind == "float32" else 1e-15)


@pytest.mark.parametrize("kind", ["tf.data", "PyDataset", "generator"])
def test_what_gives_batches_trains_as_arrays_do(expected, kind):
    options = {}
    if kind == "tf.data":
        data = tf.data.Dataset.from_tensor_slices((X, Y, W)).batch(16)
    elif kind == "PyDataset":
        data = Sequence()
    else:
        data, options = batches(), {"steps_per_epoch": 3}
    if kind == "generator" and private.counts_steps_past_the_end():
        with pytest.raises(ValueError, match="nobody knows where this data ends"):
            native(data, batch_size=None, **options)
        return
    found = native(data, batch_size=None, **options)
    assert_same(expected, found, rtol=1e-15)


def test_a_generator_goes_to_keras_whole():
    """Where Keras has to run it after all, nothing has been taken from it."""

    def train(model):
        return model.fit(batches(), epochs=2, steps_per_epoch=3, verbose=0)

    compiled = lambda: {"optimizer": keras.optimizers.Adamax(0.01), "loss": "mse"}  # noqa: E731
    assert_same(run(branches, compiled, train, "keras"), run(branches, compiled, train, "auto"))


def test_validation_data_by_a_generator_and_a_dataset():
    data = tf.data.Dataset.from_tensor_slices((X[:20], Y[:20])).batch(8)
    check(branches, sgd(), X, Y, validation_data=data)
    check(branches, sgd(), X, Y, validation_data=data.repeat(), validation_steps=2, validation_freq=2)
    check(
        branches, sgd(), X, Y, validation_data=(X[:20], Y[:20], W[:20]), validation_batch_size=7, validation_freq=[1, 3]
    )


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("repeated", [False, True])
def test_validation_of_some_steps(repeated, steps):
    """Each from the beginning, or, before Keras 3.7, where the last one ended."""
    held = tf.data.Dataset.from_tensor_slices((X[:20], Y[:20])).batch(7).repeat() if repeated else (X[:20], Y[:20])
    check(branches, sgd(), X, Y, validation_data=held, validation_steps=steps, validation_batch_size=7)


def test_a_dataset_of_unknown_length():
    """Keras before 3.7 looks for its end with a step that counts: that is left to it."""
    data = tf.data.Dataset.from_tensor_slices((X, Y)).filter(lambda x, y: True).batch(16)
    if not private.counts_steps_past_the_end():
        check(branches, sgd(), data, batch_size=None)
        return
    compiled = sgd(run_eagerly=False)
    train = lambda model: model.fit(data, epochs=2, verbose=0)  # noqa: E731
    by_keras, left = run(branches, compiled, train, "keras"), run(branches, compiled, train, "auto")
    assert_same(by_keras, left)
    assert by_keras.model.optimizer.iterations.numpy() > 6


class OneTooMany(Sequence):
    """The last batch is one of no rows."""

    def __len__(self):
        return super().__len__() + 1


def test_a_batch_of_no_rows_is_no_step(expected):
    assert_same(expected, native(OneTooMany()))
    found = [
        run(branches, sgd(), lambda model: model.evaluate(data, verbose=0), "native").result  # noqa: B023
        for data in (Sequence(), OneTooMany())
    ]
    assert found[0] == found[1]


def ends(loop, act):
    """The kind of error in which it ends, or None."""
    try:
        run(branches, sgd(run_eagerly=False), act, loop)  # eagerly, Keras' fit fails where it does not otherwise
    except Exception as error:  # noqa: BLE001
        return type(error)
    return None


@pytest.mark.parametrize("method", ["fit", "evaluate", "test_on_batch"])
def test_no_rows_at_all_go_to_keras(method):
    def act(model):
        getattr(model, method)(X[:0], Y[:0], **({} if method == "test_on_batch" else {"verbose": 0}))

    assert ends("auto", act) is ends("keras", act)


@pytest.mark.parametrize("size", [8.0, -1, 0, True], ids=repr)
@pytest.mark.parametrize("method", ["fit", "predict"])
def test_what_is_no_number_of_rows_goes_to_keras(method, size):
    def act(model):
        getattr(model, method)(*(X, Y)[: 2 if method == "fit" else 1], batch_size=size, verbose=0)

    assert ends("auto", act) is ends("keras", act)
    with pytest.raises(ValueError, match=f"batch_size is {size!r}"):
        run(branches, sgd(), act, "native")


@pytest.mark.parametrize("execution", [1, 2, 4])
@pytest.mark.parametrize("steps", [None, 2, 3])
def test_steps(steps, execution):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check(branches, sgd(steps_per_execution=execution), X, Y, steps_per_epoch=steps, epochs=3, initial_epoch=1)


def test_steps_without_a_batch_size():
    check(branches, sgd(), X, Y, batch_size=None, steps_per_epoch=4)


@pytest.mark.parametrize("kind", ["list", "tuple", "dict"])
def test_two_inputs_and_outputs(kind):
    x, y, w = [X, floats(ROWS, 3, seed=4)], [Y, classes(3)], [W, W**2]
    if kind == "tuple":
        x, y, w = tuple(x), tuple(y), tuple(w)
    elif kind == "dict":
        x, y, w = dict(zip(("x", "z"), x)), dict(zip(("number", "kind"), y)), None  # which Keras cannot take then
    losses = ["mse", "sparse_categorical_crossentropy"]
    if kind == "dict":
        losses = dict(zip(("number", "kind"), losses))
    if kind == "dict" and IS_OLD:
        with pytest.raises(ValueError, match="loop='native'"):
            native(x, y, make=two_outputs, compiled=sgd(loss=losses, metrics=None))
        return
    check(two_outputs, sgd(loss=losses, metrics=None), x, y, sample_weight=w)


def test_shuffling_goes_by_the_seed():
    found = [native(X, Y, shuffle=True) for _ in range(2)]
    assert_same(*found, rtol=0)
    ordered = native(X, Y, shuffle=False)
    assert not np.allclose(found[0].weights[0], ordered.weights[0], rtol=1e-9)


@pytest.mark.parametrize("shuffle", [True, "batch"])
def test_shuffling_takes_every_row_once(shuffle):
    seen = []

    def make():
        model = branches()
        return model

    def remember(y_true, y_pred):
        tf.py_function(lambda rows: seen.append(np.array(rows).ravel()), [y_true], [])
        return y_true - y_pred

    native(X, Y, make=make, compiled=sgd(metrics=[remember]), shuffle=shuffle, epochs=1)
    taken = np.concatenate(seen)
    assert len(seen) == 3 and sorted(taken) == sorted(Y.ravel()) and list(taken) != list(Y.ravel())
    if shuffle == "batch":
        assert sorted(seen[0]) == sorted(Y.ravel()[:16])


def test_two_passes_of_one_fit_have_other_orders():
    found = [native(X, Y, shuffle=True, epochs=n).history["loss"] for n in (1, 2)]
    assert found[0] == found[1][:1]


def test_class_weights_of_a_dataset():
    y = classes(3)
    data = tf.data.Dataset.from_tensor_slices((X, y)).batch(16)
    compiled = sgd(loss="sparse_categorical_crossentropy", metrics=None)
    check(lambda: branches(3, "softmax"), compiled, data, class_weight={0: 3.0, 1: 1.0, 2: 0.5}, batch_size=None)


def test_pandas():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=list("abcdef"))
    assert_same(native(X, Y[:, 0]), native(frame, pandas.Series(Y[:, 0])), rtol=0)


def test_both_runs_are_of_the_same_model():
    by_keras, ours = both(branches, sgd(), lambda model: model.count_params())
    assert by_keras.result == ours.result and by_keras.model is not ours.model
