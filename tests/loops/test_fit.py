"""`fit` natively is Keras' `fit`: weights, optimizer state, History and metrics."""

import keras
import numpy as np
import pytest
from keras.layers import Dense, Input

from tests.loops.side_by_side import IS_OLD, ROWS, branches, check, classes, deep, floats, regularized, two_outputs

X = lambda: floats(ROWS, 6)  # noqa: E731


def adam(loss, **more):
    return lambda: {"optimizer": keras.optimizers.Adam(0.01), "loss": loss() if callable(loss) else loss, **more}


L = keras.losses
# Name of an output -> (its loss, its activation, what it is to be).
HEADS = {
    "mse": (lambda: "mse", None, lambda: floats(ROWS, 2, seed=2)),
    "mae": (lambda: "mae", None, lambda: floats(ROWS, 2, seed=2)),
    "mape": (lambda: "mape", "softplus", lambda: 0.1 + abs(floats(ROWS, 2, seed=2))),
    "msle": (lambda: "msle", "softplus", lambda: abs(floats(ROWS, 2, seed=2))),
    "huber": (lambda: L.Huber(delta=0.3, reduction="sum"), None, lambda: floats(ROWS, 2, seed=2)),
    "log_cosh": (lambda: "log_cosh", None, lambda: floats(ROWS, 2, seed=2)),
    "poisson": (lambda: "poisson", "softplus", lambda: abs(floats(ROWS, 2, seed=2))),
    "divergence": (lambda: "kl_divergence", "softplus", lambda: abs(floats(ROWS, 2, seed=2))),
    "hinge": (lambda: "hinge", None, lambda: np.sign(floats(ROWS, 2, seed=2))),
    "squared_hinge": (lambda: "squared_hinge", None, lambda: np.eye(2)[classes(2)]),
    "categorical_hinge": (lambda: "categorical_hinge", None, lambda: np.eye(2)[classes(2)]),
    "binary": (lambda: "binary_crossentropy", "sigmoid", lambda: np.eye(2)[classes(2)]),
    "smooth": (lambda: L.BinaryCrossentropy(label_smoothing=0.1), "sigmoid", lambda: np.eye(2)[classes(2)]),
    "logits": (lambda: L.BinaryCrossentropy(from_logits=True), None, lambda: np.eye(2)[classes(2)]),
    "probabilities": (lambda: "binary_crossentropy", "hard_sigmoid", lambda: np.eye(2)[classes(2)]),
    "kinds": (lambda: L.CategoricalCrossentropy(label_smoothing=0.2), "softmax", lambda: np.eye(2)[classes(2)]),
    "kinds_logits": (lambda: L.CategoricalCrossentropy(from_logits=True), None, lambda: np.eye(2)[classes(2)]),
    "kinds_of_none": (lambda: "categorical_crossentropy", "softplus", lambda: np.eye(2)[classes(2)]),
    "sparse": (lambda: "sparse_categorical_crossentropy", "softmax", lambda: classes(2)),
    "sparse_logits": (lambda: L.SparseCategoricalCrossentropy(from_logits=True), None, lambda: classes(2)),
    "sparse_of_none": (lambda: "sparse_categorical_crossentropy", "softplus", lambda: classes(2).astype("float32")),
}
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


OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.05),
    "momentum": lambda: keras.optimizers.SGD(0.05, momentum=0.8),
    "nesterov": lambda: keras.optimizers.SGD(0.05, momentum=0.8, nesterov=True),
    "adam": lambda: keras.optimizers.Adam(0.01),
    "amsgrad": lambda: keras.optimizers.Adam(0.01, amsgrad=True, beta_1=0.8, epsilon=1e-5),
    "adamw": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.02),
    "rmsprop": lambda: keras.optimizers.RMSprop(0.01),
    "rmsprop-centered": lambda: keras.optimizers.RMSprop(0.01, rho=0.8, momentum=0.5, centered=True),
    "adagrad": lambda: keras.optimizers.Adagrad(0.05, initial_accumulator_value=0.2),
    "nadam": lambda: keras.optimizers.Nadam(0.01),
    "lion": lambda: keras.optimizers.Lion(0.003, weight_decay=0.01),
    "clipnorm": lambda: keras.optimizers.Adam(0.01, clipnorm=0.1),
    "global_clipnorm": lambda: keras.optimizers.SGD(0.05, momentum=0.5, global_clipnorm=0.1),
    "clipvalue": lambda: keras.optimizers.SGD(0.05, clipvalue=0.02),
    "sgd-decay": lambda: keras.optimizers.SGD(0.05, weight_decay=0.01),
    "ema": lambda: keras.optimizers.SGD(0.05, use_ema=True, ema_momentum=0.9),
    "ema-overwrite": lambda: keras.optimizers.Adam(0.01, use_ema=True, ema_momentum=0.9, ema_overwrite_frequency=2),
    "accumulation": lambda: keras.optimizers.Adam(0.01, gradient_accumulation_steps=2),
    "schedule": lambda: keras.optimizers.SGD(keras.optimizers.schedules.ExponentialDecay(0.1, 2, 0.7)),
    "piecewise": lambda: keras.optimizers.Adam(
        keras.optimizers.schedules.PiecewiseConstantDecay([2, 5], [0.1, 0.05, 0.01])
    ),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers(name):
    check(branches, lambda: {"optimizer": OPTIMIZERS[name](), "loss": "mse"}, X(), floats(ROWS, 1, seed=2))


def test_variables_without_weight_decay():
    def compiled():
        optimizer = keras.optimizers.AdamW(0.01, weight_decay=0.1)
        optimizer.exclude_from_weight_decay(var_names=["bias"])
        return {"optimizer": optimizer, "loss": "mse"}

    check(branches, compiled, X(), floats(ROWS, 1, seed=2))


@pytest.mark.skipif(IS_OLD, reason="this Keras' regularizers compute in float32")
def test_regularizers_of_trainable_variables_count():
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
