"""Plan -> plan where weights are frozen: what may be multiplied out once need not be computed for every row.

    linear stem      (x K + b) V + c        = x (K V) + (b V + c)            where that takes less work
    gain behind      g (x K + b) + t        = x (K g) + (b g + t)            BatchNormalization, Rescaling, scales
    gain in front    (g x + t) K + b        = x (g K) + (t K + b)
    one source       [x K | x L]            = x [K | L]

Products of weights are computed in float64. What a folded plan gives differs from the plan's own results as
another order of summation does: by a few units roundoff of the sum of absolute terms, `|x||K||V|`.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from fusedsplit.plan.plan import Plan
from fusedsplit.plan.steps import (
    LINEAR,
    Activation,
    Const,
    Dense,
    Merge,
    Param,
    Range,
    Step,
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
        self.steps: list[Step] = list(plan.steps)
        self.params: list[Array] = list(params)

    # What the passes ask.

    def is_hidden(self, r: Range) -> bool:
        return self.plan.values[r.value].role == "hidden"

    def readers(self, r: Range) -> list[Step]:
        """The steps that read any column of a range."""
        return [step for step in self.steps if any(_overlap(s, r) for s in sources(step))]

    def kernel(self, step: Dense) -> npt.NDArray[np.float64]:
        return np.asarray(self.params[step.kernel], np.float64)

    def bias(self, step: Dense) -> npt.NDArray[np.float64]:
        if step.bias is None:
            return np.zeros(step.dst.width)
        return np.asarray(self.params[step.bias], np.float64)

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

    def replace(self, old: Step, new: Sequence[Step]) -> None:
        at = next(i for i, step in enumerate(self.steps) if step is old)
        self.steps[at : at + 1] = new

    # The passes: each says whether it changed anything.

    def drop_unread(self) -> bool:
        kept = [step for step in self.steps if not self.is_hidden(step.dst) or self.readers(step.dst)]
        changed = len(kept) < len(self.steps)
        self.steps = kept
        return changed

    def join(self) -> bool:
        """Neighbouring columns that one product can give."""
        alike: dict[tuple[Range, Activation, int], list[Dense]] = defaultdict(list)
        for step in self.steps:
            if isinstance(step, Dense) and step.live is None:
                alike[step.src, step.activation, step.dst.value].append(step)
        changed = False
        for found in alike.values():
            for run in _neighbours(found):
                changed = True
                # Where the first of them stands: what it reads is there.
                first = next(step for step in self.steps if any(step is r for r in run))
                kernel = np.concatenate([self.kernel(r) for r in run], axis=1)
                bias = np.concatenate([self.bias(r) for r in run])
                has_bias = any(r.bias is not None for r in run)
                dst = Range(run[0].dst.value, run[0].dst.start, run[-1].dst.stop)
                joined = dataclasses.replace(run[0], bias=0 if has_bias else None, dst=dst)
                self.replace(first, [self.with_weights(joined, kernel, bias)])
                self.steps = [step for step in self.steps if not any(step is r for r in run)]
        return changed

    def gain_behind(self) -> bool:
        """A Merge of one source that linear products write, and that nobody else reads."""
        changed = False
        for step in list(self.steps):
            if not isinstance(step, Merge) or len(step.srcs) != 1 or step.srcs[0][0].width != step.dst.width:
                continue
            src = step.srcs[0][0]
            writers = [s for s in self.steps if _overlap(s.dst, src)]
            products = [w for w in writers if isinstance(w, Dense) and w.activation == LINEAR and _within(w.dst, src)]
            if not self.is_hidden(src) or len(products) < len(writers) or len(self.readers(src)) > 1:
                continue
            gain, shift = self.affine(step)
            for w in products:
                part = slice(w.dst.start - src.start, w.dst.stop - src.start)
                dst = Range(step.dst.value, step.dst.start + part.start, step.dst.start + part.stop)
                moved = dataclasses.replace(w, dst=dst, activation=step.activation)
                kernel, bias = self.kernel(w) * gain[part], self.bias(w) * gain[part] + shift[part]
                self.replace(w, [self.with_weights(moved, kernel, bias)])
            self.replace(step, [])
            changed = True
        return changed

    def gain_in_front(self) -> bool:
        """A Merge of one source, linear, that products alone read."""
        changed = False
        for step in list(self.steps):
            if not isinstance(step, Merge) or len(step.srcs) != 1 or step.activation != LINEAR:
                continue
            src = step.srcs[0][0]
            products = self.products_on(step.dst)
            if src.width != step.dst.width or not self.is_hidden(step.dst) or products is None:
                continue
            gain, shift = self.affine(step)
            for r in products:
                part = slice(r.src.start - step.dst.start, r.src.stop - step.dst.start)
                moved = dataclasses.replace(r, src=Range(src.value, src.start + part.start, src.start + part.stop))
                kernel = self.kernel(r)
                bias = self.bias(r) + shift[part] @ kernel
                self.replace(r, [self.with_weights(moved, gain[part, None] * kernel, bias)])
            self.replace(step, [])
            changed = True
        return changed

    def linear_stems(self) -> bool:
        """Columns of a linear product that products alone read, where these are cheaper from its source."""
        changed = False
        for stem in list(self.steps):
            if not isinstance(stem, Dense) or stem.activation != LINEAR or stem.live or not self.is_hidden(stem.dst):
                continue
            if not any(step is stem for step in self.steps):  # a stem before it went into it
                continue
            left = []
            for columns in self.columns_read_together(stem.dst):
                products = self.products_on(columns)
                if products is None or not _is_cheaper(stem.src.width, columns.width, products):
                    left.append(columns)
                else:
                    self.fold_stem(stem, products)
            if _width(left) == stem.dst.width:
                continue
            self.replace(stem, [self.part_of(stem, columns) for columns in left])
            changed = True
        return changed

    def products_on(self, columns: Range) -> list[Dense] | None:
        """The products that read some of these columns; None if anything else does, or one of them others as well."""
        products = []
        for step in self.readers(columns):
            if not isinstance(step, Dense) or step.live is not None or not _within(step.src, columns):
                return None
            products.append(step)
        return products

    def columns_read_together(self, dst: Range) -> list[Range]:
        """A range, cut where no reader reads both sides."""
        read = sorted((s.start, s.stop) for r in self.readers(dst) for s in sources(r) if _overlap(s, dst))
        cuts, reach = {dst.start, dst.stop}, dst.start
        for start, stop in read:
            if start >= reach:
                cuts |= {reach, start}
            reach = max(reach, stop)
        cuts.add(reach)
        inside = sorted(c for c in cuts if dst.start <= c <= dst.stop)
        return [Range(dst.value, a, b) for a, b in zip(inside, inside[1:])]

    def fold_stem(self, stem: Dense, products: Sequence[Dense]) -> None:
        stem_kernel, stem_bias = self.kernel(stem), self.bias(stem)
        for r in products:
            part = slice(r.src.start - stem.dst.start, r.src.stop - stem.dst.start)
            kernel = self.kernel(r)
            bias = self.bias(r) + stem_bias[part] @ kernel
            moved = dataclasses.replace(r, src=stem.src)
            self.replace(r, [self.with_weights(moved, stem_kernel[:, part] @ kernel, bias)])

    def part_of(self, stem: Dense, columns: Range) -> Dense:
        part = slice(columns.start - stem.dst.start, columns.stop - stem.dst.start)
        left = dataclasses.replace(stem, dst=columns)
        return self.with_weights(left, self.kernel(stem)[:, part], self.bias(stem)[part])

    # The result.

    def finished(self, dtype: np.dtype) -> tuple[Plan, list[Array]]:
        """Values without the columns that nobody writes any more, and the params that are still used."""
        values: list[Value] = []
        places: dict[int, list[tuple[Range, int]]] = {}  # old value -> its columns, and the new value of them
        for i, value in enumerate(self.plan.values):
            columns = [Range(i, 0, value.width)] if value.role != "hidden" else self._runs(i)
            places[i] = []
            for r in columns:
                places[i].append((r, len(values)))
                values.append(Value(r.width, value.role))

        def moved(r: Range) -> Range:
            columns, new = next((c, new) for c, new in places[r.value] if _within(r, c))
            return Range(new, r.start - columns.start, r.stop - columns.start)

        used = dict.fromkeys(p for step in self.steps for p in params_of(step))
        numbers = {old: new for new, old in enumerate(used)}
        steps = tuple(renamed(step, moved, numbers) for step in self.steps)
        params = [np.ascontiguousarray(self.params[old], dtype) for old in numbers]
        shapes = tuple(Param(tuple(p.shape)) for p in params)
        return Plan(tuple(values), shapes, steps, self.plan.points).validate(), params

    def _runs(self, value: int) -> list[Range]:
        """The columns of a value that are written, as few ranges."""
        runs: list[Range] = []
        for start, stop in sorted((s.dst.start, s.dst.stop) for s in self.steps if s.dst.value == value):
            if runs and runs[-1].stop == start:
                runs[-1] = runs[-1]._replace(stop=stop)
            else:
                runs.append(Range(value, start, stop))
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


def _neighbours(products: Sequence[Dense]) -> list[list[Dense]]:
    """Those whose columns touch, two or more together, in order."""
    runs: list[list[Dense]] = []
    for step in sorted(products, key=lambda p: p.dst.start):
        if runs and runs[-1][-1].dst.stop == step.dst.start:
            runs[-1].append(step)
        else:
            runs.append([step])
    return [run for run in runs if len(run) > 1]
