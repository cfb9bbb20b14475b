"""The core through pybind11 against NumPy: every ISA, every kind of step, edges of the tiles, threads."""

from __future__ import annotations

import ctypes
import dataclasses
import itertools

import numpy as np
import pytest

from fusedsplit import native
from fusedsplit.plan import ACTIVATIONS, Activation, Const, Dense, Merge, Mix, Param, Plan, Range, Row, Value
from tests.csrc.numpy_plan import Case, RandomPlan, Run, fill, split_dense_plan

if native.core_problem() is not None:
    pytest.skip(f"the core is not usable: {native.core_problem()}", allow_module_level=True)
core = native.core()

ISAS = core.isas()
WIDTHS = (1, 2, 3, 15, 16, 17, 31, 33, 47, 48, 49, 100, 257)
LINEAR, RELU, TANH = Activation(), Activation("relu"), Activation("tanh")
EPS = {np.float32: 2.0**-24, np.float64: 2.0**-53}  # of one rounding


def perturb_malloc(byte: int) -> None:
    """New memory is full of this, so that what a gradient forgot to write does not look like zeros."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(-6, byte)  # M_PERTURB of glibc


@pytest.fixture(autouse=True)
def restore():
    isa, threads = core.isa(), core.threads()
    perturb_malloc(171)
    yield
    perturb_malloc(0)
    core.set_isa(isa)
    core.set_threads(threads)


@pytest.fixture(params=ISAS)
def isa(request):
    assert core.set_isa(request.param)
    assert core.isa() == request.param
    return request.param


def program(plan: Plan, dtype):
    return (core.Program32 if dtype == np.float32 else core.Program64)(plan.encode())


def forward(case: Case, save: bool = False):
    made = program(case.plan, case.inputs[0].dtype)
    return made.forward(case.inputs, case.params, case.points, save)


def backward(case: Case, save: bool = True, wanted=None):
    made = program(case.plan, case.inputs[0].dtype)
    outputs, saved = made.forward(case.inputs, case.params, case.points, save)
    wanted = [True] * (len(case.inputs) + len(case.params)) if wanted is None else wanted
    input_grads, param_grads = made.backward(
        case.inputs, case.params, case.points, outputs, saved, case.output_grads, wanted
    )
    return [*input_grads, *param_grads]


def numpy_forward(case: Case):
    return Run(case.plan, case.inputs, case.params, case.points).outputs


def numpy_backward(case: Case):
    run = Run(case.plan, case.inputs, case.params, case.points)
    input_grads, param_grads = run.gradients(case.output_grads)
    return [*input_grads, *param_grads]


def magnitudes(case: Case) -> Case:
    """Every number replaced by its magnitude: gives the sums of |x| |w| that rounding errors grow with."""

    def absolute(arrays):
        return [np.abs(a) for a in arrays]

    steps = tuple(dataclasses.replace(step, activation=LINEAR) for step in case.plan.steps)
    plan = dataclasses.replace(case.plan, steps=steps)
    return Case(plan, absolute(case.inputs), absolute(case.params), case.points, absolute(case.output_grads))


def assert_accurate(received, expected, plain, bounds, dtype, what: str) -> None:
    """Per element: at most twice the error of NumPy in the same precision, or of the rounding of its sums."""
    for i, (got, want, other, bound) in enumerate(zip(received, expected, plain, bounds, strict=True)):
        error = np.abs(got.astype(np.float64) - want)
        limit = np.maximum(2 * np.abs(other - want).max(initial=0), 8 * EPS[dtype] * np.abs(bound))
        worst = np.unravel_index(np.argmax(error - limit), error.shape) if error.size else ()
        assert np.all(error <= limit), f"{what} result {i} at {worst}: {got[worst]} instead of {want[worst]}"


def check_accuracy(plan: Plan, rows: int, dtype, seed: int = 0) -> None:
    """Forward of a Dense plan, and backward where its activations are linear (else errors are not of sums alone)."""
    case64 = fill(plan, rows, np.random.default_rng(seed)).cast(dtype).cast(np.float64)
    case, bound = case64.cast(dtype), magnitudes(case64)
    what = f"{dtype.__name__} {rows} rows, {core.isa()}\n{plan}\n"
    functions = [(lambda c: forward(c)[0], numpy_forward)]
    if all(step.activation == LINEAR for step in plan.steps):
        functions.append((backward, numpy_backward))
    for ours, theirs in functions:
        assert_accurate(ours(case), theirs(case64), theirs(case), theirs(bound), dtype, what)


def check_exactly(plan: Plan, rows: int, dtype) -> None:
    """On numbers of few bits every sum is exact, in any order: relu's plans give the very numbers of NumPy."""
    rng = np.random.default_rng(rows)

    def few_bits(arrays):
        return [rng.integers(-2, 3, a.shape).astype(dtype) / 4 for a in arrays]

    case = fill(plan, rows, rng)
    case = Case(plan, few_bits(case.inputs), few_bits(case.params), [], few_bits(case.output_grads))
    for save in (False, True):
        received = [*forward(case)[0], *backward(case, save)]
        expected = [*numpy_forward(case.cast(np.float64)), *numpy_backward(case.cast(np.float64))]
        for i, (got, want) in enumerate(zip(received, expected, strict=True)):
            np.testing.assert_array_equal(got, want, f"{i} of {plan} on {core.isa()}, {rows} rows")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("width", WIDTHS)
