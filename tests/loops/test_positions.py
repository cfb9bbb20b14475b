"""Models of inputs of three and more axes of which each position is a row: losses, metrics, weights and data."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.layers import Concatenate, Dense, Dropout, Input, LayerNormalization

import fusedsplit as fs
from fusedsplit.loops import _keras_private as private
from fusedsplit.loops import training
from tests.loops.cases import HEADS
from tests.loops.side_by_side import IS_OLD, assert_same, check, classes, close, floats, run

ROWS, TIMES = 23, 4
X = floats(ROWS, TIMES, 6).astype("float64")
Y = floats(ROWS, TIMES, 2, seed=2).astype("float64")
W = abs(floats(ROWS, TIMES, seed=5)).astype("float64")
OPTIONS = {"batch_size": 8, "epochs": 2}


def of_times(units=2, activation=None, shape=(TIMES, 6)):
    x = Input(shape, name="x")
    h = LayerNormalization(name="norm")(Dense(8, activation="tanh", name="stem")(x))
    return keras.Model(x, Dense(units, activation=activation, name="out")(h))


def split_in_time():
    x = Input((None, 6), name="x")
    h = Dense(8, activation="relu", name="stem")(x)
    a, b = Dense(4, activation="relu", name="left")(h[..., :4]), Dense(5, name="right")(h[..., 4:])
    return keras.Model(x, Dense(2, name="out")(Concatenate()([a, b])))


def two():
    x = Input((TIMES, 6), name="x")
    h = Dense(8, activation="relu", name="stem")(x)
    return keras.Model(x, {"n": Dense(1, name="n")(h), "k": Dense(3, activation="softmax", name="k")(h)})


def noisy():
    x = Input((TIMES, 6), name="x")
    h = Dropout(0.5, seed=3)(Dense(16, activation="relu", name="stem")(x))
    return keras.Model(x, Dense(2, name="out")(h))


def sgd(loss="mse", **more):
    def compiled():
        made = {k: v() if callable(v) else v for k, v in more.items()}
        return {
            "optimizer": keras.optimizers.SGD(0.05, momentum=0.5),
            "loss": loss() if callable(loss) else loss,
            **made,
        }

    return compiled


def everywhere(targets):
    """Targets of the heads of other tests, for each position."""
    return np.stack([np.roll(targets, i, axis=0)[:ROWS] for i in range(TIMES)], axis=1)


@pytest.mark.parametrize("head", HEADS)
def test_every_loss(head):
    loss, activation, targets = HEADS[head]
    check(lambda: of_times(2, activation), sgd(loss), X, everywhere(targets()), **OPTIONS)


@pytest.mark.parametrize("make", [of_times, split_in_time])
def test_metrics(make):
    metrics = lambda: ["mae", "mse", keras.metrics.RootMeanSquaredError(), keras.metrics.LogCoshError()]  # noqa: E731
    function = lambda: ["mae", lambda y, p: keras.ops.sqrt(keras.ops.mean((y - p) ** 2))]  # noqa: E731
    check(make, sgd(metrics=metrics), X, Y, validation_split=0.3, **OPTIONS)
    check(make, sgd(metrics=function), X, Y, **OPTIONS)


@pytest.mark.parametrize("units", [1, 3])
def test_metrics_of_classes(units):
    loss, activation = ("binary", "sigmoid") if units == 1 else ("sparse_categorical", "softmax")
    y = classes(max(units, 2), ROWS * TIMES).reshape(ROWS, TIMES, 1)
    metrics = lambda: ["accuracy", *([keras.metrics.AUC()] if units == 1 else [])]  # noqa: E731
    compiled = sgd(f"{loss}_crossentropy", metrics=metrics, weighted_metrics=["accuracy"])
    check(lambda: of_times(units, activation), compiled, X, y, sample_weight=W, **OPTIONS)


@pytest.mark.parametrize("weights", [None, W, W[:, :1]], ids=["none", "each", "a row"])
def test_metrics_of_one_hot_classes(weights):
    def metrics():
        m = keras.metrics
        return ["accuracy", m.BinaryAccuracy(threshold=0.3), m.RootMeanSquaredError(), m.CategoricalCrossentropy()]

    y = np.eye(3)[classes(3, ROWS * TIMES).reshape(ROWS, TIMES)]
    compiled = sgd("categorical_crossentropy", metrics=metrics, weighted_metrics=metrics)
    check(lambda: of_times(3, "softmax"), compiled, X, y, sample_weight=weights, **OPTIONS)


def test_one_position():
    y, w = classes(3, ROWS).reshape(ROWS, 1), W[:, :1]
    compiled = sgd("sparse_categorical_crossentropy", metrics=["accuracy"], weighted_metrics=["accuracy"])
    check(lambda: of_times(3, "softmax", (1, 6)), compiled, X[:, :1], y, sample_weight=w, **OPTIONS)
    compiled = sgd(metrics=["mae"], weighted_metrics=["mae"])
    check(lambda: of_times(1, None, (1, 6)), compiled, X[:, :1], Y[:, :1, :1], sample_weight=w, **OPTIONS)


@pytest.mark.parametrize("reduction", ["sum", "sum_over_batch_size", "mean_with_sample_weight"])
@pytest.mark.parametrize("columns", [TIMES, 1])
def test_sample_weights(reduction, columns):
    if reduction == "mean_with_sample_weight" and (IS_OLD or columns == 1):
        pytest.skip("not in this Keras, or left to it")
    compiled = sgd(
        lambda: keras.losses.MeanSquaredError(reduction=reduction),
        metrics=["mae"],
        weighted_metrics=lambda: ["mse", keras.metrics.LogCoshError()],
    )
    check(of_times, compiled, X, Y, sample_weight=W[:, :columns], **OPTIONS)


def test_two_outputs():
    y = {"n": Y[..., :1], "k": classes(3, ROWS * TIMES).reshape(ROWS, TIMES)}
    compiled = sgd(
        {"n": "mse", "k": "sparse_categorical_crossentropy"},
        metrics=lambda: {"n": ["mae"], "k": ["accuracy"]},
        weighted_metrics=lambda: {"n": ["mse"]},
    )
    check(two, compiled, X, y, sample_weight={"n": W, "k": W[:, :1]}, **OPTIONS)
    check(two, compiled, X, y, sample_weight=W[:, :1], **OPTIONS)


def test_more_axes():
    make = lambda: of_times(2, shape=(2, 3, 6))  # noqa: E731
    x, y, w = floats(ROWS, 2, 3, 6), floats(ROWS, 2, 3, 2, seed=2), abs(floats(ROWS, 2, 3, seed=3))
    compiled = sgd(metrics=["mae"], weighted_metrics=lambda: ["mse"])
    check(make, compiled, x, y, sample_weight=w, **OPTIONS)
    check(make, compiled, x, y, sample_weight=w[:, :1, :1], **OPTIONS)


def test_data_of_other_kinds():
    arrays = check(split_in_time, sgd(metrics=["mae"]), X, Y, sample_weight=W, **OPTIONS)[1]
    data = tf.data.Dataset.from_tensor_slices((X, Y, W)).batch(8)
    streamed = check(split_in_time, sgd(metrics=["mae"]), data, batch_size=None, epochs=2)[1]
    assert_same(arrays, streamed, rtol=1e-15)
    check(of_times, sgd(), X, Y, steps_per_epoch=2, batch_size=8, epochs=3)


def test_batches_of_other_lengths():
    def batches():
        for _ in range(2):
            for times in (1, 3, 4):
                yield X[:, :times], Y[:, :times]

    metrics = lambda: ["mae", keras.metrics.LogCoshError()]  # noqa: E731

    def train(model):
        model.fit(batches(), steps_per_epoch=3, epochs=2, verbose=0)

    compiled = sgd(metrics=metrics, run_eagerly=False)
    natively = "auto" if private.counts_steps_past_the_end() else "native"  # generators are left to such a Keras
    assert_same(*(run(split_in_time, compiled, train, loop) for loop in ("keras", natively)))


def test_evaluate_and_a_step_by_hand():
    def look(model):
        found = model.evaluate(X, Y, sample_weight=W, batch_size=8, verbose=0)
        return [*found, *np.ravel(model.test_on_batch(X[:5], Y[:5]))] if not IS_OLD else found

    found = [run(of_times, sgd(metrics=["mae"], run_eagerly=False), look, loop).result for loop in ("keras", "native")]
    close(*found, 1e-9)

    def by_hand(model):
        with fs.Trainer(model) as trainer:
            trainer.step(X, Y, sample_weight=W)

    runs = [run(of_times, sgd(), how, "auto") for how in (lambda m: m.train_on_batch(X, Y, W), by_hand)]
    for a, b in zip(runs[0].weights, runs[1].weights):
        close(a, b, 1e-9)


def test_shuffling_takes_whole_rows(monkeypatch):
    """However the run is cut, and none of the positions of a row without the others."""
    fit = lambda m: m.fit(X, Y, batch_size=8, epochs=2, verbose=0, sample_weight=W)  # noqa: E731
    seen = []

    def remember(y_true, y_pred):
        tf.py_function(lambda rows: seen.append(np.array(rows)), [y_true], [])
        return y_true - y_pred

    compiled = sgd(metrics=lambda: ["mae", keras.metrics.LogCoshError()])
    whole = run(noisy, compiled, fit, "native")
    monkeypatch.setattr(training, "_MOST_PLACES", 1)
    monkeypatch.setattr(training, "SECONDS", 0.0)
    assert_same(whole, run(noisy, compiled, fit, "native"), rtol=0)
    run(noisy, sgd(metrics=lambda: [remember]), fit, "native")
    taken = np.concatenate(seen[:3])
    place = [int(np.argmax((Y == row).all((1, 2)))) for row in taken]
    assert sorted(place) == list(range(ROWS)) != place and (Y[place] == taken).all()


def test_check_does_a_training_step():
    model = fs.fuse(of_times())
    model.compile("sgd", "mse")
    report = fs.check(model, [X])
    assert report.ok and any(row.order == "training step" for row in report.rows), report


def test_rows_of_several_axes_are_left_to_keras():
    x = Input((TIMES, 3), name="x")
    h = Dense(8, activation="relu")(keras.layers.Reshape((TIMES * 3,))(x))
    model = fs.fuse(keras.Model(x, keras.layers.Reshape((TIMES, 2))(Dense(8)(h))), loop="native")
    model.compile("sgd", "mse")
    assert "more axes" in fs.explain(model).loops["evaluate"] and "core" in fs.explain(model).loops["predict"]
    with pytest.raises(ValueError, match="more axes"):
        model.fit(X[..., :3], Y, verbose=0)


LEFT = {
    "a weight a row": {"sample_weight": W[:, 0]},
    "weights of other positions": {"sample_weight": W[:, :3]},
    "class weights": {"class_weight": {0: 2.0}},
    "targets of fewer axes": {"y": Y[..., 0]},
    "targets for all positions": {"y": Y[:, :1]},
}


@pytest.mark.parametrize("case", LEFT)
def test_what_is_left_to_keras(case):
    """Its errors among it."""
    results = []
    for loop in ("native", "auto", "keras"):
        keras.utils.set_random_seed(0)
        model = fs.fuse(of_times(), loop=loop)
        model.compile("sgd", "mse")
        try:
            results.append(model.fit(**{"x": X, "y": Y, "shuffle": False, "verbose": 0, **LEFT[case]}).history["loss"])
        except Exception as error:  # noqa: BLE001
            results.append((type(error), str(error)))
    assert results[0][0] is ValueError and "loop='native'" in results[0][1]
    if isinstance(results[1], list):
        close(results[1], results[2], 1e-12)
    else:
        assert results[1][0] is results[2][0]
