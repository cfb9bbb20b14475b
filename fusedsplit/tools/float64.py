"""What any TensorFlow function computes in float64: its graph, with every float a double.

The function is traced once, in its own dtype, its gradients included; then every floating type and constant of that
graph becomes a double, and every float32 variable that it reads a float64 copy. So it is the function's own
computation, whatever layers, Lambdas, operations and registered gradients it is made of, and no plan of fusedsplit's.
Constants keep the value that the function's dtype rounds them to; those of gelu in float64, which TensorFlow rounds to
float32, are exact where that is asked for. Random operations draw in their own dtype, so that the same numbers come
out.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

Arrays = list[np.ndarray]
_FLOATS = {tf.float32.as_datatype_enum, tf.float16.as_datatype_enum, tf.bfloat16.as_datatype_enum}
_names = itertools.count()


@contextlib.contextmanager
def true_gelu() -> Iterator[None]:
    """Within it `tf.nn.gelu` has its constants in its argument's dtype, where TensorFlow rounds them to float32 first.

    Not for several threads at once.
    """

    def gelu(features: Any, approximate: bool = False, name: Any = None) -> Any:
        x = tf.convert_to_tensor(features)
        if approximate:
            return 0.5 * x * (1 + tf.tanh((2 / math.pi) ** 0.5 * (x + 0.044715 * x**3)))
        return 0.5 * x * (1 + tf.math.erf(x / 2**0.5))

    with in_tf_nn("gelu", gelu):
        yield


@contextlib.contextmanager
def in_tf_nn(name: str, function: Callable[..., Any]) -> Iterator[None]:
    """Within it `tf.nn` has another function by a name. Not for several threads at once."""
    original = getattr(tf.nn, name)
    setattr(tf.nn, name, function)
    try:
        yield
    finally:
        setattr(tf.nn, name, original)


class Traced:
    """A function, traced: it runs in its own dtype, and in float64.

    Args:
        function: takes a list of tensors, gives a flat list of tensors; reads and changes variables as it likes.
        arrays: what it is traced on.
        exact_gelu: whether gelu in float64 has its own constants when run in float64, and not TensorFlow's.
    """

    def __init__(
        self,
        function: Callable[[list[tf.Tensor]], list[tf.Tensor]],
        arrays: Sequence[np.ndarray],
        exact_gelu: bool = False,
    ):
        self._exact_gelu = exact_gelu
        self._signature = [tf.TensorSpec(array.shape, array.dtype) for array in arrays]
        self._kept = function  # which keeps the variables that the graph knows weakly
        self._function = self._trace()
        self._double: _Double | None = None

    def _trace(self) -> Any:
        return tf.function(self._kept, autograph=False).get_concrete_function(self._signature)

    def run(self, arrays: Sequence[np.ndarray]) -> Arrays:
        """The outputs in the function's own dtype, as float64 arrays where they are floats."""
        return _arrays(self._function(*map(tf.constant, arrays)))

    def run_in_float64(
        self, arrays: Sequence[np.ndarray], change: Callable[[np.ndarray], np.ndarray] | None = None
    ) -> Arrays:
        """The outputs in float64; `change` is applied to all that is float: each array, and each variable's value."""
        if self._double is None:
            exact = self._function
            if self._exact_gelu and any(spec.dtype == tf.float64 for spec in self._signature):
                with true_gelu():
                    exact = self._trace()
            self._double = _Double(exact)
        return self._double.run(arrays, change or (lambda array: array))


class _Double:
    """A concrete function with every float a double, and copies of the variables that it reads."""

    def __init__(self, function: Any):
        graph_def = function.graph.as_graph_def()
        _rewrite(graph_def)
        variables = {id(v.handle): v for v in function.graph.variables}
        captures = function.graph.captures
        self._captured = [_Captured(outer, variables.get(id(outer))) for outer, _ in captures]
        arguments = [x for x in function.inputs if all(x is not inner for _, inner in captures)]
        feeds = [x.name for x in (*arguments, *(inner for _, inner in captures))]
        fetches = [y.name for y in function.outputs]
        whole = tf.compat.v1.wrap_function(lambda: tf.graph_util.import_graph_def(graph_def, name=""), [])
        graph = whole.graph
        self._run = whole.prune(
            [graph.as_graph_element(name) for name in feeds], [graph.as_graph_element(name) for name in fetches]
        )

    def run(self, arrays: Sequence[np.ndarray], change: Callable[[np.ndarray], np.ndarray]) -> Arrays:
        given = [tf.constant(change(_double(array)) if is_float(array) else array) for array in arrays]
        return _arrays(self._run(*given, *(captured.given(change) for captured in self._captured)))


