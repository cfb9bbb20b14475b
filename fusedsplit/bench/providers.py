"""Every way to compute a case, from the same weights; one set-up serves speed, gradients and checks.

A provider builds a `Program`: a callable on tensors, and its variables. `eager`, `function` and `gradients`
then give the three ways in which each program is run. To add a provider, write a function `(case, weights) ->
Program` and put it into `PROVIDERS`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from fusedsplit.bench import fused
from fusedsplit.bench.cases import Case
from fusedsplit.bench.merge_cases import MergeCase
from fusedsplit.bench.numeric import Result
from fusedsplit.bench.program import Program, ProviderUnavailable

Weights = Sequence[np.ndarray]
Builder = Callable[[Case, Weights], Program]


@dataclasses.dataclass(frozen=True)
class Provider:
    """A way to compute a case; `jit` says that the whole program is compiled by XLA from outside."""

    name: str
    build: Builder
    why: str
    jit: bool = False


def dense_layers(case: Case) -> list[keras.layers.Dense]:
    """The case's Dense layers in weight order, not yet built."""
    return [keras.layers.Dense(shape.columns, activation=shape.activation) for shape in case.dense_shapes()]


def build_and_assign(case: Case, layers: Sequence[keras.layers.Dense], weights: Weights) -> list[tf.Variable]:
    """Builds what is not built, gives each layer its weights, and returns the variables in weight order."""
    variables = []
    for i, (layer, shape) in enumerate(zip(layers, case.dense_shapes())):
        if not layer.built:
            layer.build((None, shape.rows))
        layer.kernel.assign(weights[2 * i])
        layer.bias.assign(weights[2 * i + 1])
        variables += [layer.kernel.value, layer.bias.value]
    return variables


def _split_model(case: Case, weights: Weights, split: Callable[[Any], Sequence[Any]]) -> Program:
    """The seeds' program: Dense, `split`, a Dense per part, concatenate."""
    stem, *rest = dense_layers(case)
    layers = iter(rest)
    inputs = keras.Input((case.inputs,))
    parts = split(stem(inputs))
    outputs = []
    for part, branch in zip(parts, case.branches):
        for _ in branch.units:
            part = next(layers)(part)
        outputs.append(part)
    y = keras.layers.concatenate(outputs) if len(outputs) > 1 else outputs[0]
    if case.head is not None:
        y = next(layers)(y)
    model = keras.Model(inputs, y)
    return Program(model, build_and_assign(case, [stem, *rest], weights))


def _lambda(case: Case, weights: Weights) -> Program:
    sizes = case.split
    layer = keras.layers.Lambda(lambda x: tf.split(x, sizes, axis=1))
    return _split_model(case, weights, layer)


def _keras_split(case: Case, weights: Weights) -> Program:
    # keras.ops.split takes the positions at which to cut, not the sizes.
    positions = [int(p) for p in np.cumsum(case.split)[:-1]]
    return _split_model(case, weights, lambda x: keras.ops.split(x, positions, axis=1))


def _variables(arrays: Weights) -> list[tf.Variable]:
    return [tf.Variable(a) for a in arrays]


def _hand(case: Case, weights: Weights) -> Program:
    """What an expert writes without any layer."""
    variables = _variables(weights)
    shapes = case.dense_shapes()

    def dense(i: int, x: tf.Tensor) -> tf.Tensor:
        z = tf.nn.bias_add(tf.matmul(x, variables[2 * i]), variables[2 * i + 1])
        name = shapes[i].activation
        return z if name == "linear" else getattr(tf.nn, name)(z)

    def call(x: tf.Tensor) -> tf.Tensor:
        i, outputs = 1, []
        for part, branch in zip(tf.split(dense(0, x), case.split, axis=1), case.branches):
            for _ in branch.units:
                part = dense(i, part)
                i += 1
            outputs.append(part)
        y = tf.concat(outputs, axis=1)
        return y if case.head is None else dense(i, y)

    return Program(call, variables)


