"""Models in which the pattern is the hot path, written for Keras 3 as their public sources write them.

Each function gives a functional model; its default sizes are the published ones. Only what the sources build the
pattern with is kept: embeddings and other preprocessing in front of it are one dense input here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import layers as kl
from keras import ops


def mmoe(
    features: int = 128,
    experts: int = 3,
    expert_units: Sequence[int] = (256, 128),
    tower_units: Sequence[int] = (64,),
    tasks: int = 2,
) -> keras.Model:
    """Multi-gate mixture of experts: a gate for each task weighs the same experts.

    Source: Ma et al., 2018; after DeepCTR's deepctr/models/multitask/mmoe.py.
    """
    x = kl.Input((features,))
    outs = [_stack(x, expert_units, "relu") for _ in range(experts)]
    stacked = kl.Lambda(lambda t: tf.stack(t, axis=1))(outs)
    given = []
    for _ in range(tasks):
        gate = kl.Dense(experts, use_bias=False, activation="softmax")(x)
        gate = kl.Lambda(lambda t: tf.expand_dims(t, axis=-1))(gate)
        mixed = kl.Lambda(lambda t: tf.reduce_sum(t[0] * t[1], axis=1, keepdims=False))([stacked, gate])
        given.append(kl.Dense(1, activation="sigmoid")(_stack(mixed, tower_units, "relu")))
    return keras.Model(x, given, name="mmoe")


def ple(
    features: int = 128,
    shared_experts: int = 1,
    own_experts: int = 1,
    levels: int = 2,
    expert_units: Sequence[int] = (256, 128),
    tower_units: Sequence[int] = (64,),
    tasks: int = 2,
) -> keras.Model:
    """Progressive layered extraction: levels of experts, some of them shared by the tasks, each level with its gates.

    Source: Tang et al., 2020; after DeepCTR's deepctr/models/multitask/ple.py.
    """
    x = kl.Input((features,))
    reads = [x] * (tasks + 1)  # the last one is what the tasks share
    for level in range(levels):
        own = [[_stack(reads[t], expert_units, "relu") for _ in range(own_experts)] for t in range(tasks)]
        shared = [_stack(reads[-1], expert_units, "relu") for _ in range(shared_experts)]
        gated = [_gated(reads[t], [*own[t], *shared]) for t in range(tasks)]
        if level < levels - 1:
            gated.append(_gated(reads[-1], [*(e for es in own for e in es), *shared]))
        reads = gated
    return keras.Model(
        x, [kl.Dense(1, activation="sigmoid")(_stack(r, tower_units, "relu")) for r in reads], name="ple"
    )


def _gated(x: Any, experts: Sequence[Any]) -> Any:
    stacked = kl.Lambda(lambda t: tf.stack(t, axis=1))(list(experts))
    gate = kl.Dense(len(experts), use_bias=False, activation="softmax")(x)
    gate = kl.Lambda(lambda t: tf.expand_dims(t, axis=-1))(gate)
    return kl.Lambda(lambda t: tf.reduce_sum(t[0] * t[1], axis=1))([stacked, gate])


def grn_vsn(features: int = 19, units: int = 16, dropout: float = 0.15) -> keras.Model:
    """A gated residual network for each feature, and a variable selection network that weighs them.

    Source: Lim et al., 2019; after keras.io's classification_with_grn_and_vsn.
    """
    x = kl.Input((features,))
    encoded = [kl.Dense(units)(ops.expand_dims(x[:, i], axis=-1)) for i in range(features)]
    weights = _grn(kl.Concatenate()(encoded), units, dropout)
    weights = ops.expand_dims(kl.Dense(features, activation="softmax")(weights), axis=-1)
    selected = ops.stack([_grn(e, units, dropout) for e in encoded], axis=1)
    return keras.Model(x, kl.Dense(1, activation="sigmoid")(ops.sum(weights * selected, axis=1)), name="grn_vsn")


def grn(features: int = 64, units: int = 64, dropout: float = 0.1, depth: int = 2) -> keras.Model:
    """Gated residual networks one behind the other."""
    x = h = kl.Input((features,))
    for _ in range(depth):
        h = _grn(h, units, dropout)
    return keras.Model(x, kl.Dense(1)(h), name="grn")


def _grn(x: Any, units: int, dropout: float) -> Any:
    h = kl.Dense(units)(kl.Dense(units, activation="elu")(x))
    h = kl.Dropout(dropout)(h)
    if x.shape[-1] != units:
        x = kl.Dense(units)(x)
    gated = kl.Multiply()([kl.Dense(units)(h), kl.Dense(units, activation="sigmoid")(h)])
    return kl.LayerNormalization()(kl.Add()([x, gated]))


class Sampling(kl.Layer):
    """A draw from a normal distribution; random, so it stays as it is."""

    def call(self, inputs: Any) -> Any:
        mean, log_variance = inputs
        return mean + ops.exp(0.5 * log_variance) * keras.random.normal(ops.shape(mean), seed=1)


def vae(features: int = 784, units: int = 400, latent: int = 20) -> keras.Model:
    """A variational autoencoder's two heads, its random Lambda, and the decoder."""
    x = kl.Input((features,))
    h = kl.Dense(units, activation="relu")(x)
    mean, log_variance = kl.Dense(latent, name="z_mean")(h), kl.Dense(latent, name="z_log_var")(h)
    z = Sampling()([mean, log_variance])
    y = kl.Dense(features, activation="sigmoid")(kl.Dense(units, activation="relu")(z))
    return keras.Model(x, [y, mean, log_variance], name="vae")


