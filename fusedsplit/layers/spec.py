"""What a layer computes, read off its Keras sub-layers: sizes, activations, and which weight goes where.

A `SplitSpec` holds no Keras object and no TensorFlow tensor. It is hashable, so that everything derived from it
(the plan, a compiled function) can be cached. `lower.py` turns it into a `Plan`; `reference.py` computes it
step by step without one.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple, Union

from fusedsplit.layers.merges import Concat, MergeFunction, NamedMerge
from fusedsplit.plan import Activation, HashedOnce, Live


class DenseSpec(NamedTuple):
    """activation(x @ params[kernel] + params[bias]); the activation may also be softmax, over the units."""

    units: int
    kernel: int
    bias: int | None
    activation: Activation


class Mask(NamedTuple):
    """x * inputs[input], which is as wide as x: an active Dropout, or a soft mask that depends on the data."""

    input: int


class Gain(NamedTuple):
    """x * params[param], a vector."""

    param: int


Item = Union[DenseSpec, Activation, Mask, Gain, "SplitSpec"]


class Branch(NamedTuple):
    """Columns [start, stop) of `source` through `items` in order; no items: the slice unchanged.

    `source` is the index of an input, or None for the stem's output. With `live` the columns on one side of a
    data-dependent point count, and the others are zeros, whatever stands there.
    """

    source: int | None
    start: int
    stop: int
    items: tuple[Item, ...]
    live: Live | None = None

    @property
    def width(self) -> int:
        return items_width(self.stop - self.start, self.items)

    @property
    def is_masked(self) -> bool:
        """Whether its columns must be set to zero before it, there being no product that skips them."""
        return self.live is not None and not (self.items and isinstance(self.items[0], DenseSpec))


class Stage(NamedTuple):
    """A part of a spec that is one plan, with the places of its params among the whole spec's.

    `then` follows it: a callable merge, or branches without items, which are slices of the stem; or nothing.
    """

    spec: SplitSpec
    places: tuple[int, ...]
    then: CallableMerge | tuple[Branch, ...] = ()


@dataclasses.dataclass(frozen=True)
class CallableMerge:
    """A function of the list of branch outputs, and the width of what it gives."""

    function: MergeFunction
    width: int

    def output_width(self, widths: Sequence[int], input_width: int) -> int:
        return self.width


@dataclasses.dataclass(frozen=True)
class SplitSpec(HashedOnce):
    """`stem -> split -> branches -> merge -> head` on one or several inputs.

    Attributes:
        inputs: the width of each input.
        params: the shape of each weight, in weight order: stem, branches, head, kernel before bias. A spec that is
            an item of another one has none of its own: it refers to those of the outermost.
        stem: applied to the first input; empty where there is none.
        branches: what each branch reads and does.
        merge: how the branch outputs become one value; None for a list of them.
        head: applied to the merged value.
        points: how many int32 tensors, which the branches' `live` refer to, are given beside the inputs.
    """

    inputs: tuple[int, ...]
    params: tuple[tuple[int, ...], ...]
    stem: tuple[Item, ...]
    branches: tuple[Branch, ...]
    merge: NamedMerge | CallableMerge | None
    head: tuple[Item, ...]
    points: int = 0

    __hash__ = HashedOnce.__hash__

    @property
    def merged_width(self) -> int:
        assert isinstance(self.merge, NamedMerge | CallableMerge)
        return self.merge.output_width([branch.width for branch in self.branches], self.inputs[0])

    @property
    def output_widths(self) -> tuple[int, ...]:
        """The width of each output: one, or one for each branch where `merge` is None."""
        if self.merge is None:
            return tuple(branch.width for branch in self.branches)
        return (items_width(self.merged_width, self.head),)

    @functools.cached_property
    def is_one_plan(self) -> bool:
        return not isinstance(self.merge, CallableMerge) and not any(branch.is_masked for branch in self.branches)

    def stages(self) -> tuple[Stage, ...]:
        """The spec cut where something stands that is no step of a plan: masked columns, a callable merge.

        A stage reads what follows the one before it: the merged value, or the spec's own inputs and slices of the stem.
        """
        if self.is_one_plan:
            return (Stage(self, tuple(range(len(self.params)))),)
        if any(branch.is_masked for branch in self.branches):
            return self._cut_behind_stem()
        merge = self.merge
        assert isinstance(merge, CallableMerge)
        branches = _with_own_params(dataclasses.replace(self, merge=None, head=()), then=merge)
        if not self.head:
            return (branches,)
        return branches, _with_own_params(_stack(self.params, merge.width, self.head))

    def _cut_behind_stem(self) -> tuple[Stage, ...]:
        inputs, branches, slices = list(self.inputs), [], []
        for branch in self.branches:
            part = branch._replace(items=(), live=branch.live if branch.is_masked else None)
            if part not in slices:
                slices.append(part)
                inputs.append(part.width)
            source = len(self.inputs) + slices.index(part)
            live = None if branch.is_masked else branch.live
            branches.append(Branch(source, 0, part.width, branch.items, live))
        points = self.points if any(branch.live for branch in branches) else 0
        rest = dataclasses.replace(self, inputs=tuple(inputs), stem=(), branches=tuple(branches), points=points)
        stem = _stack(self.params, self.inputs[0], self.stem)
        behind = rest.stages() if not rest.is_one_plan else (_with_own_params(rest),)
        return _with_own_params(stem, then=tuple(slices)), *behind

    @property
    def has_logits(self) -> bool:
        """Whether the last step is a Dense with a sigmoid or softmax, whose input Keras' crossentropies look for."""
        last = self.head[-1] if self.head else None
        return isinstance(last, DenseSpec) and last.activation.name in ("sigmoid", "softmax")