def _stacked(case: Case, weights: Weights) -> list[np.ndarray]:
    """Stem and head as they are; the branches' kernels as one (n, in, out) array, their biases (n, out)."""
    if not case.uniform:
        raise ProviderUnavailable(f"expected branches of one Dense each and of one shape. Received: {case.branches}")
    end = 2 + 2 * len(case.branches)
    return [*weights[:2], np.stack(weights[2:end:2]), np.stack(weights[3:end:2]), *weights[end:]]


def _unstack(gradients: Sequence[np.ndarray]) -> list[np.ndarray]:
    stem_kernel, stem_bias, kernels, biases, *head = gradients
    pairs = [array for pair in zip(kernels, biases) for array in pair]
    return [stem_kernel, stem_bias, *pairs, *head]


def _batched(case: Case, weights: Weights) -> Program:
    """Equal branches as one batched product."""
    variables = _variables(_stacked(case, weights))
    branch, n = case.branches[0], len(case.branches)
    activate = {"linear": tf.identity}.get(branch.activation) or getattr(tf.nn, branch.activation)
    stem_activate = tf.identity if case.stem_activation == "linear" else getattr(tf.nn, case.stem_activation)

    def call(x: tf.Tensor) -> tf.Tensor:
        h = stem_activate(tf.nn.bias_add(tf.matmul(x, variables[0]), variables[1]))
        parts = tf.transpose(tf.reshape(h, (-1, n, branch.width)), (1, 0, 2))
        z = tf.matmul(parts, variables[2]) + variables[3][:, None, :]
        y = tf.reshape(tf.transpose(activate(z), (1, 0, 2)), (-1, case.concat))
        return y if case.head is None else tf.nn.bias_add(tf.matmul(y, variables[4]), variables[5])

    return Program(call, variables, _unstack)


def _einsum(case: Case, weights: Weights) -> Program:
    """Equal branches as one keras EinsumDense."""
    arrays = _stacked(case, weights)
    branch, n = case.branches[0], len(case.branches)
    stem = keras.layers.Dense(case.stem, activation=case.stem_activation)
    shape = (n, branch.out)
    einsum = keras.layers.EinsumDense("bnw,nwu->bnu", shape, activation=branch.activation, bias_axes="nu")
    layers = [stem, einsum]
    inputs = keras.Input((case.inputs,))
    parts = keras.layers.Reshape((n, branch.width))(stem(inputs))
    y = keras.layers.Reshape((case.concat,))(einsum(parts))
    if case.head is not None:
        layers.append(keras.layers.Dense(case.head))
        y = layers[-1](y)
    model = keras.Model(inputs, y)
    variables = []
    for i, layer in enumerate(layers):
        layer.set_weights(arrays[2 * i : 2 * i + 2])
        variables += [layer.kernel.value, layer.bias.value]
    return Program(model, variables, _unstack)


def _fused(backend: str, jit: bool = False) -> Builder:
    def build(case: Case, weights: Weights) -> Program:
        layers = dense_layers(case)
        layer = fused.split_dense_layer(case, layers, backend, jit)
        return Program(layer, build_and_assign(case, layers, weights))

    return build


def _functional(backend: str) -> Builder:
    def build(case: Case, weights: Weights) -> Program:
        layers = dense_layers(case)
        layer = fused.split_dense_layer(case, layers, backend)
        variables = build_and_assign(case, layers, weights)
        return Program(fused.functional(layer, backend), variables)

    return build


