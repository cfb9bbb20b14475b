"""`fit` natively is Keras' `fit`: weights, optimizer state, History and metrics."""

import keras
import numpy as np
import pytest

from tests.loops.side_by_side import ROWS, branches, check, classes, deep, floats, regularized, two_outputs

X = lambda: floats(ROWS, 6)  # noqa: E731


def adam(loss, **more):
    return lambda: {"optimizer": keras.optimizers.Adam(0.01), "loss": loss() if callable(loss) else loss, **more}


ABOVE_ZERO = ("mean_squared_logarithmic_error", "poisson", "mean_absolute_percentage_error", "kl_divergence")


@pytest.mark.parametrize(
    "loss",
    [
        "mse",
        "mae",
        "mape",
        "msle",
        "huber",
        "log_cosh",
        "poisson",
        "kl_divergence",
        "hinge",
        "squared_hinge",
        "categorical_hinge",
        lambda: keras.losses.Huber(delta=0.3, reduction="sum"),
    ],
)
def test_losses_of_numbers(loss):
    y = floats(ROWS, 2, seed=2)
    positive = loss in ("mape", "msle", "poisson", "kl_divergence")
    if loss in ("hinge", "squared_hinge"):
        y = np.sign(y)
    elif loss == "categorical_hinge":
        y = np.eye(2)[classes(2)]
    make = lambda: branches(2, "softplus" if positive else None)  # noqa: E731
    check(make, adam(loss), X(), abs(y) + 0.1 if positive else y)


@pytest.mark.parametrize("activation", ["sigmoid", None])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_binary_crossentropy(activation, smoothing):
    def loss():
        return keras.losses.BinaryCrossentropy(from_logits=activation is None, label_smoothing=smoothing)

    metrics = [] if activation is None else ["accuracy", keras.metrics.BinaryAccuracy(threshold=0.3, name="low")]
    check(lambda: branches(1, activation), adam(loss, metrics=metrics), X(), classes(2))


@pytest.mark.parametrize("activation", ["softmax", None])
@pytest.mark.parametrize("sparse", [True, False])
def test_categorical_crossentropy(activation, sparse):
    def loss():
        kind = keras.losses.SparseCategoricalCrossentropy if sparse else keras.losses.CategoricalCrossentropy
        return kind(from_logits=activation is None)

    y = classes(3) if sparse else np.eye(3)[classes(3)]
    check(lambda: branches(3, activation), adam(loss, metrics=["accuracy"]), X(), y)


def test_a_crossentropy_of_probabilities_that_are_no_softmax():
    def make():
        model = branches(3, "softplus")
        total = keras.ops.sum(model.output, axis=-1, keepdims=True)
        return keras.Model(model.input, model.output / total)

    try:
        check(make, adam("categorical_crossentropy"), X(), np.eye(3)[classes(3)])
    except ValueError as error:
        assert "loop='native'" in str(error)


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
