"""The op against NumPy, eager and in graphs, and what it refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from fusedsplit.backends import op
from fusedsplit.backends.base import CallContext
from fusedsplit.native import library
from fusedsplit.plan import PLAN_VERSION, Activation
from tests.csrc.numpy_plan import Case, RandomPlan, Run, fill, split_dense_plan

pytestmark = pytest.mark.skipif(op.problem() is not None, reason=f"the op is not usable: {op.problem()}")

TESTS = Path(__file__).resolve().parents[1]
RELU, LINEAR = Activation("relu"), Activation()
SEED2 = split_dense_plan(10, [4, 4], [4, 6], LINEAR, RELU)
MODES = ("eager", "graph")
TOLERANCE = {"float32": 2e-4, "float64": 1e-10}


def tensors(case: Case) -> tuple[list, list, list]:
    return tuple([tf.constant(a) for a in arrays] for arrays in (case.inputs, case.params, case.points))


def run(mode: str, plan, *args):
    if mode == "eager":
        return op.OP.run(plan, *args)
    return tf.function(lambda *a: op.OP.run(plan, *a))(*args)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_random_plans_equal_numpy(mode, dtype):
    for seed in range(12 if mode == "graph" else 60):
        rng = np.random.default_rng(seed)
        case = fill(RandomPlan(rng).make(), int(rng.integers(1, 50)), rng)
        expected = Run(case.plan, case.inputs, case.params, case.points).outputs
        outputs = run(mode, case.plan, *tensors(case.cast(dtype)))
        for y, want in zip(outputs, expected, strict=True):
            assert y.dtype == dtype
            np.testing.assert_allclose(y, want, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype] * np.abs(want).max())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("leading", [(3, 5), (2, 3, 4), (0, 4), (4, 0)])
def test_leading_dimensions(mode, leading):
    rng = np.random.default_rng(0)
    case = fill(SEED2, int(np.prod(leading)), rng)
    expected = Run(SEED2, case.inputs, case.params).outputs[0]
    inputs, params, points = tensors(case)
    (y,) = run(mode, SEED2, [tf.reshape(inputs[0], [*leading, 10])], params, points)
    assert y.shape == (*leading, 10)
    np.testing.assert_allclose(tf.reshape(y, [-1, 10]), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("mode", MODES)
def test_variables_are_read(mode):
    case = fill(SEED2, 7, np.random.default_rng(1))
    inputs, params, points = tensors(case)
    variables = [tf.Variable(p) for p in params]
    expected = run(mode, SEED2, inputs, params, points)[0]
    np.testing.assert_array_equal(run(mode, SEED2, inputs, variables, points)[0], expected)


def test_static_shapes_in_a_graph():
    @tf.function(input_signature=[tf.TensorSpec([None, 10], tf.float32)])
    def f(x):
        (y,) = op.OP.run(SEED2, [x], [tf.zeros(p.shape) for p in SEED2.params])
        assert y.shape.as_list() == [None, 10]
        return y

    assert f(tf.zeros([3, 10])).shape == (3, 10)


def test_eager_and_graph_are_the_same_bits():
    rng = np.random.default_rng(2)
    for _ in range(10):
        case = fill(RandomPlan(rng).make(), 33, rng).cast(np.float32)
        eager = run("eager", case.plan, *tensors(case))
        graph = run("graph", case.plan, *tensors(case))
        for a, b in zip(eager, graph, strict=True):
            np.testing.assert_array_equal(a, b)


def forward_node(graph):
    (node,) = [n for n in graph.get_operations() if n.type == op.FORWARD]
    return node


def test_a_graph_saves_only_where_a_gradient_is_taken():
    case = fill(SEED2, 5, np.random.default_rng(3)).cast(np.float32)
    inputs, params, _ = tensors(case)

    @tf.function
    def infer(x, *params):
        return op.OP.run(SEED2, [x], params)[0]

    @tf.function
    def train(x, *params):
        with tf.GradientTape() as tape:
            tape.watch(params)
            y = op.OP.run(SEED2, [x], params)[0]
        return tape.gradient(y, params)

    assert not forward_node(infer.get_concrete_function(inputs[0], *params).graph).get_attr("save")
    assert forward_node(train.get_concrete_function(inputs[0], *params).graph).get_attr("save")


def test_eager_saves_only_under_a_tape_that_watches(monkeypatch):
    seen = []

    def spy(method, saves):
        call = getattr(op._Call, method)

        def spied(*args, **options):
            seen.append(saves)
            return call(*args, **options)

        monkeypatch.setattr(op._Call, method, spied)

    spy("infer", saves=False)
    spy("eager", saves=True)
    inputs, params, _ = tensors(fill(SEED2, 5, np.random.default_rng(4)))
    op.OP.run(SEED2, inputs, params)
    with tf.GradientTape() as tape:
        op.OP.run(SEED2, inputs, params)
        tape.watch(params[0])
        op.OP.run(SEED2, inputs, params)
        with tape.stop_recording():
            op.OP.run(SEED2, inputs, params)
    assert seen == [False, False, True, False]


def test_an_undifferentiated_eager_call_has_one_op(monkeypatch):
    inputs, params, _ = tensors(fill(SEED2, 3, np.random.default_rng(0)).cast("float32"))
    names = []
    execute = op.fast_path_execute
    monkeypatch.setattr(
        op, "fast_path_execute", lambda context, name, *rest: names.append(name) or execute(context, name, *rest)
    )
    plain = op.OP.run(SEED2, inputs, params)
    with tf.GradientTape() as tape:
        tape.watch(params)
        taped = op.OP.run(SEED2, inputs, params)
    assert names == [op.INFER, op.FORWARD]
    np.testing.assert_array_equal(plain[0], taped[0])


class TestRefusals:
    @pytest.mark.parametrize(
        ("context", "word"),
        [
            (CallContext("bfloat16"), "bfloat16"),
            (CallContext("float16"), "float32 and float64 only"),
            (CallContext("float32", in_save=True), "saved model"),
        ],
    )
    def test_reasons(self, context, word):
        (reason,) = op.OP.not_supported_reasons(SEED2, context)
        assert word in reason

    def test_none_where_it_runs(self):
        for dtype in op.DTYPES:
            assert op.OP.not_supported_reasons(SEED2, CallContext(dtype)) == []

    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda i, p: ([i[0][:, :9]], p), r"inputs\[0\]: expected shape \(5, 10\)"),
            (lambda i, p: ([i[0][0]], p), r"inputs\[0\]: expected a tensor of rank 2 or more"),
            (lambda i, p: (i, [p[0], p[1][:3], *p[2:]]), r"params\[1\]: expected shape \(8,\)"),
            (lambda i, p: (i, [p[0], p[1][None], *p[2:]]), r"Received: shape \(1, 8\)"),
            (lambda i, p: (i, p[:-1]), "n_params: expected 6, as the plan says. Received: 5"),
            (lambda i, p: (i + i, p), "n_inputs: expected 1, as the plan says. Received: 2"),
        ],
    )
    def test_messages(self, mode, change, message):
        inputs, params, _ = tensors(fill(SEED2, 5, np.random.default_rng(5)))
        inputs, params = change(inputs, params)
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            run(mode, SEED2, inputs, params)

    def test_a_plan_of_another_version(self):
        inputs, params, _ = tensors(fill(SEED2, 5, np.random.default_rng(6)))
        with pytest.raises(tf.errors.InvalidArgumentError, match=f"plan: expected plan version {PLAN_VERSION}"):
            op._loaded().wrappers.fusedsplit_forward(
                inputs=inputs,
                params=params,
                points=[],
                n_outputs=1,
                plan=op.pack_plan([PLAN_VERSION + 1, *SEED2.encode()[1:]]),
            )

    def test_points_of_another_shape(self):
        rng = np.random.default_rng(0)
        case = fill(SEED2, 4, rng)
        while not case.points:
            case = fill(RandomPlan(rng).make(), 4, rng)
        inputs, params, points = tensors(case)
        points[0] = tf.zeros([3], tf.int32)
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"points\[0\]: expected shape \(\) or \(4,\)"):
            op.OP.run(case.plan, inputs, params, points)


class TestNative:
    def test_what_the_library_says(self):
        info = op.library_info()
        assert info["plan_version"] == PLAN_VERSION
        assert info["threads"] >= 1
        assert info["isa"] in library.build_info()["isa_units"]

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (lambda good: good[: len(good) // 2], "damaged"),
            (lambda good: b"", "damaged"),
            (lambda good: b"\x7fELG" + good[4:], "damaged"),
            (lambda good: good[:18] + b"\x08\x00" + good[20:], "another architecture"),
        ],
    )
    def test_a_damaged_library_is_not_loaded(self, tmp_path, content, reason):
        path = tmp_path / "_op.so"
        path.write_bytes(content(library.op_path().read_bytes()))
        assert reason in library.file_problem(path)

    def test_a_missing_library_has_a_reason(self, tmp_path):
        assert "missing" in library.file_problem(tmp_path / "_op.so")
        assert library.file_problem(library.op_path()) is None


# How many threads the op has, for each [TensorFlow's own setting, the variable].
COUNT_THREADS = """
import json, os, sys
import tensorflow as tf
sys.path.append(sys.argv[1])
from forked import in_child

def count(intra_op, variable):
    if variable is not None:
        os.environ["FUSEDSPLIT_NUM_THREADS"] = variable
    if intra_op:
        tf.config.threading.set_intra_op_parallelism_threads(intra_op)
    from fusedsplit.backends import op
    return op.problem() or op.library_info()["threads"]

print(json.dumps([in_child(count, *setting) for setting in json.loads(sys.argv[2])]))
"""


def test_the_op_uses_every_usable_cpu_unless_told_otherwise():
    usable = len(os.sched_getaffinity(0))
    settings = [(0, None), (usable, None), (1, None), (0, "1"), (3, "2")]
    env = {k: v for k, v in os.environ.items() if k != "FUSEDSPLIT_NUM_THREADS"}
    command = [sys.executable, "-c", COUNT_THREADS, str(TESTS), json.dumps(settings)]
    result = subprocess.run(command, capture_output=True, text=True, env=env)
    assert result.returncode == 0, result.stderr
    untold, told_all, one, one_by_the_variable, least = json.loads(result.stdout.splitlines()[-1])
    assert untold == told_all <= usable
    if library.core().threads() > 1:  # the core alone, which nobody limits here
        assert untold > 1
    assert (one, one_by_the_variable, least) == (1, 1, 2)
