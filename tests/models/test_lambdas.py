"""Functions traced on symbolic rows: what comes out is what TensorFlow computes, and what does not is named."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as kl
from keras import ops

import fusedsplit as fs
from fusedsplit.backends.tf import execute
from fusedsplit.models.rows import NotRowWise, RowProgram
from fusedsplit.models.tracing.trace import trace

ROWS = 3
TIME = 5


def lowered(function, *shapes, lead=1, dtype="float64"):
    """The row program of a function of tensors, its inputs and outputs."""
    program = RowProgram(lead, dtype=dtype)
    traced = trace(function, *(tf.TensorSpec((None, *shape), dtype) for shape in shapes))
    inputs = [program.input(shape[lead - 1 :]) for shape in shapes]
    return program, inputs, traced.lower(program, inputs)


def compare(function, *shapes, lead=1, dtype="float64"):
    """Values and gradients of the plan against the function itself; the plan."""
    program, inputs, outputs = lowered(function, *shapes, lead=lead, dtype=dtype)
    finished = program.plan(keras.tree.flatten(outputs))
    rng = np.random.default_rng(0)
    xs = [tf.constant(rng.normal(size=(ROWS, *shape)), dtype) for shape in shapes]
    params = [tf.constant(program.sources[i].read(), dtype) for i in finished.sources]
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(xs)
        expected = function(*xs)
        rows = [tf.reshape(x, [-1, view.size]) for x, view in zip(xs, inputs)]
        results = execute(finished.plan, rows, params)
        flat = keras.tree.flatten(expected)
        found = [tf.reshape(results[i], y.shape) for i, y in zip(finished.outputs, flat, strict=True)]
        losses = [tf.add_n([tf.reduce_sum(tf.sin(y + 0.1)) for y in ys]) for ys in (flat, found)]
    tf.nest.assert_same_structure(outputs, expected)
    for view, y in zip(keras.tree.flatten(outputs), flat):
        assert view.shape == tuple(y.shape[lead:])
    tolerance = 1e-12 if dtype == "float64" else 1e-5
    gradients = [tape.gradient(loss, xs, unconnected_gradients="zero") for loss in losses]
    for y, z in zip([*flat, *gradients[0]], [*found, *gradients[1]]):
        np.testing.assert_allclose(z, y, rtol=tolerance, atol=tolerance)
    return finished.plan


KERNEL = np.linspace(-1, 1, 12).reshape(4, 3)
MASK = np.array([True, False, True, False])
GATE_AND_EXPERTS = [(1, 4), (4, 3)]


def weighted(x, y):
    return tf.reduce_sum(tf.expand_dims(x, -1) * y, axis=1)


def highway(h, t, x):
    gate = tf.sigmoid(t)
    return gate * h + (1.0 - gate) * x


def gelu_by_hand(x):
    return 0.5 * x * (1.0 + tf.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x * x * x)))


CASES = {
    # Splits and slices.
    "tf.split": (lambda x: tf.split(x, 2, axis=-1), (6,)),
    "tf.split sizes": (lambda x: tf.split(x, [1, 2, -1], axis=1), (6,)),
    "ops.split": (lambda x: ops.split(x, 3, axis=1), (6,)),
    "ops.split indices": (lambda x: ops.split(x, [1, 3], axis=-1), (6,)),
    "slice": (lambda x: x[:, 1:4], (6,)),
    "slice from the end": (lambda x: x[:, -2:], (6,)),
    "slice ellipsis": (lambda x: x[..., :3], (2, 6)),
    "slice stride": (lambda x: x[..., ::2], (6,)),
    "slice reversed": (lambda x: x[:, ::-1], (4,)),
    "slice new axis": (lambda x: x[:, None, :, tf.newaxis], (4,)),
    "slice one": (lambda x: x[:, 2], (4,)),
    "slice one of several axes": (lambda x: x[:, 1, :, 0], (2, 3, 2)),
    "slice to the batch": (lambda x: x[: tf.shape(x)[0], 1:], (4,)),
    "tf.slice": (lambda x: tf.slice(x, [0, 1], [-1, 2]), (4,)),
    "tf.slice of all rows": (lambda x: tf.slice(x, [0, 1], [tf.shape(x)[0], 2]), (4,)),
    "take": (lambda x: ops.take(x, [2, 0, 0], axis=-1), (4,)),
    "take one": (lambda x: ops.take(x, -1, axis=1), (4,)),
    "tf.gather": (lambda x: tf.gather(x, [1, 3], axis=-1), (4,)),
    "boolean mask": (lambda x: tf.boolean_mask(x, MASK, axis=1), (4,)),
    "unstack": (lambda x: tf.unstack(x, axis=1), (3, 2)),
    "reverse": (lambda x: tf.reverse(x, axis=[-1]), (4,)),
    "flip": (lambda x: ops.flip(x, axis=1), (2, 2)),
    "roll": (lambda x: ops.roll(x, 1, axis=-1), (4,)),
    # Shapes.
    "concat": (lambda x, y: tf.concat([x, y], -1), (4,), (3,)),
    "ops.concatenate": (lambda x, y: ops.concatenate([x, y, x], axis=1), (2, 3), (1, 3)),
    "concat of ones": (lambda x: tf.concat([tf.ones_like(x[:, :1]), x], 1), (4,)),
    "concat of zeros of the batch": (lambda x: tf.concat([x, tf.zeros((tf.shape(x)[0], 2), x.dtype)], 1), (4,)),
    "tf.stack": (lambda x, y: tf.stack([x, y], axis=1), (4,), (4,)),
    "ops.stack": (lambda x, y: ops.stack([x, y], axis=-1), (4,), (4,)),
    "expand_dims": (lambda x: ops.expand_dims(x, 1), (4,)),
    "squeeze": (lambda x: ops.squeeze(x, -1), (4, 1)),
    "squeeze to a number": (lambda x: tf.squeeze(x, axis=1), (1,)),
    "reshape": (lambda x: ops.reshape(x, (-1, 2, 2)), (4,)),
    "reshape row": (lambda x: tf.reshape(x, (tf.shape(x)[0], -1)), (2, 3)),
    "reshape by shape": (lambda x: tf.reshape(x, (tf.shape(x)[0], 2, 2)), (4,)),
    "reshape by concat": (lambda x: tf.reshape(x, tf.concat([tf.shape(x)[:-1], [2, 2]], 0)), (4,)),
    "reshape by prod": (lambda x: tf.reshape(x, (-1, tf.reduce_prod(tf.shape(x)[1:]))), (2, 3)),
    "reshape as another": (lambda x, y: tf.reshape(x, tf.shape(y)), (4,), (2, 2)),
    "transpose": (lambda x: ops.transpose(x, (0, 2, 1)), (2, 3)),
    "tile": (lambda x: ops.tile(x, (1, 2)), (3,)),
    "repeat": (lambda x: ops.repeat(x, 2, axis=-1), (3,)),
    "broadcast_to": (lambda x: tf.broadcast_to(x, (tf.shape(x)[0], 2, 3)), (1, 3)),
    "broadcast a constant": (lambda x: x * tf.broadcast_to(tf.constant([[1.0, 2.0]], x.dtype), tf.shape(x)), (2,)),
    "broadcast a constant to more axes": (
        lambda x: x * tf.broadcast_to(tf.constant([1.0, 2.0], x.dtype), tf.shape(x)),
        (3, 2),
    ),
    "where": (lambda x: ops.where(MASK, x, 0.5), (4,)),
    "where not": (lambda x: tf.where(MASK, tf.zeros_like(x), x), (4,)),
    "zeros_like": (lambda x: (x, ops.zeros_like(x)), (4,)),
    "the same row": (lambda x: x - x + tf.ones_like(x) * [1.0, 2.0], (2,)),
    "where of two": (lambda x, y: tf.where(MASK, x, y), (4,), (4,)),
    # Arithmetic.
    "scale and shift": (lambda x: x * [1.0, 2.0, 3.0, 4.0] + 0.5, (4,)),
    "one minus": (lambda x: 1 - x, (4,)),
    "ones_like minus": (lambda x: tf.ones_like(x) - x, (4,)),
    "minus a constant": (lambda x: x - [[1.0, 2.0]], (2,)),
    "divide": (lambda x: x / 3.0, (4,)),
    "divide by the width": (lambda x: x / tf.cast(tf.shape(x)[-1], x.dtype), (3,)),
    "negative": (lambda x: -x, (4,)),
    "square": (lambda x: ops.square(x), (4,)),
    "power": (lambda x: x**2, (4,)),
    "squared difference": (lambda x, y: tf.math.squared_difference(x, y), (4,), (4,)),
    "squared distance from a constant": (lambda x: tf.math.squared_difference(x, 1.0), (4,)),
    "maximum": (lambda x, y: ops.maximum(x, y), (4,), (4,)),
    "minimum": (lambda x, y: tf.minimum(x, y), (4,), (4,)),
    "maximum with 0": (lambda x: tf.maximum(x, 0.0), (4,)),
    "minimum with 0": (lambda x: tf.minimum(x, 0.0), (4,)),
    "clip": (lambda x: ops.clip(x, -1, 1), (4,)),
    "maximum with numbers": (lambda x: tf.maximum(x, [[0.1, -0.2], [0.3, 0.0]]), (2, 2)),
    "leaky by hand": (lambda x: tf.maximum(0.1 * x, x), (4,)),
    "add_n": (lambda x, y: tf.add_n([x, y, x]), (4,), (4,)),
    "bias_add": (lambda x: tf.nn.bias_add(x, [1.0, 2.0]), (2,)),
    "broadcast in a row": (lambda x, y: x * y, (1, 3), (2, 1)),
    "DCN cross": (lambda x0, x: x0 * x + x, (4,), (4,)),
    # Gates.
    "GLU": (lambda x: x[:, :3] * tf.sigmoid(x[:, 3:]), (6,)),
    "GLU by split": (lambda x: (lambda a, b: a * ops.sigmoid(b))(*ops.split(x, 2, -1)), (6,)),
    "SwiGLU": (lambda x: tf.nn.silu(x[:, :3]) * x[:, 3:], (6,)),
    "GEGLU": (lambda x: keras.activations.gelu(x[:, :3]) * x[:, 3:], (6,)),
    "highway": (highway, (4,), (4,), (4,)),
    "dueling mean": (lambda v, a: v + a - tf.reduce_mean(a, axis=1, keepdims=True), (1,), (4,)),
    "dueling max": (lambda v, a: v + (a - tf.reduce_max(a, axis=-1, keepdims=True)), (1,), (4,)),
    # Along a row.
    "sum": (lambda x: ops.sum(x, axis=-1), (4,)),
    "sum keepdims": (lambda x: ops.sum(x, axis=1, keepdims=True), (2, 3)),
    "mean of two axes": (lambda x: ops.mean(x, axis=(1, 2)), (2, 3)),
    "mean of two axes, kept": (lambda x: ops.mean(x, axis=(1, 3), keepdims=True), (2, 3, 2)),
    "max": (lambda x: ops.max(x, axis=1), (2, 3)),
    "min": (lambda x: ops.min(x, axis=-1), (3,)),
    "softmax": (lambda x: ops.softmax(x), (4,)),
    "softmax over another axis": (lambda x: tf.nn.softmax(x, axis=1), (2, 3)),
    # Mixtures.
    "MMoE": (lambda x, y: ops.sum(ops.expand_dims(x, -1) * y, axis=1), (4,), (4, 3)),
    "MMoE stacked last": (lambda x, y: ops.sum(ops.expand_dims(x, 1) * y, axis=-1), (4,), (3, 4)),
    "MMoE stack": (lambda g, *e: weighted(g, tf.stack(e, axis=1)), (2,), (3,), (3,)),
    "MMoE tile": (lambda x, y: tf.reduce_sum(tf.tile(x[..., None], [1, 1, 3]) * y, 1), (4,), (4, 3)),
    "MMoE matmul": (lambda x, y: tf.matmul(x, y), *GATE_AND_EXPERTS),
    "MMoE ops.matmul": (lambda x, y: ops.squeeze(ops.matmul(x, y), 1), *GATE_AND_EXPERTS),
    "MMoE matmul transposed": (lambda x, y: tf.matmul(y, x, transpose_a=True), (4, 1), (4, 3)),
    "MMoE einsum": (lambda x, y: tf.einsum("be,bew->bw", x, y), (4,), (4, 3)),
    "MMoE ops.einsum": (lambda x, y: ops.einsum("...e,...ew->...w", x, y), (4,), (4, 3)),
    "MMoE Dot": (lambda x, y: kl.Dot(1).call([x, y]), (4,), (4, 3)),
    # Products.
    "inner product": (lambda x, y: tf.reduce_sum(x * y, -1, keepdims=True), (4,), (4,)),
    "outer product": (lambda x, y: tf.einsum("bi,bj->bij", x, y), (2,), (3,)),
    "einsum of one": (lambda x: tf.einsum("bij->bj", x), (2, 3)),
    "einsum that also sums": (lambda x, y: tf.einsum("bij,bk->bk", x, y), (2, 3), (2,)),
    "constant kernel": (lambda x: ops.matmul(x, KERNEL), (4,)),
    "constant kernel in rows": (lambda x: tf.matmul(x, KERNEL), (2, 4)),
    "constant kernel, transposed": (lambda x: tf.matmul(x, KERNEL, transpose_b=True), (3,)),
    "constant kernel on the left": (lambda x: tf.matmul(KERNEL, x), (3, 2)),
    "constant kernel with a batch of 1": (lambda x: tf.matmul(x, KERNEL[None]), (2, 4)),
    "tensordot with a constant": (lambda x: tf.tensordot(x, KERNEL, 1), (4,)),
    "weighted average": (lambda x: ops.average(x, axis=1, weights=KERNEL[:, 2]), (4,)),
    "constant einsum": (lambda x: ops.einsum("bi,io->bo", x, KERNEL), (4,)),
    "constant einsum per branch": (lambda x: tf.einsum("bei,eio->beo", x, np.stack([KERNEL, -KERNEL])), (2, 4)),
    "constant einsum elementwise": (lambda x: tf.einsum("bi,i->bi", x, KERNEL[:, 0]), (4,)),
    "constant einsum that also sums": (lambda x: tf.einsum("bei,io->bo", x, KERNEL), (2, 4)),
    # Others.
    "identity": (lambda x: x, (4,)),
    "tf.identity": (lambda x: tf.identity(x), (4,)),
    "same cast": (lambda x: tf.cast(x, "float64") * 2, (4,)),
    "tf.function": (lambda x: tf.function(lambda z: z * 2 + tf.function(tf.square)(z))(x[:, 1:]), (4,)),
    "unused operations": (lambda x: (tf.sqrt(x), x * 2)[1], (4,)),
    "constants by TensorFlow": (lambda x: x * tf.math.erf(tf.sqrt(tf.constant([0.5, 2.0], x.dtype))), (2,)),
}


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients(name):
    function, *shapes = CASES[name]
    compare(function, *shapes)


ALONG_TIME = {
    "split": (lambda x: tf.split(x, 2, axis=-1), (6,)),
    "slice": (lambda x: x[..., 1:4], (6,)),
    "slice of all axes": (lambda x: x[:, :, ::-1], (4,)),
    "slice to the time": (lambda x: x[:, : tf.shape(x)[1], 1:], (4,)),
    "slice to the time, as known": (lambda x: x[:, 0:TIME, 1:], (4,)),
    "concat": (lambda x, y: ops.concatenate([x, y], axis=2), (2,), (3,)),
    "stack": (lambda x, y: tf.stack([x, y], axis=2), (4,), (4,)),
    "reshape": (lambda x: tf.reshape(x, (-1, TIME, 2, 2)), (4,)),
    "reshape of the time": (lambda x: tf.reshape(x, (tf.shape(x)[0], -1, 2, 2)), (4,)),
    "reshape by shape": (lambda x: tf.reshape(x, tf.concat([tf.shape(x)[:2], [2, 2]], 0)), (4,)),
    "transpose": (lambda x: ops.transpose(x, (0, 1, 3, 2)), (2, 3)),
    "sum": (lambda x: ops.sum(x, axis=-1), (4,)),
    "mean kept": (lambda x: ops.mean(x, axis=2, keepdims=True), (4,)),
    "softmax": (lambda x: tf.nn.softmax(x), (4,)),
    "scale": (lambda x: x * [[[1.0, 2.0]]] + [3.0, 4.0], (2,)),
    "ones_like": (lambda x: tf.concat([x, tf.ones_like(x)], -1), (2,)),
    "fill": (lambda x: x + tf.fill(tf.shape(x), tf.constant(2.0, x.dtype)), (2,)),
    "GLU": (lambda x: x[..., :3] * tf.sigmoid(x[..., 3:]), (6,)),
    "einsum": (lambda x, y: tf.einsum("bte,btew->btw", x, y), (4,), (4, 3)),
    "matmul": (lambda x: tf.matmul(x, KERNEL), (4,)),
    "matmul of values": (lambda x, y: tf.matmul(x, y), *GATE_AND_EXPERTS),
}


@pytest.mark.parametrize("name", ALONG_TIME)
def test_two_axes_of_rows(name):
    function, *shapes = ALONG_TIME[name]
    compare(function, *((TIME, *shape) for shape in shapes), lead=2)


ACTIVATIONS = [
    *("relu", "relu6", "leaky_relu", "elu", "selu", "gelu", "silu", "sigmoid", "hard_sigmoid", "tanh", "softplus"),
    *("softsign", "exponential", "softmax"),
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_each_activation_is_one_step(name, dtype):
    plan = compare(getattr(keras.activations, name), (4,), dtype=dtype)
    assert len(plan.steps) == 1
    assert name in str(plan)


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (tf.nn.silu, "silu"),
        (ops.silu, "silu"),
        (lambda x: x * tf.sigmoid(x), "silu"),
        (lambda x: tf.sigmoid(x[:, :2]) * x[:, :2], "silu"),
        (tf.nn.gelu, "gelu"),
        (lambda x: tf.nn.gelu(x, approximate=True), "gelu_tanh"),
        (lambda x: keras.activations.gelu(x, approximate=True), "gelu_tanh"),
        (ops.gelu, "gelu_tanh"),
        (lambda x: ops.gelu(x, approximate=False), "gelu"),
        (lambda x: ops.leaky_relu(x, 0.3), "leaky_relu(0.3)"),
        (lambda x: tf.where(x > 0, x, 0.25 * x), "leaky_relu(0.25)"),
        (lambda x: keras.activations.elu(x, 0.5), "elu(0.5)"),
        (ops.hard_sigmoid, "hard_sigmoid"),
        (lambda x: tf.nn.relu6(x + 3.0) * (1 / 6), "hard_sigmoid"),
    ],
)
def test_activations_that_are_several_operations(function, name):
    plan = compare(function, (4,))
    assert len(plan.steps) == 1
    assert f"= {name}(" in str(plan)


@pytest.mark.parametrize(
    "function",
    [
        gelu_by_hand,
        lambda x: x * 0.5 * (1.0 + tf.math.erf(x / np.sqrt(2.0).astype("float32"))),
        lambda x: 0.5 * (x * (1.0 + tf.math.erf(x * np.sqrt(0.5).astype("float32")))),
    ],
)
def test_gelu_written_by_hand(function):
    plan = compare(function, (4,), dtype="float32")
    assert len(plan.steps) == 1
    assert "gelu" in str(plan)


def test_in_float64_gelu_has_keras_constants_or_stays():
    with pytest.raises(NotRowWise, match="TensorFlow's Erf: no steps"):
        lowered(lambda x: x * 0.5 * (1.0 + tf.math.erf(x / np.sqrt(2.0))), (4,))


def test_silu_of_something_else_is_no_silu():
    plan = compare(lambda x, y: x * tf.sigmoid(y), (4,), (4,))
    assert "silu" not in str(plan)
    assert "sigmoid" in str(compare(lambda x: tf.nn.silu(x, beta=2.0), (4,)))


def test_a_mixture_is_one_step():
    for name in ("MMoE", "MMoE stack", "MMoE matmul", "MMoE einsum", "MMoE tile"):
        function, *shapes = CASES[name]
        assert [type(step).__name__ for step in compare(function, *shapes).steps] == ["Mix"], name


def test_logits_are_noted():
    for function in (tf.sigmoid, tf.nn.softmax):
        program, (x,), y = lowered(function, (4,))
        np.testing.assert_array_equal(program.output_logits(y).columns, x.columns)


def test_a_split_is_no_step():
    program, _, _ = lowered(lambda x: tf.split(x, 2, axis=-1), (6,))
    assert not program.steps


def test_unused_columns_do_not_reach_what_a_constant_mask_leaves():
    program, inputs, y = lowered(lambda x: tf.where(MASK, x, 0.5), (4,))
    finished = program.plan([y])
    params = [tf.constant(program.sources[i].read()) for i in finished.sources]
    x = np.array([[1.0, np.nan, 2.0, np.inf]])
    np.testing.assert_array_equal(execute(finished.plan, [tf.constant(x)], params)[0], [[1.0, 0.5, 2.0, 0.5]])


# Structures.


def test_dicts_and_tuples():
    def function(inputs, factor):
        return {"sum": inputs["a"] + factor * inputs["b"], "parts": (inputs["a"][:, :1], [inputs["b"]])}

    program = RowProgram(dtype="float64")
    spec = tf.TensorSpec((None, 2), "float64")
    traced = trace(function, {"b": spec, "a": spec}, factor=2.0)
    assert traced.shapes == ((None, 2), (None, 2))
    a, b = program.input((2,)), program.input((2,))
    outputs = traced.lower(program, [a, b])
    assert outputs["parts"][1][0] is b
    np.testing.assert_array_equal(outputs["parts"][0].columns, a.columns[:1])
    assert outputs["sum"].shape == (2,)


def test_it_is_lowered_several_times():
    traced = trace(lambda x: x[..., :2] * 2.0, tf.TensorSpec((None, 5, 4), "float64"))
    for lead, shape in ((1, (5, 2)), (2, (2,))):
        program = RowProgram(lead)
        assert traced.lower(program, [program.input((5, 4)[lead - 1 :])]).shape == shape


def test_static_batch_sizes_are_ignored():
    traced = trace(lambda x: x * 2, keras.KerasTensor((32, 4), "float64"))
    assert traced.shapes == ((None, 4),)


# Refusals.


@tf.custom_gradient
def reversed_gradient(x):
    return tf.identity(x), lambda dy: -dy


@tf.custom_gradient
def silu_with_another_gradient(x):
    return x * tf.sigmoid(x), lambda dy: -dy


VARIABLE = tf.Variable([1.0, 2.0], dtype="float64")
TENSOR = tf.constant([1.0, 2.0], "float64")


class Counter:
    def __init__(self):
        self.n = 0

    def __call__(self, x):
        self.n += 1
        return x * self.n


def layer_norm(x):
    mean = tf.reduce_mean(x, -1, keepdims=True)
    variance = tf.reduce_mean(tf.square(x - mean), -1, keepdims=True)
    return (x - mean) / tf.sqrt(variance + 1e-3)


REFUSALS = {
    "sum over the batch": (lambda x: x - tf.reduce_sum(x, 0), "Sum: over axis 0, the batch", (2,)),
    "mean over everything": (lambda x: x - tf.reduce_mean(x), "Mean: over axis 0, the batch", (2,)),
    "max over the batch from the end": (lambda x: tf.reduce_max(x, -2, keepdims=True) + x, "Max: over axis 0", (2,)),
    "squeeze without axes": (lambda x: tf.squeeze(x), "Squeeze: without axes", (3, 1)),
    "squeeze without axes of one column": (lambda x: tf.squeeze(x), "Squeeze: without axes", (1,)),
    "squeeze the batch": (lambda x: tf.squeeze(x, 0), "Squeeze: over axis 0, the batch", (2,)),
    "constant of two rows": (lambda x: x + [[1.0, 2.0], [3.0, 4.0]], "AddV2: of a constant of more than one row", (2,)),
    "constant of two rows, no axis": (lambda x: x[:, 0] * [1.0, 2.0], "Mul: of a constant of more than one row", (2,)),
    "constant of high rank": (lambda x: x * np.ones((1, 1, 2)), "Mul: of a constant of higher rank", (2,)),
    "slice of the batch": (lambda x: x[:2], "StridedSlice: over axis 0, the batch", (2,)),
    "slice of the batch reversed": (lambda x: x[::-1], "StridedSlice: over axis 0, the batch", (2,)),
    "first row": (lambda x: x[0], "StridedSlice: over axis 0, the batch", (2, 2)),
    "axis before the batch": (lambda x: x[None], "StridedSlice: over axis 0, the batch", (2,)),
    "expand before the batch": (lambda x: tf.expand_dims(x, 0), "ExpandDims: over axis 0, the batch", (2,)),
    "stack before the batch": (lambda x: tf.stack([x, x], 0), "Pack: over axis 0, the batch", (2,)),
    "unstack the batch": (lambda x: tf.gather(x, [0]), "GatherV2: over axis 0, the batch", (2,)),
    "concat of rows": (lambda x: tf.concat([x, x], 0), "ConcatV2: over axis 0, the batch", (2,)),
    "concat of a constant": (lambda x: tf.concat([x, [[1.0]]], 1), "ConcatV2: of rows and a constant", (2,)),
    "split of rows": (lambda x: tf.split(x, [1, -1], 0), "SplitV: over axis 0, the batch", (2,)),
    "transpose": (lambda x: tf.transpose(x), "Transpose: over axis 0, the batch", (2,)),
    "tile of rows": (lambda x: tf.tile(x, [2, 1]), "Tile: over axis 0, the batch", (2,)),
    "reverse of rows": (lambda x: tf.reverse(x, [0]), "ReverseV2: over axis 0, the batch", (2,)),
    "roll of rows": (lambda x: tf.roll(x, 1, 0), "Roll: over axis 0, the batch", (2,)),
    "softmax over rows": (lambda x: tf.nn.softmax(x, axis=0), "Transpose: over axis 0, the batch", (2,)),
    "softmax over the only axis": (lambda x: tf.nn.softmax(x[:, 0]), "Softmax: over axis 0, the batch", (2,)),
    "reshape across rows": (lambda x: tf.reshape(x, (-1, 2)), r"Reshape: .* moves columns .*\(-1, 2\)", (4,)),
    "reshape to a vector": (lambda x: tf.reshape(x, (-1,)), "Reshape: .* moves columns", (4,)),
    "reshape, rows last": (lambda x: tf.reshape(x, (4, -1)), "Reshape: .* does not keep the rows", (4,)),
    "reshape of some rows": (lambda x: tf.reshape(x, (8, 2)), "Reshape: .* does not keep the rows", (2,)),
    "reshape by half the batch": (
        lambda x: tf.reshape(x, (tf.shape(x)[0] // 2, 4)),
        "FloorDiv: no steps",
        (2,),
    ),
    "the batch as a number": (lambda x: x / tf.cast(tf.shape(x)[0], x.dtype), "Cast: to float64", (2,)),
    "a batch in the middle": (lambda x, y: x + y, "AddV2: of tensors of other ranks", (2,), (2, 2)),
    "batch with batch": (lambda x, y: tf.matmul(x, y, transpose_b=True), "MatMul: .* from row to row", (2,), (2,)),
    "sum over the batch by einsum": (lambda x, y: tf.einsum("bi,bj->ij", x, y), "Einsum: over the batch", (2,), (2,)),
    "diagonal": (lambda x: tf.einsum("bii->bi", x), "Einsum: along a diagonal", (2, 2)),
    "divide": (lambda x, y: x / y, "RealDiv: by a computed value", (2,), (2,)),
    "reciprocal": (lambda x: 1.0 / x, "RealDiv: by a computed value", (2,)),
    "divide_no_nan": (lambda x, y: tf.math.divide_no_nan(x, y), "DivNoNan: no steps", (2,), (2,)),
    "tensordot that joins axes with the batch": (
        lambda x: ops.dot(x, KERNEL),
        r"Reshape: to a shape that does not keep the rows in front: \(2 rows, 4\)",
        (2, 4),
    ),
    "divide by 0": (lambda x: x / 0.0, "RealDiv: a constant that is not finite", (2,)),
    "maximum with minus infinity": (lambda x: tf.maximum(x, -np.inf), "Maximum: a constant that is not finite", (2,)),
    "power": (lambda x: x**3, "Pow: with an exponent that is not 1 or 2", (2,)),
    "square root": (lambda x: tf.sqrt(x), "Sqrt: no steps", (2,)),
    "layer normalization by hand": (layer_norm, "Sqrt: no steps", (4,)),
    "l2 norm": (lambda x: tf.nn.l2_normalize(x, -1), "Rsqrt: no steps", (4,)),
    "argmax": (lambda x: tf.cast(tf.argmax(x, -1), x.dtype), "ArgMax: no steps", (2,)),
    "cumsum": (lambda x: ops.cumsum(x, -1), "Cumsum: no steps", (2,)),
    "prod": (lambda x: tf.reduce_prod(x, -1), "Prod: no steps", (2,)),
    "pad": (lambda x: tf.pad(x, [[0, 0], [1, 1]]), "Pad: no steps", (2,)),
    "condition": (lambda x: tf.where(x > 1, x, 0.0), "SelectV2: with a condition that is computed|Greater", (2,)),
    "gather_nd": (lambda x: tf.gather_nd(x, [[0, 1]]), "GatherNd: no steps", (2,)),
    "computed indices": (lambda x: tf.gather(x, tf.cast(x[0], "int32"), axis=1), "StridedSlice: over axis 0", (2,)),
    "cast": (lambda x: tf.cast(x, "float32"), "Cast: to float32", (2,)),
    "stop_gradient": (lambda x: tf.stop_gradient(x), "StopGradient: no steps", (2,)),
    "gradient reversal": (reversed_gradient, "IdentityN: has a gradient of its own", (2,)),
    "silu with another gradient": (silu_with_another_gradient, "IdentityN: has a gradient of its own", (2,)),
    "random": (lambda x: x + tf.random.normal((2,), dtype=x.dtype), "RandomStandardNormal: is random", (2,)),
    "unused random": (lambda x: (tf.random.normal((2,)), x)[1], "RandomStandardNormal: is random", (2,)),
    "stateless random": (
        lambda x: x + tf.random.stateless_normal((2,), [1, 2], dtype=x.dtype),
        "Stateless.*: is random",
        (2,),
    ),
    "keras.random": (
        lambda x: x + keras.random.normal(ops.shape(x), dtype="float64"),
        "uses a variable from outside|Stateless.*: is random",
        (2,),
    ),
    "variable": (lambda x: x * VARIABLE, "uses a variable from outside", (2,)),
    "tensor": (lambda x: x * TENSOR, "uses a tensor from outside", (2,)),
    "print": (lambda x: (tf.print(x), x)[1], "PrintV2: has a state or an effect", (2,)),
    "assertion": (lambda x: (tf.debugging.assert_positive(x), x)[1], "has a state or an effect", (2,)),
    "py_function": (lambda x: tf.py_function(lambda z: z, [x], x.dtype), "EagerPyFunc: has a state", (2,)),
    "numpy_function": (lambda x: tf.numpy_function(np.sin, [x], x.dtype), "PyFunc: has a state", (2,)),
    "loop": (lambda x: tf.map_fn(lambda r: r * 2, x), "TensorFlow's (TensorList|StatelessWhile)", (2,)),
    "NumPy": (lambda x: x * np.random.rand(), "not repeatable", (2,)),
    "a counter": (Counter(), "not repeatable", (2,)),
    "another operation each time": (
        lambda x, seen=[]: (seen.append(0), x * 2 if len(seen) % 2 else x + 2)[1],  # noqa: B006
        "not repeatable",
        (2,),
    ),
    "Python condition": (lambda x: x if x[0, 0] > 0 else -x, "calling it on symbolic rows fails", (2,)),
    "the batch size in Python": (lambda x: x * x.shape[0], "calling it on symbolic rows fails", (2,)),
    "nothing returned": (lambda x: None, "calling it on symbolic rows fails", (2,)),
    "output of a constant": (lambda x: tf.ones((3, 2), x.dtype), "of rows and a constant of no rows", (2,)),
    "empty output": (lambda x: x[:, 2:], "an output that is empty", (2,)),
    "many pieces": (lambda x: x[:, ::2], "pieces, of at most", (300,)),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals_name_the_operation(name):
    function, message, *shapes = REFUSALS[name]
    with pytest.raises(NotRowWise, match=message):
        program, _, outputs = lowered(function, *shapes)
        program.plan(keras.tree.flatten(outputs))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: tf.reduce_sum(x, 1), "Sum: over axis 1, which is one of rows"),
        (lambda x: x[:, 0], "StridedSlice: over axis 1"),
        (lambda x: x[:, :, None, :][:, None], "StridedSlice: over axis 1"),
        (lambda x: tf.reshape(x, (-1, TIME * 4)), "Reshape: .* does not keep the rows"),
        (lambda x: tf.reshape(x, (-1, 4)), "Reshape: "),
        (lambda x: tf.transpose(x, (0, 2, 1)), "Transpose: over axis 1"),
        (lambda x: x + np.ones((TIME, 4)), "AddV2: of a constant of more than one row"),
        (lambda x: tf.einsum("bti,tio->bto", x, np.ones((TIME, 4, 2))), "Einsum: of a constant of more than one row"),
    ],
)
def test_refusals_over_the_time(function, message):
    with pytest.raises(NotRowWise, match=message):
        lowered(function, (TIME, 4), lead=2)


def test_integers_are_refused():
    with pytest.raises(NotRowWise, match="int32"):
        trace(lambda x: x, tf.TensorSpec((None, 2), "int32"))


def test_different_rows_are_refused():
    traced = trace(lambda x, y: x + y, *(tf.TensorSpec((None, t, 2), "float64") for t in (1, 5)))
    program = RowProgram(2)
    with pytest.raises(NotRowWise, match="other leading axes"):
        traced.lower(program, [program.input((2,)), program.input((2,))])


# In models.


def _regions(*ys, inputs):
    fused = fs.fuse(keras.Model(inputs, list(ys)))
    schedule = fused.schedule()
    return schedule, {call.path: reason for call, reason in schedule.reasons.items()}


def test_late_bound_variables_are_read_when_it_is_traced():
    x = keras.Input((4,))
    h = kl.Dense(4)(x)
    lambdas = [kl.Lambda(lambda t: t * i) for i in range(3)]  # noqa: B023
    ys = [kl.Dense(2)(layer(h)) for layer in lambdas]
    model = keras.Model(x, kl.Concatenate()(ys))
    fused = fs.fuse(model)
    assert not fused.schedule().reasons
    data = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
    np.testing.assert_allclose(fused(data), model(data), rtol=1e-5, atol=1e-6)


def test_what_is_read_from_outside_is_read_once():
    factor = 4.0
    x = keras.Input((2,))
    y = kl.Dense(1, "relu", kernel_initializer="ones")(kl.Lambda(lambda t: t * factor)(kl.Dense(2)(x)))
    fused = fs.fuse(keras.Model(x, y))
    data = np.ones((1, 2), "float32")
    before = fused(data).numpy()
    factor = 0.0
    np.testing.assert_array_equal(fused(data), before)


def test_the_split_of_the_seeds():
    x = keras.Input((10,))
    h = kl.Dense(8, activation="relu")(x)
    a, b = kl.Lambda(lambda t: tf.split(t, [3, 5], axis=1))(h)
    y = kl.concatenate([kl.Dense(4, activation="relu")(a), kl.Dense(6, activation="relu")(b)])
    schedule, reasons = _regions(kl.Dense(1)(y), inputs=x)
    assert not reasons
    assert len(schedule.regions) == 1
    (region,) = schedule.regions
    assert [type(step).__name__ for step in region.plan.steps] == ["Dense"] * 4


def test_a_lambda_with_arguments_and_a_training_argument():
    def function(t, factor, training=None):
        return t * factor if training else t * (factor + 1)

    x = keras.Input((4,))
    y = kl.Dense(2)(kl.Lambda(function, arguments={"factor": 2.0})(kl.Dense(4)(x)))
    model = keras.Model(x, y)
    fused = fs.fuse(model)
    assert len(fused.schedule().regions) == 1
    data = np.ones((3, 4), "float32")
    for training in (False, True):
        np.testing.assert_allclose(fused(data, training=training), model(data, training=training), rtol=1e-5)


def test_what_is_not_understood_stays_with_its_reason():
    x = keras.Input((4,))
    y = kl.Lambda(lambda t: t - tf.reduce_mean(t, axis=0), name="center")(kl.Dense(4)(x))
    _, reasons = _regions(kl.Dense(2)(y), inputs=x)
    assert reasons["center"] == "TensorFlow's Mean: over axis 0, the batch"


def test_a_function_is_called_twice_for_a_graph():
    calls = []

    def function(t):
        calls.append(None)
        return t * 2

    x = keras.Input((3, 4))
    y = kl.Dense(2)(kl.Lambda(function)(kl.Dense(4)(x)))
    model = keras.Model(x, y)
    calls.clear()
    fused = fs.fuse(model)
    assert len(fused.schedule().regions) == len(fused.schedule(training=True).regions) == 1
    assert len(calls) == 2
