"""Many callers at a time: eager, in graphs with branches that run side by side, inside XLA, and after a fork."""

from __future__ import annotations

import concurrent.futures
import os

import numpy as np
import pytest
import tensorflow as tf

from fusedsplit.backends import op
from fusedsplit.native import library
from fusedsplit.plan import Activation
from tests import children
from tests.backends.test_op import tensors
from tests.csrc.numpy_plan import fill, split_dense_plan

pytestmark = pytest.mark.skipif(op.problem() is not None, reason=f"the op is not usable: {op.problem()}")

CALLERS, CALLS = 8, 12
# Enough work for several threads: 100 rows of this are 60 million operations.
PLAN = split_dense_plan(300, [128] * 4, [128] * 4, Activation("tanh"), Activation("relu"))


@pytest.fixture(params=[1, 2, 3, 8])
def threads(request):
    library = op._loaded().library
    library.set_threads(request.param)
    yield request.param
    library.set_threads(0)


def eager(inputs, params):
    with tf.GradientTape() as tape:
        tape.watch(params)
        (y,) = op.OP.run(PLAN, inputs, params)
    return [y, *tape.gradient(y, params)]


@tf.function
def side_by_side(inputs, params):
    """Three calls that TensorFlow's own threads may run at the same time."""
    return [part for _ in range(3) for part in eager(inputs, params)]


@tf.function(jit_compile=True)
def compiled(inputs, params):
    return eager(inputs, params)


@pytest.mark.parametrize("rows", [5, 100])
@pytest.mark.parametrize("call", [eager, side_by_side, compiled], ids=["eager", "graph", "XLA"])
def test_callers_do_not_disturb_each_other(threads, call, rows):
    if call is compiled and op.xla_problem():
        pytest.skip(op.xla_problem())
    inputs, params, _ = tensors(fill(PLAN, rows, np.random.default_rng(rows)).cast("float32"))
    expected = [part.numpy().tobytes() for part in eager(inputs, params)]

    def caller(_):
        for _ in range(CALLS):
            found = [part.numpy().tobytes() for part in call(inputs, params)]
            if any(part != expected[i % len(expected)] for i, part in enumerate(found)):
                return False
        return True

    with concurrent.futures.ThreadPoolExecutor(CALLERS) as pool:
        assert all(pool.map(caller, range(CALLERS)))


ONE_POOL = """
import os
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import numpy as np
import tensorflow as tf
from fusedsplit.backends import op
from fusedsplit.native import library
from fusedsplit.plan import Activation
from tests.backends.test_op import tensors
from tests.csrc.numpy_plan import fill, split_dense_plan

plan = split_dense_plan(300, [128] * 4, [128] * 4, Activation("tanh"), Activation("relu"))
case = fill(plan, 2000, np.random.default_rng(0)).cast("float32")
core = library.core()
inputs, params, _ = tensors(case)
program = core.Program32(plan.encode())
tf.linalg.matmul(inputs[0], params[0])  # TensorFlow has its own threads from here on

of_op = op._loaded().library
of_op.set_threads(3)
assert core.threads() == 3
core.set_threads(4)
assert op.library_info()["threads"] == 4
core.set_isa("baseline")
assert op.library_info()["isa"] == "baseline"

tasks = lambda: len(os.listdir("/proc/self/task"))
before = tasks()
op.OP.run(plan, inputs, params)
assert tasks() - before == 3, (before, tasks())
program.forward(case.inputs, case.params, case.points)
op.OP.run(plan, inputs, params)
assert tasks() - before == 3, (before, tasks())
print("ok")
"""


def run(program: str) -> None:
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    done = children.run(program, cwd=root)
    assert done.returncode == 0 and done.stdout.strip() == "ok", done.stdout + done.stderr[-3000:]


@pytest.mark.skipif(library.core_problem() is not None, reason="needs the core")
@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="counts threads in /proc")
def test_one_pool_for_the_op_and_the_python_module():
    run(ONE_POOL)


FORKED = """
import os
import numpy as np
from fusedsplit.native import library
from tests.csrc.numpy_plan import fill, split_dense_plan
from fusedsplit.plan import Activation

plan = split_dense_plan(300, [128] * 4, [128] * 4, Activation("tanh"), Activation("relu"))
case = fill(plan, 200, np.random.default_rng(0)).cast("float32")
core = library.core()
core.set_threads(4)
program = core.Program32(plan.encode())
run = lambda: program.forward(case.inputs, case.params, case.points)[0][0].tobytes()
expected = run()
for _ in range(5):
    child = os.fork()
    if child == 0:
        os._exit(0 if all(run() == expected for _ in range(20)) else 1)
    assert all(run() == expected for _ in range(20))
    _, status = os.waitpid(child, 0)
    assert status == 0, status
print("ok")
"""


@pytest.mark.skipif(library.core_problem() is not None, reason="needs the core")
def test_after_a_fork():
    """A child has none of the parent's threads, and perhaps its locks: it makes threads of its own."""
    run(FORKED)


FORKED_WHILE_LOCKED = """
import ctypes, os, signal, threading
from fusedsplit.native import library
from fusedsplit.plan import Plan, Range, Row, Value

# Looking for a plan of so many values among those known takes about as long as reading it.
values = [Value(1, "input")] * 30000 + [Value(1, "output")]
plan = Plan(tuple(values), (), (Row("mean", Range(0, 0, 1), Range(30000, 0, 1)),)).validate()
code = plan.encode()
saved_bytes = ctypes.CDLL(str(library.op_path())).fusedsplit_op_saved_bytes
saved_bytes.argtypes = [ctypes.POINTER(ctypes.c_int64), ctypes.c_size_t, ctypes.c_int]
saved_bytes.restype = ctypes.c_int64
array = (ctypes.c_int64 * len(code))(*code)
known = saved_bytes(array, len(code), 0)
assert known >= 0
stop = threading.Event()


def look():
    while not stop.is_set():
        assert saved_bytes(array, len(code) - 1, 0) == -1  # nearly the plan, but none


threads = [threading.Thread(target=look) for _ in range(4)]
for thread in threads:
    thread.start()
statuses = []
for _ in range(25):
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        os._exit(0 if saved_bytes(array, len(code), 0) == known else 1)
    statuses.append(os.waitpid(child, 0)[1])
    if statuses[-1]:
        break
stop.set()
for thread in threads:
    thread.join()
print("ok" if not any(statuses) else f"children ended with {statuses}")
"""


def test_after_a_fork_while_another_thread_looks_for_a_program():
    """Its lock, which the child would wait for for ever, is the parent's."""
    run(FORKED_WHILE_LOCKED)
