"""The named shapes that are measured, and why each exists. Nothing here needs TensorFlow."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

BATCHES = (1, 32, 512, 4096)
# Neither powers of two nor multiples of a vector: what a real data set's last batch looks like.
ODD_BATCHES = (37, 1000, 10000)

# Activations that a case may name; `reference64` knows their values and derivatives.
ACTIVATIONS = ("linear", "relu", "sigmoid", "tanh")


@dataclasses.dataclass(frozen=True)
class Branch:
    """A slice of `width` columns, through one Dense for each entry of `units`; no units: the slice itself."""

    width: int
    units: tuple[int, ...]
    activation: str = "relu"

    @property
    def out(self) -> int:
        return self.units[-1] if self.units else self.width


@dataclasses.dataclass(frozen=True)
class DenseShape:
    """One Dense of a case: its kernel is (rows, columns)."""

    rows: int
    columns: int
    activation: str


@dataclasses.dataclass(frozen=True)
class Case:
    """`Dense(stem) -> split -> a stack of Dense per branch -> concat`, then the head if there is one."""

    name: str
    inputs: int
    branches: tuple[Branch, ...]
    why: str
    stem_activation: str = "linear"
    head: int | None = None

    @property
    def split(self) -> list[int]:
        return [branch.width for branch in self.branches]

    @property
    def stem(self) -> int:
        return sum(self.split)

    @property
    def concat(self) -> int:
        return sum(branch.out for branch in self.branches)

    @property
    def outputs(self) -> int:
        return self.head or self.concat

    @property
    def uniform(self) -> bool:
        """Whether the branches are one Dense each, of one shape: then they are also one batched product."""
        first = self.branches[0]
        return len(first.units) == 1 and all(branch == first for branch in self.branches)

    def dense_shapes(self) -> list[DenseShape]:
        """Every Dense in weight order: the stem, the branches in order, the head."""
        shapes = [DenseShape(self.inputs, self.stem, self.stem_activation)]
        for branch in self.branches:
            widths = (branch.width, *branch.units)
            shapes += [DenseShape(a, b, branch.activation) for a, b in zip(widths, widths[1:])]
        if self.head is not None:
            shapes.append(DenseShape(self.concat, self.head, "linear"))
        return shapes

    def flops(self) -> int:
        """Multiply-adds of the products for one row, counted as two operations."""
        return sum(2 * shape.rows * shape.columns for shape in self.dense_shapes())

    def gradient_flops(self) -> int:
        """Forward and the gradients of all weights for one row: the input's own gradient is not asked for."""
        return 3 * self.flops() - 2 * self.inputs * self.stem

    def weights(self, seed: int = 0) -> list[np.ndarray]:
        """Kernel, bias, kernel, bias … in weight order, scaled so that values keep their size."""
        shapes = [shape for dense in self.dense_shapes() for shape in ((dense.rows, dense.columns), (dense.columns,))]
        return draw_weights(self.name, shapes, seed)

    def rows(self, batch: int, seed: int = 0) -> np.ndarray:
        rng = np.random.default_rng([seed, batch, 1])
        return rng.standard_normal((batch, self.inputs), "float32")

    def upstream(self, batch: int, seed: int = 0) -> np.ndarray:
        """A gradient to hand in at the output."""
        rng = np.random.default_rng([seed, batch, 2])
        return rng.standard_normal((batch, self.outputs), "float32")


def draw_weights(name: str, shapes: Iterable[tuple[int, ...]], seed: int) -> list[np.ndarray]:
    """Random kernels (rows, columns), scaled so that values keep their size, and small vectors."""
    rng = np.random.default_rng([seed, *name.encode()])
    scales = ((shape, math.sqrt(2 / shape[0]) if len(shape) > 1 else 0.1) for shape in shapes)
    return [(scale * rng.standard_normal(shape)).astype("float32") for shape, scale in scales]


def _even(n: int, width: int, units: int) -> tuple[Branch, ...]:
    return (Branch(width, (units,)),) * n


_LADDER = (
    Case("seed2", 10, (Branch(4, (4,)), Branch(4, (6,))), "the seeds' own sizes: nothing but overhead"),
    Case("med", 128, _even(4, 64, 64), "an everyday multi-branch layer; products of a few vectors"),
    Case("wide", 64, _even(16, 32, 32), "many small branches: launches and copies dominate unfused"),
    Case("large", 512, _even(8, 128, 128), "bound by products: fusion can win little, and must not lose"),
)

# A linear stem in front of Dense branches is redundant mathematics that anyone may fold; with a relu nobody
# can.
_TWINS = tuple(
    dataclasses.replace(
        case,
        name=f"{case.name}_relu",
        stem_activation="relu",
        why=f"{case.name} with a stem that cannot be folded away",
    )
    for case in _LADDER[1:]
)

_OFF_LADDER = (
    Case(
        "odd",
        77,
        tuple(Branch(width, (width,)) for width in (13, 50, 127, 140)),
        "no width is a multiple of a vector, no two are alike",
    ),
    Case("thin100", 60, _even(100, 6, 6), "a hundred branches narrower than one vector"),
    Case("one3000", 64, _even(1, 3000, 64), "one long slice: a reduction of 3000 terms, and no split at all"),
    Case(
        "deep3",
        128,
        (Branch(64, (64, 64, 64)),) * 4,
        "branches of three layers: hidden values stay in the branch",
    ),
    Case("columns", 16, (Branch(1, (1,)),) * 17, "seventeen branches of one column each"),
    Case(
        "identity",
        64,
        (Branch(96, ()), Branch(160, (96,))),
        "a slice that passes unchanged beside one that does not",
    ),
)

# Sizes that published models use; their shapes here are those that a split followed by a Dense each
# expresses.
_REAL = (
    Case(
        "seed2_head",
        10,
        (Branch(4, (4,)), Branch(4, (6,))),
        "the seeds' whole model: its head ends in one column",
        head=1,
    ),
    Case(
        "vae_heads",
        784,
        (Branch(200, (20,), "linear"), Branch(200, (20,), "linear")),
        "mean and log-variance heads of a VAE, 400 -> 2 x 20",
        stem_activation="relu",
    ),
    Case(
        "nbeats",
        256,
        (Branch(128, (4,), "linear"), Branch(128, (8,), "linear")),
        "backcast and forecast coefficients of an N-BEATS block: outputs of a few columns",
        stem_activation="relu",
    ),
    Case(
        "towers",
        256,
        (Branch(128, (64, 1), "relu"),) * 3,
        "three task towers (64, 1) on slices of a shared layer, as in multi-task ranking",
        stem_activation="relu",
    ),
)

CASES = {case.name: case for case in (*_LADDER, *_TWINS, *_OFF_LADDER, *_REAL)}
LADDER = tuple(case.name for case in _LADDER)
TWINS = tuple(case.name for case in _TWINS)
DEFAULT = (*LADDER, *TWINS)
QUICK = ("seed2", "med")


def select(names: str | Iterable[str], known: Mapping[str, Any] = CASES) -> list[Any]:
    """The named cases, in the order given.

    Args:
        names: an iterable of names, or one comma-separated string; "all" stands for every case.
        known: the cases to choose from.
    """
    wanted = names.split(",") if isinstance(names, str) else list(names)
    wanted = [name.strip() for name in wanted if name.strip()]
    if wanted == ["all"]:
        return list(known.values())
    unknown = [name for name in wanted if name not in known]
    if unknown or not wanted:
        raise ValueError(f"cases: expected some of {', '.join(known)}. Received: {', '.join(unknown) or 'none'}")
    return [known[name] for name in wanted]
