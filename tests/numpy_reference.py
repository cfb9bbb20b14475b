"""A third, independent computation: a spec in NumPy float64, written out by hand."""

from __future__ import annotations

import functools
import math

import numpy as np

from fusedsplit.layers import merges
from fusedsplit.layers.spec import DenseSpec, SplitSpec

_erf = np.vectorize(math.erf, otypes=[float])
_SELU_SCALE, _SELU_ALPHA = 1.0507009873554804934193349852946, 1.6732632423543772848170429916717

FUNCTIONS = {
    "linear": lambda z, a: z,
    "relu": lambda z, a: np.where(z < 0, 0, z),
    "relu6": lambda z, a: np.clip(z, 0, 6),
    "leaky_relu": lambda z, a: np.where(z < 0, a * z, z),
    "elu": lambda z, a: np.where(z < 0, a * np.expm1(np.minimum(z, 0)), z),
    "selu": lambda z, a: _SELU_SCALE * np.where(z < 0, _SELU_ALPHA * np.expm1(np.minimum(z, 0)), z),
    "gelu": lambda z, a: z * 0.5 * (1 + _erf(z / math.sqrt(2))),
    "gelu_tanh": lambda z, a: 0.5 * z * (1 + np.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3))),
    "silu": lambda z, a: z / (1 + np.exp(-z)),
    "sigmoid": lambda z, a: 1 / (1 + np.exp(-z)),
    "hard_sigmoid": lambda z, a: np.clip(z / 6 + 0.5, 0, 1),
    "tanh": lambda z, a: np.tanh(z),
    "softplus": lambda z, a: np.logaddexp(z, 0),
    "softsign": lambda z, a: z / (1 + np.abs(z)),
    "exponential": lambda z, a: np.exp(z),
    "softmax": lambda z, a: (
        np.exp(z - z.max(-1, keepdims=True)) / np.exp(z - z.max(-1, keepdims=True)).sum(-1, keepdims=True)
    ),
}


def compute(spec: SplitSpec, inputs: list[np.ndarray], params: list[np.ndarray]) -> list[np.ndarray]:
    """The outputs of a spec without masks and points, in float64."""
    params = [np.asarray(p, np.float64) for p in params]

    def stack(items, x):
        for item in items:
            if isinstance(item, SplitSpec):
                (x,) = block(item, [x])
            elif isinstance(item, DenseSpec):
                x = x @ params[item.kernel]
                if item.bias is not None:
                    x = x + params[item.bias]
                x = FUNCTIONS[item.activation.name](x, item.activation.alpha)
            else:
                x = FUNCTIONS[item.name](x, item.alpha)
        return x

    def block(spec, inputs):
        stem = stack(spec.stem, inputs[0])
        sources = [stem if branch.source is None else inputs[branch.source] for branch in spec.branches]
        parts = [stack(b.items, x[..., b.start : b.stop]) for b, x in zip(spec.branches, sources)]
        return parts if spec.merge is None else [stack(spec.head, merge(spec.merge, parts, inputs[0]))]

    return block(spec, [np.asarray(x, np.float64) for x in inputs])


def merge(how: merges.NamedMerge, parts: list[np.ndarray], x: np.ndarray) -> np.ndarray:
    if isinstance(how, merges.Concat):
        return np.concatenate(parts, -1)
    if isinstance(how, merges.Weighted):
        return np.concatenate([w * part for w, part in zip(how.weights, parts)], -1)
    if isinstance(how, merges.Mixture):
        gate = FUNCTIONS["softmax"](parts[-1], 0) if how.softmax else parts[-1]
        return sum(gate[..., e : e + 1] * part for e, part in enumerate(parts[:-1]))
    if isinstance(how, merges.Dueling):
        value, advantage = parts
        reduce = {"mean": np.mean, "max": np.max, "naive": lambda a, axis, keepdims: 0.0}[how.baseline]
        return value + advantage - reduce(advantage, axis=-1, keepdims=True)
    if isinstance(how, merges.Highway):
        return parts[1] * parts[0] + (1 - parts[1]) * x
    if how.name == "average":
        return sum(parts) / len(parts)
    fold = {
        "add": np.add,
        "subtract": np.subtract,
        "multiply": np.multiply,
        "maximum": np.maximum,
        "minimum": np.minimum,
    }[how.name]
    return functools.reduce(fold, parts)
