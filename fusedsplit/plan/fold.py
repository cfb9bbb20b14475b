"""Plan -> plan where weights are frozen: what may be multiplied out once need not be computed for every row.

    linear stem      (x K + b) V + c        = x (K V) + (b V + c)            where that takes less work
    gain behind      g (x K + b) + t        = x (K g) + (b g + t)            BatchNormalization, Rescaling, scales
    gain in front    (g x + t) K + b        = x (g K) + (t K + b)
    one source       [x K | x L]            = x [K | L]

Products of weights are computed in float64. What a folded plan gives differs from the plan's own results as
another order of summation does: by a few units roundoff of the sum of absolute terms, `|x||K||V|`.
"""

from __future__ import annotations

import bisect
import dataclasses
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from fusedsplit.plan.plan import Plan
from fusedsplit.plan.rewriting import Place, Steps
from fusedsplit.plan.steps import (
    LINEAR,
    Activation,
    Const,
    Dense,
    Merge,
    Param,
    Range,
    Value,
    params_of,
    renamed,
    sources,
)

Array = npt.NDArray[np.floating]


def fold(plan: Plan, params: Sequence[Array]) -> tuple[Plan, list[Array]]:
    """A plan that computes the same with less work, and its params.

    Example:

    >>> import numpy as np
    >>> from fusedsplit.plan import LINEAR, PlanBuilder
    >>> build = PlanBuilder()
    >>> x, h, y = build.input(10), build.hidden(8), build.output(4)
    >>> build.dense(x, build.param((10, 8)), None, LINEAR, h)
    >>> build.dense(h, build.param((8, 4)), None, LINEAR, y)
    >>> folded, params = fold(build.plan(), [np.ones((10, 8)), np.ones((8, 4))])
    >>> len(folded.steps), params[0].shape, float(params[0][0, 0])
    (1, (10, 4), 8.0)

    Args:
        plan: a validated plan.
        params: its weights, arrays of one floating dtype.

    Returns:
        The folded plan, validated, and its weights, in the dtype of `params`.
    """
    dtype = params[0].dtype if params else np.dtype(np.float32)
    program = _Program(plan, params)
    passes = (program.drop_unread, program.join, program.gain_behind, program.gain_in_front, program.linear_stems)
    while any(run() for run in passes):
        pass
    return program.finished(dtype)


