"""Functions of tensors (a Lambda's, an operation's `call`), traced on symbolic rows and lowered to a row program.

`trace` calls a function twice with tensors of shape (None, ...), as TensorFlow would, and keeps the operations that it
used; `Traced.lower` gives them, one by one, to a `RowProgram`. What cannot be understood is a `NotRowWise`, which names
TensorFlow's operation and says why.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

import fusedsplit.models.tracing.arithmetic  # noqa: F401  (registers its rules)
from fusedsplit.backends import _tf_private
from fusedsplit.models.rows import NotRowWise, RowProgram, View
from fusedsplit.models.tracing.graph import Lowering
from fusedsplit.models.tracing.nodes import Node, Ref, read
from fusedsplit.models.tracing.patterns import simplify


@dataclasses.dataclass(frozen=True, eq=False)
class Traced:
    """What a function computes.

    Attributes:
        shapes: of its tensors, in the order of `keras.tree.flatten((args, kwargs))`; the batch is None.
        nodes: the operations, in an order in which they can be computed; the inputs are the first ones.
        outputs: where the outputs come from.
        structure: of what it returns; the leaves are the numbers of the outputs.
    """

    shapes: tuple[tuple[int | None, ...], ...]
    nodes: tuple[Node, ...]
    outputs: tuple[Ref, ...]
    structure: Any

    def lower(self, program: RowProgram, views: Sequence[View]) -> Any:
        """Adds the steps to a row program.

        Args:
            program: what to add them to.
            views: one for each tensor that the function is given, in the order of `shapes`.

        Returns:
            What the function returns, with a view for each tensor.

        Raises:
            NotRowWise: if some operation looks from row to row, or is not understood.
        """
        outputs = Lowering(program, self._rows(program.lead)).run(self.nodes, views, self.outputs)
        return keras.tree.map_structure(lambda i: outputs[i], self.structure)

    def _rows(self, lead: int) -> tuple[int | None, ...]:
        """The sizes of the leading axes, which every input has."""
        sizes = {shape[:lead] for shape in self.shapes}
        if len(sizes) != 1 or any(len(shape) < lead for shape in self.shapes):
            raise NotRowWise(f"its inputs have other leading axes than each other: {sorted(map(str, self.shapes))}")
        return sizes.pop()


def trace(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Traced:
    """The operations that `function(*args, **kwargs)` is, if they are the same each time.

    Whatever the function reads from outside (a NumPy array, a loop variable) is taken as it is now.

    Args:
        function: a callable on tensors.
        *args: its arguments: structures with a `KerasTensor` or `tf.TensorSpec` for each tensor. The batch, the first
            axis, is traced as unknown.
        **kwargs: the same by keyword.

    Raises:
        NotRowWise: if it fails on symbolic rows, uses a variable or a tensor from outside, is random, has an effect, or
            differs when it is traced again; or if this TensorFlow lacks what tracing needs.
    """
    first, second = (trace_once(function, *args, **kwargs) for _ in range(2))
    if [node.key for node in first.nodes] != [node.key for node in second.nodes] or first.outputs != second.outputs:
        raise NotRowWise("it is not repeatable (traced again, it gave other operations or constants)")
    return first


def trace_once(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Traced:
    """`trace` for a function that is known to do the same each time."""
    lost = _tf_private.reasons(_tf_private.LAMBDAS)
    if lost:
        raise NotRowWise("; ".join(lost))
    leaves = keras.tree.flatten((args, kwargs))
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, (keras.KerasTensor, tf.TensorSpec))]
    specs = [tf.TensorSpec((None, *leaves[i].shape[1:]), leaves[i].dtype) for i in places]
    for spec in specs:
        if not spec.dtype.is_floating:
            raise NotRowWise(f"an input of dtype {spec.dtype.name}")

    def call(*tensors: tf.Tensor) -> Any:
        given = list(leaves)
        for i, tensor in zip(places, tensors):
            given[i] = tensor
        own_args, own_kwargs = keras.tree.pack_sequence_as((args, kwargs), given)
        return function(*own_args, **own_kwargs)

    return _traced(call, specs)


def _traced(call: Callable[..., Any], specs: Sequence[tf.TensorSpec]) -> Traced:
    graph = _tf_private.FuncGraph("lambda")
    with graph.as_default():
        inputs = [tf.compat.v1.placeholder(spec.dtype, spec.shape) for spec in specs]
        try:
            returned = call(*inputs)
            flat = [tf.convert_to_tensor(y) for y in keras.tree.flatten(returned)]
        except Exception as error:
            first_line = (str(error).splitlines() or [""])[0]
            raise NotRowWise(f"calling it on symbolic rows fails: {type(error).__name__}: {first_line}") from error
    if graph.captures:
        variable = any(inside.dtype == tf.resource for _, inside in graph.captures)
        raise NotRowWise(f"it uses a {'variable' if variable else 'tensor'} from outside")
    nodes, outputs = simplify(*read(graph, inputs, flat))
    structure = keras.tree.pack_sequence_as(returned, list(range(len(flat))))
    return Traced(tuple(tuple(spec.shape) for spec in specs), nodes, outputs, structure)
