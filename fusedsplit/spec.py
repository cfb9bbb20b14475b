"""What a layer computes, read off its Keras sub-layers: sizes, activations, and which weight goes where.

A `SplitSpec` holds no Keras object and no TensorFlow tensor. It is hashable, so that everything derived from it
(the plan, a compiled function) can be cached. `lower.py` turns it into a `Plan`; `backends/reference.py` computes it
step by step without one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple, Union

from fusedsplit.plan import Activation

# Elementwise merges, as Keras names them.
ELEMENTWISE = ("add", "subtract", "multiply", "average", "maximum", "minimum")
MERGES = ("concat", *ELEMENTWISE)


class DenseSpec(NamedTuple):
    """activation(x @ params[kernel] + params[bias]); the activation may also be softmax, over the units."""

    units: int
    kernel: int
    bias: int | None
    activation: Activation


Item = Union[DenseSpec, Activation]


class Branch(NamedTuple):
    """Columns [start, stop) of `source` through `items` in order; no items: the slice unchanged.

    `source` is the index of an input, or None for the stem's output.
    """

    source: int | None
    start: int
    stop: int
    items: tuple[Item, ...]

    @property
    def width(self) -> int:
        return items_width(self.stop - self.start, self.items)


@dataclasses.dataclass(frozen=True)
class SplitSpec:
    """`stem -> split -> branches -> merge -> head` on one or several inputs.

    Attributes:
        inputs: the width of each input.
        params: the shape of each weight, in weight order: stem, branches, head, kernel before bias.
        stem: applied to the first input; empty where there is none.
        branches: what each branch reads and does.
        merge: one of `MERGES`, or None for a list of the branch outputs.
        head: applied to the merged value.
    """

    inputs: tuple[int, ...]
    params: tuple[tuple[int, ...], ...]
    stem: tuple[Item, ...]
    branches: tuple[Branch, ...]
    merge: str | None
    head: tuple[Item, ...]

    @property
    def merged_width(self) -> int:
        widths = [branch.width for branch in self.branches]
        return sum(widths) if self.merge == "concat" else widths[0]

    @property
    def output_widths(self) -> tuple[int, ...]:
        """The width of each output: one, or one for each branch where `merge` is None."""
        if self.merge is None:
            return tuple(branch.width for branch in self.branches)
        return (items_width(self.merged_width, self.head),)

    @property
    def has_logits(self) -> bool:
        """Whether the last step is a sigmoid or softmax, whose input Keras' crossentropies look for."""
        last = self.head[-1] if self.head else None
        return isinstance(last, DenseSpec) and last.activation.name in ("sigmoid", "softmax")


def items_width(width: int, items: Sequence[Item]) -> int:
    """The width of a value of `width` columns after `items`."""
    for item in items:
        if isinstance(item, DenseSpec):
            width = item.units
    return width


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
