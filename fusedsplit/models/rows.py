"""Row programs: how the operations of a region become one plan.

Inside a region every tensor has the same leading axes, the rows. What is left of its shape is the *row shape*, and each
element of that is one column of a value. A `View` says which: its array of columns has the row shape. So whatever only
moves elements about (split, slice, concat, stack, reshape, transpose, squeeze, ...) is done on these arrays, when the
model is read, and costs nothing when it runs. Only what computes becomes a step, and only where a step needs columns
side by side that are not, they are copied.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Union

import numpy as np

from fusedsplit.models.row_plan import Concat, Finished, RowStep, finish
from fusedsplit.plan import LINEAR, Activation, Const, Dense, Merge, Plan, Range, Row, renamed

# A step for each piece: beyond this many, moving the columns about costs more than the operation itself.
MAX_PIECES = 64
_VALUE_BITS = 32

Number = Union[int, float]
# Where a piece of an elementwise operation stands: the order of axes, and a slice of the columns flattened in it.
_Piece = tuple[tuple[int, ...], slice]


class NotRowWise(Exception):
    """An operation that is no row program; the message says why, in the words of a report."""


@dataclasses.dataclass(frozen=True, eq=False)
class View:
    """A tensor of a region: for each element of a row, the column of the value where it stands."""

    columns: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one row."""
        return self.columns.shape

    @property
    def size(self) -> int:
        return self.columns.size

    def reshape(self, shape: Sequence[int]) -> View:
        return View(self.columns.reshape(shape))

    def transpose(self, axes: Sequence[int]) -> View:
        return View(self.columns.transpose(axes))

    def __getitem__(self, key: Any) -> View:
        return View(self.columns[key])


def concat(views: Sequence[View], axis: int) -> View:
    return View(np.concatenate([view.columns for view in views], axis))


