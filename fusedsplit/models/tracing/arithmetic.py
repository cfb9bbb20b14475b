"""TensorFlow's operations that compute, as steps of a row program: elementwise, along a row, and products."""

from __future__ import annotations

from typing import Any

import numpy as np

from fusedsplit.models.rows import NotRowWise, RowProgram, View
from fusedsplit.models.tracing.contract import contract
from fusedsplit.models.tracing.graph import Lowering, full_shape, rule
from fusedsplit.models.tracing.nodes import Node
from fusedsplit.models.tracing.values import Value, integers, is_constant, is_size, settled
from fusedsplit.plan import Activation

_ACTIVATIONS = {
    "Relu": "relu",
    "Relu6": "relu6",
    "Selu": "selu",
    "Sigmoid": "sigmoid",
    "Tanh": "tanh",
    "Softplus": "softplus",
    "Softsign": "softsign",
    "Exp": "exponential",
}


# Elementwise.


@rule("Activation")
def _activation(run: Lowering, node: Node, x: Value) -> Value:
    if not isinstance(x, View):
        raise NotRowWise("of a constant")
    return run.program.activate(x, node.attrs["activation"])


@rule(*_ACTIVATIONS)
def _plain_activation(run: Lowering, node: Node, x: Value) -> Value:
    return _activate(run, node, x, Activation(_ACTIVATIONS[node.op]))


@rule("LeakyRelu")
def _leaky_relu(run: Lowering, node: Node, x: Value) -> Value:
    return _activate(run, node, x, Activation("leaky_relu", node.attrs["alpha"]))


@rule("Elu")
def _elu(run: Lowering, node: Node, x: Value) -> Value:
    return _activate(run, node, x, Activation("elu", 1.0))


@rule("Softmax")
def _softmax(run: Lowering, node: Node, x: Value) -> Value:
    run.axes.inner(-1, len(x.shape))
    return _activate(run, node, x, Activation("softmax"))


def _activate(run: Lowering, node: Node, x: Value, activation: Activation) -> Value:
    return run.program.activate(x, activation) if isinstance(x, View) else run.repeated(node, x)


@rule("AddV2", "Add", "BiasAdd", "Sub", "Mul", "RealDiv", "Maximum", "Minimum", "SquaredDifference")
def _binary(run: Lowering, node: Node, x: Value, y: Value) -> Value:
    if is_size(x) or is_size(y):
        if node.op != "Mul" or not all(isinstance(value, np.ndarray) for value in (x, y)):
            raise NotRowWise("of the number of rows")
        return settled(np.asarray(x, object) * y, node.dtypes[0])
    if node.attrs.get("data_format", b"NHWC") != b"NHWC":
        raise NotRowWise("with channels first")
    rank = run.rank([value for value in (x, y) if not is_constant(value)])
    if isinstance(x, View) and isinstance(y, View):
        return _of_views(run.program, node.op, x, y)
    if isinstance(x, View):
        return _with_numbers(run.program, node.op, x, run.numbers(y, rank))
    if isinstance(y, View):
        return _with_numbers(run.program, node.op, y, run.numbers(x, rank), from_left=True)
    return run.repeated(node, x, y)


def _of_views(program: RowProgram, op: str, x: View, y: View) -> View:
    if op in ("Sub", "SquaredDifference"):
        difference = program.merge("add", [x, y], [1.0, -1.0])
        return difference if op == "Sub" else program.merge("mul", [difference, difference])
    merges = {"AddV2": "add", "Add": "add", "Mul": "mul", "Maximum": "max", "Minimum": "min"}
    if op not in merges:
        raise NotRowWise("by a computed value")
    return program.merge(merges[op], [x, y])


def _with_numbers(program: RowProgram, op: str, x: View, numbers: np.ndarray, from_left: bool = False) -> View:
    """`x op numbers`, or the other way round."""
    if op in ("AddV2", "Add", "BiasAdd"):
        return program.scale(x, None, numbers)
    if op == "Sub":
        return program.scale(x, -1.0, numbers) if from_left else program.scale(x, None, -numbers)
    if op == "Mul":
        return program.scale(x, numbers)
    if op == "RealDiv":
        if from_left:
            raise NotRowWise("by a computed value")
        with np.errstate(divide="ignore"):
            return program.scale(x, np.reciprocal(numbers))
    if op == "SquaredDifference":
        difference = program.scale(x, None, -numbers)
        return program.merge("mul", [difference, difference])
    # Not relu of a maximum with 0: its derivative at 0 is another one.
    both = [x, _repeated_number(program, numbers)]
    return program.merge({"Maximum": "max", "Minimum": "min"}[op], both[::-1] if from_left else both)


