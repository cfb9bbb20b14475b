"""TensorFlow's operations, one by one, as steps of a row program.

What only moves elements moves columns (`values.MOVES`); what is computed from constants alone TensorFlow computes,
now; everything else has a rule, registered under TensorFlow's name: those about shapes are here, those that compute in
arithmetic.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fusedsplit.models.rows import NotRowWise, RowProgram, View
from fusedsplit.models.tracing.nodes import Node, Ref, evaluate
from fusedsplit.models.tracing.values import (
    MOVES,
    Axes,
    Repeated,
    Value,
    as_objects,
    integer,
    integers,
    is_constant,
    is_size,
    settled,
)

Rule = Callable[..., Any]
RULES: dict[str, Rule] = {}


def rule(*ops: str) -> Callable[[Rule], Rule]:
    def register(rule: Rule) -> Rule:
        RULES.update(dict.fromkeys(ops, rule))
        return rule

    return register


class Lowering:
    """One run through the nodes of a traced function.

    Attributes:
        program: what steps are added to.
        axes: the leading axes that every tensor of rows has.
    """

    def __init__(self, program: RowProgram, sizes: Sequence[int | None]):
        self.program = program
        self.axes = Axes(tuple(sizes))

    @property
    def lead(self) -> int:
        return self.axes.lead

    def run(self, nodes: Sequence[Node], inputs: Sequence[View], outputs: Sequence[Ref]) -> list[View]:
        values: list[Sequence[Value]] = []
        for node in nodes:
            if node.op == "Input":
                values.append([inputs[node.attrs["number"]]])
                continue
            try:
                result = self.node(node, [values[ref.node][ref.output] for ref in node.inputs])
            except (NotRowWise, ValueError, TypeError, IndexError) as error:  # NumPy's own for what nobody thought of
                raise NotRowWise(f"TensorFlow's {node.op}: {error}") from error
            values.append(result if isinstance(result, list) else [result])
        results = [self.columns(values[ref.node][ref.output]) for ref in outputs]
        if not all(result.size for result in results):
            raise NotRowWise("an output that is empty")
        return results

    def node(self, node: Node, operands: list[Value]) -> Value | list[Value]:
        """What a node gives (a list, if several)."""
        if node.value is not None:
            return node.value
        if node.own_gradient:
            raise NotRowWise("has a gradient of its own")
        if operands and all(map(is_constant, operands)) and node.is_pure:
            return list(evaluate(node, operands))  # type: ignore[arg-type]
        if node.op in MOVES:
            return self.move(node, operands)
        if node.op in RULES:
            given: Value | list[Value] = RULES[node.op](self, node, *operands)
            return given
        raise NotRowWise("is random" if "Random" in node.op else "no steps are known for it")

    def move(self, node: Node, operands: list[Value]) -> Value | list[Value]:
        place, move = MOVES[node.op]
        moved, others = operands[place], [*operands[:place], *operands[place + 1 :]]
        if is_constant(moved) and node.op == "BroadcastTo":
            rank = len(others[0]) - self.lead  # type: ignore[arg-type]
            moved = Repeated(_of_rank(self.numbers(moved, rank), rank))
        if isinstance(moved, View):
            return _each(move(self.axes, node, moved.columns, *others), View)
        if isinstance(moved, Repeated):
            return _each(move(self.axes, node, moved.numbers, *others), Repeated)
        if is_size(moved):
            return _each(move(Axes(()), node, moved, *others), lambda array: settled(array, node.dtypes[0]))
        raise NotRowWise("of a constant, by something that depends on the rows")

    # Operands.

    def rank(self, values: Sequence[Value]) -> int:
        """How many axes the rows have: as many in each operand, or the batch of one would meet an axis of another."""
        ranks = {len(value.shape) for value in values if isinstance(value, (View, Repeated))}
        if len(ranks) != 1:
            raise NotRowWise(f"of tensors of other ranks than each other: {sorted(rank + self.lead for rank in ranks)}")
        return ranks.pop()

    def numbers(self, value: Value, rank: int) -> np.ndarray:
        """A constant (or repeated numbers) as an array that broadcasts with a row of `rank` axes."""
        if isinstance(value, Repeated):
            return value.numbers
        if not is_constant(value):
            raise NotRowWise("of the number of rows")
        assert isinstance(value, np.ndarray)
        extra = value.ndim - rank
        if extra <= 0:
            return value
        if extra > self.lead:
            raise NotRowWise("of a constant of higher rank than the rows have")
        if math.prod(value.shape[:extra]) != 1:
            raise NotRowWise("of a constant of more than one row")
        return value.reshape(value.shape[extra:])

    def repeated(self, node: Node, *operands: Value) -> Repeated:
        """What an operation that looks at each row alone gives for the same numbers in every row."""
        one = (1,) * self.lead
        arrays = [o.numbers.reshape(one + o.shape) if isinstance(o, Repeated) else o for o in operands]
        if not all(map(is_constant, arrays)):
            raise NotRowWise("of the number of rows")
        (result,) = evaluate(node, arrays)  # type: ignore[arg-type]
        if result.shape[: self.lead] != one:
            raise NotRowWise("of a constant of more than one row")
        return Repeated(result.reshape(result.shape[self.lead :]))

    def columns(self, value: Value) -> View:
        """Rows, or the same numbers in every row, as columns."""
        if isinstance(value, View):
            return value
        if not isinstance(value, Repeated):
            raise NotRowWise("of rows and a constant of no rows")
        return self.program.numbers(value.numbers)


def _of_rank(array: np.ndarray, rank: int) -> np.ndarray:
    return array.reshape((1,) * (rank - array.ndim) + array.shape)


def _each(result: Any, kind: Callable[[np.ndarray], Value]) -> Value | list[Value]:
    return [kind(array) for array in result] if isinstance(result, list) else kind(result)


# Integers that depend on the number of rows.


@rule("Shape")
def _shape(run: Lowering, node: Node, x: Value) -> Value:
    return settled(full_shape(run, x), node.dtypes[0])


@rule("ShapeN")
def _shape_n(run: Lowering, node: Node, *xs: Value) -> list[Value]:
    return [settled(full_shape(run, x), node.dtypes[0]) for x in xs]


@rule("Size")
def _size(run: Lowering, node: Node, x: Value) -> Value:
    return settled(np.prod(full_shape(run, x)), node.dtypes[0])


def full_shape(run: Lowering, x: Value) -> np.ndarray:
    return as_objects(x.shape) if isinstance(x, np.ndarray) else run.axes.shape(x.shape)


@rule("Rank")
def _rank(run: Lowering, node: Node, x: Value) -> Value:
    return np.asarray(len(full_shape(run, x)), np.int32)


@rule("Prod")
def _prod(run: Lowering, node: Node, x: Value, axes: Value) -> Value:
    if not is_size(x):
        raise NotRowWise("no steps are known for it")
    along = tuple(integers(axes))
    return settled(np.prod(x, axis=along, keepdims=node.attrs["keep_dims"]), node.dtypes[0])  # type: ignore[arg-type]


@rule("PadV2")
def _pad(run: Lowering, node: Node, x: Value, widths: Value, fill: Value) -> Value:
    if not is_size(x):
        raise NotRowWise("no steps are known for it")
    padded = np.pad(x, np.reshape(widths, (-1, 2)), constant_values=integer(fill))  # type: ignore[arg-type]
    return settled(padded, node.dtypes[0])


@rule("Cast")
def _cast(run: Lowering, node: Node, x: Value) -> Value:
    if is_size(x) and node.dtypes[0] in ("int32", "int64"):
        return x
    if is_size(x) or node.attrs["SrcT"] != node.attrs["DstT"]:
        raise NotRowWise(f"to {node.dtypes[0]}")
    return x


# The same numbers in every row.


@rule("OnesLike", "ZerosLike")
def _like(run: Lowering, node: Node, x: Value) -> Value:
    number = 1 if node.op == "OnesLike" else 0
    if is_size(x):
        return np.full(x.shape, number, node.dtypes[0])
    return Repeated(np.full(x.shape, number, node.dtypes[0]))


@rule("Fill")
def _fill(run: Lowering, node: Node, shape: Value, number: Value) -> Value:
    if not is_constant(number):
        raise NotRowWise("with a computed number")
    return Repeated(np.full(run.axes.rest(np.ravel(shape)), number))  # type: ignore[arg-type]


# Side by side.


@rule("ConcatV2")
def _concat(run: Lowering, node: Node, *operands: Value) -> Value:
    *parts, axis = operands
    if not any(isinstance(part, (View, Repeated)) for part in parts):
        return settled(np.concatenate([np.asarray(part, object) for part in parts], integer(axis)), node.dtypes[0])
    inner = run.axes.inner(integer(axis), run.rank(parts))
    return _joined(run, parts, lambda arrays: np.concatenate(arrays, inner))


@rule("Pack")
def _pack(run: Lowering, node: Node, *parts: Value) -> Value:
    axis = node.attrs["axis"]
    if not any(isinstance(part, (View, Repeated)) for part in parts):
        return settled(np.stack([np.asarray(part, object) for part in parts], axis), node.dtypes[0])
    inner = run.axes.inner(axis, run.rank(parts) + 1)
    return _joined(run, parts, lambda arrays: np.stack(arrays, inner))


def _joined(run: Lowering, parts: Sequence[Value], join: Callable[[list[np.ndarray]], np.ndarray]) -> Value:
    if all(isinstance(part, Repeated) for part in parts):
        return Repeated(join([part.numbers for part in parts]))  # type: ignore[union-attr]
    return View(join([run.columns(part).columns for part in parts]))


@rule("SelectV2", "Select")
def _select(run: Lowering, node: Node, condition: Value, x: Value, y: Value) -> Value:
    if isinstance(condition, View) or is_size(condition):
        raise NotRowWise("with a condition that is computed from the rows")
    if not isinstance(x, View) and not isinstance(y, View):
        return run.repeated(node, condition, x, y)
    rank = run.rank([value for value in (condition, x, y) if not is_constant(value)])
    views = [v if isinstance(v, View) else run.program.numbers(run.numbers(v, rank)) for v in (x, y)]
    return View(np.where(run.numbers(condition, rank), *(view.columns for view in views)))
