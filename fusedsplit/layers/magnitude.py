"""How large the terms are that a spec adds up: what the error of any executor is measured against."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from fusedsplit.layers import reference
from fusedsplit.layers.merges import NamedMerge
from fusedsplit.layers.spec import DenseSpec, Item, SplitSpec
from fusedsplit.plan import Activation


def compute(spec: SplitSpec, inputs: Sequence[Any], params: Sequence[Any], points: Sequence[Any]) -> list[Any]:
    """On absolute values, what bounds the sum of the terms at each element of `spec`, and of its derivatives."""
    return reference.compute(spec, inputs, params, points, activate=bounding, merge=bounding_merge)


def bounding_merge(how: Any, parts: Sequence[Any], source: Any) -> Any:
    if isinstance(how, NamedMerge):
        return how.magnitude(parts, source)
    return reference.merge(how, parts, source)


def bounding(activation: Activation, m: tf.Tensor) -> tf.Tensor:
    """A function of value m, slope 1 and, where the activation is curved, curvature 1: near the largest of them all."""
    if activation.name in ("linear", "relu", "relu6", "leaky_relu", "hard_sigmoid"):
        return m
    if activation.name == "softmax":
        m += tf.reduce_mean(m, axis=-1, keepdims=True)
    return m + (m - tf.stop_gradient(m)) ** 2 / 2


def depth(spec: SplitSpec) -> int:
    """How many products stand one behind the other."""

    def products(items: tuple[Item, ...]) -> int:
        return sum(depth(item) if isinstance(item, SplitSpec) else isinstance(item, DenseSpec) for item in items)

    return max(1, products(spec.stem) + max(products(b.items) for b in spec.branches) + products(spec.head))