def stack(views: Sequence[View], axis: int) -> View:
    return View(np.stack([view.columns for view in views], axis))


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a param comes from.

    Attributes:
        key: what makes two of them one.
        shape: of the param.
        read: gives the variable, tensor or array as it is now; with `compute`, a tuple of what it is computed from.
        compute: what TensorFlow makes of these, each a tensor, or None where `read` gives None.
    """

    key: Hashable
    shape: tuple[int, ...]
    read: Callable[[], Any]
    compute: Callable[..., Any] | None = None


class RowProgram:
    """Operations on views; each method adds the steps that compute its result.

    Attributes:
        lead: how many axes of a tensor are rows: 1 of (batch, width), 2 of (batch, time, width).
        training: whether the program is for training.
        dtype: what it computes in.
        steps: on values numbered in the order in which they were made.
        widths: of those values.
        sources: where the params come from, each once.
        masks: (what draws it, the shape of a row) of each mask, which the region is given behind its inputs.
        logits: for a view that a sigmoid or softmax gives, the view that went into it.
    """

    def __init__(self, lead: int = 1, training: bool = False, dtype: str = "float32") -> None:
        self.lead = lead
        self.training = training
        self.dtype = dtype
        self.steps: list[RowStep] = []
        self.widths: list[int] = []
        self.inputs: list[int] = []
        self.sources: list[Source] = []
        self.masks: list[tuple[Any, tuple[int, ...]]] = []
        self._mask_values: list[int] = []
        self.logits: dict[View, View] = {}
        self._joined: dict[bytes, Range] = {}

    # Values and params.

    def input(self, shape: Sequence[int]) -> View:
        """A tensor that the region is given."""
        view = self._new(shape)
        self.inputs.append(_value_of(view))
        return view

    def mask(self, source: Any, shape: Sequence[int]) -> View:
        """What a Dropout layer multiplies by, drawn anew for each call: the layer itself on ones."""
        view = self._new(shape)
        self.masks.append((source, tuple(shape)))
        self._mask_values.append(_value_of(view))
        return view

    def param(
        self, key: Hashable, shape: Sequence[int], read: Callable[[], Any], compute: Callable[..., Any] | None = None
    ) -> int:
        """A weight, or something computed from weights (see `Source`); the same key is the same param."""
        for i, source in enumerate(self.sources):
            if source.key == key:
                return i
        self.sources.append(Source(key, tuple(shape), read, compute))
        return len(self.sources) - 1

    def weight(self, layer: Any, name: str) -> int:
        """The variable that `layer` has under `name`, read at each call."""
        return self.param((id(layer), name), getattr(layer, name).shape, lambda: getattr(layer, name))

    def constant(self, array: Any) -> int:
        """Numbers that do not change: a vector, or a kernel."""
        array = np.asarray(array)
        return self.param(("constant", str(array.dtype), array.shape, array.tobytes()), array.shape, lambda: array)

    def numbers(self, array: Any) -> View:
        """The same numbers in every row, as columns of their own."""
        array = np.asarray(array)
        y = self._new(array.shape)
        self.steps.append(Merge("add", (), None, self._operand(array.ravel()), LINEAR, _as_range(y.columns.ravel())))
        return y

    # Products.

    def dense(self, x: View, kernel: int, bias: int | None = None, activation: Activation = LINEAR) -> View:
        """`activation(x @ kernel + bias)` over the last axis; one product for each index of the axes before it."""
        units = self.sources[kernel].shape[1]
        blocks = x.columns.reshape(-1, x.shape[-1])
        self._check_pieces(len(blocks))
        y = self._new((len(blocks), units))
        for row, place in zip(blocks, y.columns):
            self.steps.append(Dense(self.range(row), kernel, bias, LINEAR, _as_range(place)))
        return self.activate(y.reshape((*x.shape[:-1], units)), activation)

    # Elementwise.

    def activate(self, x: View, activation: Activation) -> View:
        """`activation(x)`; softmax goes over the last axis."""
        if activation == LINEAR:
            return x
        if activation.name == "softmax":
            y = self.row("softmax", x)
        else:
            y = self._elementwise(
                [x.columns], lambda srcs, dst, _: Merge("add", ((srcs[0], 1.0),), None, None, activation, dst)
            )
        if activation.name in ("sigmoid", "softmax"):
            self.logits[y] = x
        return y

    def merge(self, op: str, views: Sequence[View], scales: Sequence[float] | None = None) -> View:
        """`s_1 x_1 op s_2 x_2 op ...`, op in {add, mul, max, min}; shapes broadcast."""
        scales = [1.0] * len(views) if scales is None else list(scales)
        arrays = np.broadcast_arrays(*(view.columns for view in views))
        return self._elementwise(
            arrays, lambda srcs, dst, _: Merge(op, tuple(zip(srcs, scales)), None, None, LINEAR, dst)
        )

    def scale(self, x: View, gain: Any = None, shift: Any = None) -> View:
        """`gain * x + shift`, where both are numbers or arrays that broadcast with a row."""
        shape = np.broadcast_shapes(x.shape, np.shape(gain), np.shape(shift))
        arrays = [None if a is None else np.broadcast_to(np.asarray(a), shape) for a in (gain, shift)]

        def step(srcs: list[Range], dst: Range, where: _Piece) -> Merge:
            operands = [None if a is None else self._operand(a.transpose(where[0]).ravel()[where[1]]) for a in arrays]
            return Merge("add", ((srcs[0], 1.0),), operands[0], operands[1], LINEAR, dst)

        return self._elementwise([np.broadcast_to(x.columns, shape)], step)

    def scale_by(self, x: View, gain: int | None, shift: int | None = None) -> View:
        """`gain * x + shift` with params that are vectors along the last axis."""
        blocks = x.columns.reshape(-1, x.shape[-1])
        self._check_pieces(len(blocks))
        y = self._new(blocks.shape)
        for row, place in zip(blocks, y.columns):
            self.steps.append(Merge("add", ((self.range(row), 1.0),), gain, shift, LINEAR, _as_range(place)))
        return y.reshape(x.shape)

    # Along a row.

    def row(self, op: str, x: View, epsilon: float = 0.0) -> View:
        """softmax or normalize over the last axis (of the same shape); mean or max (an axis of one column)."""
        blocks = x.columns.reshape(-1, x.shape[-1])
        self._check_pieces(len(blocks))
        width = x.shape[-1] if op in ("softmax", "normalize") else 1
        y = self._new((len(blocks), width))
        for row, place in zip(blocks, y.columns):
            self.steps.append(Row(op, self.range(row), _as_range(place), epsilon))
        return y.reshape((*x.shape[:-1], width))

    def reduce(self, op: str, x: View, axis: int) -> View:
        """sum, mean, max or min over one axis, which is gone then."""
        axis %= len(x.shape)
        along = np.moveaxis(x.columns, axis, -1)
        n, rest = along.shape[-1], along.shape[:-1]
        if n == 1:
            return View(along[..., 0])
        if op == "max":  # not by a Merge, which gives the gradient to the first of those that tie
            return self.row("max", View(along)).reshape(rest)
        if op == "min":
            return self.scale(self.row("max", self.scale(View(along), -1.0)).reshape(rest), -1.0)
        if all(_is_range(row) for row in along.reshape(-1, n)):
            y = self.row("mean", View(along)).reshape(rest)
            return self.scale(y, float(n)) if op == "sum" else y
        slices = [View(along[..., i]) for i in range(n)]
        self._check_pieces(n)
        return self.merge("add", slices, [1.0 / n] * n if op == "mean" else None)

    # The plan.

    def plan(self, outputs: Sequence[View]) -> Finished:
        """The plan that gives `outputs`."""
        given = [self._given(view) for view in outputs]
        shapes = [source.shape for source in self.sources]
        return finish(self.steps, self.widths, [*self.inputs, *self._mask_values], shapes, given)

    def output_logits(self, view: View) -> View | None:
        """What went into the sigmoid or softmax that gave this very view; None where none did.

        Behind a Reshape, say, Keras' crossentropies find no logits either.
        """
        return self.logits.get(view)

    def inline(self, plan: Plan, views: Sequence[View], params: Sequence[int]) -> list[View]:
        """The outputs of a whole plan on `views`; `params` are this program's."""
        place = {value: self.range(view.columns) for value, view in zip(plan.inputs, views)}
        for value in range(len(plan.values)):
            if value not in place:
                place[value] = _as_range(self._new((plan.values[value].width,)).columns)

        def resolve(r: Range) -> Range:
            at = place[r.value]
            return Range(at.value, at.start + r.start, at.start + r.stop)

        for step in plan.steps:
            self.steps.append(renamed(step, resolve, params))
        return [View(_columns(place[value])) for value in plan.outputs]

    # Details.

    def range(self, columns: np.ndarray) -> Range:
        """Columns as a range: where they stand, or where they are put side by side."""
        flat = columns.ravel()
        if _is_range(flat):
            return _as_range(flat)
        key = flat.tobytes()
        if key not in self._joined:
            parts = [_as_range(flat[a:b]) for a, b in _pieces([flat], constant=False)]
            self._check_pieces(len(parts))
            place = _as_range(self._new((flat.size,)).columns)
            self.steps.append(Concat(tuple(parts), place))
            self._joined[key] = place
        return self._joined[key]

    def _given(self, view: View) -> Range:
        """A value of its own that holds nothing but the view: what the region gives out."""
        r = self.range(view.columns)
        whole = r.start == 0 and r.stop == self.widths[r.value]
        if whole and r.value not in (*self.inputs, *self._mask_values):
            return r
        place = _as_range(self._new((r.width,)).columns)
        self.steps.append(Concat((r,), place))
        return place

    def _new(self, shape: Sequence[int]) -> View:
        size = math.prod(shape)
        if size < 1:
            raise NotRowWise(f"an empty tensor (row shape {tuple(shape)})")
        self.widths.append(size)
        first = (len(self.widths) - 1) << _VALUE_BITS
        return View(np.arange(first, first + size, dtype=np.int64).reshape(shape))

    def _elementwise(self, arrays: Sequence[np.ndarray], step: Callable[[list[Range], Range, _Piece], Merge]) -> View:
        """One step for each piece in which every source is a range or one column.

        `step` is given the sources, the destination, and where the piece stands: (order of axes, slice of the
        flattened columns in that order).
        """
        shape = arrays[0].shape
        axes = range(len(shape))
        orders = [tuple(axes), *((*(a for a in axes if a != last), last) for last in axes[:-1])]
        best: tuple[tuple[int, ...], list[np.ndarray], list[tuple[int, int]]] | None = None
        for order in orders:
            flat = [array.transpose(order).ravel() for array in arrays]
            pieces = _pieces(flat)
            if best is None or len(pieces) < len(best[2]):
                best = (order, flat, pieces)
        assert best is not None
        order, flat, pieces = best
        self._check_pieces(len(pieces))
        y = self._new([shape[a] for a in order])
        places = y.columns.ravel()
        for a, b in pieces:
            srcs = [_as_range(x[a : a + 1] if x[a] == x[b - 1] else x[a:b]) for x in flat]
            self.steps.append(step(srcs, _as_range(places[a:b]), (order, slice(a, b))))
        return y.transpose(np.argsort(order).tolist()) if order != tuple(axes) else y

    def _operand(self, values: np.ndarray) -> int | Const:
        if np.all(values == values[0]) and np.isfinite(values[0]):
            return Const(float(values[0]))
        if not np.all(np.isfinite(values)):
            raise NotRowWise("a constant that is not finite")
        return self.constant(values)

    @staticmethod
    def _check_pieces(n: int) -> None:
        if n > MAX_PIECES:
            raise NotRowWise(f"its columns are not side by side: {n} pieces, of at most {MAX_PIECES}")


