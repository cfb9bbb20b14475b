"""Threads, batches, saved values, memory, and what the core refuses."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from fusedsplit.plan import Dense, Param, Plan, Range, Value
from tests.csrc.numpy_plan import Case, RandomPlan, fill, split_dense_plan
from tests.csrc.on_core import (
    ISAS,
    LINEAR,
    RELU,
    TANH,
    backward,
    core,
    forward,
    numpy_backward,
    program,
)
from tests.csrc.test_c_api import ROOT


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


UNREADABLE = """
import mmap
import numpy as np
from fusedsplit.native import library
from fusedsplit.plan import Activation, Dense, Param, Plan, Range, Value

step = Dense(Range(0, 0, 64), 0, 1, Activation("relu"), Range(1, 0, 64))
plan = Plan((Value(64, "input"), Value(64, "output")), (Param((64, 64)), Param((64,))), (step,)).validate()
made = library.core().Program32(plan.encode())
x, kernel, bias = np.ones((600, 64), np.float32), np.ones((64, 64), np.float32), np.ones(64, np.float32)
(y,), saved = made.forward([x], [kernel, bias], [], True)
assert saved.size == 0
unreadable = np.frombuffer(mmap.mmap(-1, kernel.nbytes, prot=0), np.float32).reshape(kernel.shape)
_, (_, grad) = made.backward([x], [unreadable, bias], [], [y], saved, [y], [False, False, True])
assert np.array_equal(grad, y.sum(axis=0))
print("ok")
"""


def run_alone(code: str) -> None:
    """In a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0 and done.stdout.strip() == "ok", (done.returncode, done.stderr[-3000:])


@pytest.mark.skipif(sys.platform != "linux", reason="needs memory that nobody can read")
def test_backward_with_no_hidden_values_computes_nothing_again():
    """Not even packs the kernels: here nothing reads them."""
    run_alone(UNREADABLE)


ROUND_OF_TWO = """
import os, re, threading, time
import numpy as np
from fusedsplit.native import library
from fusedsplit.plan import Activation, Dense, Param, Plan, Range, Value

step = Dense(Range(0, 0, 512), 0, None, Activation(), Range(1, 0, 512))
plan = Plan((Value(512, "input"), Value(512, "output")), (Param((512, 512)),), (step,)).validate()
core = library.core()
made = core.Program32(plan.encode())
inputs, params = [np.ones((100, 512), np.float32)], [np.ones((512, 512), np.float32)]
others = set(os.listdir("/proc/self/task"))
outputs, saved = made.forward(inputs, params, [], True)
# The gradient of the input alone is two lanes of rows, and nothing else: one round of two.
backward = lambda: made.backward(inputs, params, [], outputs, saved, outputs, [True, False])

core.set_threads(8)
made.forward([np.ones((4000, 512), np.float32)], params)
pool = set(os.listdir("/proc/self/task")) - others
assert len(pool) == 7, pool


def woken(call):
    '''Threads of the pool that went to sleep once more.'''
    def switches():
        time.sleep(0.05)  # everybody sleeps
        status = [open(f"/proc/self/task/{task}/status").read() for task in sorted(pool)]
        return [int(re.search(r"\\nvoluntary_ctxt_switches:\\s*(\\d+)", text)[1]) for text in status]

    before = switches()
    call()
    return sum(b != a for a, b in zip(before, switches()))


assert woken(lambda: None) == 0
assert [woken(backward) for _ in range(5)] == [1] * 5, [woken(backward) for _ in range(5)]
print("ok")
"""


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="reads /proc")
def test_a_round_wakes_as_many_threads_as_have_a_chunk():
    run_alone(ROUND_OF_TWO)


WAKES = """
import os, time
import numpy as np
from fusedsplit.plan import Dense, Param, Plan, Range, Value
from tests.csrc.on_core import LINEAR, core

plan = Plan((Value(512, "input"), Value(512, "output")), (Param((512, 512)),),
            (Dense(Range(0, 0, 512), 0, None, LINEAR, Range(1, 0, 512)),))
made = core.Program32(plan.encode())
inputs, params = [np.ones((150, 512), np.float32)], [np.ones((512, 512), np.float32)]
everywhere = os.sched_getaffinity(0)
others = set(os.listdir("/proc/self/task"))
core.set_threads(3)
made.forward(inputs, params)
pool = sorted(int(task) for task in set(os.listdir("/proc/self/task")) - others)
assert len(pool) == 2, pool


def wake():
    time.sleep(0.01)  # everybody sleeps
    made.forward(inputs, params)


def cpu(task):
    return int(open(f"/proc/self/task/{task}/stat").read().rpartition(")")[2].split()[36])


for _ in range(20):
    wake()
time.sleep(0.05)
assert all(os.sched_getaffinity(task) == everywhere for task in pool)

# Whose CPUs somebody else has chosen keeps those.
first = {min(everywhere)}
os.sched_setaffinity(pool[1], first)
wake(), wake(), time.sleep(0.05)
assert os.sched_getaffinity(pool[0]) == everywhere and os.sched_getaffinity(pool[1]) == first

if len(everywhere) > 1:
    os.sched_setaffinity(0, first)  # of this thread alone
    beside = []
    for _ in range(30):
        wake()
        beside.append(cpu(pool[0]) not in first)
    assert sum(beside) >= 20, beside
print("ok")
"""


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="reads /proc")
def test_a_thread_wakes_beside_its_caller_and_keeps_its_cpus():
    run_alone(WAKES)


@pytest.mark.parametrize(
    ("inputs", "widths"), [(128, [64] * 4), (64, [32] * 16), (512, [128] * 8)], ids=["med", "wide", "large"]
)
def test_bounds_of_memory(inputs, widths):
    made = program(split_dense_plan(inputs, widths, widths, LINEAR, RELU), np.float32)
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
