"""The rules that every plan keeps; `csrc/core/plan/` holds an encoded plan to the same ones."""

from __future__ import annotations

import bisect
import math
from typing import TYPE_CHECKING

from fusedsplit.plan.steps import (
    ACTIVATIONS,
    MAX_COLUMNS,
    MAX_COUNT,
    MAX_ELEMENTS,
    MAX_LINKS,
    MAX_READS,
    MAX_WIDTH,
    MERGE_OPS,
    MIN_PIECE,
    ROLES,
    ROW_OPS,
    SIDES,
    Activation,
    Const,
    Dense,
    Merge,
    Mix,
    PlanError,
    Range,
    Row,
    Step,
    sources,
)

if TYPE_CHECKING:
    from fusedsplit.plan.plan import Plan


def check(plan: Plan) -> None:
    """Raises PlanError, naming the step and the rule that it breaks, if `plan` breaks one."""
    _Validator(plan).run()


class _Validator:
    """One pass over the steps that tracks which columns are written."""

    def __init__(self, plan: Plan):
        self.plan = plan
        self.written = [_Written() for _ in plan.values]
        self.reads = self.links = 0

    def run(self) -> None:
        plan = self.plan
        for what, count in (
            ("values", len(plan.values)),
            ("params", len(plan.params)),
            ("steps", len(plan.steps)),
        ):
            self.check(count <= MAX_COUNT, what, f"at most {MAX_COUNT}", count)
        self.check(0 <= plan.points <= MAX_COUNT, "points", f"0 to {MAX_COUNT}", plan.points)
        self.check(bool(plan.inputs), "values", "at least one input", plan.values)
        self.check(bool(plan.outputs), "values", "at least one output", plan.values)
        for i, value in enumerate(plan.values):
            self.check(value.role in ROLES, f"value {i}", f"a role of {ROLES}", value.role)
            self.check(1 <= value.width <= MAX_WIDTH, f"value {i}", f"a width from 1 to {MAX_WIDTH}", value.width)
        for i, param in enumerate(plan.params):
            fits = len(param.shape) in (1, 2) and all(1 <= d <= MAX_WIDTH for d in param.shape)
            self.check(fits, f"param {i}", f"one or two sizes from 1 to {MAX_WIDTH}", param.shape)
        self.at_most(MAX_COLUMNS, "values", "columns of all values", sum(value.width for value in plan.values))
        for i in plan.inputs:
            self.written[i].write(0, plan.values[i].width)
        elements = 0
        for param in plan.params:
            elements += math.prod(param.shape)
            self.at_most(MAX_ELEMENTS, "values", "elements of all params", elements)
        for i, step in enumerate(plan.steps):
            self.step(f"step {i}", step)
        for i, value in enumerate(plan.values):
            whole = self.written[i].holders(0, value.width) > 0
            self.check(whole, f"value {i}", f"every one of its {value.width} columns written", self.written[i].runs)

    @staticmethod
    def check(condition: bool, where: str, expected: str, received: object) -> None:
        if not condition:
            raise PlanError(f"{where}: expected {expected}. Received: {received}")

    def at_most(self, bound: int, where: str, what: str, received: int) -> None:
        self.check(received <= bound, where, f"at most {bound} {what}", received)

    def step(self, where: str, step: Step) -> None:
        for r in sources(step):
            self.range(where, r)
        self.range(where, step.dst)
        self.count(where, step)
        if isinstance(step, Dense):
            self.dense(where, step)
        elif isinstance(step, Merge):
            self.merge(where, step)
        elif isinstance(step, Row):
            self.row(where, step)
        else:
            self.mix(where, step)
        self.write(where, step.dst)

    def count(self, where: str, step: Step) -> None:
        """What the core makes of the steps so far: the sources of all pieces, and what these depend on.

        With the latter all kernels together are bounded too, to 1024 elements for each link.
        """
        # A cut may be at any column but the first, and the next one MIN_PIECE columns on.
        cuts = (step.dst.width + MIN_PIECE - 2) // MIN_PIECE if isinstance(step, (Dense, Merge)) else 0
        pieces = 1 + cuts
        for r in sources(step):
            held = self.written[r.value].holders(r.start, r.stop)
            self.check(held > 0, where, "a range that is written before it is read", r)
            self.reads += pieces
            self.links += pieces * (held + r.width // MIN_PIECE)
            self.at_most(MAX_READS, where, "sources of all pieces of steps", self.reads)
            self.at_most(MAX_LINKS, where, "links between pieces of steps", self.links)

    def dense(self, where: str, step: Dense) -> None:
        self.param(where, step.kernel, (step.src.width, step.dst.width))
        if step.bias is not None:
            self.param(where, step.bias, (step.dst.width,))
        self.activation(where, step.activation)
        if step.live is not None:
            self.check(step.live.side in SIDES, where, f"a side of {SIDES}", step.live.side)
            self.check(0 <= step.live.point < self.plan.points, where, "a point input of the plan", step.live.point)

    def merge(self, where: str, step: Merge) -> None:
        self.check(step.op in MERGE_OPS, where, f"an op of {MERGE_OPS}", step.op)
        empty_sum = step.op == "add" and step.gain is None
        expected = "at least one source, but for a sum without gain"
        self.check(bool(step.srcs) or empty_sum, where, expected, step.srcs)
        self.check(len(step.srcs) <= MAX_COUNT, where, f"at most {MAX_COUNT} sources", len(step.srcs))
        for r, scale in step.srcs:
            self.check(r.width in (1, step.dst.width), where, f"sources of width 1 or {step.dst.width}", r)
            self.check(math.isfinite(scale), where, "finite scales", scale)
        for operand in (step.gain, step.shift):
            if isinstance(operand, Const):
                self.check(math.isfinite(operand.value), where, "a finite constant", operand.value)
            elif operand is not None:
                self.param(where, operand, (step.dst.width,))
        self.activation(where, step.activation)

    def row(self, where: str, step: Row) -> None:
        self.check(step.op in ROW_OPS, where, f"an op of {ROW_OPS}", step.op)
        width = step.src.width if step.op in ("softmax", "normalize") else 1
        self.check(step.dst.width == width, where, f"a destination of width {width}", step.dst)
        if step.op == "normalize":
            self.check(0 < step.epsilon < math.inf, where, "a finite epsilon above 0", step.epsilon)
        else:
            self.check(step.epsilon == 0, where, f"an epsilon of 0 for {step.op}", step.epsilon)

    def mix(self, where: str, step: Mix) -> None:
        self.check(1 <= len(step.experts) <= MAX_COUNT, where, "at least one expert", step.experts)
        self.check(step.gate.width == len(step.experts), where, f"a gate of width {len(step.experts)}", step.gate)
        for r in step.experts:
            self.check(r.width == step.dst.width, where, f"experts of width {step.dst.width}", r)

    def activation(self, where: str, activation: Activation) -> None:
        self.check(activation.name in ACTIVATIONS, where, f"an activation of {ACTIVATIONS}", activation.name)
        self.check(math.isfinite(activation.alpha), where, "a finite activation parameter", activation.alpha)

    def param(self, where: str, index: int, shape: tuple[int, ...]) -> None:
        self.check(0 <= index < len(self.plan.params), where, f"a param below {len(self.plan.params)}", index)
        self.check(
            self.plan.params[index].shape == shape,
            where,
            f"a param of shape {shape}",
            self.plan.params[index],
        )

    def range(self, where: str, r: Range) -> None:
        self.check(0 <= r.value < len(self.plan.values), where, f"a value below {len(self.plan.values)}", r)
        width = self.plan.values[r.value].width
        self.check(0 <= r.start < r.stop <= width, where, f"a non-empty range within {width} columns", r)

    def write(self, where: str, r: Range) -> None:
        free = self.written[r.value].write(r.start, r.stop)
        self.check(free, where, "columns that no earlier step wrote", r)


class _Written:
    """The columns of a value written so far, as disjoint intervals, one for each step.

    Attributes:
        starts: of the intervals, in order.
        runs: (start, stop) of intervals that touch, as one: what is within one run is written, at however many
            intervals, without a walk over them.
    """

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.runs: list[tuple[int, int]] = []

    def holders(self, start: int, stop: int) -> int:
        """How many intervals hold the columns; 0 if some are not written."""
        i = bisect.bisect_right(self.runs, start, key=_start) - 1
        if i < 0 or self.runs[i][1] < stop:
            return 0
        return bisect.bisect_left(self.starts, stop) - bisect.bisect_right(self.starts, start) + 1

    def write(self, start: int, stop: int) -> bool:
        """False, and no change, if some of the columns are written already."""
        i = bisect.bisect_left(self.runs, start, key=_start)
        before = self.runs[i - 1] if i > 0 else None
        after = self.runs[i] if i < len(self.runs) else None
        if (before and before[1] > start) or (after and after[0] < stop):
            return False
        bisect.insort(self.starts, start)
        first, last = i, i
        if before and before[1] == start:
            first, start = i - 1, before[0]
        if after and after[0] == stop:
            last, stop = i + 1, after[1]
        self.runs[first:last] = [(start, stop)]
        return True


def _start(interval: tuple[int, int]) -> int:
    return interval[0]
