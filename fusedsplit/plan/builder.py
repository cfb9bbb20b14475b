"""How a plan is built: values, params and steps are added one by one, by layers and by fused models alike."""

from __future__ import annotations

from collections.abc import Sequence

from fusedsplit.plan.plan import Plan
from fusedsplit.plan.steps import (
    LINEAR,
    Activation,
    Const,
    Dense,
    Live,
    Merge,
    Mix,
    Param,
    Range,
    Role,
    Row,
    Step,
    Value,
)


class PlanBuilder:
    """A plan in the making.

    Places are ranges: a method that adds a step takes the range it writes, which `hidden` or `output` gave, or a part
    of one; so a concat is a matter of where its parts were told to write.
    """

    def __init__(self) -> None:
        self.values: list[Value] = []
        self.params: list[Param] = []
        self.steps: list[Step] = []
        self.points = 0

    def value(self, width: int, role: Role) -> Range:
        """A new value, as a whole."""
        self.values.append(Value(width, role))
        return Range(len(self.values) - 1, 0, width)

    def input(self, width: int) -> Range:
        return self.value(width, "input")

    def hidden(self, width: int) -> Range:
        return self.value(width, "hidden")

    def output(self, width: int) -> Range:
        return self.value(width, "output")

    def param(self, shape: Sequence[int]) -> int:
        """A new param, by its index."""
        self.params.append(Param(tuple(shape)))
        return len(self.params) - 1

    def dense(
        self,
        src: Range,
        kernel: int,
        bias: int | None,
        activation: Activation,
        dst: Range,
        live: Live | None = None,
    ) -> None:
        """`dst = activation(src @ kernel + bias)`; the activation may also be softmax, over the columns of `dst`."""
        if activation.name == "softmax":
            logits = self.hidden(dst.width)
            self.steps.append(Dense(src, kernel, bias, LINEAR, logits, live))
            self.steps.append(Row("softmax", logits, dst))
        else:
            self.steps.append(Dense(src, kernel, bias, activation, dst, live))

    def activate(self, src: Range, activation: Activation, dst: Range) -> None:
        """`dst = activation(src)`; softmax goes over the columns, and linear copies."""
        if activation.name == "softmax":
            self.row("softmax", src, dst)
        else:
            self.merge("add", ((src, 1.0),), dst, activation=activation)

    def merge(
        self,
        op: str,
        srcs: Sequence[tuple[Range, float]],
        dst: Range,
        gain: int | Const | None = None,
        shift: int | Const | None = None,
        activation: Activation = LINEAR,
    ) -> None:
        """`dst = activation(gain * (s_1 src_1 op s_2 src_2 op ...) + shift)`."""
        self.steps.append(Merge(op, tuple(srcs), gain, shift, activation, dst))

    def row(self, op: str, src: Range, dst: Range, epsilon: float = 0.0) -> None:
        """`dst = op(src)` over the columns of a row; epsilon is normalize's alone."""
        self.steps.append(Row(op, src, dst, epsilon))

    def mix(self, gate: Range, experts: Sequence[Range], dst: Range) -> None:
        """`dst = sum over e of gate[e] * experts[e]`."""
        self.steps.append(Mix(gate, tuple(experts), dst))

    def plan(self) -> Plan:
        """What was built, validated."""
        return Plan(tuple(self.values), tuple(self.params), tuple(self.steps), self.points).validate()
