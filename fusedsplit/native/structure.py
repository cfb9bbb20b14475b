"""What a model is called with and what it gives: lists, tuples and dicts of arrays, as data.

A structure is a `Leaf`, or a `Node` of others. As JSON, which files hold: `{"at": 0, "row": [10]}` for a leaf,
`["list", [...]]`, `["tuple", [...]]` or `["dict", [["name", ...], ...]]` for what holds others.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Union

_KINDS = ("list", "tuple", "dict")
_MOST_LEVELS = 32
_MOST_AXES = 16


class Leaf(NamedTuple):
    """One array.

    Attributes:
        at: its place among the plan's inputs or outputs; -1 for an input that nothing reads.
        row: the last axes of its shape, which are one row of the plan; what comes in front are rows.
    """

    at: int
    row: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Node:
    """A list, a tuple or a dict; of the latter also its keys."""

    kind: str
    items: tuple[Structure, ...]
    keys: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"a dict of {', '.join(map(repr, self.keys))}" if self.keys else f"a {self.kind} of {len(self.items)}"


Structure = Union[Leaf, Node]


def leaves(structure: Structure) -> Iterator[Leaf]:
    if isinstance(structure, Leaf):
        yield structure
    else:
        for item in structure.items:
            yield from leaves(item)


def flatten(structure: Structure, value: Any, name: str) -> list[Any]:
    """The arrays of `value` in the order of `leaves`.

    Raises:
        ValueError: if `value` has another structure.
    """
    if isinstance(structure, Leaf):
        return [value]
    parts: Sequence[Any]
    if structure.kind == "dict":
        if not isinstance(value, dict) or set(value) != set(structure.keys):
            received = f"keys {', '.join(map(repr, value))}" if isinstance(value, dict) else type(value).__name__
            raise ValueError(f"`{name}`: expected {structure}. Received: {received}")
        parts = [value[key] for key in structure.keys]
    else:
        if not isinstance(value, (list, tuple)) or len(value) != len(structure.items):
            received = type(value).__name__
            received += f" of {len(value)}" if isinstance(value, (list, tuple)) else ""
            raise ValueError(f"`{name}`: expected {structure}. Received: {received}")
        parts = value
    return [x for item, part in zip(structure.items, parts) for x in flatten(item, part, name)]


def pack(structure: Structure, arrays: Iterator[Any]) -> Any:
    """The reverse of `flatten`."""
    if isinstance(structure, Leaf):
        return next(arrays)
    parts = [pack(item, arrays) for item in structure.items]
    if structure.kind == "dict":
        return dict(zip(structure.keys, parts))
    return tuple(parts) if structure.kind == "tuple" else parts


def to_json(structure: Structure) -> Any:
    if isinstance(structure, Leaf):
        return {"at": structure.at, "row": list(structure.row)}
    items = [to_json(item) for item in structure.items]
    return [structure.kind, [list(pair) for pair in zip(structure.keys, items)] if structure.kind == "dict" else items]


def from_json(value: Any, widths: Sequence[int], levels: int = _MOST_LEVELS) -> Structure:
    """The structure of inputs or outputs that are so wide.

    Raises:
        ValueError: if it is none.
    """
    if isinstance(value, dict):
        return _leaf(value, widths)
    good = isinstance(value, list) and len(value) == 2 and value[0] in _KINDS and isinstance(value[1], list)
    if not good or levels == 0:
        raise ValueError(f"expected a leaf or one of {_KINDS} of others, {_MOST_LEVELS} levels deep at most")
    kind, items = value
    keys: tuple[str, ...] = ()
    if kind == "dict":
        if not all(isinstance(i, list) and len(i) == 2 and isinstance(i[0], str) for i in items):
            raise ValueError("expected names and what they name in a dict")
        keys = tuple(name for name, _ in items)
        if len(set(keys)) < len(keys):
            raise ValueError("expected different names in a dict")
        items = [item for _, item in items]
    return Node(kind, tuple(from_json(item, widths, levels - 1) for item in items), keys)


def _leaf(value: dict[str, Any], widths: Sequence[int]) -> Leaf:
    at, row = value.get("at"), value.get("row")
    if set(value) != {"at", "row"} or type(at) is not int or not -1 <= at < len(widths):
        raise ValueError(f"expected a leaf of one of {len(widths)} arrays")
    if not isinstance(row, list) or not 1 <= len(row) <= _MOST_AXES or not all(type(n) is int and n > 0 for n in row):
        raise ValueError(f"expected one to {_MOST_AXES} sizes of a row")
    if at >= 0 and math.prod(row) != widths[at]:
        raise ValueError(f"expected a row of {widths[at]} columns. Received: {row}")
    return Leaf(at, tuple(row))
