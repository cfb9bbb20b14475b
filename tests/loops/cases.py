"""The losses and optimizers that fit is compared with Keras' on."""

from __future__ import annotations

import keras
import numpy as np

from tests.loops.side_by_side import ROWS, classes, floats

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
