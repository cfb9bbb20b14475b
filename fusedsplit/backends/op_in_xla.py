"""The compiled op inside a program that XLA compiles: calls of the op's two foreign functions.

A custom op has no kernel for XLA. But XLA on the CPU can call a function by name, and the op library registers its
two (csrc/tensorflow/xla.cc). A call is a small StableHLO module, since that is what TensorFlow compiles for every
shape anew: leading dimensions are unknown in it, and the shapes of results are computed from those of the arguments.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from fusedsplit.backends._tf_private import (
    must_record_gradient,
    record_gradient,
    set_attribute,
    stop_recording,
    xla_call_module,
)
from fusedsplit.plan import Plan

# The type of the nodes, and the names under which their gradients are registered (see op.py).
NODE = "XlaCallModule"
FORWARD = "FusedsplitForwardInXla"
BACKWARD = "FusedsplitBackwardInXla"
# Modules of this version are read by every TensorFlow that has XLA's foreign functions.
_MODULE_VERSION = 9


def forward(plan: Plan, inputs: Sequence[Any], params: Sequence[Any], points: Sequence[Any]) -> list[tf.Tensor]:
    """The plan's outputs, and behind them an empty tensor that becomes what backward reads once it is built.

    Args:
        plan: a validated plan.
        inputs: tensors of one dtype, shape (..., width), with equal leading dimensions, rank >= 2.
        params: tensors of that dtype with the shapes the plan says.
        points: int32 tensors of shape () or (batch,).
    """
    arguments = [tf.convert_to_tensor(x) for x in (*inputs, *params, *points)]
    leading = arguments[0].shape[:-1]
    types = tuple(_type(x) for x in arguments)
    module = _forward_module(plan, types, saved_bytes=0)
    shapes = [leading.concatenate(plan.values[v].width) for v in plan.outputs]
    dtypes = [arguments[0].dtype] * len(shapes)
    attributes = {"_plan": _attribute_text(plan.encode())}
    return _call(FORWARD, module, arguments, [*shapes, [None]], [*dtypes, tf.uint8], attributes)


def save(node: tf.Operation, plan: Plan, saved_bytes: int) -> None:
    """Makes a node of `forward` save what backward reads, `saved_bytes` for each row."""
    module = _forward_module(plan, tuple(_type(x) for x in node.inputs), saved_bytes)
    set_attribute(node, "module", tf.compat.v1.AttrValue(s=module.encode()))


def backward(plan: Plan, arguments: Sequence[Any], wanted: Sequence[int]) -> list[tf.Tensor]:
    """Gradients of inputs and params; an unwanted one is an empty tensor.

    Args:
        plan: a validated plan.
        arguments: inputs, params, points, outputs, what forward saved, gradients of the outputs.
        wanted: 0 or 1 for each input, then for each param.
    """
    arguments = [tf.convert_to_tensor(x) for x in arguments]
    module = _backward_module(plan, tuple(_type(x) for x in arguments), tuple(wanted))
    dtype = arguments[0].dtype
    shapes = [x.shape if want else [0] for x, want in zip(arguments, wanted)]
    attributes = {"_plan": _attribute_text(plan.encode()), "_wanted": _attribute_text(wanted)}
    return _call(BACKWARD, module, arguments, shapes, [dtype] * len(shapes), attributes)


def attribute(op: Any, name: str) -> list[int]:
    """What `forward` and `backward` noted on a node, or on a tape's stand-in for it."""
    noted = getattr(op, "attrs", None)  # get_attr of a stand-in wants the name of a registered op
    text = op.get_attr(f"_{name}") if noted is None else noted[noted.index(f"_{name}") + 1]
    return [int(number) for number in (text.decode() if isinstance(text, bytes) else text).split()]


def _attribute_text(numbers: Sequence[int]) -> str:
    return " ".join(map(str, numbers))


def _call(name: str, module: str, arguments, shapes, dtypes, attributes: dict[str, str]) -> list[tf.Tensor]:
    """One node whose gradient is the one registered for `name`, both for tapes and for `tf.gradients`."""
    graph = tf.compat.v1.get_default_graph()
    with graph.gradient_override_map({NODE: name}), stop_recording():
        results = xla_call_module(
            args=arguments, version=_MODULE_VERSION, module=module, Sout=shapes, Tout=dtypes, platforms=["CPU"]
        )
    node = results[0].op
    for key, text in attributes.items():
        set_attribute(node, key, tf.compat.v1.AttrValue(s=text.encode()))
    if must_record_gradient():
        flat = tuple(part for item in attributes.items() for part in item)
        record_gradient(name, tuple(arguments), flat, results)
    return list(results)


class _Type(tuple):
    """(dtype, dims) of a tensor, an unknown dimension being None; its text is that of StableHLO."""

    __slots__ = ()

    def __str__(self) -> str:
        dtype, dims = self
        return f"tensor<{''.join('?x' if d is None else f'{d}x' for d in dims)}{dtype}>"


_MLIR = {"float32": "f32", "float64": "f64", "int32": "i32", "uint8": "ui8"}


def _type(x: tf.Tensor) -> _Type:
    if x.shape.rank is None:
        raise ValueError(f"inside XLA: expected tensors of known rank. Received: shape {x.shape}")
    return _Type((_MLIR[x.dtype.name], tuple(x.shape)))


