"""The plan: a straight-line, single-assignment program over the values of one row.

Everything in fusedsplit is row-wise, so whatever a layer or a region of a model computes lowers to a list of steps
that each read column ranges and write one column range. A split is a range that a step reads, a concat a range that
a step writes; neither is ever a copy. The plan says *what* is computed, never *where* values live: that is for the
executors (`backends/xla.py`, the C++ core) to decide.

    Dense   dst = activation(src @ kernel + bias)
    Merge   dst = activation(gain * (s_1 src_1 op s_2 src_2 op ...) + shift),  op in {add, mul, max, min}
    Row     dst = softmax | mean | max over the columns of src
    Mix     dst = sum over e of gate[e] * experts[e]

`Plan.encode` gives the flat list of integers that the C++ op takes as its attribute; `csrc/core/plan.cc` decodes and
validates it by the same rules as `Plan.validate`.
"""

from __future__ import annotations

import dataclasses
import math
import struct
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, Union

# Bumped whenever an encoded plan changes meaning: the core refuses any other version.
PLAN_VERSION = 1

# Bounds that hold for every plan, so that no product of sizes overflows in any executor.
MAX_WIDTH = 1 << 24
MAX_COUNT = 1 << 16

Role = Literal["input", "hidden", "output"]
ROLES: tuple[Role, ...] = ("input", "hidden", "output")
MERGE_OPS = ("add", "mul", "max", "min")
ROW_OPS = ("softmax", "mean", "max")
SIDES = ("leading", "trailing")
# The order is part of the encoding: append only.
ACTIVATIONS = (
    "linear",
    "relu",
    "relu6",
    "leaky_relu",
    "elu",
    "selu",
    "gelu",
    "gelu_tanh",
    "silu",
    "sigmoid",
    "hard_sigmoid",
    "tanh",
    "softplus",
    "softsign",
    "exponential",
)


class HashedOnce:
    """For frozen dataclasses that key caches on hot paths: the hash of their many nested tuples, computed once."""

    def __hash__(self) -> int:
        try:
            return self.__dict__["_hash"]
        except KeyError:
            value = hash(tuple(getattr(self, field.name) for field in dataclasses.fields(self)))  # type: ignore[arg-type]
            self.__dict__["_hash"] = value
            return value


class PlanError(ValueError):
    """A plan that breaks one of its own rules."""


class Activation(NamedTuple):
    """An elementwise function; `alpha` is the slope of leaky_relu and the scale of elu, else 0."""

    name: str = "linear"
    alpha: float = 0.0

    def __str__(self) -> str:
        return f"{self.name}({self.alpha:g})" if self.alpha else self.name


LINEAR = Activation()


class Range(NamedTuple):
    """Columns [start, stop) of a value."""

    value: int
    start: int
    stop: int

    @property
    def width(self) -> int:
        return self.stop - self.start


class Value(NamedTuple):
    """`width` columns per row. An output may also be read by later steps."""

    width: int
    role: Role


class Param(NamedTuple):
    """A kernel (in, out) or a vector (out,). One param may appear in several steps: its gradients add."""

    shape: tuple[int, ...]


class Const(NamedTuple):
    """A gain or shift that is one fixed number for every column."""

    value: float


class Live(NamedTuple):
    """A data-dependent point p, read from int32 input `point` (one for the batch, or one per row).

    With side "leading" only columns [0, p) of the step's src count, with "trailing" only columns [p, width).
    """

    point: int
    side: Literal["leading", "trailing"]


@dataclasses.dataclass(frozen=True)
class Dense:
    src: Range
    kernel: int
    bias: int | None
    activation: Activation
    dst: Range
    live: Live | None = None


@dataclasses.dataclass(frozen=True)
class Merge:
    op: str
    srcs: tuple[tuple[Range, float], ...]
    gain: int | Const | None
    shift: int | Const | None
    activation: Activation
    dst: Range


@dataclasses.dataclass(frozen=True)
class Row:
    op: str
    src: Range
    dst: Range


@dataclasses.dataclass(frozen=True)
class Mix:
    gate: Range
    experts: tuple[Range, ...]
    dst: Range


