"""Small Keras models for the tests of fused models: each is fused to something, most of them wholly."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers as kl

WIDTH = 6


def functional(name: str | None = None, last: str = "linear", **options: Any) -> keras.Model:
    """Dense, two branches, concatenated, and a head."""
    x = keras.Input((WIDTH,), name=None if name is None else f"{name}_x")
    h = kl.Dense(8, activation="tanh", name=None if name is None else f"{name}_stem", **options)(x)
    a, b = kl.Dense(4, activation="relu")(h), kl.Dense(3)(h)
    y = kl.Dense(2, activation=last)(kl.Concatenate()([a, b]))
    return keras.Model(x, y, name=name)


def sequential(name: str | None = None, built: bool = True) -> keras.Sequential:
    layers = [kl.Dense(8, activation="relu"), kl.Dropout(0.25), kl.Dense(4, activation="tanh"), kl.Dense(2)]
    return keras.Sequential([keras.Input((WIDTH,)), *layers] if built else layers, name=name)


def normalized(axis_count: int = 1) -> keras.Model:
    """An MLP with BatchNormalization and Dropout."""
    x = keras.Input((*[3] * (axis_count - 1), WIDTH))
    h = kl.Dropout(0.3, seed=5)(kl.BatchNormalization()(kl.Dense(8, activation="relu")(x)))
    h = kl.LayerNormalization()(kl.Dense(5, activation="tanh")(h))
    return keras.Model(x, kl.Dense(2)(h))


def two_inputs() -> keras.Model:
    """Example 1 of the merge layers: two inputs, a Dense each, concatenated, a sigmoid."""
    a, b = keras.Input((10,), name="a"), keras.Input((5,), name="b")
    merged = kl.concatenate([kl.Dense(64, activation="relu")(a), kl.Dense(32, activation="relu")(b)])
    return keras.Model([a, b], kl.Dense(1, activation="sigmoid")(merged))


def rows(n: int = 12, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, *(shape or (WIDTH,)))).astype("float32")


def data(n: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Inputs, and targets that depend on them."""
    x = rows(n)
    return x, np.stack([np.sin(x[:, 0]), x[:, 1] * x[:, 2]], 1).astype("float32")


def twin(model: Any) -> Any:
    """Another model with the same weights."""
    other = keras.models.clone_model(model)
    other.set_weights(model.get_weights())
    return other


def ops_of(model: Any, *inputs: Any, **kwargs: Any) -> set[str]:
    """The names of TensorFlow's operations in a traced call."""
    import tensorflow as tf

    graph = tf.function(lambda *xs: model(xs if len(xs) > 1 else xs[0], **kwargs)).get_concrete_function(*inputs).graph
    return {node.op for node in graph.as_graph_def().node}
