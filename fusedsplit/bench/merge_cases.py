"""Every merge, the gated units, several inputs and dynamic splits: fused layers at sizes that real models use."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from keras.layers import Activation, Dense

import fusedsplit as fs
from fusedsplit.bench import fused
from fusedsplit.bench.cases import draw_weights
from fusedsplit.plan import Dense as DenseStep
from fusedsplit.plan import Plan

BATCHES = (512, 4096)
MODES = ("forward", "gradients")


@dataclasses.dataclass(frozen=True)
class MergeCase:
    """A fused layer with one output.

    Attributes:
        name: as the command line and the tables have it.
        inputs: the width of the input, or that of each one where the layer is called on a list.
        make: the layer, given the options that all fused layers have in common.
        why: what it stands for.
    """

    name: str
    inputs: int | tuple[int, ...]
    make: Callable[..., Any]
    why: str

    @property
    def widths(self) -> tuple[int, ...]:
        return self.inputs if isinstance(self.inputs, tuple) else (self.inputs,)

    def layer(self, backend: str) -> Any:
        """The layer, built, with weights of its own."""
        layer = self.make(backend=backend)
        shapes = [(None, width) for width in self.widths]
        layer.build(shapes if isinstance(self.inputs, tuple) else shapes[0])
        return layer

    @functools.cached_property
    def plan(self) -> Plan:
        return fused.plan(self.layer("tf"))

    @property
    def outputs(self) -> int:
        return self.plan.values[self.plan.outputs[0]].width

    def flops(self) -> int:
        """As `Case.flops`; the products of a dynamic split count as if no column were skipped."""
        return self.plan.flops()

    def gradient_flops(self) -> int:
        """As `Case.gradient_flops`: the inputs' own gradients are not asked for."""
        firsts = [s for s in self.plan.steps if isinstance(s, DenseStep) and s.src.value in self.plan.inputs]
        return 3 * self.flops() - sum(2 * s.src.width * s.dst.width for s in firsts)

    def weights(self, seed: int = 0) -> list[np.ndarray]:
        """In weight order, as `Case.weights`."""
        return draw_weights(self.name, [param.shape for param in self.plan.params], seed)

    def rows(self, batch: int, seed: int = 0) -> Any:
        """Random rows: an array, or a list of them."""
        rng = np.random.default_rng([seed, batch, 1])
        arrays = [rng.standard_normal((batch, width), "float32") for width in self.widths]
        return arrays if isinstance(self.inputs, tuple) else arrays[0]

    def upstream(self, batch: int, seed: int = 0) -> np.ndarray:
        """A gradient to hand in at the output."""
        rng = np.random.default_rng([seed, batch, 2])
        return rng.standard_normal((batch, self.outputs), "float32")


def _relu(*units: int) -> list[Dense]:
    return [Dense(n, activation="relu") for n in units]


def _elementwise(merge: str) -> MergeCase:
    def make(**options: Any) -> Any:
        return fs.SplitDense(Dense(256), _relu(64, 64, 64, 64), merge=merge, head=Dense(16), **options)

    return MergeCase(merge, 128, make, "four branches as in med, and a head")


def _mixture(
    name: str, width: int, experts: Callable[[], list[Any]], head: Callable[[], list[Any]], why: str
) -> MergeCase:
    def make(**options: Any) -> Any:
        branches = experts()
        gate = Dense(len(branches))
        return fs.MergeDense([*branches, gate], merge=fs.merges.mixture(), head=head(), **options)

    return MergeCase(name, width, make, why)


def _merged(
    name: str, inputs: int | tuple[int, ...], branches: Callable[[], list[Any]], why: str, head: int = 0, **fixed: Any
) -> MergeCase:
    def make(**options: Any) -> Any:
        return fs.MergeDense(branches(), head=Dense(head) if head else None, **fixed, **options)

    return MergeCase(name, inputs, make, why)


def _split(
    name: str,
    width: int,
    stem: Callable[[], Dense],
    branches: Callable[[], list[Any]],
    why: str,
    head: int = 0,
    **fixed: Any,
) -> MergeCase:
    def make(**options: Any) -> Any:
        return fs.SplitDense(stem(), branches(), head=Dense(head) if head else None, **fixed, **options)

    return MergeCase(name, width, make, why)


