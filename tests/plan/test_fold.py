"""Folding of frozen weights: the same function, with less work."""

from __future__ import annotations

import numpy as np
import pytest

from fusedsplit.plan import LINEAR, Activation, Const, Live, PlanBuilder, Range
from fusedsplit.plan.fold import fold
from tests.csrc.numpy_plan import RandomPlan, Run, fill, split_dense_plan

RELU = Activation("relu")


def folded_alike(plan, rows: int = 7, seed: int = 0):
    """The folded plan, which gives what the plan gives."""
    case = fill(plan, rows, np.random.default_rng(seed))
    folded, params = fold(plan, case.params)
    assert [p.shape for p in params] == [p.shape for p in folded.params]
    want = Run(plan, case.inputs, case.params, case.points).outputs
    got = Run(folded, case.inputs, params, case.points).outputs
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11)
    return folded


@pytest.mark.parametrize("seed", range(150))
def test_random_plans(seed):
    plan = RandomPlan(np.random.default_rng(seed), 1 + seed % 50).make()
    assert folded_alike(plan, seed=seed).flops() <= plan.flops()


@pytest.mark.parametrize(
    ("stem", "slices", "units", "flops"),
    [
        (10, [4, 4], [4, 6], 2 * 10 * 10),
        (128, [64] * 4, [64] * 4, 2 * 128 * 256),
        (64, [32] * 16, [32] * 16, 2 * 64 * 512),
        (512, [128] * 8, [128] * 8, 2 * 512 * 1024),
        # More columns come out of a branch than go in: through the stem it is less.
        (100, [10, 10], [80, 5], 2 * (100 * 10 + 10 * 80 + 100 * 5)),
    ],
)
def test_a_linear_stem_is_folded_where_that_saves_work(stem, slices, units, flops):
    folded = folded_alike(split_dense_plan(stem, slices, units, LINEAR, RELU))
    assert folded.flops() == flops


def test_a_stem_with_an_activation_stays():
    plan = split_dense_plan(10, [4, 4], [4, 6], RELU, LINEAR)
    assert folded_alike(plan).flops() == plan.flops()


def test_branches_of_one_source_are_one_product():
    assert len(folded_alike(split_dense_plan(128, [64] * 4, [64] * 4, LINEAR, RELU)).steps) == 1


def test_normalization_goes_into_kernels_behind_and_in_front():
    build = PlanBuilder()
    x, h, n, g, y = build.input(6), build.hidden(8), build.hidden(8), build.hidden(8), build.output(3)
    build.dense(x, build.param((6, 8)), None, LINEAR, h)
    build.merge("add", ((h, 2.0),), n, build.param((8,)), build.param((8,)), RELU)
    build.merge("add", ((n, 1.0),), g, Const(0.5), build.param((8,)))
    build.dense(g, build.param((8, 3)), build.param((3,)), LINEAR, y)
    folded = folded_alike(build.plan())
    assert [type(step).__name__ for step in folded.steps] == ["Dense", "Dense"]
    assert folded.steps[0].activation == RELU and folded.steps[0].bias is not None


def test_what_others_read_stays():
    build = PlanBuilder()
    x, h, y, z = build.input(4), build.hidden(4), build.output(2), build.output(4)
    build.dense(x, build.param((4, 4)), None, LINEAR, h)
    build.dense(h, build.param((4, 2)), None, LINEAR, y)
    build.merge("mul", ((h, 1.0), (h, 1.0)), z)
    plan = build.plan()
    assert len(folded_alike(plan).steps) == 3


def test_live_columns_are_left_alone():
    build = PlanBuilder()
    x, h, y = build.input(4), build.hidden(4), build.output(2)
    build.points = 1
    build.dense(x, build.param((4, 4)), None, LINEAR, h)
    build.dense(h, build.param((4, 2)), None, LINEAR, y, Live(0, "leading"))
    assert len(folded_alike(build.plan()).steps) == 2


