"""A plan as an ONNX model, built node by node from its weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from fusedsplit.plan import Activation
from race.inference import plans
from race.inference.subjects import Subject

_OPSET, _IR_VERSION = 18, 9
_BINARY = {"add": "Add", "mul": "Mul", "max": "Max", "min": "Min"}


class Vocabulary(plans.Vocabulary):
    """Tensors are their names; each operation appends a node."""

    def __init__(self, widths: dict[str, int]):
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self.widths = widths  # of the tensors whose width an operation needs to know

    def _node(self, op: str, inputs: Sequence[str], outputs: int = 1, **attributes: Any) -> list[str]:
        names = [f"t{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), names, **attributes))
        return names

    def param(self, array: np.ndarray) -> str:
        name = f"p{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        self.widths[name] = array.shape[-1] if array.ndim else 1
        return name

    def _made(self, name: str, width: int) -> str:
        self.widths[name] = width
        return name

    def dense(self, x: str, kernel: str, bias: str | None, activation: Activation) -> str:
        inputs = [x, kernel] if bias is None else [x, kernel, bias]
        y = self._made(self._node("Gemm" if bias is not None else "MatMul", inputs)[0], self.widths[kernel])
        return self.activate(activation, y)

    def combine(self, op: str, a: str, b: Any) -> str:
        other = self.param(np.float32(b).reshape(1)) if isinstance(b, (int, float)) else b
        return self._made(self._node(_BINARY[op], [a, other])[0], max(self.widths[a], self.widths[other]))

    def split(self, x: str, sizes: Sequence[int]) -> Sequence[str]:
        names = self._node("Split", [x, self.param(np.array(sizes, np.int64))], len(sizes), axis=1)
        return [self._made(name, size) for name, size in zip(names, sizes)]

    def columns(self, x: str, start: int, stop: int) -> str:
        ends = [self.param(np.array([n], np.int64)) for n in (start, stop, 1)]
        return self._made(self._node("Slice", [x, *ends])[0], stop - start)

    def concat(self, parts: Sequence[str]) -> str:
        return self._made(self._node("Concat", parts, axis=1)[0], sum(self.widths[p] for p in parts))

    def row(self, op: str, x: str, epsilon: float) -> str:
        width = self.widths[x]
        if op == "softmax":
            return self._made(self._node("Softmax", [x], axis=-1)[0], width)
        if op == "normalize":
            unit = [self.param(f(width, np.float32)) for f in (np.ones, np.zeros)]
            return self._made(self._node("LayerNormalization", [x, *unit], axis=-1, epsilon=epsilon)[0], width)
        axes = self.param(np.array([1], np.int64))
        return self._made(self._node({"mean": "ReduceMean", "max": "ReduceMax"}[op], [x, axes])[0], 1)

    def _unary(self, op: str, x: str, **attributes: Any) -> str:
        return self._made(self._node(op, [x], **attributes)[0], self.widths[x])

    def relu(self, x: str) -> str:
        return self._unary("Relu", x)

    def sigmoid(self, x: str) -> str:
        return self._unary("Sigmoid", x)

    def tanh(self, x: str) -> str:
        return self._unary("Tanh", x)

    def silu(self, x: str) -> str:
        return self.combine("mul", x, self.sigmoid(x))

    def elu(self, x: str, alpha: float) -> str:
        return self._unary("Elu", x, alpha=alpha)


def model(subject: Subject, rows: int) -> bytes:
    """The subject's plan for a fixed number of rows, which lets every runtime choose its best code."""
    widths = {f"x{i}": width for i, (_, width) in enumerate(subject.input_shapes)}
    inputs = [helper.make_tensor_value_info(x, TensorProto.FLOAT, [rows, width]) for x, width in widths.items()]
    vocabulary = Vocabulary(widths)
    results = subject.compute(vocabulary, [*widths], [vocabulary.param(p) for p in subject.params])
    outputs = []
    for i, result in enumerate(results):
        vocabulary.nodes.append(helper.make_node("Identity", [result], [f"y{i}"]))
        outputs.append(helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, [rows, vocabulary.widths[result]]))
    graph = helper.make_graph(vocabulary.nodes, "plan", inputs, outputs, vocabulary.initializers)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)
    onnx.checker.check_model(made)
    return made.SerializeToString()