class _Program:
    """Steps whose params are known, rewritten until nothing more can be saved."""

    def __init__(self, plan: Plan, params: Sequence[Array]):
        self.plan = plan
        self.steps = Steps(plan.steps)
        self.params: list[Array] = list(params)

    # What the passes ask.

    def is_hidden(self, r: Range) -> bool:
        return self.plan.values[r.value].role == "hidden"

    def kernel(self, step: Dense, columns: slice = slice(None)) -> npt.NDArray[np.float64]:
        return np.asarray(self.params[step.kernel][:, columns], np.float64)

    def bias(self, step: Dense, columns: slice = slice(None)) -> npt.NDArray[np.float64]:
        if step.bias is None:
            return np.zeros(len(range(*columns.indices(step.dst.width))))
        return np.asarray(self.params[step.bias][columns], np.float64)

    def operand(self, operand: int | Const | None, default: float, width: int) -> npt.NDArray[np.float64]:
        if operand is None or isinstance(operand, Const):
            return np.full(width, default if operand is None else operand.value)
        return np.asarray(self.params[operand], np.float64)

    def affine(self, step: Merge) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Gain and shift of a Merge of one source."""
        width = step.dst.width
        return self.operand(step.gain, 1, width) * step.srcs[0][1], self.operand(step.shift, 0, width)

    def with_weights(self, step: Dense, kernel: Array, bias: Array) -> Dense:
        """The step with new params; a bias of zeros that it has not got is left out."""
        self.params.append(kernel)
        place = len(self.params) - 1
        if step.bias is None and not bias.any():
            return dataclasses.replace(step, kernel=place, bias=None)
        self.params.append(bias)
        return dataclasses.replace(step, kernel=place, bias=place + 1)

    # The passes: each says whether it changed anything.

    def drop_unread(self) -> bool:
        before = len(self.steps)
        for place, step in reversed(self.steps.in_order()):  # so that what only the dropped read goes with them
            if self.is_hidden(step.dst) and not self.steps.readers(step.dst):
                self.steps.replace(place, [])
        return len(self.steps) < before

    def join(self) -> bool:
        """Neighbouring columns that one product can give."""
        alike: dict[tuple[Range, Activation, int], list[tuple[Place, Dense]]] = defaultdict(list)
        for place, step in self.steps.in_order():
            if isinstance(step, Dense) and step.live is None:
                alike[step.src, step.activation, step.dst.value].append((place, step))
        changed = False
        for found in alike.values():
            for run in _neighbours(found):
                changed = True
                products = [step for _, step in run]
                kernel = np.concatenate([self.kernel(r) for r in products], axis=1)
                bias = np.concatenate([self.bias(r) for r in products])
                has_bias = any(r.bias is not None for r in products)
                dst = Range(products[0].dst.value, products[0].dst.start, products[-1].dst.stop)
                joined = dataclasses.replace(products[0], bias=0 if has_bias else None, dst=dst)
                # Where the first of them stands: what it reads is there.
                first = min(place for place, _ in run)
                for place, _ in run:
                    self.steps.replace(place, [self.with_weights(joined, kernel, bias)] if place == first else [])
        return changed

    def gain_behind(self) -> bool:
        """A Merge of one source that linear products write, and that nobody else reads."""
        changed = False
        for place, step in self.steps.in_order():
            if not isinstance(step, Merge) or len(step.srcs) != 1 or step.srcs[0][0].width != step.dst.width:
                continue
            src = step.srcs[0][0]
            writers = self.steps.writers(src)
            products = [(at, w) for at, w in writers if isinstance(w, Dense) and _is_linear_within(w, src)]
            if not self.is_hidden(src) or len(products) < len(writers) or len(self.steps.readers(src)) > 1:
                continue
            gain, shift = self.affine(step)
            for at, w in products:
                part = slice(w.dst.start - src.start, w.dst.stop - src.start)
                dst = Range(step.dst.value, step.dst.start + part.start, step.dst.start + part.stop)
                moved = dataclasses.replace(w, dst=dst, activation=step.activation)
                kernel, bias = self.kernel(w) * gain[part], self.bias(w) * gain[part] + shift[part]
                self.steps.replace(at, [self.with_weights(moved, kernel, bias)])
            self.steps.replace(place, [])
            changed = True
        return changed

    def gain_in_front(self) -> bool:
        """A Merge of one source, linear, that products alone read."""
        changed = False
        for place, step in self.steps.in_order():
            if not isinstance(step, Merge) or len(step.srcs) != 1 or step.activation != LINEAR:
                continue
            src = step.srcs[0][0]
            products = self.products_on(step.dst)
            if src.width != step.dst.width or not self.is_hidden(step.dst) or products is None:
                continue
            gain, shift = self.affine(step)
            for at, r in products:
                part = slice(r.src.start - step.dst.start, r.src.stop - step.dst.start)
                moved = dataclasses.replace(r, src=Range(src.value, src.start + part.start, src.start + part.stop))
                kernel = self.kernel(r)
                bias = self.bias(r) + shift[part] @ kernel
                self.steps.replace(at, [self.with_weights(moved, gain[part, None] * kernel, bias)])
            self.steps.replace(place, [])
            changed = True
        return changed

    def linear_stems(self) -> bool:
        """Columns of a linear product that products alone read, where these are cheaper from its source."""
        changed = False
        for place, _ in self.steps.in_order():
            stem = self.steps.at(place)  # as it is by now: a stem before it may have gone into it
            if not isinstance(stem, Dense) or stem.activation != LINEAR or stem.live or not self.is_hidden(stem.dst):
                continue
            left = []
            for columns in self.columns_read_together(stem.dst):
                products = self.products_on(columns)
                if products is None or not _is_cheaper(stem.src.width, columns.width, [r for _, r in products]):
                    left.append(columns)
                else:
                    self.fold_stem(stem, products)
            if _width(left) == stem.dst.width:
                continue
            self.steps.replace(place, [self.part_of(stem, columns) for columns in left])
            changed = True
        return changed

    def products_on(self, columns: Range) -> list[tuple[Place, Dense]] | None:
        """The products that read some of these columns; None if anything else does, or one of them others as well."""
        products = []
        for place, step in self.steps.readers(columns):
            if not isinstance(step, Dense) or step.live is not None or not _within(step.src, columns):
                return None
            products.append((place, step))
        return products

    def columns_read_together(self, dst: Range) -> list[Range]:
        """A range, cut where no reader reads both sides."""
        readers = self.steps.readers(dst)
        read = sorted((s.start, s.stop) for _, r in readers for s in sources(r) if _overlap(s, dst))
        cuts, reach = {dst.start, dst.stop}, dst.start
        for start, stop in read:
            if start >= reach:
                cuts |= {reach, start}
            reach = max(reach, stop)
        cuts.add(reach)
        inside = sorted(c for c in cuts if dst.start <= c <= dst.stop)
        return [Range(dst.value, a, b) for a, b in zip(inside, inside[1:])]

    def fold_stem(self, stem: Dense, products: Sequence[tuple[Place, Dense]]) -> None:
        for place, r in products:
            part = slice(r.src.start - stem.dst.start, r.src.stop - stem.dst.start)
            kernel = self.kernel(r)
            bias = self.bias(r) + self.bias(stem, part) @ kernel
            moved = dataclasses.replace(r, src=stem.src)
            self.steps.replace(place, [self.with_weights(moved, self.kernel(stem, part) @ kernel, bias)])

    def part_of(self, stem: Dense, columns: Range) -> Dense:
        part = slice(columns.start - stem.dst.start, columns.stop - stem.dst.start)
        left = dataclasses.replace(stem, dst=columns)
        return self.with_weights(left, self.kernel(stem, part), self.bias(stem, part))

    # The result.

    def finished(self, dtype: np.dtype) -> tuple[Plan, list[Array]]:
        """Values without the columns that nobody writes any more, and the params that are still used."""
        steps = [step for _, step in self.steps.in_order()]
        written: dict[int, list[Range]] = defaultdict(list)
        for step in steps:
            written[step.dst.value].append(step.dst)
        values: list[Value] = []
        # Old value -> where each of its runs of columns begins, and the new value that the first of these is.
        places: dict[int, tuple[list[int], int]] = {}
        for i, value in enumerate(self.plan.values):
            columns = [Range(i, 0, value.width)] if value.role != "hidden" else _runs(written[i])
            places[i] = [r.start for r in columns], len(values)
            values += [Value(r.width, value.role) for r in columns]

        def moved(r: Range) -> Range:
            starts, first = places[r.value]
            at = bisect.bisect_right(starts, r.start) - 1
            return Range(first + at, r.start - starts[at], r.stop - starts[at])

        used = dict.fromkeys(p for step in steps for p in params_of(step))
        numbers = {old: new for new, old in enumerate(used)}
        params = [np.ascontiguousarray(self.params[old], dtype) for old in numbers]
        shapes = tuple(Param(tuple(p.shape)) for p in params)
        moved_steps = tuple(renamed(step, moved, numbers) for step in steps)
        return Plan(tuple(values), shapes, moved_steps, self.plan.points).validate(), params


def _runs(written: Sequence[Range]) -> list[Range]:
    """Columns of a value that are written, as few ranges."""
    runs: list[Range] = []
    for r in sorted(written):
        if runs and runs[-1].stop == r.start:
            runs[-1] = runs[-1]._replace(stop=r.stop)
        else:
            runs.append(r)
    return runs


def _overlap(a: Range, b: Range) -> bool:
    return a.value == b.value and a.start < b.stop and b.start < a.stop


def _within(a: Range, b: Range) -> bool:
    return a.value == b.value and b.start <= a.start and a.stop <= b.stop


def _width(columns: Sequence[Range]) -> int:
    return sum(r.width for r in columns)


def _is_cheaper(terms: int, columns: int, products: Sequence[Dense]) -> bool:
    """Whether products are, straight from the `terms` columns that the stem reads, than through so many of the stem."""
    through = terms * columns + sum(r.src.width * r.dst.width for r in products)
    return terms * sum(r.dst.width for r in products) <= through


def _is_linear_within(step: Dense, r: Range) -> bool:
    return step.activation == LINEAR and _within(step.dst, r)


def _neighbours(products: Sequence[tuple[Place, Dense]]) -> list[list[tuple[Place, Dense]]]:
    """Those whose columns touch, two or more together, in order."""
    runs: list[list[tuple[Place, Dense]]] = []
    for place, step in sorted(products, key=lambda p: p[1].dst.start):
        if runs and runs[-1][-1][1].dst.stop == step.dst.start:
            runs[-1].append((place, step))
        else:
            runs.append([(place, step)])
    return [run for run in runs if len(run) > 1]
