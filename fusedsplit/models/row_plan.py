"""From the steps of a row program to a plan: what is not needed goes, steps are joined, and every value gets its place.

The steps are those of a plan, on values that nobody has placed yet, and `Concat`, which says that some ranges have to
stand side by side. Where a part of it is a value of its own, that is told to stand there from the start; only what is
already elsewhere is copied.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Union

from fusedsplit.plan import (
    LINEAR,
    Dense,
    Merge,
    Mix,
    Plan,
    PlanBuilder,
    Range,
    Row,
    params_of,
    renamed,
    sources,
)


@dataclasses.dataclass(frozen=True)
class Concat:
    """`dst` = the columns of `srcs`, side by side."""

    srcs: tuple[Range, ...]
    dst: Range


RowStep = Union[Dense, Merge, Row, Mix, Concat]


class Finished(NamedTuple):
    """A plan; for each output that was asked for, its place among the plan's; and the sources that its params are."""

    plan: Plan
    outputs: list[int]
    sources: list[int]


def finish(
    steps: Sequence[RowStep],
    widths: Sequence[int],
    inputs: Sequence[int],
    params: Sequence[tuple[int, ...]],
    outputs: Sequence[Range],
) -> Finished:
    """The plan of a row program.

    Args:
        steps: in an order in which every column is written before it is read.
        widths: of all values.
        inputs: the values that are given.
        params: the shapes of all params.
        outputs: values as a whole.
    """
    given = {r.value for r in outputs}
    program = _Steps(list(steps), given)
    program.drop_unneeded()
    for join in (_flatten, _join_activation, _join_mix):
        program.rewrite(join)
    return _place(program.steps, widths, inputs, params, outputs)


def _reads(step: RowStep) -> list[Range]:
    return list(step.srcs) if isinstance(step, Concat) else sources(step)


class _Steps:
    """The steps, and who writes and who reads each value."""

    def __init__(self, steps: list[RowStep], given: set[int]):
        self.steps = steps
        self.given = given
        self._index()

    def _index(self) -> None:
        self.writers: dict[int, list[RowStep]] = defaultdict(list)
        self.readers: dict[int, list[RowStep]] = defaultdict(list)
        for step in self.steps:
            self.writers[step.dst.value].append(step)
            for value in {r.value for r in _reads(step)}:
                self.readers[value].append(step)

    def drop_unneeded(self) -> None:
        needed = set(self.given)
        kept = []
        for step in reversed(self.steps):
            if step.dst.value in needed:
                kept.append(step)
                needed |= {r.value for r in _reads(step)}
        self.steps = kept[::-1]
        self._index()

    def rewrite(self, rule: Callable[[_Steps, RowStep], _Rewrites]) -> None:
        """Applies a rule to every step, until it finds nothing more.

        A rule gives for a step what takes the place of some steps: {old: new, or None for nothing}.
        """
        changed = True
        while changed:
            changed = False
            for step in self.steps:
                new = rule(self, step)
                if new:
                    by_id = {id(old): replacement for old, replacement in new}
                    self.steps = [s for s in (by_id.get(id(s), s) for s in self.steps) if s is not None]
                    self._index()
                    changed = True
                    break

    def only_reader(self, r: Range, step: RowStep) -> list[RowStep]:
        """The writers of a value that nobody but `step` reads, if `r` is all of it; else none."""
        writers = self.writers[r.value]
        whole = r.start == 0 and r.width == sum(w.dst.width for w in writers)
        mine = len(self.readers[r.value]) == 1 and self.readers[r.value][0] is step
        once = sum(s.value == r.value for s in _reads(step)) == 1
        return writers if whole and mine and once and r.value not in self.given else []


_Rewrites = list[tuple[RowStep, Union[RowStep, None]]]


def _is_plain(step: RowStep) -> bool:
    """Whether a step is a Merge that does nothing but merge."""
    return isinstance(step, Merge) and step.gain is None and step.shift is None and step.activation == LINEAR


def _flatten(program: _Steps, step: RowStep) -> _Rewrites:
    """`(a + b) + c` is one sum, `(a * b) * c` one product."""
    if not isinstance(step, Merge) or len(step.srcs) < 2 or step.op not in ("add", "mul"):
        return []
    (first, scale), *rest = step.srcs
    writers = program.only_reader(first, step)
    if len(writers) != 1 or not _is_plain(writers[0]) or writers[0].dst.width != step.dst.width:
        return []
    inner = writers[0]
    assert isinstance(inner, Merge)
    if inner.op != step.op or len(inner.srcs) < 2 or scale != 1:
        return []
    return [(inner, None), (step, dataclasses.replace(step, srcs=(*inner.srcs, *rest)))]