def _value_of(view: View) -> int:
    return int(view.columns.flat[0]) >> _VALUE_BITS


def _columns(r: Range) -> np.ndarray:
    return np.arange(r.start, r.stop, dtype=np.int64) + (r.value << _VALUE_BITS)


def _is_range(flat: np.ndarray) -> bool:
    return bool(np.all(np.diff(flat) == 1))


def _as_range(flat: np.ndarray) -> Range:
    value, start = divmod(int(flat[0]), 1 << _VALUE_BITS)
    return Range(value, start, start + flat.size)


def _pieces(arrays: Sequence[np.ndarray], constant: bool = True) -> list[tuple[int, int]]:
    """Cuts arrays of one length where one of them goes on neither by one column nor (with `constant`) in place."""
    kinds = np.stack([np.diff(array) for array in arrays])
    n = kinds.shape[1] + 1
    if n == 1:
        return [(0, 1)]
    apart = np.any((kinds != 1) & ~(constant & (kinds == 0)), axis=0)
    kinds[:, apart] = -1
    changes = np.any(kinds[:, 1:] != kinds[:, :-1], axis=0)
    edges = [0, *(np.flatnonzero(changes) + 1).tolist(), n - 1]
    pieces, at = [], 0
    for a, b in zip(edges, edges[1:]):
        if apart[a]:  # neighbours that do not belong together
            pieces += [(i, i + 1) for i in range(at, b)]
            at = max(at, b)
        elif b > at:
            pieces.append((at, b + 1))
            at = b + 1
    if at < n:
        pieces.append((at, n))
    return pieces
