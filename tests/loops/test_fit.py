"""`fit` natively is Keras' `fit`: weights, optimizer state, History and metrics."""

import keras
import numpy as np
import pytest
from keras.layers import Dense, Input

import fusedsplit as fs
from fusedsplit.loops import _keras_private as private
from tests.loops.cases import HEADS, OPTIMIZERS
from tests.loops.side_by_side import ROWS, branches, check, classes, deep, floats, regularized, two_outputs

X = lambda: floats(ROWS, 6)  # noqa: E731


def adam(loss, **more):
    return lambda: {"optimizer": keras.optimizers.Adam(0.01), "loss": loss() if callable(loss) else loss, **more}


WITH_ACCURACY = ("binary", "kinds", "sparse")


def heads():
    x = Input((6,), name="x")
    h = Dense(9, activation="tanh")(x)
    return keras.Model(
        x, [Dense(2, activation=HEADS[n][1], name=n)(h[:, i % 4 : i % 4 + 5]) for i, n in enumerate(HEADS)]
    )


def test_every_loss():
    """Each of an output of its own, with its own weight; History says which one differs."""
    compiled = adam(
        lambda: [make() for make, _, _ in HEADS.values()],
        loss_weights=[0.5 + 0.1 * i for i in range(len(HEADS))],
        metrics=[["accuracy"] if n in WITH_ACCURACY else [] for n in HEADS],
    )
    check(heads, compiled, X(), [make() for _, _, make in HEADS.values()])


@pytest.mark.parametrize("units", [1, 3])
def test_crossentropies_of_one_output(units):
    loss, activation = ("binary", "sigmoid") if units == 1 else ("sparse_categorical", "softmax")
    low = [keras.metrics.BinaryAccuracy(threshold=0.3, name="low")] if units == 1 else []
    compiled = lambda: {"optimizer": "adam", "loss": f"{loss}_crossentropy", "metrics": ["accuracy", *low]}  # noqa: E731
    check(lambda: branches(units, activation), compiled, X(), classes(max(2, units)))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers(name):
    check(branches, lambda: {"optimizer": OPTIMIZERS[name](), "loss": "mse"}, X(), floats(ROWS, 1, seed=2))


def test_variables_without_weight_decay():
    def compiled():
        optimizer = keras.optimizers.AdamW(0.01, weight_decay=0.1)
        optimizer.exclude_from_weight_decay(var_names=["bias"])
        return {"optimizer": optimizer, "loss": "mse"}

    check(branches, compiled, X(), floats(ROWS, 1, seed=2))


def test_regularizers_of_trainable_variables_count():
    if not private.rounds_regularizers():
        x = Input((6,))
        model = fs.fuse(keras.Model(x, Dense(1, kernel_regularizer="l2")(Dense(4)(x))), loop="native")
        model.compile("sgd", "mse")
        with pytest.raises(ValueError, match="does not round"):
            model.fit(X(), floats(ROWS, 1, seed=2), verbose=0)
        return
    check(regularized, adam("mse"), X(), floats(ROWS, 1, seed=2), validation_split=0.2)


def test_a_shared_layer_a_frozen_one_and_a_normalization():
    check(lambda: deep(2), adam("mse", metrics=["mae"]), X(), floats(ROWS, 2, seed=2))


@pytest.mark.parametrize("loss_weights", [None, [0.3, 2.0]])
def test_two_outputs(loss_weights):
    x, y = [X(), floats(ROWS, 3, seed=4)], [floats(ROWS, 1, seed=2), classes(3)]
    compiled = adam(
        ["mse", "sparse_categorical_crossentropy"], loss_weights=loss_weights, metrics=[["mae"], ["accuracy"]]
    )
    check(two_outputs, compiled, x, y, sample_weight=abs(floats(ROWS, seed=5)), validation_split=0.3)


@pytest.mark.parametrize("reduction", ["sum", "sum_over_batch_size", "mean_with_sample_weight"])
def test_sample_weights(reduction):
    if reduction == "mean_with_sample_weight":
        try:
            keras.losses.MeanSquaredError(reduction=reduction)
        except ValueError:
            pytest.skip("not in this Keras")
    compiled = adam(
        lambda: keras.losses.MeanSquaredError(reduction=reduction), metrics=["mae"], weighted_metrics=["mse", "mae"]
    )
    weight = abs(floats(ROWS, seed=5))
    check(branches, compiled, X(), floats(ROWS, 1, seed=2), sample_weight=weight)


@pytest.mark.parametrize("one_hot", [True, False])
def test_class_weights(one_hot):
    y = np.eye(3)[classes(3)] if one_hot else classes(3)
    loss = "categorical_crossentropy" if one_hot else "sparse_categorical_crossentropy"
    compiled = adam(loss, weighted_metrics=["accuracy"])
    options = {"class_weight": {0: 0.3, 2: 4.0}, "validation_data": (X()[:9], y[:9])}
    check(lambda: branches(3, "softmax"), compiled, X(), y, **options)