@functools.lru_cache(maxsize=1024)
def _forward_module(plan: Plan, types: tuple[_Type, ...], saved_bytes: int) -> str:
    dtype, (*leading, _) = types[0]
    results = [_Type((dtype, (*leading, plan.values[v].width))) for v in plan.outputs]
    body = _Body(types)
    dims = body.leading(0, len(leading))
    shapes = [body.shape([*dims, plan.values[v].width]) for v in plan.outputs]
    if saved_bytes:
        results.append(_Type(("ui8", (None,))))
        shapes.append(body.shape([body.product([*dims, saved_bytes])]))
        return body.module("fusedsplit_forward", {"plan": plan.encode()}, results, shapes)
    # The call itself has no such result then: XLA makes a tuple of several, which costs 2 us.
    return body.module("fusedsplit_forward", {"plan": plan.encode()}, results, shapes, nothing="ui8")


@functools.lru_cache(maxsize=1024)
def _backward_module(plan: Plan, types: tuple[_Type, ...], wanted: tuple[int, ...]) -> str:
    dtype, leading = types[0][0], types[0][1][:-1]
    body = _Body(types)
    dims = body.leading(0, len(leading))
    results, shapes = [], []
    for i, want in enumerate(wanted):
        of = types[i][1] if want else (0,)
        results.append(_Type((dtype, of)))
        is_input = want and i < len(plan.inputs)
        shapes.append(body.shape([*dims, of[-1]] if is_input else list(of)))
    return body.module("fusedsplit_backward", {"plan": plan.encode(), "wanted": wanted}, results, shapes)


class _Body:
    """The text of a module that calls one foreign function; sizes are names of scalars, or numbers."""

    def __init__(self, types: Sequence[_Type]):
        self.types = types
        self.lines: list[str] = []

    def add(self, expression: str, type_text: str) -> str:
        name = f"%v{len(self.lines)}"
        self.lines.append(f"{name} = stablehlo.{expression} : {type_text}")
        return name

    def constant(self, value: int) -> str:
        return self.add(f"constant dense<{value}>", "tensor<i64>")

    def leading(self, argument: int, count: int) -> list[str]:
        """The first dimensions of an argument."""
        sizes = []
        for axis in range(count):
            narrow = self.add(
                f"get_dimension_size %arg{argument}, dim = {axis}", f"({self.types[argument]}) -> tensor<i32>"
            )
            sizes.append(self.add(f"convert {narrow}", "(tensor<i32>) -> tensor<i64>"))
        return sizes

    def product(self, sizes: Sequence[str | int]) -> str:
        names = [size if isinstance(size, str) else self.constant(size) for size in sizes]
        return functools.reduce(lambda a, b: self.add(f"multiply {a}, {b}", "tensor<i64>"), names)

    def shape(self, sizes: Sequence[str | int]) -> str:
        """A shape as a vector, and so what the module knows of a result."""
        names = [size if isinstance(size, str) else self.constant(size) for size in sizes]
        vectors = [self.add(f"reshape {name}", "(tensor<i64>) -> tensor<1xi64>") for name in names]
        types = ", ".join(["tensor<1xi64>"] * len(vectors))
        return self.add(f"concatenate {', '.join(vectors)}, dim = 0", f"({types}) -> tensor<{len(vectors)}xi64>")

    def module(
        self,
        function: str,
        attributes: dict[str, Sequence[int]],
        results: Sequence[_Type],
        shapes: Sequence[str],
        nothing: str = "",
    ) -> str:
        """The module that gives out the function's results, and an empty tensor of type `nothing`, if any."""
        parameters = [f"%arg{i}" for i in range(len(self.types))]
        shape_types = [f"tensor<{len(result[1])}xi64>" for result in results]
        config = ", ".join(f"{k} = array<i64: {', '.join(map(str, v))}>" for k, v in attributes.items())
        places = ", ".join(str(len(parameters) + i) for i in range(len(shapes)))
        types = ", ".join(map(str, results))
        one = len(results) == 1
        given = ["%out"] if one else [f"%out#{i}" for i in range(len(results))]
        call = (
            f"%out{'' if one else f':{len(results)}'} = "
            f"stablehlo.custom_call @{function}({', '.join([*parameters, *shapes])}) "
            f"{{api_version = 4 : i32, backend_config = {{{config}}}, "
            f"indices_of_shape_operands = dense<[{places}]> : tensor<{len(shapes)}xi64>}} : "
            f"({', '.join([*map(str, self.types), *shape_types])}) -> ({types})"
        )
        if nothing:
            empty = _Type((nothing, (0,)))
            given.append(self.add("constant dense<>", str(empty)))
            types = f"{types}, {empty}"
        signature = ", ".join(f"{name}: {of}" for name, of in zip(parameters, self.types))
        # The attribute is what makes TensorFlow fill in the dimensions of a call.
        return "\n".join(
            [
                "module attributes {jax.uses_shape_polymorphism = true} {",
                f"func.func public @main({signature}) -> ({types}) {{",
                *self.lines,
                call,
                f"return {', '.join(given)} : {types}",
                "}",
                "}",
            ]
        )
