"""A Keras model's graph, read: calls of operations on tensors, with nested models inlined.

Nothing here changes the model; the calls refer to its own operations and symbolic tensors.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from fusedsplit.models import _keras_private as private


@dataclasses.dataclass(frozen=True, eq=False)
class Tensor:
    """A tensor of the graph: what one call gives and others read.

    Attributes:
        shape: as Keras knows it, the batch included.
        dtype: its name.
        name: of the symbolic tensor, for reports.
    """

    shape: tuple[int | None, ...]
    dtype: str
    name: str


@dataclasses.dataclass(frozen=True, eq=False)
class Call:
    """One call of an operation (a layer, or an operation of `keras.ops`).

    Attributes:
        operation: what is called.
        inputs: the tensors among its arguments, in order.
        outputs: what it gives, flat.
        path: the names of the nested models that it stands in, and its own, separated by slashes.
    """

    operation: Any
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    path: str
    _arguments: Any
    _bound: tuple[tuple[int, Tensor], ...]

    @property
    def is_layer(self) -> bool:
        return isinstance(self.operation, keras.layers.Layer)

    @property
    def bakes_training(self) -> bool:
        """Whether the graph says `training=True` for this very call; False is what Keras notes where nobody says so."""
        return bool(self._arguments.kwargs.get("training"))

    def arguments(self, values: Mapping[Tensor, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword arguments, with values in the places of tensors."""
        return self._arguments.fill_in({key: values[tensor] for key, tensor in self._bound})

    def __str__(self) -> str:
        return f"{type(self.operation).__name__} {self.path!r}"

    __repr__ = __str__


@dataclasses.dataclass(frozen=True, eq=False)
class Graph:
    """The calls of a model in an order in which they can run, which is Keras' own."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    calls: tuple[Call, ...]

    @functools.cached_property
    def bakes_training(self) -> bool:
        """Whether the graph itself says `training=True` for one of its calls."""
        return any(call.bakes_training for call in self.calls)


def read(model: Any) -> Graph:
    """The graph of a functional model (or what a Sequential keeps as one)."""
    reader = _Reader()
    inputs = [_tensor(x) for x in model.inputs]
    outputs = reader.model(model, inputs, "")
    return Graph(tuple(inputs), tuple(outputs), tuple(reader.calls))


def _tensor(symbolic: Any) -> Tensor:
    return Tensor(tuple(symbolic.shape), keras.backend.standardize_dtype(symbolic.dtype), symbolic.name)


class _Reader:
    def __init__(self) -> None:
        self.calls: list[Call] = []

    def model(self, model: Any, inputs: Sequence[Tensor], prefix: str) -> list[Tensor]:
        """Reads the calls of a model on `inputs`, and returns its outputs."""
        known: dict[int, Tensor] = {id(x): tensor for x, tensor in zip(model.inputs, inputs)}
        for node in private.nodes_in_order(model):
            if node.is_input or any(id(x) not in known for x in node.input_tensors):
                continue
            given = [known[id(x)] for x in node.input_tensors]
            path = f"{prefix}{node.operation.name}"
            inner = private.inlined(node)
            if inner is not None:
                results = self.model(inner, given, f"{path}/")
            else:
                results = [_tensor(x) for x in node.outputs]
                bound = tuple((id(x), known[id(x)]) for x in node.input_tensors)
                call = Call(node.operation, tuple(given), tuple(results), path, node.arguments, bound)
                self.calls.append(call)
            known.update((id(x), tensor) for x, tensor in zip(node.outputs, results))
        return [known[id(x)] for x in model.outputs]
