"""Steps, values and batches that random plans meet rarely."""

from __future__ import annotations

import numpy as np
import pytest

from fusedsplit.plan import Activation, Const, Dense, Live, Merge, Mix, Param, Plan, Range, Row, Value
from tests.csrc.numpy_plan import Case, fill
from tests.csrc.on_core import (
    LINEAR,
    RELU,
    TANH,
    backward,
    check_against_numpy,
    forward,
    numpy_backward,
    numpy_forward,
)


class TestSteps:
    """Cases that random plans meet rarely."""

    @pytest.mark.parametrize("op", ["add", "mul", "max", "min"])
    @pytest.mark.parametrize("count", [1, 2, 3, 5, 17])
    def test_merges(self, isa, op, count):
        values = (Value(33 * count, "input"), Value(33, "output"))
        srcs = tuple((Range(0, 33 * i, 33 * (i + 1)), 1.0 if i % 2 else -0.5) for i in range(count))
        for gain, shift in ((None, None), (0, 1), (Const(-2.0), Const(0.5)), (None, 0), (0, 0)):
            step = Merge(op, srcs, gain, shift, TANH, Range(1, 0, 33))
            case = fill(Plan(values, (Param((33,)), Param((33,))), (step,)).validate(), 37, np.random.default_rng(2))
            for got, want in zip(forward(case)[0] + backward(case), numpy_forward(case) + numpy_backward(case)):
                np.testing.assert_allclose(got, want, atol=1e-12, rtol=1e-12)

    @pytest.mark.parametrize("width", [1, 7, 33, 100])
    def test_a_sum_of_nothing_is_its_shift(self, isa, width):
        """Whatever stands beside it, and with or without something that reads it."""
        x, whole = Range(0, 0, width), Range(2, 0, width)
        params = (Param((width,)), Param((3 * width, 2)))
        for shift, activation in ((0, LINEAR), (0, TANH), (Const(-0.5), RELU), (Const(1.5), TANH), (None, LINEAR)):
            steps = (
                Merge("add", ((x, 1.0),), None, None, LINEAR, Range(1, 0, width)),
                Merge("add", (), None, shift, activation, Range(1, width, 2 * width)),
                Merge("add", (), None, shift, activation, whole),
                Merge("max", ((whole, 1.0), (x, 1.0)), None, None, LINEAR, Range(1, 2 * width, 3 * width)),
                Dense(Range(1, 0, 3 * width), 1, None, LINEAR, Range(3, 0, 2)),
            )
            values = (Value(width, "input"), Value(3 * width, "hidden"), Value(width, "output"), Value(2, "output"))
            for rows in (1, 37, 300):
                case = fill(Plan(values, params, steps).validate(), rows, np.random.default_rng(14))
                check_against_numpy(case)
            case.inputs[0][:] = np.nan
            constant = forward(case)[0][0]
            assert np.isfinite(constant).all()

    def test_a_product_with_zero_factors(self, isa):
        values = (Value(6, "input"), Value(2, "output"))
        srcs = tuple((Range(0, 2 * i, 2 * i + 2), 1.0) for i in range(3))
        plan = Plan(values, (), (Merge("mul", srcs, None, None, LINEAR, Range(1, 0, 2)),)).validate()
        case = fill(plan, 4, np.random.default_rng(3))
        case.inputs[0][0, 0] = case.inputs[0][1, :4] = case.inputs[0][2] = 0
        for got, want in zip(backward(case), numpy_backward(case)):
            np.testing.assert_allclose(got, want, atol=1e-15)

    @pytest.mark.parametrize("op", ["max", "min"])
    def test_ties_go_to_the_first(self, isa, op):
        values = (Value(3, "input"), Value(1, "output"))
        srcs = tuple((Range(0, i, i + 1), 1.0) for i in range(3))
        plan = Plan(values, (), (Merge(op, srcs, None, None, LINEAR, Range(1, 0, 1)),)).validate()
        case = Case(plan, [np.array([[1.0, 1, 1], [2, 1, 2], [1, 2, 2], [2, 2, 1]])], [], [], [np.ones((4, 1))])
        np.testing.assert_array_equal(backward(case)[0], numpy_backward(case)[0])

    def test_large_logits(self, isa):
        plan = Plan((Value(5, "input"), Value(5, "output")), (), (Row("softmax", Range(0, 0, 5), Range(1, 0, 5)),))
        x = np.array([[1000.0, 1000, 999, -1000, 0], [-1e30, -1e30, -1e30, -1e30, -1e30]])
        case = Case(plan.validate(), [x], [], [], [np.ones((2, 5))])
        np.testing.assert_allclose(forward(case)[0][0], numpy_forward(case)[0], atol=1e-15)

    def test_a_wide_mixture(self, isa):
        values = (Value(8, "input"), Value(8 * 20, "input"), Value(20, "output"))
        step = Mix(Range(0, 0, 8), tuple(Range(1, 20 * e, 20 * e + 20) for e in range(8)), Range(2, 0, 20))
        case = fill(Plan(values, (), (step,)).validate(), 41, np.random.default_rng(4))
        for got, want in zip(forward(case)[0] + backward(case), numpy_forward(case) + numpy_backward(case)):
            np.testing.assert_allclose(got, want, atol=1e-12)

    def test_a_range_that_a_step_reads_twice(self, isa):
        """Each of the reads adds to the gradient, whichever step it is."""
        x, whole, part = Range(0, 0, 4), Range(1, 0, 2), Range(0, 1, 3)
        for step in (
            Mix(part, (Range(0, 0, 2), Range(0, 0, 2)), whole),
            Mix(x, (part, part, Range(0, 2, 4), part), whole),
            Merge("add", ((part, 1.0), (part, -0.5), (Range(0, 0, 2), 1.0)), None, None, TANH, whole),
            Merge("mul", ((part, 1.0), (part, 1.0), (Range(0, 3, 4), 1.0), (Range(0, 3, 4), 1.0)), 0, 0, TANH, whole),
        ):
            plan = Plan((Value(4, "input"), Value(2, "output")), (Param((2,)),), (step,)).validate()
            case = fill(plan, 5, np.random.default_rng(12))
            for got, want in zip(forward(case)[0] + backward(case), numpy_forward(case) + numpy_backward(case)):
                np.testing.assert_allclose(got, want, atol=1e-13, err_msg=str(plan))

    @pytest.mark.parametrize("begin, end", [(26, 59), (0, 3), (40, 41), (64, 74)])
    @pytest.mark.parametrize("consumer", ["dense", "mix"])
    def test_columns_that_nobody_reads(self, isa, consumer, begin, end):
        """Their gradients are zeros, and so are those of the params that only they need."""
        read, whole, gate = Range(1, begin, end), Range(2, 0, end - begin), Range(0, 0, 1)
        values = (Value(5, "input"), Value(74, "hidden"), Value(end - begin, "output"))
        params = (Param((5, 37)), Param((37,)), Param((5, 37)), Param((end - begin, end - begin)), Param((9,)))
        steps = (
            Dense(Range(0, 0, 5), 0, 1, TANH, Range(1, 0, 37)),
            Dense(Range(0, 0, 5), 2, None, LINEAR, Range(1, 37, 74)),
            Dense(read, 3, None, LINEAR, whole) if consumer == "dense" else Mix(gate, (read,), whole),
        )
        case = fill(Plan(values, params, steps).validate(), 37, np.random.default_rng(13))
        for save in (False, True):
            for got, want in zip(backward(case, save), numpy_backward(case), strict=True):
                np.testing.assert_allclose(got, want, atol=1e-12)

    @pytest.mark.parametrize("side", ["leading", "trailing"])
    @pytest.mark.parametrize("per_row", [False, True])
    def test_points_outside_the_columns(self, isa, side, per_row):
        values = (Value(20, "input"), Value(17, "output"))
        step = Dense(Range(0, 0, 20), 0, 1, RELU, Range(1, 0, 17), Live(0, side))
        plan = Plan(values, (Param((20, 17)), Param((17,))), (step,), 1).validate()
        case = fill(plan, 6, np.random.default_rng(5))
        for point in (-(2**31), -1, 0, 1, 16, 19, 20, 21, 2**31 - 1):
            case.points = [np.full(6 if per_row else (), point, np.int32)]
            for got, want in zip(forward(case)[0] + backward(case), numpy_forward(case) + numpy_backward(case)):
                np.testing.assert_allclose(got, want, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nan_and_infinities(isa, dtype):
    for name in ("linear", "relu", "relu6", "tanh", "sigmoid", "gelu", "softplus", "elu", "leaky_relu"):
        activation = Activation(name, 0.2 if name in ("elu", "leaky_relu") else 0.0)
        step = Dense(Range(0, 0, 3), 0, None, activation, Range(1, 0, 3))
        plan = Plan((Value(3, "input"), Value(3, "output")), (Param((3, 3)),), (step,)).validate()
        x = np.array([[np.nan, 0, 1], [np.inf, 0, 0], [-np.inf, 0, 0], [0, 0, 0], [1, 2, 3]], dtype)
        case = Case(plan, [x], [np.ones((3, 3), dtype)], [], [np.ones((5, 3), dtype)])
        with np.errstate(invalid="ignore"):
            (want,) = numpy_forward(case.cast(np.float64))
        np.testing.assert_allclose(forward(case)[0][0], want, rtol=1e-6, err_msg=name)