def _repeated_number(program: RowProgram, numbers: np.ndarray) -> View:
    """Numbers as columns; where they are all the same, as one that stands in each place."""
    if numbers.size and np.all(numbers == numbers.flat[0]):
        return View(np.broadcast_to(program.numbers(numbers.flat[0]).columns, numbers.shape))
    return program.numbers(numbers)


@rule("AddN")
def _add_n(run: Lowering, node: Node, *xs: Value) -> Value:
    if not all(isinstance(x, View) for x in xs):
        raise NotRowWise("of rows and a constant")
    return run.program.merge("add", xs)  # type: ignore[arg-type]


@rule("Neg")
def _neg(run: Lowering, node: Node, x: Value) -> Value:
    return run.program.scale(x, -1.0) if isinstance(x, View) else run.repeated(node, x)


@rule("Square")
def _square(run: Lowering, node: Node, x: Value) -> Value:
    return run.program.merge("mul", [x, x]) if isinstance(x, View) else run.repeated(node, x)


@rule("Pow")
def _pow(run: Lowering, node: Node, x: Value, exponent: Value) -> Value:
    exponents = set(np.ravel(exponent).tolist()) if is_constant(exponent) else set()  # type: ignore[arg-type]
    if not isinstance(x, View) or exponents not in ({1}, {2}) or np.ndim(exponent):  # type: ignore[arg-type]
        raise NotRowWise("with an exponent that is not 1 or 2")
    return run.program.merge("mul", [x, x]) if exponents == {2} else x


# Along a row.


@rule("Sum", "Mean", "Max", "Min")
def _reduce(run: Lowering, node: Node, x: Value, axes: Value) -> Value:
    if is_size(x):
        raise NotRowWise("of the number of rows")
    rank = len(x.shape)
    along = sorted({run.axes.inner(axis, rank) for axis in integers(axes)})
    if not isinstance(x, View):
        return run.repeated(node, x, axes)
    if not along:
        return x
    rest = [axis for axis in range(rank) if axis not in along]
    inner = x.transpose([*rest, *along]).reshape([*(x.shape[axis] for axis in rest), -1])
    y = run.program.reduce(node.op.lower(), inner, -1)
    kept = [1 if axis in along else size for axis, size in enumerate(x.shape)]
    return y.reshape(kept) if node.attrs["keep_dims"] else y


# Products.


@rule("MatMul", "BatchMatMulV2", "BatchMatMulV3")
def _matmul(run: Lowering, node: Node, x: Value, y: Value) -> Value:
    attrs = node.attrs
    flipped = [attrs.get(f"transpose_{a}", False) or attrs.get(f"adj_{b}", False) for a, b in (("a", "x"), ("b", "y"))]
    labels = []
    for value, ends, flip in zip((x, y), (("i", "j"), ("j", "k")), flipped):
        rank = len(full_shape(run, value))
        labels.append((*_outer(rank - 2), *(ends[::-1] if flip else ends)))
    outer = max(labels, key=len)[:-2]
    return contract(run.program, run.axes, labels, [x, y], (*outer, "i", "k"))


@rule("Einsum")
def _einsum(run: Lowering, node: Node, *operands: Value) -> Value:
    left, out = node.attrs["equation"].decode().split("->")
    parts = left.split(",")
    dots = [len(full_shape(run, value)) - len(part.replace("...", "")) for part, value in zip(parts, operands)]
    labels = [_expand(part, n) for part, n in zip(parts, dots)]
    return contract(run.program, run.axes, labels, list(operands), _expand(out, max(dots)))


def _outer(n: int) -> tuple[int, ...]:
    """Labels of n axes in front that broadcast: numbers, counted from the right."""
    return tuple(range(n, 0, -1))


def _expand(part: str, dots: int) -> tuple[Any, ...]:
    before, found, after = part.partition("...")
    return (*before, *(_outer(dots) if found else ()), *after)
