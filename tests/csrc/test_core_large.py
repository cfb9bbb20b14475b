"""Kernels so large that their gradients are left for a second pass, in which threads share their rows and columns."""

from __future__ import annotations

import numpy as np
import pytest

from tests.csrc.numpy_plan import fill, split_dense_plan
from tests.csrc.on_core import LINEAR, RELU, TANH, backward, by_isa, check_against_numpy, core, program

# A stem of 2.7 M and branches of 0.27 M elements for the second pass, and two branches beside them; odd everywhere.
WIDE = split_dense_plan(2601, [514, 513, 7, 1], [530, 519, 5, 3], LINEAR, TANH)
# The stem alone, whose relu is a derivative in the branches' epilogue.
STEM = split_dense_plan(5810, [512, 30], [64, 3], RELU, RELU)
PLANS = {"wide": WIDE, "stem": STEM}
# One block; several in one shard; as many shards as there can be, of several blocks each.
ROWS = (3, 150, 250, 300, 1700)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("name", PLANS)
def test_values_and_gradients(name, rows):
    check_against_numpy(fill(PLANS[name], rows, np.random.default_rng(1)), bound=1e-10)


@by_isa("rows", ROWS, spared=(3, 250, 300, 1700))  # how rows are shared is no matter of the instruction set
@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("save", [True, pytest.param(False, marks=pytest.mark.full)], ids=["saved", "recomputed"])
def test_bits_do_not_depend_on_threads(isa, rows, name, save):
    case = fill(PLANS[name], rows, np.random.default_rng(2)).cast(np.float32)
    results = []
    for threads in (1, 2, 5):
        core.set_threads(threads)
        results.append([grad.tobytes() for grad in backward(case, save)])
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("rows", [150, 300])
@pytest.mark.parametrize("skipped", [0, 1, 2, 3])
def test_an_unwanted_gradient_is_skipped(skipped, rows):
    case = fill(STEM, rows, np.random.default_rng(3))
    wanted = [i != skipped for i in range(1 + len(case.params))]
    for i, (got, want) in enumerate(zip(backward(case, True, wanted), backward(case), strict=True)):
        assert (got is None) if i == skipped else (got.tobytes() == want.tobytes()), i


def test_the_workspace_is_bounded():
    """One transposed copy of the kernels, and at most 16 MiB of shards with what waits for the second pass."""
    size = 4 * sum(int(np.prod(p.shape)) for p in WIDE.params)
    bound = 1.1 * size + (16 << 20)
    assert program(WIDE, np.float32).workspace_bytes(1 << 18) <= bound
