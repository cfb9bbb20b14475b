"""The op inside programs that XLA compiles: values, gradients of every order, and calls that must be refused."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.layers import Dense

import fusedsplit as fs
from fusedsplit.backends import dispatch, op, op_in_xla
from fusedsplit.backends._tf_private import xla_call_module
from fusedsplit.backends.base import CallContext
from fusedsplit.backends.tf import execute
from tests.backends.test_op_gradients import TANH, case_tensors
from tests.backends.test_op_higher_order import second_order
from tests.csrc.numpy_plan import RandomPlan

_PROBLEM = op.problem() or op.xla_problem()
pytestmark = pytest.mark.skipif(_PROBLEM is not None, reason=f"XLA cannot call the op: {_PROBLEM}")


def nodes(concrete) -> list[str]:
    return [node.type for node in concrete.graph.get_operations()]


def small_layer(dtype: str = "float32") -> fs.SplitDense:
    branches = [Dense(4, activation="relu", dtype=dtype), Dense(6, activation="gelu", dtype=dtype)]
    layer = fs.SplitDense(Dense(8, dtype=dtype), branches, backend="op")
    layer.build((None, 10))
    return layer


def gradients_of(call):
    def run(sources, dy):
        with tf.GradientTape() as tape:
            tape.watch(sources)
            y = call(sources)
        return y, tape.gradient(y, sources, output_gradients=dy)

    return run


@pytest.mark.parametrize("seed", range(10))
def test_random_plans_give_the_bits_of_the_op(seed):
    plan = RandomPlan(np.random.default_rng(700 + seed)).make()
    inputs, params, points, _ = case_tensors(plan, 5, seed)
    n = len(inputs)

    run = gradients_of(lambda sources: op.OP.run(plan, sources[:n], sources[n:], points))
    dy = [tf.ones((*inputs[0].shape[:-1], plan.values[v].width), inputs[0].dtype) for v in plan.outputs]
    outputs, grads = run([*inputs, *params], dy)
    compiled_outputs, compiled_grads = tf.function(run, jit_compile=True)([*inputs, *params], dy)
    for got, want in zip(compiled_outputs, outputs, strict=True):
        np.testing.assert_array_equal(got, want)
    for got, want in zip(compiled_grads, grads, strict=True):
        np.testing.assert_array_equal(tf.convert_to_tensor(got), tf.convert_to_tensor(want))


@pytest.mark.parametrize("shape", [(0,), (1,), (37,), (2, 3), (2, 1, 3), (2, 0)], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_one_trace_serves_every_batch(shape, dtype, rng):
    layer = small_layer(dtype)
    spec = tf.TensorSpec([None] * len(shape) + [10], dtype)
    function = tf.function(layer, jit_compile=True, input_signature=[spec])
    x = tf.constant(rng.normal(size=(*shape, 10)), dtype)
    y = function(x)
    assert y.shape == (*shape, 10)
    np.testing.assert_array_equal(y, layer(x))
    assert function.experimental_get_tracing_count() == 1


def test_it_computes_inside_and_not_around_the_program():
    function = tf.function(small_layer(), jit_compile=True)
    types = nodes(function.get_concrete_function(tf.TensorSpec([None, 10])))
    assert op_in_xla.NODE in types and op.FORWARD not in types


def saves(concrete) -> bool:
    """Whether forward's last result, the saved values, has room for any."""
    (node,) = [
        n for n in concrete.graph.get_operations() if n.type == op_in_xla.NODE and b"_forward" in n.get_attr("module")
    ]
    return b"tensor<0xui8>" not in node.get_attr("module")


def test_only_what_is_differentiated_saves():
    layer, x = small_layer(), tf.TensorSpec([None, 10])

    def loss_gradients(x):
        with tf.GradientTape() as tape:
            y = layer(x)
        return tape.gradient(y, layer.trainable_variables)

    assert not saves(tf.function(layer, jit_compile=True).get_concrete_function(x))
    assert saves(tf.function(loss_gradients, jit_compile=True).get_concrete_function(x))


def test_an_outer_tape_differentiates_a_compiled_function(rng):
    layer, x = small_layer(), tf.constant(rng.normal(size=(5, 10)), tf.float32)
    function = tf.function(layer, jit_compile=True)
    found = []
    for call in (function, layer):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(call(x) ** 2)
        found.append(tape.gradient(loss, [x, *layer.trainable_variables]))
    for got, want in zip(*found, strict=True):
        np.testing.assert_array_equal(got, want)


