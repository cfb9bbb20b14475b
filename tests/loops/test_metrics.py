"""Every kind of metric, however its numbers are gathered."""

import keras
import numpy as np
import pytest

from tests.loops.side_by_side import IS_OLD, ROWS, W, X, Y, branches, check, classes, close, floats, run, two_outputs


def adam(loss, **more):
    return lambda: {"optimizer": keras.optimizers.Adam(0.01), "loss": loss, **{k: v() for k, v in more.items()}}


class Range(keras.metrics.Metric):
    """A user's, which is no sum over rows."""

    def __init__(self, name="range"):
        super().__init__(name=name)
        self.widest = self.add_weight(shape=(), initializer="zeros", name="widest")

    def update_state(self, y_true, y_pred, sample_weight=None):
        width = keras.ops.max(y_pred) - keras.ops.min(y_pred)
        self.widest.assign(self.widest * 0.5 + width)

    def result(self):
        return self.widest + 0.0


class Both(Range):
    """One that gives several results, under names of their own."""

    def result(self):
        return {"widest": self.widest + 0.0, "half": self.widest / 2}


def rms(y_true, y_pred):
    """A plain function: its mean is over batches, not rows."""
    return keras.ops.sqrt(keras.ops.mean(keras.ops.square(y_true - y_pred)))


def test_of_numbers():
    def kinds():
        m = keras.metrics
        return [
            *("mae", "mse", rms, m.RootMeanSquaredError(), m.MeanAbsolutePercentageError(), m.LogCoshError()),
            *(m.R2Score(), m.CosineSimilarity(), m.MeanMetricWrapper(rms, name="wrapped"), Range()),
        ]

    check(branches, adam("mse", metrics=kinds), X, Y, sample_weight=W, validation_split=0.3)


def test_several_results_of_one():
    options = {"batch_size": 16, "epochs": 2, "shuffle": False, "verbose": 0, "validation_split": 0.3}
    compiled = adam("mse", metrics=lambda: [Both("both")])
    runs = [run(branches, compiled, lambda m: m.fit(X, Y, **options), loop) for loop in ("keras", "native")]
    assert set(runs[1].history) == set(runs[0].history) >= {"widest", "val_half"}
    for name, values in runs[0].history.items():
        close(values, runs[1].history[name], 1e-9, name)


def test_weighted_ones():
    def kinds():
        m = keras.metrics
        return ["mae", m.RootMeanSquaredError(), m.R2Score(), m.MeanSquaredError(name="other")]

    compiled = adam("mse", weighted_metrics=kinds, metrics=lambda: ["mae"])
    check(branches, compiled, X, Y, sample_weight=W)
    check(branches, compiled, X, Y)


def test_of_two_classes():
    def kinds():
        m = keras.metrics
        return [
            *("accuracy", m.AUC(), m.AUC(curve="PR", name="pr"), m.Precision(), m.Recall(), m.PrecisionAtRecall(0.5)),
            *(m.F1Score(threshold=0.5), m.TruePositives(), m.BinaryCrossentropy(), m.BinaryIoU([0, 1])),
        ]

    check(lambda: branches(1, "sigmoid"), adam("binary_crossentropy", metrics=kinds), X, classes(2)[:, None])


@pytest.mark.parametrize("sparse", [True, False])
def test_of_classes(sparse):
    def kinds():
        m = keras.metrics
        if sparse:
            return ["accuracy", m.SparseCategoricalCrossentropy(), m.SparseCategoricalAccuracy(name="again")]
        return ["accuracy", "acc", m.CategoricalCrossentropy(), m.F1Score(average="macro"), m.AUC(), m.KLDivergence()]

    loss = "sparse_categorical_crossentropy" if sparse else "categorical_crossentropy"
    y = classes(3) if sparse else np.eye(3)[classes(3)]
    check(lambda: branches(3, "softmax"), adam(loss, metrics=kinds), X, y)


def test_the_same_name_twice():
    compiled = adam("mse", metrics=lambda: ["mae", "mae"], weighted_metrics=lambda: ["mae", "mse"])
    check(branches, compiled, X, Y, sample_weight=W)


@pytest.mark.parametrize("losses", [["mse", None], [None, "sparse_categorical_crossentropy"]])
def test_an_output_without_a_loss(losses):
    compiled = adam(losses, metrics=lambda: [["mae"], ["accuracy"]])
    x, y = [X, floats(ROWS, 3, seed=4)], [Y, classes(3)]
    if IS_OLD:
        with pytest.raises(ValueError, match="loop='native'"):
            run(two_outputs, compiled, lambda model: model.fit(x, y, verbose=0), "native")
        return
    check(two_outputs, compiled, x, y)


def test_more_rows_than_are_collected_at_a_time():
    x, y = np.tile(X, (500, 1)), np.tile(Y, (500, 1))
    compiled = adam(
        "mse", metrics=lambda: [keras.metrics.R2Score(), "mae", keras.metrics.MeanSquaredLogarithmicError()]
    )
    check(branches, compiled, x, y, batch_size=1000, epochs=2)


def test_totals_after_fit_with_validation_are_the_validations():
    runs = check(branches, adam("mse", metrics=lambda: ["mae"]), X, Y, validation_split=0.2)
    assert runs[1].metrics[1] == 9  # rows of the last pass