Step = Union[Dense, Merge, Row, Mix]
_STEP_TYPES: tuple[type, ...] = (Dense, Merge, Row, Mix)


def sources(step: Step) -> list[Range]:
    """The ranges that a step reads, in order."""
    if isinstance(step, (Dense, Row)):
        return [step.src]
    if isinstance(step, Merge):
        return [src for src, _ in step.srcs]
    return [step.gate, *step.experts]


@dataclasses.dataclass(frozen=True)
class Plan(HashedOnce):
    """Values, params and steps; `points` counts the int32 inputs that `Live` refers to."""

    values: tuple[Value, ...]
    params: tuple[Param, ...]
    steps: tuple[Step, ...]
    points: int = 0

    __hash__ = HashedOnce.__hash__

    def with_role(self, role: Role) -> list[int]:
        return [i for i, value in enumerate(self.values) if value.role == role]

    @property
    def inputs(self) -> list[int]:
        return self.with_role("input")

    @property
    def outputs(self) -> list[int]:
        return self.with_role("output")

    def flops(self) -> int:
        """Multiply-adds of the products, counted as two operations, for one row."""
        return sum(2 * math.prod(self.params[s.kernel].shape) for s in self.steps if isinstance(s, Dense))

    def validate(self) -> Plan:
        """Checks every rule of the data model and returns the plan itself.

        Raises:
            PlanError: naming the step and the rule that it breaks.
        """
        _Validator(self).run()
        return self

    def encode(self) -> list[int]:
        """The plan as a flat list of 64-bit integers; floats travel as the bits of a double."""
        code = [PLAN_VERSION, self.points, len(self.values), len(self.params), len(self.steps)]
        for value in self.values:
            code += [value.width, ROLES.index(value.role)]
        for param in self.params:
            code += [len(param.shape), *param.shape]
        for step in self.steps:
            code += _encode_step(step)
        return code

    @staticmethod
    def decode(code: Iterable[int]) -> Plan:
        """The plan that `encode` wrote, validated.

        Raises:
            PlanError: if the version is another one, the list ends early or goes on too long, or a rule is broken.
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
        return Plan(values, params, steps, points).validate()

    def __str__(self) -> str:
        names = _value_names(self)

        def show(r: Range) -> str:
            whole = r.start == 0 and r.stop == self.values[r.value].width
            return names[r.value] if whole else f"{names[r.value]}[{r.start}:{r.stop}]"

        lines = [f"plan v{PLAN_VERSION}: {len(self.steps)} steps, {self.flops()} flops per row"]
        lines += [f"  {names[i]}: {v.role}, width {v.width}" for i, v in enumerate(self.values)]
        lines += [f"  p{i}: param {'x'.join(map(str, p.shape))}" for i, p in enumerate(self.params)]
        lines += [f"  {show(step.dst)} = {_show_step(step, show)}" for step in self.steps]
        return "\n".join(lines)


def _value_names(plan: Plan) -> list[str]:
    letters = {"input": "x", "hidden": "h", "output": "y"}
    seen = dict.fromkeys(letters, 0)
    names = []
    for value in plan.values:
        names.append(f"{letters[value.role]}{seen[value.role]}")
        seen[value.role] += 1
    return names


def _show_step(step: Step, show) -> str:
    if isinstance(step, Dense):
        text = f"{show(step.src)} @ p{step.kernel}"
        if step.live is not None:
            text = f"{show(step.src)}.{step.live.side}(point {step.live.point}) @ p{step.kernel}"
        if step.bias is not None:
            text += f" + p{step.bias}"
        return _show_activation(step.activation, text)
    if isinstance(step, Merge):
        terms = (show(r) if scale == 1 else f"{scale:g} {show(r)}" for r, scale in step.srcs)
        text = f"{step.op}({', '.join(terms)})"
        for symbol, operand in (("*", step.gain), ("+", step.shift)):
            if operand is not None:
                text += f" {symbol} " + (f"{operand.value:g}" if isinstance(operand, Const) else f"p{operand}")
        return _show_activation(step.activation, text)
    if isinstance(step, Row):
        return f"row_{step.op}({show(step.src)})"
    return f"mix({show(step.gate)}; {', '.join(map(show, step.experts))})"


def _show_activation(activation: Activation, text: str) -> str:
    return text if activation == LINEAR else f"{activation}({text})"


class _Validator:
    """One pass over the steps that tracks which columns are written."""

    def __init__(self, plan: Plan):
        self.plan = plan
        # Written columns of each value as disjoint intervals; inputs are complete from the start.
        self.written: list[list[tuple[int, int]]] = [[(0, v.width)] if v.role == "input" else [] for v in plan.values]

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
        for i, step in enumerate(plan.steps):
            self.step(f"step {i}", step)
        for i, value in enumerate(plan.values):
            complete = self.covered(Range(i, 0, value.width))
            self.check(complete, f"value {i}", f"every one of its {value.width} columns written", self.written[i])

    @staticmethod
    def check(condition: bool, where: str, expected: str, received: object) -> None:
        if not condition:
            raise PlanError(f"{where}: expected {expected}. Received: {received}")

    def step(self, where: str, step: Step) -> None:
        for r in sources(step):
            self.range(where, r)
            self.check(self.covered(r), where, "a range that is written before it is read", r)
        self.range(where, step.dst)
        if isinstance(step, Dense):
            self.dense(where, step)
        elif isinstance(step, Merge):
            self.merge(where, step)
        elif isinstance(step, Row):
            self.check(step.op in ROW_OPS, where, f"an op of {ROW_OPS}", step.op)
            width = step.src.width if step.op == "softmax" else 1
            self.check(step.dst.width == width, where, f"a destination of width {width}", step.dst)
        else:
            self.mix(where, step)
        self.write(where, step.dst)

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
        self.check(1 <= len(step.srcs) <= MAX_COUNT, where, "at least one source", step.srcs)
        for r, scale in step.srcs:
            self.check(r.width in (1, step.dst.width), where, f"sources of width 1 or {step.dst.width}", r)
            self.check(math.isfinite(scale), where, "finite scales", scale)
        for operand in (step.gain, step.shift):
            if isinstance(operand, Const):
                self.check(math.isfinite(operand.value), where, "a finite constant", operand.value)
            elif operand is not None:
                self.param(where, operand, (step.dst.width,))
        self.activation(where, step.activation)

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

    def covered(self, r: Range) -> bool:
        at = r.start
        for start, stop in self.written[r.value]:
            if start <= at < stop:
                at = stop
        return at >= r.stop

    def write(self, where: str, r: Range) -> None:
        intervals = self.written[r.value]
        free = all(r.stop <= start or stop <= r.start for start, stop in intervals)
        self.check(free, where, "columns that no earlier step wrote", r)
        intervals.append((r.start, r.stop))
        intervals.sort()


def _bits(x: float) -> int:
    return struct.unpack("<q", struct.pack("<d", x))[0]


def _encode_activation(activation: Activation) -> list[int]:
    return [ACTIVATIONS.index(activation.name), _bits(activation.alpha)]


def _encode_operand(operand: int | Const | None) -> list[int]:
    if operand is None:
        return [0, 0]
    if isinstance(operand, Const):
        return [2, _bits(operand.value)]
    return [1, operand]


def _encode_step(step: Step) -> list[int]:
    code = [_STEP_TYPES.index(type(step))]
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
        code += [ROW_OPS.index(step.op), *step.src, *step.dst]
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

    def name(self, names: Sequence[str]) -> str:
        index = self.take()
        if not 0 <= index < len(names):
            raise PlanError(f"expected the index of one of {tuple(names)}. Received: {index}")
        return names[index]

    def number(self) -> float:
        return struct.unpack("<d", struct.pack("<q", self.take()))[0]

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
    kind = reader.name([t.__name__ for t in _STEP_TYPES])
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
        return Row(reader.name(ROW_OPS), reader.range(), reader.range())
    gate, n = reader.range(), reader.count()
    return Mix(gate, tuple(reader.range() for _ in range(n)), reader.range())
