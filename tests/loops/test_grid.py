"""The grid of models, losses, optimizers and options: three epochs natively are Keras' three epochs.

Some cells are drawn, by the same seed each time; `make test-full` runs all of them.
"""

from __future__ import annotations

import itertools
import random

import pytest

from tests.loops.cases import HEADS, OPTIMIZERS
from tests.loops.side_by_side import ROWS, branches, check, deep, floats

MODELS = {"branches": branches, "deep": deep}
# What compile is given besides, and what fit.
OPTIONS = {
    "plain": ("", {}),
    "weights": ("weighted_metrics", {"sample_weight": lambda: abs(floats(ROWS, seed=5))}),
    "validation": ("metrics", {"validation_split": lambda: 0.2, "validation_freq": lambda: 2}),
    "steps": ("", {"steps_per_epoch": lambda: 2}),
    "executions": ("steps_per_execution", {}),
}
CELLS = list(itertools.product(MODELS, HEADS, OPTIMIZERS, OPTIONS))
DRAWN = set(random.Random(0).sample(CELLS, 8))


@pytest.mark.parametrize(
    "cell", [pytest.param(cell, marks=() if cell in DRAWN else pytest.mark.full, id="-".join(cell)) for cell in CELLS]
)
def test_a_cell(cell):
    model, head, optimizer, option = cell
    loss, activation, targets = HEADS[head]
    argument, given = OPTIONS[option]
    measured = ["accuracy" if head.startswith("sparse") else "mse"]
    compiled = {argument: 2 if argument == "steps_per_execution" else measured} if argument else {}
    check(
        lambda: MODELS[model](2, activation),
        lambda: {"optimizer": OPTIMIZERS[optimizer](), "loss": loss(), **compiled},
        floats(ROWS, 6),
        targets(),
        **{name: make() for name, make in given.items()},
    )