def test_one_dense_at_the_edges_of_the_tiles(isa, width, dtype):
    for other, rows in itertools.product((1, 3, 17, 48, 100), (1, 2, 37)):
        for d, u in ((width, other), (other, width)):
            for activation in (TANH, LINEAR):
                step = Dense(Range(0, 0, d), 0, 1, activation, Range(1, 0, u))
                plan = Plan((Value(d, "input"), Value(u, "output")), (Param((d, u)), Param((u,))), (step,))
                check_accuracy(plan, rows, dtype)


SHAPES = [
    (10, [4, 4], [4, 6]),
    (128, [64] * 4, [64] * 4),
    (77, [13, 50, 127, 140], [5, 40, 31, 260]),
    (5, [3], [7]),
    (64, [1, 2, 3, 15, 16, 17, 31, 33, 47, 48, 49, 1, 2, 3, 5, 6, 7], [3] * 17),
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rows", [1, 2, 7, 37, 300])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_split_dense(isa, shape, rows, dtype):
    check_exactly(split_dense_plan(*shape, LINEAR, RELU), rows, dtype)
    check_exactly(split_dense_plan(*shape, RELU, LINEAR, bias=False), rows, dtype)
    check_accuracy(split_dense_plan(*shape, LINEAR, LINEAR), rows, dtype)
    check_accuracy(split_dense_plan(*shape, TANH, TANH, bias=False), rows, dtype)


@pytest.mark.parametrize("d, u, rows", [(5000, 3, 4), (4097, 33, 2), (6, 5, 10000), (33, 40, 5003)])
def test_long_sums(isa, d, u, rows):
    """Sums of thousands of terms, along the input and (for weight gradients) along the batch."""
    check_accuracy(split_dense_plan(d, [u], [7], LINEAR, LINEAR), rows, np.float32)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_random_plans(isa, dtype):
    tolerance = 1e-11 if dtype == np.float64 else 3e-4
    for seed in range(320 if dtype == np.float64 else 80):
        rng = np.random.default_rng(seed)
        case64 = fill(RandomPlan(rng).make(), int(rng.choice([1, 2, 5, 37, 130])), rng)
        switches = any(getattr(step, "op", "") in ("max", "min") for step in case64.plan.steps)
        case = case64.cast(dtype)
        pairs = list(zip(forward(case)[0], numpy_forward(case64), strict=True))
        if dtype == np.float64 or not switches:  # which one wins may differ between precisions
            pairs += zip(backward(case), numpy_backward(case64), strict=True)
        for got, want in pairs:
            limit = tolerance * max(1.0, np.abs(want).max(initial=0))
            np.testing.assert_allclose(got, want, rtol=0, atol=limit, err_msg=f"seed {seed}\n{case.plan}")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_in_both_epilogues(isa, name, dtype):
    activation = Activation(name, {"leaky_relu": 0.2, "elu": 0.7}.get(name, 0.0))
    plan = split_dense_plan(9, [5, 12], [33, 4], activation, activation)
    tolerance = 1e-12 if dtype == np.float64 else 2e-5
    for rows in (1, 2, 37):
        case64 = fill(plan, rows, np.random.default_rng(1))
        case = case64.cast(dtype)
        pairs = [*zip(forward(case)[0], numpy_forward(case64)), *zip(backward(case), numpy_backward(case64))]
        for got, want in pairs:
            np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * max(1.0, np.abs(want).max()))


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
        from fusedsplit.plan import Live

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


def bits(arrays):
    return [a.tobytes() for a in arrays if a is not None]


@pytest.mark.parametrize(
    "shape", [(128, [64] * 4, [64] * 4), (77, [13, 50, 127, 140], [5, 40, 31, 1]), (10, [4, 4], [4, 6])]
)
def test_the_same_bits_for_any_number_of_threads(isa, shape):
    plan = split_dense_plan(*shape, LINEAR, RELU)
    for rows in (1, 5, 32, 515, 2500):
        case = fill(plan, rows, np.random.default_rng(6)).cast(np.float32)
        core.set_threads(1)
        expected = bits(forward(case)[0]) + bits(backward(case))
        for threads in (1, 2, 3, 8):
            core.set_threads(threads)
            for _ in range(2):
                assert bits(forward(case)[0]) + bits(backward(case)) == expected


