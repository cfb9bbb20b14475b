"""A plan computed by any framework: every peer gets the same program, written with its own operations.

A `Vocabulary` is those operations; a concat is one only where somebody reads across its parts, and ranges that cut a
value to pieces are one split.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fusedsplit.bench.program import ProviderUnavailable
from fusedsplit.plan import Activation, Const, Dense, Merge, Mix, Plan, Range, Row
from fusedsplit.plan.steps import Step, sources


class Vocabulary:
    """The operations of a framework, on whatever it takes for a tensor of (rows, columns)."""

    def param(self, array: np.ndarray) -> Any:
        """A weight, made once for each of the plan's params."""
        raise NotImplementedError

    def dense(self, x: Any, kernel: Any, bias: Any | None, activation: Activation) -> Any:
        raise NotImplementedError

    def combine(self, op: str, a: Any, b: Any) -> Any:
        """`a op b`, op being add, mul, max or min; one of them may have a single column, or be a vector or a number."""
        raise NotImplementedError

    def split(self, x: Any, sizes: Sequence[int]) -> Sequence[Any]:
        raise NotImplementedError

    def columns(self, x: Any, start: int, stop: int) -> Any:
        raise NotImplementedError

    def concat(self, parts: Sequence[Any]) -> Any:
        raise NotImplementedError

    def row(self, op: str, x: Any, epsilon: float) -> Any:
        """softmax, mean, max or normalize over the columns."""
        raise NotImplementedError

    def activate(self, activation: Activation, x: Any) -> Any:
        """By the method of the activation's name."""
        if activation.name == "linear":
            return x
        method = getattr(self, activation.name, None)
        if method is None:
            raise ProviderUnavailable(f"{activation.name} is not written for it")
        return method(x, activation.alpha) if activation.alpha else method(x)


class _Values:
    """What has been computed: for each value the pieces that steps wrote, cut where they are read."""

    def __init__(self, plan: Plan, vocabulary: Vocabulary):
        self.vocabulary = vocabulary
        self.pieces: dict[Range, Any] = {}
        self.reads: dict[int, set[Range]] = {i: set() for i in range(len(plan.values))}
        for step in plan.steps:
            for source in sources(step):
                self.reads[source.value].add(source)
        for i in plan.outputs:
            self.reads[i].add(Range(i, 0, plan.values[i].width))

    def write(self, where: Range, x: Any) -> None:
        """Whoever reads exactly these columns gets x itself; readers of its parts get them by one split."""
        self.pieces[where] = x
        inner = sorted(r for r in self.reads[where.value] if where.start <= r.start and r.stop <= where.stop)
        inner = [r for r in inner if r != where]
        cuts = [r.start for r in inner] + [where.stop]
        if inner and cuts[0] == where.start and all(r.stop == cut for r, cut in zip(inner, cuts[1:])):
            self.pieces.update(zip(inner, self.vocabulary.split(x, [r.width for r in inner])))

    def read(self, where: Range) -> Any:
        if where not in self.pieces:
            self.pieces[where] = self._collected(where)
        return self.pieces[where]

    def _collected(self, where: Range) -> Any:
        parts, at = [], where.start
        while at < where.stop:
            # The widest piece that holds this column, so that as few operations as can be put them together.
            piece = max(
                (p for p in self.pieces if p.value == where.value and p.start <= at < p.stop),
                key=lambda p: (min(p.stop, where.stop), p == Range(where.value, at, p.stop)),
            )
            stop = min(piece.stop, where.stop)
            x = self.pieces[piece]
            whole = (piece.start, piece.stop) == (at, stop)
            parts.append(x if whole else self.vocabulary.columns(x, at - piece.start, stop - piece.start))
            at = stop
        return parts[0] if len(parts) == 1 else self.vocabulary.concat(parts)


def compute(plan: Plan, vocabulary: Vocabulary, inputs: Sequence[Any], params: Sequence[Any]) -> list[Any]:
    """The plan's outputs.

    Args:
        plan: without points (dynamic splits).
        vocabulary: the operations.
        inputs: as its operations want them, in the plan's order.
        params: what its `param` made of the weights, in the plan's order.
    """
    if plan.points:
        raise ProviderUnavailable("a split that depends on the data is not written for it")
    values = _Values(plan, vocabulary)
    for i, x in zip(plan.inputs, inputs, strict=True):
        values.write(Range(i, 0, plan.values[i].width), x)
    for step in plan.steps:
        values.write(step.dst, _step(step, vocabulary, values, params))
    return [values.read(Range(i, 0, plan.values[i].width)) for i in plan.outputs]


def _step(step: Step, v: Vocabulary, values: _Values, params: Sequence[Any]) -> Any:
    if isinstance(step, Dense):
        bias = None if step.bias is None else params[step.bias]
        return v.dense(values.read(step.src), params[step.kernel], bias, step.activation)
    if isinstance(step, Row):
        return v.row(step.op, values.read(step.src), step.epsilon)
    if isinstance(step, Mix):
        return _mix(step, v, values)
    return _merge(step, v, values, params)


def _mix(step: Mix, v: Vocabulary, values: _Values) -> Any:
    gates = v.split(values.read(step.gate), [1] * len(step.experts))
    terms = [v.combine("mul", values.read(expert), gate) for expert, gate in zip(step.experts, gates)]
    total = terms[0]
    for term in terms[1:]:
        total = v.combine("add", total, term)
    return total


def _merge(step: Merge, v: Vocabulary, values: _Values, params: Sequence[Any]) -> Any:
    scaled = [values.read(src) if s == 1 else v.combine("mul", values.read(src), s) for src, s in step.srcs]
    total = scaled[0]
    for x in scaled[1:]:
        total = v.combine(step.op, total, x)
    for op, by in (("mul", step.gain), ("add", step.shift)):
        if by is not None:
            total = v.combine(op, total, by.value if isinstance(by, Const) else params[by])
    return v.activate(step.activation, total)
