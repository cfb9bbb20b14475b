"""The plan's data model: values, params, and the four kinds of step.

Everything in fusedsplit is row-wise, so whatever a layer or a region of a model computes lowers to a list of steps
that each read column ranges and write one column range. A split is a range that a step reads, a concat a range that
a step writes; neither is ever a copy.

    Dense   dst = activation(src @ kernel + bias)
    Merge   dst = activation(gain * (s_1 src_1 op s_2 src_2 op ...) + shift),  op in {add, mul, max, min};
            without sources (an add without gain) it is activation(shift) in every row
    Row     dst = softmax | mean | max | normalize over the columns of src
    Mix     dst = sum over e of gate[e] * experts[e]
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple, Union

# Bounds that hold for every plan, so that no product of sizes overflows in any executor.
MAX_WIDTH = 1 << 24
MAX_COUNT = 1 << 16

# And bounds of what the core makes of a plan, or a few megabytes of code could ask for all memory: the core cuts the
# steps to pieces (of MIN_PIECE columns or more), each with the sources of its step, and follows what they read.
MAX_COLUMNS = 1 << 25  # of all values
MAX_ELEMENTS = 1 << 36  # of all params
MAX_READS = 1 << 22  # sources of all pieces
MAX_LINKS = 1 << 26  # from a piece to one that it reads
MIN_PIECE = 32

Role = Literal["input", "hidden", "output"]
Side = Literal["leading", "trailing"]
ROLES: tuple[Role, ...] = ("input", "hidden", "output")
MERGE_OPS = ("add", "mul", "max", "min")
# The order is part of the encoding: append only.
ROW_OPS = ("softmax", "mean", "max", "normalize")
SIDES: tuple[Side, ...] = ("leading", "trailing")
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
    side: Side


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
    """normalize: `dst = (src - mean) / sqrt(variance + epsilon)`; the others have no epsilon, that is 0."""

    op: str
    src: Range
    dst: Range
    epsilon: float = 0.0


@dataclasses.dataclass(frozen=True)
class Mix:
    gate: Range
    experts: tuple[Range, ...]
    dst: Range


Step = Union[Dense, Merge, Row, Mix]
# The order is part of the encoding: append only.
STEP_TYPES: tuple[type, ...] = (Dense, Merge, Row, Mix)


def sources(step: Step) -> list[Range]:
    """The ranges that a step reads, in order."""
    if isinstance(step, (Dense, Row)):
        return [step.src]
    if isinstance(step, Merge):
        return [src for src, _ in step.srcs]
    return [step.gate, *step.experts]


def params_of(step: Step) -> list[int]:
    """The params that a step reads."""
    if isinstance(step, Dense):
        return [p for p in (step.kernel, step.bias) if p is not None]
    if isinstance(step, Merge):
        return [p for p in (step.gain, step.shift) if isinstance(p, int)]
    return []


def renamed(step: Step, resolve: Callable[[Range], Range], numbers: Mapping[int, int] | Sequence[int]) -> Step:
    """The step with other names of values and params."""
    dst = resolve(step.dst)
    if isinstance(step, Dense):
        bias = None if step.bias is None else numbers[step.bias]
        return dataclasses.replace(step, src=resolve(step.src), kernel=numbers[step.kernel], bias=bias, dst=dst)
    if isinstance(step, Merge):
        gain, shift = (numbers[p] if isinstance(p, int) else p for p in (step.gain, step.shift))
        srcs = tuple((resolve(r), scale) for r, scale in step.srcs)
        return dataclasses.replace(step, srcs=srcs, gain=gain, shift=shift, dst=dst)
    if isinstance(step, Row):
        return dataclasses.replace(step, src=resolve(step.src), dst=dst)
    return Mix(resolve(step.gate), tuple(map(resolve, step.experts)), dst)