def items_width(width: int, items: Sequence[Item]) -> int:
    """The width of a value of `width` columns after `items`."""
    for item in items:
        if isinstance(item, DenseSpec):
            width = item.units
        elif isinstance(item, SplitSpec):
            width = item.output_widths[0]
    return width


def _stack(params: tuple[tuple[int, ...], ...], width: int, items: tuple[Item, ...]) -> SplitSpec:
    """Items, at least one of them, on one input."""
    return SplitSpec((width,), params, (), (Branch(0, 0, width, items[:-1]),), Concat(), items[-1:])


def _with_own_params(spec: SplitSpec, then: CallableMerge | tuple[Branch, ...] = ()) -> Stage:
    """`spec` with only those of its params that it uses."""
    used: list[int] = []

    def place(index: int) -> int:
        if index not in used:
            used.append(index)
        return used.index(index)

    def items(old: tuple[Item, ...]) -> tuple[Item, ...]:
        return tuple(map(item, old))

    def item(old: Item) -> Item:
        if isinstance(old, DenseSpec):
            return old._replace(kernel=place(old.kernel), bias=None if old.bias is None else place(old.bias))
        if isinstance(old, Gain):
            return Gain(place(old.param))
        return block(old) if isinstance(old, SplitSpec) else old

    def block(old: SplitSpec) -> SplitSpec:
        stem = items(old.stem)
        branches = tuple(branch._replace(items=items(branch.items)) for branch in old.branches)
        return dataclasses.replace(old, stem=stem, branches=branches, head=items(old.head))

    own = block(spec)
    return Stage(dataclasses.replace(own, params=tuple(spec.params[i] for i in used)), tuple(used), then)


def split_sizes(split: int | Sequence[int] | None, units: int, branches: int) -> tuple[int, ...]:
    """The sizes of the branches' slices of `units` columns.

    Args:
        split: sizes along the last axis, an int n for n equal parts, or None for equal parts.
        units: the width that is split.
        branches: how many branches there are.

    Raises:
        ValueError: if the sizes are not positive, do not sum to `units`, or are not one for each branch.
    """
    if split is None:
        split = branches
    if isinstance(split, int) and not isinstance(split, bool):
        if split != branches:
            raise ValueError(f"`split`: expected {branches} parts, one for each branch. Received: split={split}")
        if units % split:
            parts = equal_sizes(units, split)
            raise ValueError(
                f"`split`: expected sizes for {units} units in {split} branches, which do not divide equally "
                f"(nearest: split={parts}). Received: split=None or {split}"
            )
        return (units // split,) * split
    sizes = _as_sizes(split)
    if len(sizes) != branches:
        raise ValueError(f"`split`: expected {branches} sizes, one for each branch. Received: split={list(sizes)}")
    if sum(sizes) != units:
        raise ValueError(
            f"`split`: expected sizes that sum to the stem's {units} units. "
            f"Received: split={list(sizes)}, which sums to {sum(sizes)}"
        )
    return sizes


def equal_sizes(units: int, parts: int) -> list[int]:
    """`parts` sizes that sum to `units` and differ by at most one."""
    return [units // parts + (i < units % parts) for i in range(parts)]


def _as_sizes(split: Any) -> tuple[int, ...]:
    message = f"`split`: expected None, an int, or a list of positive ints. Received: split={split!r}"
    if isinstance(split, (str, bytes, bool, float)):
        raise ValueError(message)
    try:
        sizes = list(split)
    except TypeError:
        raise ValueError(message) from None
    if not all(_is_positive_int(size) for size in sizes):
        raise ValueError(message)
    return tuple(int(size) for size in sizes)


def _is_positive_int(x: Any) -> bool:
    return hasattr(x, "__index__") and not isinstance(x, bool) and x.__index__() > 0