def test_unread_columns_of_a_stem_go():
    build = PlanBuilder()
    x, h, y = build.input(30), build.hidden(20), build.output(9)
    build.dense(x, build.param((30, 20)), build.param((20,)), RELU, h)
    build.dense(Range(h.value, 0, 5), build.param((5, 9)), None, LINEAR, y)
    linear = PlanBuilder()
    x, h, y = linear.input(30), linear.hidden(20), linear.output(90)
    linear.dense(x, linear.param((30, 20)), linear.param((20,)), LINEAR, h)
    linear.dense(Range(h.value, 3, 8), linear.param((5, 90)), None, LINEAR, y)
    assert len(folded_alike(build.plan()).steps) == 2
    assert folded_alike(linear.plan()).flops() == 2 * (30 * 5 + 5 * 90)


def test_weights_keep_their_dtype():
    plan = split_dense_plan(10, [4, 4], [4, 6], LINEAR, RELU)
    case = fill(plan, 1, np.random.default_rng(0)).cast(np.float32)
    assert {p.dtype for p in fold(plan, case.params)[1]} == {np.dtype(np.float32)}


def test_a_stem_on_a_stem_on_a_stem():
    build = PlanBuilder()
    x, values = build.input(6), [build.hidden(width) for width in (8, 4, 7)]
    y = build.output(2)
    for src, dst in zip([x, *values], [*values, y]):
        build.dense(src, build.param((src.width, dst.width)), build.param((dst.width,)), LINEAR, dst)
    assert len(folded_alike(build.plan()).steps) == 1


@pytest.mark.parametrize("seed", range(60))
def test_random_linear_products(seed):
    """Stems of stems, that share their readers or not; what nobody reads is an output."""
    rng = np.random.default_rng(seed)
    build = PlanBuilder()
    places = [build.input(int(rng.integers(1, 9)))]
    for _ in range(int(rng.integers(2, 9))):
        src = places[rng.integers(len(places))]
        start = int(rng.integers(src.width))
        part = Range(src.value, start, int(rng.integers(start, src.width)) + 1)
        last = rng.random() < 0.3
        width = int(rng.integers(1, 9))
        dst = build.output(width) if last else build.hidden(width)
        bias = build.param((width,)) if rng.random() < 0.5 else None
        build.dense(part, build.param((part.width, width)), bias, LINEAR if rng.random() < 0.8 else RELU, dst)
        if not last:
            places.append(dst)
    whole = build.output(places[-1].width)
    build.merge("add", ((places[-1], 1.0),), whole, Const(2.0))
    folded_alike(build.plan(), seed=seed)


MANY = 5000


@pytest.mark.parametrize("kind", ["branches", "a chain", "unread", "gains"])
def test_thousands_of_steps(kind):
    """In seconds: neither a rewriting nor a look for readers goes through all steps."""
    build = PlanBuilder()
    x = h = build.input(2)
    if kind == "branches":
        stem, y = build.hidden(2 * MANY), build.output(2 * MANY)
        build.dense(x, build.param((2, 2 * MANY)), None, LINEAR, stem)
        for i in range(MANY):
            part = Range(stem.value, 2 * i, 2 * i + 2)
            build.dense(part, build.param((2, 2)), None, RELU, Range(y.value, part.start, part.stop))
    else:
        activation = RELU if kind == "unread" else LINEAR
        for i in range(MANY):
            last = kind != "unread" and i == MANY - 1
            z = build.output(2) if last else build.hidden(2)
            if kind == "gains" and i % 2 == 0:
                build.merge("add", [(h, 0.5)], z)
            else:
                build.dense(h, build.param((2, 2)), None, activation, z)
            h = z
        if kind == "unread":
            build.dense(x, build.param((2, 2)), None, RELU, build.output(2))
    plan = build.plan()
    folded, _ = fold(plan, [np.full(p.shape, 0.5) for p in plan.params])
    assert len(plan.steps) >= MANY and len(folded.steps) == 1