def test_a_row_does_not_depend_on_its_batch(isa):
    rng = np.random.default_rng(7)
    plans = [split_dense_plan(77, [13, 50, 127, 140], [5, 40, 31, 1], LINEAR, TANH), RandomPlan(rng).make()]
    for plan in plans:
        case = fill(plan, 300, rng).cast(np.float32)
        whole = forward(case)[0]
        input_grad = backward(case)[0]
        for start, stop in ((0, 1), (7, 8), (5, 37), (100, 300), (299, 300), (63, 66)):
            part = case.rows(start, stop)
            for y, want in zip(forward(part)[0], whole, strict=True):
                assert y.tobytes() == want[start:stop].tobytes(), (start, stop)
            assert backward(part)[0].tobytes() == input_grad[start:stop].tobytes(), (start, stop)


def test_recomputing_equals_saving(isa):
    for seed in range(30):
        rng = np.random.default_rng(300 + seed)
        case = fill(RandomPlan(rng).make(), 45, rng)
        for got, want in zip(backward(case, save=False), backward(case, save=True), strict=True):
            np.testing.assert_allclose(got, want, atol=1e-12 * max(1, np.abs(want).max()))


def test_only_wanted_gradients(isa):
    rng = np.random.default_rng(8)
    for _ in range(20):
        case = fill(RandomPlan(rng).make(), 20, rng)
        everything = backward(case)
        wanted = [bool(w) for w in rng.integers(0, 2, len(everything))]
        for got, want, asked in zip(backward(case, wanted=wanted), everything, wanted, strict=True):
            assert (got is not None) == asked
            if asked:
                np.testing.assert_allclose(got, want, atol=1e-12 * max(1, np.abs(want).max()))


def test_a_missing_output_gradient_counts_as_zeros(isa):
    rng = np.random.default_rng(9)
    for _ in range(10):
        case = fill(RandomPlan(rng).make(), 20, rng)
        case.output_grads[0] = None
        for got, want in zip(backward(case), numpy_backward(case), strict=True):
            np.testing.assert_allclose(got, want, atol=1e-11 * max(1, np.abs(want).max()))


@pytest.mark.parametrize("save", [False, True])
def test_an_empty_batch(isa, save):
    case = fill(split_dense_plan(10, [4, 4], [4, 6], TANH, RELU), 0, np.random.default_rng(10))
    assert forward(case)[0][0].shape == (0, 10)
    input_grad, *param_grads = backward(case, save)
    assert input_grad.shape == (0, 10)
    assert not any(grad.any() for grad in param_grads)


def test_denormals_are_flushed_whoever_computes(isa):
    """TensorFlow flushes them, NumPy does not: the core's chunks do, and leave the caller's mode alone."""
    step = Dense(Range(0, 0, 1), 0, None, LINEAR, Range(1, 0, 1))
    plan = Plan((Value(1, "input"), Value(1, "output")), (Param((1, 1)),), (step,)).validate()
    case = Case(plan, [np.full((2000, 1), 1e-30, np.float32)], [np.full((1, 1), 1e-10, np.float32)], [], [])
    assert not forward(case)[0][0].any()
    assert np.float32(1e-30) * np.float32(1e-10) > 0


def test_bounds_of_memory():
    made = program(split_dense_plan(128, [64] * 4, [64] * 4, LINEAR, RELU), np.float32)
    assert made.scratch_bytes <= 1 << 20
    assert made.workspace_bytes(1 << 18) <= made.workspace_bytes(1 << 14)
    assert made.saved_size(0) == 0


class TestPlans:
    def test_valid_ones(self):
        for seed in range(200):
            assert core.plan_problem(RandomPlan(np.random.default_rng(seed)).make().encode()) == ""

    def test_the_same_verdict_as_python(self):
        """Mutated plans: both validators accept or both refuse."""
        rng = np.random.default_rng(11)
        refused = 0
        for _ in range(3000):
            code = RandomPlan(rng, max_width=5).make().encode()
            for _ in range(rng.integers(1, 3)):
                code[rng.integers(len(code))] = int(rng.choice([0, 1, 2, 3, 5, -1, 1 << 24, (1 << 24) + 1, 1 << 62]))
            try:
                Plan.decode(code)
                problem = ""
            except ValueError as error:
                problem = str(error)
            assert bool(core.plan_problem(code)) == bool(problem), (code, problem, core.plan_problem(code))
            refused += bool(problem)
        assert 500 < refused < 3000

    def test_a_program_refuses_what_is_no_plan(self):
        with pytest.raises(ValueError, match="plan:"):
            core.Program32([1, 2, 3])

    def test_arrays_are_checked(self):
        made = core.Program32(split_dense_plan(3, [2], [2], LINEAR, RELU).encode())
        with pytest.raises(ValueError, match=r"inputs\[0\]: expected shape \(4, 3\). Received: shape \(4, 2\)"):
            made.forward([np.zeros((4, 2), np.float32)], [np.zeros(1, np.float32)] * 4, [])
        with pytest.raises(ValueError, match="params: expected 4. Received: 1"):
            made.forward([np.zeros((4, 3), np.float32)], [np.zeros(1, np.float32)], [])


def test_set_isa():
    assert core.isa() in ISAS
    assert not core.set_isa("sse9")
    assert ISAS[0] in ("baseline", "neon")
