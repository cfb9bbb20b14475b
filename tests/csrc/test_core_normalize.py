"""Normalized rows: widths around the vectors, ranges inside values, several consumers, constant and extreme rows."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from fusedsplit.plan import PlanBuilder
from tests.csrc.numpy_plan import Case, fill
from tests.csrc.on_core import LINEAR, RELU, TANH, backward, check_against_numpy, core, forward, program

WIDTHS = (1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 64, 100, 256, 257, 1000)
EPSILON = 1e-3
ROUNDING = {np.float32: 2.0**-24, np.float64: 2.0**-53}


def alone(width: int, epsilon: float = EPSILON):
    build = PlanBuilder()
    x, y = build.input(width), build.output(width)
    build.row("normalize", x, y, epsilon)
    return build.plan()


def exactly(x, dy, epsilon: float = EPSILON):
    """The normalized rows and their gradient in the longest type that NumPy has."""
    x, dy = np.asarray(x, np.longdouble), np.asarray(dy, np.longdouble)
    centred = x - x.mean(axis=1, keepdims=True)
    scale = 1 / np.sqrt((centred**2).mean(axis=1, keepdims=True) + np.longdouble(epsilon))
    y = centred * scale
    return y, (dy - dy.mean(axis=1, keepdims=True) - y * (dy * y).mean(axis=1, keepdims=True)) * scale, scale


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("offset", [0.0, 1.0, 1000.0])
def test_a_few_roundings_at_every_width(isa, dtype, offset):
    """However far a row lies from zero."""
    rng = np.random.default_rng(0)
    for width in WIDTHS:
        for rows in (1, 4, 7):
            x = (rng.standard_normal((rows, width)) + offset).astype(dtype)
            dy = rng.standard_normal((rows, width)).astype(dtype)
            case = Case(alone(width), [x], [], [], [dy])
            y, dx, scale = exactly(x, dy, dtype(EPSILON))
            # Of a chunk's partial sums, a few chunks, and the formula.
            unit = 16 * ROUNDING[dtype]
            np.testing.assert_array_less(np.abs(forward(case)[0][0] - y), unit * (1 + np.abs(y)), f"{width} columns")
            for save in (False, True):
                (got,) = backward(case, save)
                limit = unit * scale * (np.abs(dy).max() * (1 + np.abs(y)))
                np.testing.assert_array_less(np.abs(got - dx), limit, f"gradient of {width} columns")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_one_column_is_zero_and_so_is_its_gradient(isa, dtype):
    x = np.array([[0.0], [3.7], [-1e30], [1e-30]], dtype)
    case = Case(alone(1), [x], [], [], [np.ones_like(x)])
    assert not np.any(forward(case)[0][0])
    assert not np.any(backward(case)[0])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("width", [2, 7, 48, 257, 1000])
def test_a_constant_row_is_zero(isa, dtype, width):
    """The gradient is what epsilon alone leaves: as steep as 1 / sqrt(epsilon)."""
    x = np.repeat(np.array([[0.0], [5], [0.1], [-1234.567], [1e-30], [1e15]], dtype), width, axis=1)
    dy = np.random.default_rng(1).standard_normal(x.shape).astype(dtype)
    case = Case(alone(width), [x], [], [], [dy])
    # The mean of equal numbers may be off by a rounding of theirs, of which all but another rounding is corrected.
    limit = np.abs(x) * ROUNDING[dtype] ** 2 * 64 / np.sqrt(EPSILON) + 1e-300
    assert np.all(np.abs(forward(case)[0][0]) <= limit)
    want = (dy - dy.mean(axis=1, keepdims=True)) / np.sqrt(EPSILON)
    np.testing.assert_allclose(backward(case)[0][:5], want[:5], rtol=0, atol=1e-4 if dtype == np.float32 else 1e-12)


@pytest.mark.parametrize("dtype, largest", [(np.float32, 1e18), (np.float64, 1e150)])
@pytest.mark.parametrize("width", [3, 16, 100, 257])
def test_large_and_small_rows(isa, dtype, largest, width):
    rng = np.random.default_rng(2)
    for magnitude in (largest, 1e6, 1e-3, 1 / largest):
        x = (rng.standard_normal((5, width)) * magnitude).astype(dtype)
        dy = rng.standard_normal(x.shape).astype(dtype)
        case = Case(alone(width), [x], [], [], [dy])
        y, dx, scale = exactly(x, dy, dtype(EPSILON))
        tolerance = 40 * ROUNDING[dtype]
        np.testing.assert_allclose(forward(case)[0][0], y, rtol=tolerance, atol=tolerance * np.abs(y).max())
        np.testing.assert_allclose(backward(case)[0], dx, rtol=0, atol=float(tolerance * scale.max() * 4))


def test_squares_that_overflow_give_zeros(isa):
    """As in Keras: the variance is infinite, and its inverse root 0."""
    x = np.array([[1e30, -1e30, 0, 2e30]], np.float32)
    case = Case(alone(4), [x], [], [], [np.ones_like(x)])
    assert not np.any(forward(case)[0][0])
    assert not np.any(backward(case)[0])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("width", [1, 5, 16, 33, 300])
def test_what_is_not_finite_spreads_over_its_row_alone(isa, dtype, special, width):
    rng = np.random.default_rng(3)
    x = rng.standard_normal((6, width)).astype(dtype)
    dy = rng.standard_normal(x.shape).astype(dtype)
    finite = Case(alone(width), [x], [], [], [dy])
    (y,), (dx,) = forward(finite)[0], backward(finite)
    moved = x.copy()
    moved[2, width // 2] = special
    case = dataclasses.replace(finite, inputs=[moved])
    for got, want in ((forward(case)[0][0], y), (backward(case)[0], dx)):
        assert np.all(np.isnan(got[2]))
        np.testing.assert_array_equal(np.delete(got, 2, 0), np.delete(want, 2, 0))
    moved_dy = dy.copy()
    moved_dy[4, 0] = special
    (got,) = backward(dataclasses.replace(finite, output_grads=[moved_dy]))
    assert not np.any(np.isfinite(got[4]))
    np.testing.assert_array_equal(np.delete(got, 4, 0), np.delete(dx, 4, 0))


@pytest.mark.parametrize("rows", [1, 5, 37, 600])
@pytest.mark.parametrize("width", [1, 3, 17, 64, 300])
def test_a_layer_norm_between_products(isa, width, rows):
    """Two more steps read the normalized value, and one what it was before."""
    build = PlanBuilder()
    x, y, z = build.input(9), build.output(6), build.output(width)
    h, n, scaled = build.hidden(width), build.hidden(width), build.hidden(width)
    build.dense(x, build.param((9, width)), build.param((width,)), TANH, h)
    build.row("normalize", h, n, EPSILON)
    build.merge("add", ((n, 1.0),), scaled, build.param((width,)), build.param((width,)))
    build.dense(scaled, build.param((width, 6)), build.param((6,)), RELU, y)
    build.merge("mul", ((n, 1.0), (n, -0.5), (h, 2.0)), z)
    check_against_numpy(fill(build.plan(), rows, np.random.default_rng(4)), 1e-10)


@pytest.mark.parametrize("role", ["hidden", "output"])
@pytest.mark.parametrize("start, stop", [(0, 7), (3, 20), (16, 48), (33, 50), (49, 50)])
def test_ranges_in_the_middle_of_values(isa, start, stop, role):
    """A part of a value, normalized into the middle of a concat whose other parts come from elsewhere."""
    width = stop - start
    build = PlanBuilder()
    x = build.input(50)
    h = build.hidden(50)
    build.dense(x, build.param((50, 50)), None, LINEAR, h)
    whole = build.value(5 + 2 * width + 3, role)
    before, first, second, after = np.cumsum([0, 5, width, width])
    part = h._replace(start=start, stop=stop)
    build.dense(x, build.param((50, 5)), build.param((5,)), RELU, whole._replace(start=before, stop=first))
    build.row("normalize", part, whole._replace(start=first, stop=second), EPSILON)
    build.row("normalize", x._replace(start=start, stop=stop), whole._replace(start=second, stop=after), 0.5)
    build.dense(part, build.param((width, 3)), None, TANH, whole._replace(start=after, stop=after + 3))
    build.dense(whole, build.param((whole.width, 4)), None, LINEAR, build.output(4))
    for rows in (1, 6, 130):
        check_against_numpy(fill(build.plan(), rows, np.random.default_rng(5)), 1e-10)


def test_each_branch_normalized_in_its_slice(isa):
    """The stem is sliced, each slice is normalized, and a chain of its own."""
    build = PlanBuilder()
    x, stem, normal, y = build.input(24), build.hidden(192), build.hidden(192), build.output(100)
    build.dense(x, build.param((24, 192)), build.param((192,)), RELU, stem)
    for i in range(4):
        part = slice(48 * i, 48 * i + 48)
        source, middle = (v._replace(start=part.start, stop=part.stop) for v in (stem, normal))
        build.row("normalize", source, middle, EPSILON)
        to = y._replace(start=25 * i, stop=25 * i + 25)
        build.dense(middle, build.param((48, 25)), build.param((25,)), TANH, to)
    for rows in (2, 40, 300):
        check_against_numpy(fill(build.plan(), rows, np.random.default_rng(6)), 1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("width", [7, 64, 300])
def test_bits_depend_on_the_row_alone(isa, dtype, width):
    """Not on the batch, on threads, or on what was saved."""
    rows = 700
    build = PlanBuilder()
    x, h, n, y = build.input(30), build.hidden(width), build.hidden(width), build.output(40)
    build.dense(x, build.param((30, width)), None, LINEAR, h)
    build.row("normalize", h, n, EPSILON)
    build.dense(n, build.param((width, 40)), None, LINEAR, y)
    case = fill(build.plan(), rows, np.random.default_rng(7)).cast(dtype)
    core.set_threads(1)
    (whole,), grads = forward(case)[0], backward(case)
    for threads in (1, 2, 3):
        core.set_threads(threads)
        for save in (False, True):
            assert forward(case, save)[0][0].tobytes() == whole.tobytes()
            assert all(a.tobytes() == b.tobytes() for a, b in zip(backward(case, save), grads, strict=True))
        for start, stop in ((0, 1), (5, 8), (3, 700), (256, 513)):
            assert forward(case.rows(start, stop))[0][0].tobytes() == whole[start:stop].tobytes()
            assert backward(case.rows(start, stop))[0].tobytes() == grads[0][start:stop].tobytes()


def test_gradients_that_are_not_wanted(isa):
    """Only the gain's and the shift's: nothing goes on to the source."""
    build = PlanBuilder()
    x, n, y = build.input(20), build.hidden(20), build.output(20)
    build.row("normalize", x, n, EPSILON)
    build.merge("add", ((n, 1.0),), y, build.param((20,)), build.param((20,)), RELU)
    case = fill(build.plan(), 33, np.random.default_rng(8))
    whole = backward(case)
    for save in (False, True):
        gain, shift = backward(case, save, [False, True, True])[-2:]
        np.testing.assert_array_equal(gain, whole[1])
        np.testing.assert_array_equal(shift, whole[2])


@pytest.mark.parametrize("epsilon", [0.0, -1e-3, np.inf, np.nan])
def test_the_core_refuses_what_python_refuses(epsilon):
    plan = dataclasses.replace(alone(4), steps=(dataclasses.replace(alone(4).steps[0], epsilon=epsilon),))
    with pytest.raises(ValueError, match="step 0: expected a finite epsilon above 0"):
        program(plan, np.float32)
    softmax = dataclasses.replace(plan, steps=(dataclasses.replace(plan.steps[0], op="softmax"),))
    if epsilon != 0:
        with pytest.raises(ValueError, match="step 0: expected an epsilon of 0"):
            program(softmax, np.float32)
