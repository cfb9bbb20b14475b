"""What stands for a tensor while TensorFlow's operations are lowered, and what they do with its axes.

A tensor of a region has leading axes of rows, which nothing looks along. A `View` is row data, `Repeated` the same
numbers in every row, a NumPy array a constant, and a NumPy array of objects integers that depend on the number of rows
(`tf.shape(x)`), in which a `Rows` stands for what only the call knows.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, Union

import numpy as np

from fusedsplit.models.rows import NotRowWise, View
from fusedsplit.models.tracing.nodes import Node


@dataclasses.dataclass(frozen=True)
class Rows:
    """`factor` times the sizes of some leading axes: an integer that only the call knows."""

    axes: tuple[int, ...]
    factor: int = 1

    def __mul__(self, other: Any) -> Rows:
        if isinstance(other, Rows):
            return Rows(tuple(sorted(self.axes + other.axes)), self.factor * other.factor)
        return Rows(self.axes, self.factor * int(other))

    __rmul__ = __mul__

    def __str__(self) -> str:
        return "rows" if self.factor == 1 else f"{self.factor} rows"


@dataclasses.dataclass(frozen=True, eq=False)
class Repeated:
    """The same numbers in every row."""

    numbers: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return self.numbers.shape


Value = Union[View, Repeated, np.ndarray]


def is_constant(value: Value) -> bool:
    return isinstance(value, np.ndarray) and value.dtype != object


def is_size(value: Value) -> bool:
    return isinstance(value, np.ndarray) and value.dtype == object


def integers(value: Value) -> list[int]:
    """A constant vector (or number) of integers."""
    if not is_constant(value):
        raise NotRowWise("with sizes, axes or indices that depend on the rows")
    return [int(i) for i in np.ravel(value)]  # type: ignore[arg-type]


def integer(value: Value) -> int:
    (result,) = integers(value)
    return result


@dataclasses.dataclass(frozen=True)
class Axes:
    """The axes of a tensor: those of the rows in front, and those of its array.

    Attributes:
        sizes: of the leading axes, None where only the call knows.
    """

    sizes: tuple[int | None, ...]

    @property
    def lead(self) -> int:
        return len(self.sizes)

    def inner(self, axis: int, rank: int) -> int:
        """The axis of the array, for one of the tensor (counted from its end if negative)."""
        axis = axis + self.lead + rank if axis < 0 else axis
        if axis < self.lead:
            self.refuse(axis)
        return axis - self.lead

    @staticmethod
    def refuse(axis: int) -> NoReturn:
        raise NotRowWise(f"over axis {axis}, {'the batch' if axis == 0 else 'which is one of rows'}")

    def is_lead(self, axis: int, size: Any) -> bool:
        """Whether an integer (or Rows) is the size of a leading axis."""
        return size == Rows((axis,)) or (self.sizes[axis] is not None and size == self.sizes[axis])

    def shape(self, inner: Sequence[int]) -> np.ndarray:
        """The shape of the tensor, for one of its array."""
        lead = [Rows((axis,)) if size is None else size for axis, size in enumerate(self.sizes)]
        return as_objects([*lead, *inner])

    def rest(self, shape: np.ndarray, size: int | None = None) -> tuple[int, ...]:
        """What follows the leading axes in a shape; with `size`, of an array with so many elements."""
        entries = list(shape)
        lead, rest = entries[: self.lead], entries[self.lead :]
        open_lead = [axis for axis, entry in enumerate(lead) if size is not None and entry == -1]
        kept = len(lead) == self.lead and all(
            axis in open_lead or self.is_lead(axis, entry) for axis, entry in enumerate(lead)
        )
        if not kept or any(isinstance(entry, Rows) for entry in rest):
            raise NotRowWise(f"to a shape that does not keep the rows in front: {_text(entries)}")
        if size is not None and -1 in rest:
            rest[rest.index(-1)] = size // (math.prod(entry for entry in rest if entry != -1) or 1)
        if size is not None and math.prod(rest) != size:
            raise NotRowWise(f"to a shape that moves columns from row to row: {_text(entries)}, for {size} columns")
        return tuple(int(entry) for entry in rest)


def as_objects(entries: Sequence[Any]) -> np.ndarray:
    array = np.empty(len(entries), dtype=object)
    array[:] = entries
    return array


def settled(array: np.ndarray, dtype: str) -> np.ndarray:
    """A constant, where nothing in an array of objects depends on the rows."""
    array = np.asarray(array, dtype=object)
    return array if any(isinstance(entry, Rows) for entry in array.flat) else array.astype(dtype)


def _text(entries: Sequence[Any]) -> str:
    return f"({', '.join(map(str, entries))})"


# What only moves elements: from the array of a tensor (columns, numbers or sizes) to that of the result.
Move = Callable[..., Any]


def split(axes: Axes, node: Node, x: np.ndarray, axis: Value) -> list[np.ndarray]:
    return np.split(x, node.attrs["num_split"], axes.inner(integer(axis), x.ndim))


def split_v(axes: Axes, node: Node, x: np.ndarray, sizes: Value, axis: Value) -> list[np.ndarray]:
    inner = axes.inner(integer(axis), x.ndim)
    parts = integers(sizes)
    parts = [x.shape[inner] - sum(p for p in parts if p != -1) if part == -1 else part for part in parts]
    return np.split(x, np.cumsum(parts[:-1]), inner)


def unpack(axes: Axes, node: Node, x: np.ndarray) -> list[np.ndarray]:
    inner = axes.inner(node.attrs["axis"], x.ndim)
    return [x.take(i, inner) for i in range(x.shape[inner])]


def expand_dims(axes: Axes, node: Node, x: np.ndarray, axis: Value) -> np.ndarray:
    return np.expand_dims(x, axes.inner(integer(axis), x.ndim + 1))


def squeeze(axes: Axes, node: Node, x: np.ndarray) -> np.ndarray:
    if axes.lead and not node.attrs["squeeze_dims"]:
        raise NotRowWise("without axes: it depends on the number of rows")
    inner = tuple(axes.inner(axis, x.ndim) for axis in node.attrs["squeeze_dims"])
    return np.squeeze(x, inner or None)


def reshape(axes: Axes, node: Node, x: np.ndarray, shape: Value) -> np.ndarray:
    return x.reshape(axes.rest(np.ravel(shape), x.size))  # type: ignore[arg-type]


def transpose(axes: Axes, node: Node, x: np.ndarray, order: Value) -> np.ndarray:
    places = integers(order)
    for axis in range(axes.lead):
        if places[axis] != axis:
            axes.refuse(axis)
    return x.transpose([axis - axes.lead for axis in places[axes.lead :]])


def tile(axes: Axes, node: Node, x: np.ndarray, multiples: Value) -> np.ndarray:
    times = integers(multiples)
    for axis in range(axes.lead):
        if times[axis] != 1:
            axes.refuse(axis)
    return np.tile(x, times[axes.lead :])


def broadcast_to(axes: Axes, node: Node, x: np.ndarray, shape: Value) -> np.ndarray:
    rest = axes.rest(np.ravel(shape))  # type: ignore[arg-type]
    if len(rest) != x.ndim:
        raise NotRowWise("to more axes: the batch would be one in the middle")
    return np.broadcast_to(x, rest)


def gather(axes: Axes, node: Node, x: np.ndarray, indices: Value, axis: Value) -> np.ndarray:
    if node.attrs.get("batch_dims", 0) or not is_constant(indices):
        raise NotRowWise("with indices that are computed from the rows")
    return np.take(x, indices, axes.inner(integer(axis), x.ndim))  # type: ignore[arg-type]


def reverse(axes: Axes, node: Node, x: np.ndarray, along: Value) -> np.ndarray:
    return np.flip(x, tuple(axes.inner(axis, x.ndim) for axis in integers(along)))


def roll(axes: Axes, node: Node, x: np.ndarray, shift: Value, along: Value) -> np.ndarray:
    return np.roll(x, integers(shift), tuple(axes.inner(axis, x.ndim) for axis in integers(along)))


def plain_slice(axes: Axes, node: Node, x: np.ndarray, begin: Value, size: Value) -> np.ndarray:
    starts, sizes = list(np.ravel(begin)), list(np.ravel(size))  # type: ignore[arg-type]
    key = [slice(a, None if n == -1 else n if a == 0 else a + n) for a, n in zip(starts, sizes)]
    return _sliced(axes, x, key)


def strided_slice(axes: Axes, node: Node, x: np.ndarray, begin: Value, end: Value, strides: Value) -> np.ndarray:
    masks = {name: node.attrs[f"{name}_mask"] for name in ("begin", "end", "ellipsis", "new_axis", "shrink_axis")}
    begins, ends, steps = (list(np.ravel(v)) for v in (begin, end, strides))  # type: ignore[arg-type]

    def is_set(name: str, i: int) -> bool:
        return bool(masks[name] >> i & 1)

    rank = axes.lead + x.ndim
    spent = sum(not is_set("new_axis", i) and not is_set("ellipsis", i) for i in range(len(begins)))
    key: list[Any] = []
    for i in range(len(begins)):
        if is_set("ellipsis", i):
            key += [slice(None)] * (rank - spent)
        elif is_set("new_axis", i):
            key.append(None)
        elif is_set("shrink_axis", i):
            key.append(begins[i])
        else:
            start, stop = (None if is_set(name, i) else given[i] for name, given in (("begin", begins), ("end", ends)))
            key.append(slice(start, stop, steps[i]))
    key += [slice(None)] * (rank - sum(k is not None for k in key))
    return _sliced(axes, x, key)


def _sliced(axes: Axes, x: np.ndarray, key: Sequence[Any]) -> np.ndarray:
    for axis, k in enumerate(key[: axes.lead]):
        whole = isinstance(k, slice) and k.start in (None, 0) and k.step in (None, 1)
        if not whole or not (k.stop is None or axes.is_lead(axis, k.stop)):
            axes.refuse(axis)
    inner = tuple(key[axes.lead :])
    for k in inner:
        if any(isinstance(i, Rows) for i in ((k.start, k.stop, k.step) if isinstance(k, slice) else (k,))):
            raise NotRowWise("by the number of rows")
    return np.asarray(x[inner])


# By TensorFlow's name: which operand is moved, and how.
MOVES: dict[str, tuple[int, Move]] = {
    "Split": (1, split),
    "SplitV": (0, split_v),
    "Unpack": (0, unpack),
    "ExpandDims": (0, expand_dims),
    "Squeeze": (0, squeeze),
    "Reshape": (0, reshape),
    "Transpose": (0, transpose),
    "Tile": (0, tile),
    "BroadcastTo": (0, broadcast_to),
    "GatherV2": (0, gather),
    "ReverseV2": (0, reverse),
    "Roll": (0, roll),
    "Slice": (0, plain_slice),
    "StridedSlice": (0, strided_slice),
}
