"""Functional models drawn at random: supported operations in any order, and others that must be left alone."""

from __future__ import annotations

import random
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers as kl
from keras import ops

DTYPE = "float64"
WIDTHS = (1, 2, 3, 4, 6, 8)
# Without gelu, in which TensorFlow rounds the root of 2 to float32 even in float64, and the core does not.
ACTIVATIONS = ("linear", "relu", "tanh", "sigmoid", "softmax", "silu", "elu", "softplus", "leaky_relu")


@keras.saving.register_keras_serializable(package="tests")
class Opaque(kl.Layer):
    """A layer that nobody knows: `x * w`."""

    def build(self, shape: Any) -> None:
        self.w = self.add_weight(shape=(shape[-1],), initializer="random_normal")

    def call(self, x: Any) -> Any:
        return x * self.w


class Drawn:
    """A model in the making: a pool of tensors of shape (batch, width), and what may be done to them."""

    def __init__(self, rng: random.Random, unsupported: bool):
        self.rng = rng
        self.inputs = [kl.Input((rng.choice(WIDTHS),), dtype=DTYPE) for _ in range(rng.randint(1, 2))]
        self.pool = list(self.inputs)
        self.shared: dict[tuple[int, int], kl.Dense] = {}
        steps = [self.dense, self.dense, self.shared_dense, self.slices, self.lambda_split, self.concat, self.merge]
        steps += [self.operators, self.activation, self.normalization, self.gated, self.stacked, self.nested]
        steps += [self.reshaped, self.dropout, self.scaled]
        for _ in range(rng.randint(3, 14)):
            if unsupported and rng.random() < 0.25:
                self.unsupported()
            else:
                rng.choice(steps)()
        outputs = rng.sample(self.pool[-4:], rng.randint(1, min(3, len(self.pool))) if len(self.pool) > 3 else 1)
        outputs = [y for y in outputs if not any(y is x for x in self.inputs)] or [
            kl.Dense(2, dtype=DTYPE)(self.pool[-1])
        ]
        self.model = keras.Model(self.inputs, outputs if len(outputs) > 1 else outputs[0])
        for variable in self.model.weights:
            if "float" in variable.dtype:
                values = np.random.default_rng(rng.randint(0, 1 << 30)).uniform(0.2, 0.8, variable.shape)
                variable.assign(values * (-1 if rng.random() < 0.3 and "variance" not in variable.path else 1))

    def any(self) -> Any:
        return self.rng.choice(self.pool)

    def pair(self) -> tuple[Any, Any]:
        """Two tensors of one width."""
        a = self.any()
        same = [t for t in self.pool if t.shape[-1] == a.shape[-1]]
        b = self.rng.choice(same)
        return (a, b) if b is not a else (a, kl.Dense(a.shape[-1], dtype=DTYPE)(self.any()))

    def dense(self) -> None:
        units = self.rng.choice(WIDTHS)
        layer = kl.Dense(units, self.rng.choice(ACTIVATIONS), use_bias=self.rng.random() < 0.7, dtype=DTYPE)
        self.pool.append(layer(self.any()))

    def shared_dense(self) -> None:
        x = self.any()
        key = (x.shape[-1], self.rng.choice(WIDTHS[:3]))
        layer = self.shared.setdefault(key, kl.Dense(key[1], "tanh", dtype=DTYPE))
        self.pool.append(layer(x))

    def slices(self) -> None:
        x = self.any()
        if x.shape[-1] > 1:
            at = self.rng.randint(1, x.shape[-1] - 1)
            self.pool += [x[:, :at], x[:, at:]]

    def lambda_split(self) -> None:
        x = self.any()
        if x.shape[-1] % 2 == 0:
            self.pool += list(kl.Lambda(lambda t: tf.split(t, 2, axis=-1), dtype=DTYPE)(x))

    def concat(self) -> None:
        xs = [self.any() for _ in range(self.rng.randint(2, 3))]
        self.pool.append(kl.Concatenate(dtype=DTYPE)(xs) if self.rng.random() < 0.5 else ops.concatenate(xs, axis=-1))

    def merge(self) -> None:
        layer = self.rng.choice((kl.Add, kl.Subtract, kl.Multiply, kl.Average, kl.Maximum, kl.Minimum))
        self.pool.append(layer(dtype=DTYPE)(list(self.pair())))

    def operators(self) -> None:
        a, b = self.pair()
        self.pool.append(self.rng.choice((lambda: a + b, lambda: a - b, lambda: a * b, lambda: ops.maximum(a, b)))())

    def activation(self) -> None:
        self.pool.append(kl.Activation(self.rng.choice(ACTIVATIONS), dtype=DTYPE)(self.any()))

    def normalization(self) -> None:
        x = self.any()
        layer = kl.BatchNormalization if self.rng.random() < 0.5 else kl.LayerNormalization
        self.pool.append(layer(dtype=DTYPE)(x))

    def gated(self) -> None:
        a, b = self.pair()
        self.pool.append(a * ops.sigmoid(b))

    def stacked(self) -> None:
        a, b = self.pair()
        axis = self.rng.choice((1, 2))
        gate = kl.Dense(2, "softmax", dtype=DTYPE)(self.any())
        weighted = ops.stack([a, b], axis=axis) * ops.expand_dims(gate, 3 - axis)
        self.pool.append(ops.sum(weighted, axis=axis) if self.rng.random() < 0.7 else ops.mean(weighted, axis=axis))

    def nested(self) -> None:
        x = self.any()
        inner = keras.Sequential(
            [kl.Input((x.shape[-1],), dtype=DTYPE), kl.Dense(4, "relu", dtype=DTYPE), kl.Dense(2, dtype=DTYPE)]
        )
        self.pool.append(inner(x))

    def reshaped(self) -> None:
        x = self.any()
        if x.shape[-1] % 2 == 0:
            y = kl.Reshape((2, x.shape[-1] // 2), dtype=DTYPE)(x)
            y = kl.Dense(2, "tanh", dtype=DTYPE)(y) if self.rng.random() < 0.5 else kl.Permute((2, 1), dtype=DTYPE)(y)
            self.pool.append(kl.Flatten(dtype=DTYPE)(y))

    def dropout(self) -> None:
        self.pool.append(kl.Dropout(0.3, dtype=DTYPE)(self.any()))

    def scaled(self) -> None:
        x = self.any()
        self.pool.append(
            self.rng.choice((lambda: x * 0.5 + 1.0, lambda: 1.0 - x, lambda: kl.Rescaling(2.0, dtype=DTYPE)(x)))()
        )

    def unsupported(self) -> None:
        x = self.any()
        kind = self.rng.randint(0, 5)
        if kind == 0:
            self.pool.append(Opaque(dtype=DTYPE)(x))
        elif kind == 1:
            self.pool.append(ops.softmax(x, axis=0))
        elif kind == 2:
            self.pool.append(kl.Lambda(lambda t: t - tf.reduce_mean(t, axis=0), dtype=DTYPE)(x))
        elif kind == 3:
            self.pool.append(ops.cumsum(x, axis=-1))
        elif kind == 4:
            self.pool.append(x / (1.0 + ops.square(x)))
        else:
            self.pool.append(kl.Dense(3, "tanh", activity_regularizer="l2", dtype=DTYPE)(x))