def _gated(name: str, activation: str, why: str) -> MergeCase:
    return _split(
        name, 128, lambda: Dense(512), lambda: [Activation(activation), None], why, head=128, merge="multiply"
    )


def _dynamic(name: str, point: Callable[[Any], Any], why: str) -> MergeCase:
    def make(**options: Any) -> Any:
        return fs.DynamicSplitDense(Dense(256), *_relu(128, 128), split=point, **options)

    return MergeCase(name, 128, make, why)


def _positive(x: Any) -> tf.Tensor:
    """For each row, how many of its features are positive."""
    return tf.reduce_sum(tf.cast(x > 0, tf.int32), axis=-1)


_ALL = (
    *(_elementwise(name) for name in fs.merges.ELEMENTWISE),
    _merged("weighted", 128, lambda: _relu(64, 64), "concat([y_1, 2 y_2])", head=16, merge=fs.merges.weighted([1, 2])),
    _mixture(
        "mmoe",
        128,
        lambda: [_relu(256, 128) for _ in range(3)],
        lambda: [*_relu(64), Dense(1)],
        "MMoE as DeepCTR has it: three experts (256, 128), a tower of 64",
    ),
    _mixture(
        "experts8", 64, lambda: _relu(*[4] * 8), lambda: [Dense(1)], "the census example's eight experts of four units"
    ),
    _split(
        "dueling",
        64,
        lambda: Dense(128, activation="relu"),
        lambda: [[*_relu(32), Dense(1)], [*_relu(32), Dense(18)]],
        "a dueling Q-network's heads, 18 actions",
        merge=fs.merges.dueling(),
    ),
    _merged(
        "highway",
        64,
        lambda: [*_relu(64), Dense(64, activation="sigmoid")],
        "one layer of a highway network",
        merge=fs.merges.highway(),
    ),
    _split(
        "glu",
        64,
        lambda: Dense(128),
        lambda: [None, Activation("sigmoid")],
        "TabNet's gate: half the columns times the sigmoid of the others",
        merge="multiply",
    ),
    _gated("geglu", "gelu", "a gated feed-forward block, gate and value in one kernel"),
    _gated("swiglu", "silu", "the same with SiLU"),
    _merged(
        "ffn",
        256,
        lambda: [Dense(688, activation="silu", use_bias=False), Dense(688, use_bias=False)],
        "LLaMA's feed-forward block, gate and value apart, of a small model",
        head=256,
        merge="multiply",
    ),
    _merged(
        "grn",
        16,
        lambda: [Dense(16), Dense(16, activation="sigmoid")],
        "the gate of a gated residual network of 16 units: nothing but overhead",
        merge="multiply",
    ),
    _merged("vae", 400, lambda: [Dense(20), Dense(20)], "mean and log-variance heads that share their input"),
    _merged(
        "thetas",
        256,
        lambda: [Dense(4, use_bias=False), Dense(8, use_bias=False)],
        "backcast and forecast coefficients of an N-BEATS block that share their input",
    ),
    _split(
        "mdn",
        64,
        lambda: Dense(96, activation="tanh"),
        lambda: [Dense(5, activation="softmax"), Dense(5), Dense(5, activation="softplus")],
        "mixture density heads: weights, means, deviations",
    ),
    _merged("inputs3", (13, 64, 128), lambda: _relu(64, 64, 64), "three inputs, a Dense each, concatenated", head=1),
    _dynamic("dynamic", lambda x: tf.constant(77), "a split point for the whole batch: each side skips the rest"),
    _dynamic("dynamic_rows", _positive, "a split point for each row"),
)
MERGES = {case.name: case for case in _ALL}
# What `fusedsplit bench` runs unless it is told otherwise: one of each kind, within a minute.
DEFAULT = ("add", "maximum", "mmoe", "glu", "swiglu", "mdn", "inputs3", "dynamic_rows")
QUICK = ("maximum", "mmoe")