class _Captured:
    """What stands for a tensor or a variable that the function reads from outside."""

    def __init__(self, tensor: Any, variable: Any | None):
        self._tensor = tensor
        self._variable = None
        value = variable if variable is not None else tensor if tensor.dtype.is_floating else None
        self._value = None if value is None else value.numpy()
        if self._value is not None and is_float(self._value):
            self._value = _double(self._value)
        if variable is not None:
            self._variable = tf.Variable(tf.constant(self._value), shape=variable.shape)

    def given(self, change: Callable[[np.ndarray], np.ndarray]) -> Any:
        if self._value is None:
            return self._tensor
        value = tf.constant(change(self._value) if is_float(self._value) else self._value)
        if self._variable is None:
            return value
        self._variable.assign(value)
        return self._variable.handle


def is_float(array: np.ndarray) -> bool:
    return bool(tf.as_dtype(array.dtype).is_floating)


def _double(array: np.ndarray) -> np.ndarray:
    return np.asarray(array).astype(np.float64)


def _arrays(tensors: Iterable[tf.Tensor]) -> Arrays:
    arrays = [np.asarray(tensor) for tensor in tensors]
    return [_double(array) if is_float(array) else array for array in arrays]


# The graph.


def _rewrite(graph_def: Any) -> None:
    """Makes every float of a GraphDef a double, in its functions as well, which get new names."""
    mark = f"_in_float64_{next(_names)}"
    renamed = {function.signature.name: function.signature.name + mark for function in graph_def.library.function}
    _rewrite_nodes(graph_def.node, renamed, inside=False)
    for function in graph_def.library.function:
        function.signature.name = renamed[function.signature.name]
        for argument in (*function.signature.input_arg, *function.signature.output_arg):
            argument.type = _type(argument.type)
        for name in [n for n in function.attr if n.endswith("_function_name")]:
            del function.attr[name]  # where the float32 form of its gradient is found
        casts = _rewrite_nodes(function.node_def, renamed, inside=True)
        for name, source in function.ret.items():
            function.ret[name] = casts.get(source, source)
    del graph_def.library.gradient[:]


def _rewrite_nodes(nodes: Any, renamed: dict[str, str], inside: bool) -> dict[str, str]:
    """Does so for the nodes of a graph or of a function; gives what to read in the place of a random float."""
    casts: dict[str, str] = {}
    added = []
    for node in nodes:
        if _draws(node):
            cast = tf.compat.v1.NodeDef(name=node.name, op="Cast", input=[f"{node.name}/drawn"])
            node.name += "/drawn"
            if inside:
                casts[f"{cast.name}:output:0"] = f"{cast.name}:y:0"
                cast.input[0] += ":output:0"
            cast.attr["SrcT"].type = node.attr["dtype"].type
            cast.attr["DstT"].type = tf.float64.as_datatype_enum
            added.append(cast)
        else:
            node.op = renamed.get(node.op, node.op)
            for value in node.attr.values():
                _rewrite_value(value, renamed)
    for node in nodes:
        for i, source in enumerate(node.input):
            node.input[i] = casts.get(source, source)
    nodes.extend(added)
    return casts


def _draws(node: Any) -> bool:
    """Whether a node gives random floats, from no floats."""
    return "dtype" in node.attr and node.attr["dtype"].type in _FLOATS and "Random" in node.op


def _rewrite_value(value: Any, renamed: dict[str, str]) -> None:
    kind = value.WhichOneof("value")
    if kind == "type":
        value.type = _type(value.type)
    elif kind == "tensor" and value.tensor.dtype in _FLOATS:
        value.tensor.CopyFrom(tf.make_tensor_proto(_double(tf.make_ndarray(value.tensor))))
    elif kind == "func":
        _rewrite_function(value.func, renamed)
    elif kind == "list":
        value.list.type[:] = map(_type, value.list.type)
        for function in value.list.func:
            _rewrite_function(function, renamed)


def _rewrite_function(function: Any, renamed: dict[str, str]) -> None:
    function.name = renamed.get(function.name, function.name)
    for value in function.attr.values():
        _rewrite_value(value, renamed)


def _type(number: int) -> int:
    return tf.float64.as_datatype_enum if number in _FLOATS else number