def test_symbolic_gradients(rng):
    layer, x = small_layer(), tf.constant(rng.normal(size=(5, 10)), tf.float32)
    call = lambda x: tf.gradients(layer(x) ** 2, [x, layer.trainable_variables[0].value])  # noqa: E731
    for got, want in zip(tf.function(call, jit_compile=True)(x), tf.function(call)(x), strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("seed", [None, 3, 5, 8])
def test_second_order(seed):
    plan = TANH if seed is None else RandomPlan(np.random.default_rng(200 + seed), max_width=4).make()
    inputs, params, points, _ = case_tensors(plan, 3, seed or 0)

    @tf.function(jit_compile=True)
    def compiled(inputs, params):
        return second_order(lambda i, p: op.OP.run(plan, i, p, points), inputs, params, False)

    received = compiled(inputs, params)
    expected = second_order(lambda i, p: execute(plan, i, p, points), inputs, params, False)
    for got, want in zip(received, expected, strict=True):
        want = tf.zeros([]) if want is None else want
        got = tf.zeros([]) if got is None else got
        np.testing.assert_allclose(got, np.broadcast_to(want, got.shape), atol=1e-7 * max(1, np.abs(want).max()))


def test_forward_mode(rng):
    layer, x = small_layer(), tf.constant(rng.normal(size=(5, 10)), tf.float32)

    def tangent(x):
        with tf.autodiff.ForwardAccumulator(x, tf.ones_like(x)) as accumulator:
            y = layer(x)
        return accumulator.jvp(y)

    np.testing.assert_allclose(tf.function(tangent, jit_compile=True)(x), tangent(x), rtol=1e-5, atol=1e-6)


def scanned(call, x):
    for _ in tf.range(3):
        x = call(x)[:, :10]
    return x


CONTROL_FLOW = {
    "loop": scanned,
    "map_fn": lambda call, x: tf.map_fn(call, tf.reshape(x, [2, -1, 10])),
    "recompute_grad": lambda call, x: tf.recompute_grad(call)(x),
    "cond": lambda call, x: tf.cond(tf.reduce_sum(x) > 0, lambda: call(x), lambda: 2 * call(x)),
    "function in cond": lambda call, x: tf.cond(x[0, 0] > 0, lambda: tf.function(call)(x), lambda: 2 * call(x)),
}


@pytest.mark.parametrize("batch", [None, 4], ids=["any batch", "known batch"])
@pytest.mark.parametrize("name", CONTROL_FLOW)
def test_control_flow(name, batch, rng):
    layer = fs.SplitDense(Dense(8), [Dense(4, activation="gelu"), Dense(6)])
    layer.build((None, 10))
    x = tf.constant(rng.normal(size=(4, 10)), tf.float32)

    def run(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(CONTROL_FLOW[name](layer, x) ** 2)
        return tape.gradient(loss, [x, *layer.trainable_variables])

    received = tf.function(run, jit_compile=True, input_signature=[tf.TensorSpec([batch, 10])])(x)
    for got, want in zip(received, tf.function(run)(x), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_an_explicit_op_in_a_conditional_is_refused():
    layer = small_layer()
    with pytest.raises(ValueError, match="(?s)'op' was chosen explicitly and cannot run.*in a conditional XLA"):
        tf.function(lambda x: tf.cond(x[0, 0] > 0, lambda: layer(x), lambda: layer(2 * x)), jit_compile=True)(
            tf.ones([2, 10])
        )


def test_fit_with_jit_compile_uses_it(rng):
    layer = small_layer()
    model = keras.Sequential([keras.Input((10,)), layer, Dense(1)])
    model.compile("sgd", "mse", jit_compile=True)
    x, y = rng.normal(size=(64, 10)).astype("float32"), rng.normal(size=(64, 1)).astype("float32")
    history = model.fit(x, y, epochs=5, verbose=0).history["loss"]
    assert history[-1] < history[0]


def test_fit_of_several_steps_in_one_execution_uses_it(rng):
    """Keras compiles one step, and calls it from a conditional that XLA does not see."""
    layer = small_layer()
    model = keras.Sequential([keras.Input((10,)), layer, Dense(1)])
    model.compile("sgd", "mse", jit_compile=True, steps_per_execution=4)
    x, y = rng.normal(size=(72, 10)).astype("float32"), rng.normal(size=(72, 1)).astype("float32")
    history = model.fit(x, y, batch_size=8, epochs=3, verbose=0).history["loss"]
    assert history[-1] < history[0]
    model.evaluate(x, y, batch_size=8, verbose=0)
    model.predict(x, batch_size=8, verbose=0)


def test_a_conditional_around_a_compiled_function_is_none_of_xlas(rng):
    layer, x = small_layer(), tf.constant(rng.normal(size=(4, 10)), tf.float32)

    def gradients(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x)
        return tape.gradient(y, x)

    compiled = tf.function(gradients, jit_compile=True)
    function = tf.function(lambda x: tf.cond(x[0, 0] > 9, lambda: x, lambda: compiled(x)))
    np.testing.assert_array_equal(function(x), gradients(x))


def test_reasons_of_a_tensorflow_without_the_interface(monkeypatch):
    monkeypatch.setattr(op, "library_info", lambda: {"xla": "its XLA has no such thing"})
    op.xla_problem.cache_clear()
    try:
        (reason,) = op.OP.not_supported_reasons(TANH, CallContext("float32", eager=False, in_xla=True))
        assert "its XLA has no such thing" in reason
        dispatch._choose.cache_clear()
        assert (
            dispatch.choose(
                "auto", small_layer().computation().plan(), CallContext("float32", eager=False, in_xla=True)
            ).name
            == "tf"
        )
        with pytest.raises(ValueError, match="(?s)'op' was chosen explicitly and cannot run.*XLA.*tf: can run"):
            dispatch.choose("op", small_layer().computation().plan(), CallContext("float32", eager=False, in_xla=True))
    finally:
        op.xla_problem.cache_clear()
        dispatch._choose.cache_clear()


# A module is text that anybody may write: whatever it says, a call gives an error or a result.

CODE = ", ".join(map(str, TANH.encode()))
OPERANDS = ["tensor<3x3xf32>", *(f"tensor<{'x'.join(map(str, p.shape))}xf32>" for p in TANH.params)]
MODULE = """module {{ func.func public @main({parameters}) -> (tensor<3x5xf32>, tensor<0xui8>) {{
  %y:2 = stablehlo.custom_call @fusedsplit_forward({names}) {{api_version = 4 : i32, backend_config = {{{config}}}}}
    : ({types}) -> (tensor<3x5xf32>, tensor<0xui8>)
  return %y#0, %y#1 : tensor<3x5xf32>, tensor<0xui8>
}} }}"""


def call_module(types: list[str], config: str, arguments):
    names = [f"%a{i}" for i in range(len(types))]
    parameters = ", ".join(f"{n}: {t}" for n, t in zip(names, types))
    text = MODULE.format(parameters=parameters, names=", ".join(names), types=", ".join(types), config=config)

    @tf.function(jit_compile=True)
    def run(*arguments):
        return xla_call_module(
            args=arguments, version=9, module=text, Sout=[[3, 5], [0]], Tout=[tf.float32, tf.uint8], platforms=["CPU"]
        )

    return run(*arguments)


@pytest.mark.parametrize(
    ("types", "config", "message"),
    [
        ([], f"plan = array<i64: {CODE}>", "expected an input. Received: none"),
        (["tensor<3x3xf32>"], f"plan = array<i64: {CODE}>", "too few for the plan"),
        (OPERANDS, f"plan = array<i64: {CODE}>", "expected a result of 12 elements. Received: shape .3, 5."),
        (["tensor<3x3xf32>"], "plan = array<i64: 1, 2, 3>", "plan: "),
        (["tensor<3x3xf32>"], 'plan = "text"', "plan: expected an array of 64-bit integers"),
        (["tensor<3x3xf32>"], "other = 1 : i64", "plan: expected an array of 64-bit integers"),
        (["tensor<f32>"], f"plan = array<i64: {CODE}>", "expected a tensor of rank 2 or more"),
        (["tensor<3x9xf32>"], f"plan = array<i64: {CODE}>", "expected shape"),
        (["tensor<3x4xi32>"], f"plan = array<i64: {CODE}>", "expected dtype float32"),
    ],
    ids=["nothing", "too-few", "result", "no-plan", "text", "no-attribute", "scalar", "width", "dtype"],
)
def test_a_wrong_call_is_an_error(types, config, message):
    shapes = [[int(n) for n in t[7:-1].split("x")[:-1]] for t in types]
    arguments = [tf.zeros(shape, tf.int32 if "i32" in t else tf.float32) for shape, t in zip(shapes, types)]
    with pytest.raises(tf.errors.OpError, match=message):
        call_module(types, config, arguments)