_ALL = (
    Provider("lambda", _lambda, "the seeds' program: Dense, Lambda(tf.split), a Dense each, concatenate"),
    Provider("lambda-xla", _lambda, "the same under tf.function(jit_compile=True)", jit=True),
    Provider("keras-split", _keras_split, "the same with keras.ops.split instead of the Lambda"),
    Provider("keras-split-xla", _keras_split, "the same under XLA", jit=True),
    Provider("hand", _hand, "hand-written TensorFlow: matmul, bias_add, split, concat"),
    Provider("hand-xla", _hand, "the same under XLA", jit=True),
    Provider("batched", _batched, "equal branches as one batched tf.matmul"),
    Provider("batched-xla", _batched, "the same under XLA", jit=True),
    Provider("einsum", _einsum, "equal branches as one keras EinsumDense"),
    Provider("einsum-xla", _einsum, "the same under XLA", jit=True),
    Provider("tf", _fused("tf"), "SplitDense, the pure-TensorFlow form"),
    Provider("xla", _fused("xla"), "SplitDense, the pure-TensorFlow form compiled by XLA"),
    Provider("op", _fused("op"), "SplitDense, the C++ op"),
    Provider("op-xla", _fused("op", jit=True), "the same in a function that XLA compiles", jit=True),
    Provider("auto", _fused("auto"), "SplitDense, as its cost rule chooses"),
    Provider("op-functional", _functional("op"), "fs.split_dense on the C++ op: no Keras layer around it"),
)
PROVIDERS = {provider.name: provider for provider in _ALL}
# The Lambda program comes first everywhere: it is what the others are compared with.
BASELINE = "lambda"
LADDER = ("lambda", "lambda-xla", "hand", "tf", "xla", "op", "op-xla")
# The forms of the layer itself, of which those of the op are compared with the best of all others.
# Of whole models: as Keras runs them, and as `fs.fuse` does.
PLAIN, MODEL = "plain", "fused"
FUSED = ("tf", "xla", "op", "op-xla", "auto", MODEL, f"{MODEL}-xla")
OP = ("op", "op-xla")


def make(name: str, case: Case, weights: Weights) -> Program:
    """The named provider's program for a case.

    Raises:
        ProviderUnavailable: with the reason, if this provider cannot compute this case here.
    """
    if name not in PROVIDERS:
        raise ValueError(f"provider: expected one of {', '.join(PROVIDERS)}. Received: {name!r}")
    return dataclasses.replace(PROVIDERS[name].build(case, weights), jit=PROVIDERS[name].jit)


def eager(program: Program, compiled: Callable[[Any], tf.Tensor]) -> Callable[[Any], tf.Tensor]:
    """The program as called outside any graph; `compiled` is its `function`, so that XLA compiles once."""
    return compiled if program.jit else program.call


def _rows_spec(case: Case | MergeCase) -> Any:
    """What any batch of the case's input looks like: one tensor, or a list where the case has several inputs."""
    if isinstance(case.inputs, int):
        return tf.TensorSpec((None, case.inputs), tf.float32)
    return [tf.TensorSpec((None, width), tf.float32) for width in case.inputs]


def function(program: Program, case: Case | MergeCase) -> Any:
    """The program as a `tf.function` for any batch; its `get_concrete_function()` is what is timed."""

    def run(x: Any) -> tf.Tensor:
        return program.call(x)

    return tf.function(run, input_signature=[_rows_spec(case)], jit_compile=program.jit or None)


def gradients(
    program: Program, case: Case | MergeCase
) -> Callable[[Any, tf.Tensor], tuple[tf.Tensor, list[tf.Tensor]]]:
    """A concrete function (x, dy) -> the output and the gradients of all variables.

    `dy` is given rather than derived from a loss: a loss over a large output costs more than the layer.
    """
    upstream = tf.TensorSpec((None, case.outputs), tf.float32)

    def run(x: Any, dy: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
        with tf.GradientTape() as tape:
            y = program.call(x)
        return y, tape.gradient(y, program.variables, output_gradients=dy)

    return tf.function(run, jit_compile=program.jit or None).get_concrete_function(_rows_spec(case), upstream)


def result(program: Program, y: tf.Tensor, grads: Sequence[tf.Tensor]) -> Result:
    """As NumPy arrays in weight order."""
    arrays = [np.asarray(tf.convert_to_tensor(g)) for g in grads]
    return Result(np.asarray(y), program.to_weight_order(arrays))
