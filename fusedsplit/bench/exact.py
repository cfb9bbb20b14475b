"""A fused layer in float64 by its unfused computation: what `numeric` is for a `Case`, for any layer."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from fusedsplit.backends.activations import activate as keras_activate
from fusedsplit.backends.base import Operands
from fusedsplit.bench.numeric import RATIO, Result, Truth
from fusedsplit.layers import reference
from fusedsplit.layers.magnitude import bounding, bounding_merge
from fusedsplit.layers.merges import Elementwise
from fusedsplit.layers.spec import SplitSpec
from fusedsplit.plan import Activation


class _Pass:
    """One forward pass under a tape; with `magnitude` on absolute values, where it bounds the terms of every sum.

    `kinks` are the arguments of every relu, and the distances between what a maximum or minimum chooses from.
    """

    def __init__(self, spec: SplitSpec, operands: Operands, dtype: str, magnitude: bool = False):
        self.dtype = dtype
        self.magnitude = magnitude
        self.kinks: list[tf.Tensor] = []
        inputs, self.params = self.tensors(operands.inputs), self.tensors(operands.params)
        with tf.GradientTape() as self.tape:
            self.tape.watch(self.params)
            (self.output,) = reference.compute(spec, inputs, self.params, operands.points, self.activate, self.merge)

    def tensors(self, arrays: Sequence[Any]) -> list[tf.Tensor]:
        return [tf.constant(np.abs(a) if self.magnitude else np.asarray(a), self.dtype) for a in arrays]

    def activate(self, activation: Activation, z: tf.Tensor) -> tf.Tensor:
        if activation.name == "relu":
            self.kinks.append(z)
        return bounding(activation, z) if self.magnitude else keras_activate(activation, z)

    def merge(self, how: Any, parts: Sequence[tf.Tensor], source: tf.Tensor) -> tf.Tensor:
        if isinstance(how, Elementwise) and how.name in ("maximum", "minimum"):
            self.kinks += [a - b for a, b in itertools.combinations(parts, 2)]
        return (bounding_merge if self.magnitude else reference.merge)(how, parts, source)

    def result(self, dy: np.ndarray) -> Result:
        (upstream,) = self.tensors([dy])
        gradients = self.tape.gradient(self.output, self.params, upstream, unconnected_gradients="zero")
        return Result(self.output.numpy(), [g.numpy() for g in gradients])


def solve(layer: Any, x: Any, dy: np.ndarray) -> Truth:
    """The output and the gradients of the layer's weights, given the upstream gradient.

    Rows in which a relu or a maximum stands at its kink get no upstream gradient, as in `numeric.solve`: nearer to it
    than the errors that a contestant is allowed to make there. Two equal values are no kink: they are zeros of relus,
    which pass no gradient to either.

    Args:
        layer: a built layer with one output.
        x: an array, or a list of them.
        dy: of the output's shape.
    """
    operands = layer.computation().operands([tf.constant(a) for a in (x if isinstance(x, list) else [x])])
    call = (layer.spec, operands)
    exact, rounded, terms = _Pass(*call, "float64"), _Pass(*call, "float32"), _Pass(*call, "float64", magnitude=True)
    near = np.zeros(len(dy), bool)
    for z, own in zip(exact.kinks, rounded.kinks):
        allowed = RATIO * np.max(np.abs(z - tf.cast(own, z.dtype)))
        near |= np.any((z != 0) & (np.abs(z) < allowed), axis=1)
    dy = np.where(near[:, None], np.zeros_like(dy), dy)
    return Truth(exact.result(dy), terms.result(dy), dy)
