"""The short way of a call in eager mode: around a small model, what Keras does takes many times as long as its plan."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from fusedsplit.backends import dispatch
from fusedsplit.layers._keras_private import in_no_scope, is_rematerialized
from fusedsplit.models import _keras_private as private
from fusedsplit.models.region import Region


def call(model: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any | None:
    """The outputs of a fused model that is one region, called on plain tensors; None where Keras is needed."""
    training = kwargs.get("training")
    if len(args) != 1 or len(kwargs) > ("training" in kwargs) or not (training is None or type(training) is bool):
        return None
    if private.within_a_call() or not in_no_scope() or private.has_another_input_spec(model):
        return None
    whole = private.made_once(model, ("whole", training), lambda: _read(model, training))
    if whole is None or whole.region.computation.unfusable_reasons():
        return None
    inputs = whole.plain(args[0])
    if inputs is None:
        return None
    return whole.packed(dispatch.call(whole.region.computation, inputs, model.backend))


@dataclasses.dataclass(frozen=True)
class _Whole:
    """A model that is nothing but one region.

    Attributes:
        region: all of it.
        places: for each input of the region, its place among the model's.
        specs: (dtype, shape) of the model's inputs.
        single: whether the model takes one tensor, by itself.
        order: for each output of the model, its place among the region's.
        structure: of the model's outputs, as it gives them.
    """

    region: Region
    places: tuple[int, ...]
    specs: tuple[tuple[str, tuple[int | None, ...]], ...]
    single: bool
    order: tuple[int, ...]
    structure: Any

    def plain(self, inputs: Any) -> list[Any] | None:
        """The inputs of the region; None unless they are tensors (or arrays) that it can be given as they are."""
        if self.single:
            inputs = (inputs,)
        elif type(inputs) not in (list, tuple) or len(inputs) != len(self.specs):
            return None
        rows = None
        for x, (dtype, shape) in zip(inputs, self.specs):
            if type(x) is not np.ndarray and not (dispatch.is_eager_tensor(x) and private.mask_of(x) is None):
                return None
            given = tuple(x.shape)
            if x.dtype.name != dtype or len(given) != len(shape) or rows not in (None, given[: self.region.lead]):
                return None
            if any(n != m for n, m in zip(given[1:], shape[1:]) if m is not None):
                return None
            rows = given[: self.region.lead]
        return [inputs[i] for i in self.places]

    def packed(self, outputs: Sequence[Any]) -> Any:
        """What the model gives, from what the region does."""
        if isinstance(self.structure, keras.KerasTensor):
            return outputs[self.order[0]]
        return keras.tree.pack_sequence_as(self.structure, [outputs[i] for i in self.order])


def _read(model: Any, training: bool | None) -> _Whole | None:
    """A model as one region; None where it is more, where a subclass computes, or where its inputs are no flat list."""
    graph = model.graph
    items = model.schedule(bool(training)).items
    if len(items) != 1 or not isinstance(items[0], Region):
        return None
    if private.overridden(model) or is_rematerialized(model):
        return None
    if training is None and graph.bakes_training:
        return None
    (region,) = items
    given, structure = private.same_graph(model)
    flat = [given] if isinstance(given, keras.KerasTensor) else given
    listed = isinstance(flat, (list, tuple)) and all(isinstance(x, keras.KerasTensor) for x in flat)
    if not listed or any(tensor not in region.outputs for tensor in graph.outputs):
        return None
    if isinstance(structure, (list, tuple)) and len(structure) == 1:  # as Keras gives a list of one
        (structure,) = structure
    return _Whole(
        region,
        tuple(graph.inputs.index(tensor) for tensor in region.inputs),
        tuple((tensor.dtype, tensor.shape) for tensor in graph.inputs),
        len(flat) == 1,
        tuple(region.outputs.index(tensor) for tensor in graph.outputs),
        structure,
    )