def _join_activation(program: _Steps, step: RowStep) -> _Rewrites:
    """An activation of a whole value is applied by those who write it."""
    if not isinstance(step, Merge) or step.activation == LINEAR:
        return []
    if len(step.srcs) != 1 or step.srcs[0][1] != 1 or step.gain is not None or step.shift is not None:
        return []
    src = step.srcs[0][0]
    if src.width != step.dst.width:
        return []
    writers = program.only_reader(src, step)
    linear = [w for w in writers if isinstance(w, (Dense, Merge)) and w.activation == LINEAR]
    if not writers or len(linear) < len(writers):
        return []
    at = step.dst.start
    moved: _Rewrites = [(step, None)]
    for w in linear:
        dst = Range(step.dst.value, at + w.dst.start, at + w.dst.stop)
        moved.append((w, dataclasses.replace(w, activation=step.activation, dst=dst)))
    return moved


def _join_mix(program: _Steps, step: RowStep) -> _Rewrites:
    """A sum of `gate[e] * expert[e]` over neighbouring columns of a gate is one Mix."""
    if not isinstance(step, Merge) or not _is_plain(step) or step.op != "add":
        return []
    if len(step.srcs) < 2 or any(scale != 1 for _, scale in step.srcs):
        return []
    products = []
    for r, _ in step.srcs:
        product = next((w for w in program.writers[r.value] if w.dst == r), None)
        if product is None or not _is_plain(product) or r.width != step.dst.width:
            return []
        assert isinstance(product, Merge)
        if product.op != "mul" or len(product.srcs) != 2 or any(scale != 1 for _, scale in product.srcs):
            return []
        products.append(product)
    values = {p.dst.value for p in products}
    for value in values:
        if value in program.given or program.readers[value] != [step]:
            return []
        if any(w not in products for w in program.writers[value]):
            return []
    for gates, experts in _roles(products):
        columns = [g.start for g in gates]
        side_by_side = len({g.value for g in gates}) == 1 and columns == list(
            range(columns[0], columns[0] + len(gates))
        )
        if side_by_side and all(g.width == 1 for g in gates) and all(e.width == step.dst.width for e in experts):
            gate = Range(gates[0].value, columns[0], columns[0] + len(gates))
            mix = Mix(gate, tuple(experts), step.dst)
            return [*((p, None) for p in products), (step, mix)]
    return []


def _roles(products: Sequence[Merge]) -> Iterator[tuple[list[Range], list[Range]]]:
    for gate in (0, 1):
        yield [p.srcs[gate][0] for p in products], [p.srcs[1 - gate][0] for p in products]


def _place(
    steps: Sequence[RowStep],
    widths: Sequence[int],
    inputs: Sequence[int],
    params: Sequence[tuple[int, ...]],
    outputs: Sequence[Range],
) -> Finished:
    """Numbers values and params anew, and puts the parts of every concat where they belong."""
    fixed = {*inputs, *(r.value for r in outputs)}
    placed = _placements(steps, widths, fixed)
    build = PlanBuilder()
    new = {value: build.input(widths[value]) for value in inputs}
    for r in outputs:
        if r.value not in new:
            new[r.value] = build.output(widths[r.value])

    def resolve(r: Range) -> Range:
        while r.value in placed:
            into, offset = placed[r.value]
            r = Range(into, offset + r.start, offset + r.stop)
        if r.value not in new:
            new[r.value] = build.hidden(widths[r.value])
        return Range(new[r.value].value, r.start, r.stop)

    used = sorted({p for step in steps if not isinstance(step, Concat) for p in params_of(step)})
    numbers = {p: build.param(params[p]) for p in used}
    for step in steps:
        if isinstance(step, Concat):
            at = step.dst.start
            for r in step.srcs:
                place = resolve(Range(step.dst.value, at, at + r.width))
                at += r.width
                if resolve(r) != place:
                    build.merge("add", ((resolve(r), 1.0),), place)
        else:
            build.steps.append(renamed(step, resolve, numbers))
    positions = [r.value for r in sorted({new[r.value] for r in outputs})]
    return Finished(build.plan(), [positions.index(new[r.value].value) for r in outputs], used)


def _placements(steps: Sequence[RowStep], widths: Sequence[int], fixed: set[int]) -> dict[int, tuple[int, int]]:
    """For each value that is told to stand inside another one: which, and from which column on."""
    placed: dict[int, tuple[int, int]] = {}
    for step in steps:
        if isinstance(step, Concat):
            at = step.dst.start
            for r in step.srcs:
                whole = r.start == 0 and r.stop == widths[r.value]
                if whole and r.value not in fixed and r.value not in placed:
                    placed[r.value] = (step.dst.value, at)
                at += r.width
    return placed
