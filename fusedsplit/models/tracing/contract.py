"""Products of two tensors (matmul, einsum) where one row meets one row, or every row the same constant."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Hashable, Sequence
from typing import Generic, TypeVar

import numpy as np

from fusedsplit.models.rows import NotRowWise, RowProgram, View, concat
from fusedsplit.models.tracing.values import Axes, Repeated, Value, is_constant, is_size

Labels = tuple[Hashable, ...]
_Array = TypeVar("_Array", View, np.ndarray)


@dataclasses.dataclass(frozen=True, eq=False)
class _Labelled(Generic[_Array]):
    """Columns or numbers, with a label for each axis."""

    array: _Array
    labels: Labels

    def sizes(self, labels: Labels) -> tuple[int, ...]:
        return tuple(self.array.shape[self.labels.index(label)] for label in labels)

    def arranged(self, order: Labels) -> _Array:
        """Axes in another order, with one of size 1 for each label that there is none for."""
        present = [label for label in order if label in self.labels]
        shape = [self.sizes((label,))[0] if label in self.labels else 1 for label in order]
        return self.array.transpose([self.labels.index(label) for label in present]).reshape(shape)


def contract(program: RowProgram, axes: Axes, labels: Sequence[Labels], operands: Sequence[Value], out: Labels) -> View:
    """einsum: the product of one or two operands, summed over the labels that `out` does not have.

    Args:
        program: what steps are added to.
        axes: the leading axes, whose labels stand first in every operand of rows and in `out`.
        labels: of the axes of each operand.
        operands: at least one of them a view.
        out: the labels of the result's axes.

    Raises:
        NotRowWise: if rows are summed over, or meet other rows.
    """
    lead = next(own for own, value in zip(labels, operands) if not is_constant(value))[: axes.lead]
    of_rows = [own for own, value in zip(labels, operands) if not is_constant(value)]
    if any(own[: axes.lead] != lead for own in (*of_rows, out)):
        raise NotRowWise("over the batch, or from row to row")
    if any(len(set(own)) != len(own) for own in labels):
        raise NotRowWise("along a diagonal")
    parts = [_of_a_row(own, value, lead) for own, value in zip(labels, operands)]
    views = [part for part in parts if isinstance(part.array, View)]
    numbers = [part for part in parts if isinstance(part.array, np.ndarray)]
    out = out[axes.lead :]
    if len(views) == 1 and not numbers:
        return _summed(program, views[0], out).arranged(out)
    if len(views) == 1 and len(numbers) == 1:
        return _with_numbers(program, views[0], numbers[0], out)
    if len(views) == 2:
        return _of_views(program, views[0], views[1], out)
    raise NotRowWise("of constants")


def _of_a_row(labels: Labels, value: Value, lead: Labels) -> _Labelled[View] | _Labelled[np.ndarray]:
    """Without the leading axes, which a constant may have with size 1."""
    if isinstance(value, View):
        return _Labelled(value, labels[len(lead) :])
    if isinstance(value, Repeated):
        return _Labelled(value.numbers, labels[len(lead) :])
    if is_size(value):
        raise NotRowWise("of the number of rows")
    places = tuple(i for i, label in enumerate(labels) if label in lead)
    if any(value.shape[i] != 1 for i in places):
        raise NotRowWise("of a constant of more than one row")
    return _Labelled(value.squeeze(places), tuple(label for label in labels if label not in lead))


def _summed(program: RowProgram, x: _Labelled[View], kept: Collection[Hashable]) -> _Labelled[View]:
    """Summed over all other labels."""
    for label in x.labels:
        if label not in kept:
            view = program.reduce("sum", x.array, x.labels.index(label))
            x = _Labelled(view, tuple(other for other in x.labels if other != label))
    return x


def _of_views(program: RowProgram, x: _Labelled[View], y: _Labelled[View], out: Labels) -> View:
    shared = tuple(label for label in x.labels if label in y.labels and label not in out)
    terms = [_summed(program, term, (*out, *shared)).arranged((*out, *shared)) for term in (x, y)]
    product = program.merge("mul", terms)
    for _ in shared:
        product = program.reduce("sum", product, -1)
    return product


def _with_numbers(program: RowProgram, x: _Labelled[View], kernel: _Labelled[np.ndarray], out: Labels) -> View:
    """By a constant: one dense product for each index of the axes that both have and that the result keeps."""
    x = _summed(program, x, (*out, *kernel.labels))
    gone = tuple(label for label in kernel.labels if label not in (*out, *x.labels))
    numbers = kernel.array.sum(tuple(kernel.labels.index(label) for label in gone))
    kernel = _Labelled(numbers, tuple(label for label in kernel.labels if label not in gone))
    summed = tuple(label for label in x.labels if label not in out)
    if not summed:
        return program.scale(x.arranged(out), kernel.arranged(out))
    both = tuple(label for label in out if label in x.labels and label in kernel.labels)
    rows = tuple(label for label in out if label in x.labels and label not in both)
    units = tuple(label for label in out if label in kernel.labels and label not in both)
    width, size = math.prod(kernel.sizes(summed)), math.prod(kernel.sizes(units))
    shape = np.broadcast_shapes(x.sizes(both), kernel.sizes(both))
    columns = x.arranged((*both, *rows, *summed)).reshape((*x.sizes(both), -1, width)).columns
    kernels = kernel.arranged((*both, *summed, *units)).reshape((*kernel.sizes(both), width, size))
    columns = np.broadcast_to(columns, (*shape, *columns.shape[-2:])).reshape(-1, *columns.shape[-2:])
    kernels = np.broadcast_to(kernels, (*shape, width, size)).reshape(-1, width, size)
    products = [program.dense(View(c), program.constant(k))[None] for c, k in zip(columns, kernels)]
    y = concat(products, 0).reshape((*shape, *x.sizes(rows), *kernel.sizes(units)))
    return _Labelled(y, (*both, *rows, *units)).arranged(out)
