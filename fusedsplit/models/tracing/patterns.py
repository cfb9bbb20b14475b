"""Activations that TensorFlow writes as several operations, found again in a list of nodes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Union

import numpy as np

from fusedsplit.models.tracing.nodes import Node, Ref
from fusedsplit.plan import Activation

_COMMUTATIVE = ("Mul", "AddV2")

# An operation with its operands; a number; "x", what the activation is applied to; or "alpha", any number.
Pattern = Union[tuple[Any, ...], float, str]

# TensorFlow's own gelu rounds these to float32 in every dtype.
_HALF_ROOT, _ROOT_OF_2, _CUBE = (float(np.float32(c)) for c in (math.sqrt(0.5), math.sqrt(2), 0.044715))
_TANHS: list[Pattern] = [
    ("Mul", math.sqrt(2 / math.pi), ("AddV2", "x", cube))
    for cube in (
        ("Mul", _CUBE, ("Pow", "x", 3.0)),
        ("Mul", _CUBE, ("Mul", ("Mul", "x", "x"), "x")),
        ("Mul", ("Mul", ("Mul", _CUBE, "x"), "x"), "x"),
    )
]
_ERFS: list[Pattern] = [("RealDiv", "x", _ROOT_OF_2), ("Mul", "x", _HALF_ROOT)]


def _halves(factor: Pattern) -> list[Pattern]:
    """0.5 x factor, in each order of multiplying."""
    return [("Mul", ("Mul", 0.5, "x"), factor), ("Mul", 0.5, ("Mul", "x", factor)), ("Mul", "x", ("Mul", 0.5, factor))]


_PATTERNS: list[tuple[str, Pattern]] = [
    ("silu", ("Mul", "x", ("Sigmoid", "x"))),
    ("silu", ("Mul", "x", ("Sigmoid", ("Mul", 1.0, "x")))),
    ("hard_sigmoid", ("RealDiv", ("Relu6", ("AddV2", "x", 3.0)), 6.0)),
    ("hard_sigmoid", ("Mul", ("Relu6", ("AddV2", "x", 3.0)), 1 / 6)),
    ("elu", ("SelectV2", ("Greater", "x", 0.0), ("Elu", "x"), ("Mul", "alpha", ("Elu", "x")))),
    ("leaky_relu", ("SelectV2", ("Greater", "x", 0.0), "x", ("Mul", "alpha", "x"))),
    *(("gelu", p) for p in _halves(("Erfc", ("Mul", ("Neg", "x"), _HALF_ROOT)))),
    *(("gelu", p) for z in _ERFS for p in _halves(("AddV2", 1.0, ("Erf", z)))),
    *(("gelu_tanh", p) for z in _TANHS for p in _halves(("AddV2", 1.0, ("Tanh", z)))),
]


def simplify(nodes: Sequence[Node], outputs: Sequence[Ref]) -> tuple[tuple[Node, ...], tuple[Ref, ...]]:
    """The nodes that the outputs need (and all inputs), with activations as one node each."""
    needed = {ref.node for ref in outputs}
    kept: dict[int, Node] = {}
    for i in reversed(range(len(nodes))):
        if i in needed or nodes[i].op == "Input":
            kept[i] = _as_activation(nodes, i)
            needed |= {ref.node for ref in kept[i].inputs}
    numbers = {old: new for new, old in enumerate(sorted(kept))}

    def renamed(refs: Sequence[Ref]) -> tuple[Ref, ...]:
        return tuple(Ref(numbers[ref.node], ref.output) for ref in refs)

    simple = tuple(dataclasses.replace(kept[old], inputs=renamed(kept[old].inputs)) for old in numbers)
    return simple, renamed(outputs)


def _as_activation(nodes: Sequence[Node], i: int) -> Node:
    for name, pattern in _PATTERNS:
        if pattern[0] == nodes[i].op:  # type: ignore[index]
            found = _match(nodes, Ref(i), pattern, {})
            if found is not None:
                activation = Activation(name, float(found.get("alpha", 0.0)))
                return Node("Activation", (found["x"],), {"activation": activation}, nodes[i].dtypes)
    return nodes[i]


def _match(nodes: Sequence[Node], ref: Ref, pattern: Pattern, found: dict[str, Any]) -> dict[str, Any] | None:
    """`found` and what the names in `pattern` stand for, if it is what `ref` computes."""
    node = nodes[ref.node]
    if pattern == "x":
        return _bind(found, "x", ref) if node.value is None else None
    number = node.value if node.value is not None and node.value.ndim == 0 else None
    if pattern == "alpha":
        return None if number is None else _bind(found, "alpha", number.item())
    if isinstance(pattern, float):
        return found if number is not None and _is_close(number, pattern) else None
    if node.op != pattern[0] or node.own_gradient or len(node.inputs) != len(pattern) - 1:
        return None
    orders = [node.inputs, node.inputs[::-1]] if node.op in _COMMUTATIVE else [node.inputs]
    for order in orders:
        result: dict[str, Any] | None = found
        for operand, part in zip(order, pattern[1:]):
            result = None if result is None else _match(nodes, operand, part, result)
        if result is not None:
            return result
    return None


def _bind(found: dict[str, Any], name: str, value: Any) -> dict[str, Any] | None:
    return None if found.get(name, value) != value else {**found, name: value}


def _is_close(value: np.ndarray, expected: float) -> bool:
    """Whether the number is the expected one, as far as its dtype tells them apart."""
    tolerance = 1e-12 if value.dtype == np.float64 else 1e-6
    return abs(float(value) - float(np.asarray(expected).astype(value.dtype))) <= tolerance * abs(expected)
