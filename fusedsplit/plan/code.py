"""A plan as a flat list of 64-bit integers: the attribute of the C++ op, and what the core decodes."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

from fusedsplit.plan.steps import (
    ACTIVATIONS,
    MAX_COUNT,
    MERGE_OPS,
    ROLES,
    ROW_OPS,
    SIDES,
    STEP_TYPES,
    Activation,
    Const,
    Dense,
    Live,
    Merge,
    Mix,
    Param,
    PlanError,
    Range,
    Row,
    Step,
    Value,
)

if TYPE_CHECKING:
    from fusedsplit.plan.plan import Plan

_Name = TypeVar("_Name", bound=str)

# Bumped whenever an encoded plan changes meaning: the core refuses any other version.
PLAN_VERSION = 2


def encode(plan: Plan) -> list[int]:
    """The plan as integers; floats travel as the bits of a double."""
    code = [PLAN_VERSION, plan.points, len(plan.values), len(plan.params), len(plan.steps)]
    for value in plan.values:
        code += [value.width, ROLES.index(value.role)]
    for param in plan.params:
        code += [len(param.shape), *param.shape]
    for step in plan.steps:
        code += _encode_step(step)
    return code


def decode(code: Iterable[int]) -> tuple[tuple[Value, ...], tuple[Param, ...], tuple[Step, ...], int]:
    """Values, params, steps and points of an encoded plan, of which no rule is checked yet.

    Raises:
        PlanError: if the version is another one, or the list ends early or goes on too long.
    """
    reader = _Reader(code)
    version = reader.take()
    if version != PLAN_VERSION:
        raise PlanError(f"expected plan version {PLAN_VERSION}. Received: version {version}")
    points, n_values, n_params, n_steps = (reader.count() for _ in range(4))
    values = tuple(Value(reader.take(), reader.name(ROLES)) for _ in range(n_values))
    params = tuple(Param(tuple(reader.take() for _ in range(reader.count()))) for _ in range(n_params))
    steps = tuple(_decode_step(reader) for _ in range(n_steps))
    reader.end()
    return values, params, steps, points


def _bits(x: float) -> int:
    bits: int = struct.unpack("<q", struct.pack("<d", x))[0]
    return bits


def _encode_activation(activation: Activation) -> list[int]:
    return [ACTIVATIONS.index(activation.name), _bits(activation.alpha)]


def _encode_operand(operand: int | Const | None) -> list[int]:
    if operand is None:
        return [0, 0]
    if isinstance(operand, Const):
        return [2, _bits(operand.value)]
    return [1, operand]


def _encode_step(step: Step) -> list[int]:
    code = [STEP_TYPES.index(type(step))]
    if isinstance(step, Dense):
        live = [-1, 0] if step.live is None else [step.live.point, SIDES.index(step.live.side)]
        bias = -1 if step.bias is None else step.bias
        code += [*step.src, step.kernel, bias, *_encode_activation(step.activation), *step.dst, *live]
    elif isinstance(step, Merge):
        code += [MERGE_OPS.index(step.op), len(step.srcs)]
        for r, scale in step.srcs:
            code += [*r, _bits(scale)]
        code += [*_encode_operand(step.gain), *_encode_operand(step.shift)]
        code += [*_encode_activation(step.activation), *step.dst]
    elif isinstance(step, Row):
        code += [ROW_OPS.index(step.op), *step.src, *step.dst, _bits(step.epsilon)]
    else:
        code += [*step.gate, len(step.experts)]
        for r in step.experts:
            code += r
        code += step.dst
    return code


class _Reader:
    """Takes integers off an encoded plan, and says where it went wrong."""

    def __init__(self, code: Iterable[int]):
        self.code: Sequence[int] = [int(x) for x in code]
        self.at = 0

    def take(self) -> int:
        if self.at >= len(self.code):
            raise PlanError(f"expected more than {len(self.code)} integers. Received: a plan that ends early")
        self.at += 1
        return self.code[self.at - 1]

    def count(self) -> int:
        n = self.take()
        if not 0 <= n <= MAX_COUNT:
            raise PlanError(f"expected a count from 0 to {MAX_COUNT}. Received: {n} at position {self.at - 1}")
        return n

    def name(self, names: Sequence[_Name]) -> _Name:
        index = self.take()
        if not 0 <= index < len(names):
            raise PlanError(f"expected the index of one of {tuple(names)}. Received: {index}")
        return names[index]

    def number(self) -> float:
        number: float = struct.unpack("<d", struct.pack("<q", self.take()))[0]
        return number

    def range(self) -> Range:
        return Range(self.take(), self.take(), self.take())

    def activation(self) -> Activation:
        return Activation(self.name(ACTIVATIONS), self.number())

    def operand(self) -> int | Const | None:
        kind = self.name(("none", "param", "const"))
        if kind == "const":
            return Const(self.number())
        index = self.take()
        return index if kind == "param" else None

    def end(self) -> None:
        if self.at != len(self.code):
            raise PlanError(f"expected {self.at} integers. Received: {len(self.code)}")


def _decode_step(reader: _Reader) -> Step:
    kind = reader.name([t.__name__ for t in STEP_TYPES])
    if kind == "Dense":
        src, kernel, bias = reader.range(), reader.take(), reader.take()
        activation, dst, point = reader.activation(), reader.range(), reader.take()
        side = reader.name(SIDES)
        live = None if point == -1 else Live(point, side)
        return Dense(src, kernel, None if bias == -1 else bias, activation, dst, live)
    if kind == "Merge":
        op, n = reader.name(MERGE_OPS), reader.count()
        srcs = tuple((reader.range(), reader.number()) for _ in range(n))
        return Merge(op, srcs, reader.operand(), reader.operand(), reader.activation(), reader.range())
    if kind == "Row":
        return Row(reader.name(ROW_OPS), reader.range(), reader.range(), reader.number())
    gate, n = reader.range(), reader.count()
    return Mix(gate, tuple(reader.range() for _ in range(n)), reader.range())
