"""A TensorFlow graph as a list of nodes: what is left of a traced function once its constants are computed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from fusedsplit.backends import _tf_private
from fusedsplit.models.rows import NotRowWise

_CALLS = ("PartitionedCall", "StatefulPartitionedCall")


class Ref(NamedTuple):
    """Output `output` of the node with number `node`."""

    node: int
    output: int = 0


@dataclasses.dataclass(frozen=True, eq=False)
class Node:
    """One operation; its inputs come earlier in the list of nodes.

    Attributes:
        op: TensorFlow's name of the operation, `Input`, `Const`, or `Activation` (see patterns.py).
        inputs: where its operands come from.
        attrs: its attributes, but for functions and those that begin with an underscore.
        dtypes: of its outputs.
        value: of a constant.
        own_gradient: whether somebody gave it another gradient than that of what it computes.
    """

    op: str
    inputs: tuple[Ref, ...] = ()
    attrs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    dtypes: tuple[str, ...] = ()
    value: np.ndarray | None = None
    own_gradient: bool = False

    @property
    def is_pure(self) -> bool:
        """Whether it may be computed from constants, once for all."""
        return not self.own_gradient and not self.op.startswith("Stateless")

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for nodes that compute the same."""
        value = None if self.value is None else (self.value.shape, self.value.tobytes())
        attrs = tuple((name, str(attr)) for name, attr in sorted(self.attrs.items()))
        return self.op, self.inputs, attrs, self.dtypes, value, self.own_gradient


def read(graph: tf.Graph, inputs: Sequence[tf.Tensor], outputs: Sequence[tf.Tensor]) -> tuple[list[Node], list[Ref]]:
    """The nodes of a graph, equal ones once, and where its outputs come from.

    Args:
        graph: a FuncGraph.
        inputs: its placeholders, which become the first nodes, in this order.
        outputs: tensors of the graph.

    Raises:
        NotRowWise: if it holds an operation with a state, which counts even where no output needs it.
    """
    reader = _Reader()
    refs = reader.read(graph, {x.name: reader.add(Node("Input", attrs={"number": i})) for i, x in enumerate(inputs)})
    return reader.nodes, [refs[y.name] for y in outputs]


def evaluate(node: Node, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """What TensorFlow computes for a node from NumPy arrays."""
    attrs = [item for name, value in node.attrs.items() for item in (name, _plain(value))]
    try:
        with tf.init_scope():
            tensors = [tf.constant(array) for array in arrays]
            results = _tf_private.quick_execute(node.op, len(node.dtypes), tensors, tuple(attrs), _tf_private.context())
    except Exception as error:
        raise NotRowWise(f"cannot be computed ({str(error).splitlines()[0]})") from error
    return [np.asarray(result) for result in results]


def _plain(value: Any) -> Any:
    """An attribute as the eager runtime takes it."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, tf.DType):
        return value.as_datatype_enum
    return tf.TensorShape(value).as_list() if hasattr(value, "unknown_rank") else value


class _Reader:
    """Reads a graph and the graphs that it calls, into one list of nodes."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self._numbers: dict[tuple[Any, ...], int] = {}

    def add(self, node: Node) -> Ref:
        number = self._numbers.setdefault(node.key, len(self.nodes))
        if number == len(self.nodes):
            self.nodes.append(node)
        return Ref(number)

    def read(self, graph: tf.Graph, known: Mapping[str, Ref]) -> dict[str, Ref]:
        """Where each tensor of `graph` comes from, by its name; `known` says it of the graph's inputs."""
        refs = dict(known)
        for operation in graph.get_operations():
            if not operation.outputs or operation.outputs[0].name in refs:
                if operation.op_def.is_stateful:
                    raise NotRowWise(f"TensorFlow's {operation.type}: has a state or an effect")
                continue
            inputs = tuple(refs[x.name] for x in operation.inputs)
            refs.update(zip((y.name for y in operation.outputs), self._outputs(graph, operation, inputs)))
        return refs

    def _outputs(self, graph: tf.Graph, operation: tf.Operation, inputs: tuple[Ref, ...]) -> list[Ref]:
        if operation.type in _CALLS:
            called = graph._get_function(operation.get_attr("f").name).graph
            refs = self.read(called, {x.name: ref for x, ref in zip(called.inputs, inputs)})
            return [refs[y.name] for y in called.outputs]
        if operation.op_def.is_stateful:
            raise NotRowWise(f"TensorFlow's {operation.type}: {_why_not(operation.type)}")
        node = _node(operation, inputs)
        if node.op in ("Identity", "IdentityN") and not node.own_gradient:
            return list(inputs)
        constants = [self.nodes[ref.node].value for ref in inputs]
        if inputs and all(value is not None for value in constants) and node.is_pure:
            try:
                return [self._constant(value) for value in evaluate(node, constants)]  # type: ignore[arg-type]
            except NotRowWise:
                pass  # it counts only if something needs it
        number = self.add(node).node
        return [Ref(number, i) for i in range(len(operation.outputs))]

    def _constant(self, value: np.ndarray) -> Ref:
        return self.add(Node("Const", dtypes=(value.dtype.name,), value=value))


def _why_not(op: str) -> str:
    return "is random" if "Random" in op or op == "Multinomial" else "has a state or an effect"


def _node(operation: tf.Operation, inputs: tuple[Ref, ...]) -> Node:
    attrs = operation.node_def.attr
    names = [name for name in attrs if not name.startswith("_") and not attrs[name].HasField("func")]
    dtypes = tuple(y.dtype.name for y in operation.outputs)
    if operation.type == "Const":
        return Node("Const", dtypes=dtypes, value=tf.make_ndarray(operation.get_attr("value")))
    own_gradient = "_gradient_op_type" in attrs and not _is_of_silu(operation)
    return Node(operation.type, inputs, {n: operation.get_attr(n) for n in names}, dtypes, own_gradient=own_gradient)


def _is_of_silu(operation: tf.Operation) -> bool:
    """Whether tf.nn.silu made it: its gradient, kept by hand to save memory, is the one of what it computes."""
    return any(
        frame.name == "swish" and frame.filename.replace("\\", "/").endswith("tensorflow/python/ops/nn_impl.py")
        for frame in operation.traceback
    )