def nbeats(backcast: int = 50, forecast: int = 10, units: int = 256, thetas: int = 8, blocks: int = 4) -> keras.Model:
    """N-BEATS' generic stack: each block explains away a part of the past and adds to the forecast.

    Source: Oreshkin et al., 2019; after philipperemy/n-beats.
    """
    x = past = kl.Input((backcast,))
    total = None
    for _ in range(blocks):
        h = _stack(past, (units,) * 4, "relu")
        theta = kl.Dense(thetas, activation="relu", use_bias=False)(h)
        past = kl.Subtract()([past, kl.Dense(backcast, use_bias=False)(theta)])
        ahead = kl.Dense(forecast, use_bias=False)(kl.Dense(thetas, activation="relu", use_bias=False)(h))
        total = ahead if total is None else kl.Add()([total, ahead])
    return keras.Model(x, [past, total], name="nbeats")


def swiglu(width: int = 512, units: int = 1376, blocks: int = 2) -> keras.Model:
    """LLaMA's feed-forward blocks: `down(silu(gate(x)) * up(x))`, with a residual, over (batch, time, width)."""
    x = h = kl.Input((None, width))
    for _ in range(blocks):
        gate, up = kl.Dense(units, use_bias=False, activation="silu")(h), kl.Dense(units, use_bias=False)(h)
        h = kl.Add()([h, kl.Dense(width, use_bias=False)(kl.Multiply()([gate, up]))])
    return keras.Model(x, h, name="swiglu")


def tabnet_step(features: int = 128, units: int = 64) -> keras.Model:
    """TabNet's feature transformer: gated linear units with batch normalization between, two of them residual.

    Source: Arik and Pfister, 2019; after titu1994/tf-TabNet.
    """
    x = kl.Input((features,))
    h = kl.BatchNormalization()(x)
    for i in range(4):
        z = kl.BatchNormalization()(kl.Dense(2 * units, use_bias=False)(h))
        gated = z[:, :units] * ops.sigmoid(z[:, units:])
        h = (h + gated) * 0.70710678 if i else gated
    return keras.Model(x, [ops.relu(h[:, : units // 2]), h[:, units // 2 :]], name="tabnet_step")


class Scale(kl.Layer):
    """`x * weight`, a vector: an adapter of TabM."""

    def build(self, shape: Any) -> None:
        self.weight = self.add_weight(shape=(shape[-1],), initializer="ones", name="weight")

    def call(self, x: Any) -> Any:
        return x * self.weight


def tabm(features: int = 64, units: int = 512, layers: int = 3, members: int = 32) -> keras.Model:
    """TabM: MLPs that share their kernels, each with its own input scale, output scale and bias; the mean of them.

    Source: Gorishniy et al., 2025 (yandex-research/tabm).
    """
    x = kl.Input((features,))
    shared = [kl.Dense(units, use_bias=False) for _ in range(layers)]
    outs = []
    for _ in range(members):
        h = x
        for dense in shared:
            h = kl.Activation("relu")(Scale()(dense(Scale()(h))))
        outs.append(kl.Dense(1)(h))
    return keras.Model(x, kl.Average()(outs), name="tabm")


def mlp(features: int = 133, units: Sequence[int] = (256, 128, 64), dropout: float = 0.1) -> keras.Model:
    """Dense, BatchNormalization, relu and Dropout, one after the other."""
    x = h = kl.Input((features,))
    for n in units:
        h = kl.Dropout(dropout)(kl.Activation("relu")(kl.BatchNormalization()(kl.Dense(n)(h))))
    return keras.Model(x, kl.Dense(1, activation="sigmoid")(h), name="mlp")


def dcn_v2(features: int = 256, crosses: int = 3, rank: int = 64, units: Sequence[int] = (256, 128)) -> keras.Model:
    """Deep and cross network 2, low rank: `x0 * (V(U x) + b) + x`, beside a deep part.

    Source: Wang et al., 2021.
    """
    x0 = x = kl.Input((features,))
    for _ in range(crosses):
        x = kl.Add()([kl.Multiply()([x0, kl.Dense(features)(kl.Dense(rank, use_bias=False)(x))]), x])
    deep = _stack(x0, units, "relu")
    return keras.Model(x0, kl.Dense(1, activation="sigmoid")(kl.Concatenate()([x, deep])), name="dcn_v2")


def _stack(x: Any, units: Sequence[int], activation: str) -> Any:
    for n in units:
        x = kl.Dense(n, activation=activation)(x)
    return x


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A model to be made, and the axes of its input that are neither batch nor features."""

    make: Callable[..., keras.Model]
    extra: tuple[int, ...] = ()


ARCHITECTURES: dict[str, Architecture] = {
    "mmoe": Architecture(mmoe),
    "ple": Architecture(ple),
    "grn": Architecture(grn),
    "grn_vsn": Architecture(grn_vsn),
    "vae": Architecture(vae),
    "nbeats": Architecture(nbeats),
    "swiglu": Architecture(swiglu, (16,)),
    "tabnet_step": Architecture(tabnet_step),
    "tabm": Architecture(tabm),
    "mlp": Architecture(mlp),
    "dcn_v2": Architecture(dcn_v2),
}
