"""A model that is nothing but one region."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from fusedsplit.backends import dispatch
from fusedsplit.layers._keras_private import is_rematerialized
from fusedsplit.models import _keras_private as private
from fusedsplit.models.region import Region

_MOST_REASONS = 3  # of a message; `fs.explain` has all


@dataclasses.dataclass(frozen=True)
class Whole:
    """A model that is nothing but one region.

    Attributes:
        region: all of it.
        places: for each input of the region, its place among the model's.
        specs: (dtype, shape) of the model's inputs.
        input_kind: "one" tensor, a "list" of them, a "dict", or something "other".
        input_names: of the model's inputs, by which a dict of them goes.
        order: for each output of the model, its place among the region's.
        structure: of the model's outputs, as it gives them.
    """

    region: Region
    places: tuple[int, ...]
    specs: tuple[tuple[str, tuple[int | None, ...]], ...]
    input_kind: str
    input_names: tuple[str, ...]
    order: tuple[int, ...]
    structure: Any

    def plain(self, inputs: Any) -> list[Any] | None:
        """The inputs of the region; None unless they are tensors (or arrays) that it can be given as they are."""
        if self.input_kind not in ("one", "list"):
            return None
        if len(self.specs) == 1:
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


def why_not(model: Any, training: bool) -> list[str]:
    """What stands against a model's being one region; of the calls left out of it only some are named."""
    schedule = model.schedule(training)
    left = [item for item in schedule.items if not isinstance(item, Region)]
    by_reason: dict[str, list[str]] = {}
    for call in left:
        by_reason.setdefault(schedule.reasons[call], []).append(call.path)
    found = []
    for reason, paths in list(by_reason.items())[:_MOST_REASONS]:
        others = f" and {len(paths) - 1} others" if len(paths) > 1 else ""
        found.append(f"{paths[0]}{others}: {reason}")
    if len(by_reason) > _MOST_REASONS:
        found.append(f"{len(by_reason) - _MOST_REASONS} other reasons")
    if not found and len(schedule.items) != 1:
        found.append(f"its graph is {len(schedule.items)} regions")
    if not found and any(tensor not in schedule.items[0].outputs for tensor in model.graph.outputs):
        found.append("one of its outputs is an input")
    if private.overridden(model):
        found.append(f"a subclass overrides {', '.join(private.overridden(model))}")
    if is_rematerialized(model):
        found.append("it is computed anew when it is differentiated")
    return found


def read(model: Any, training: bool) -> Whole | None:
    """A model as one region; None where it is more, or where a subclass computes."""
    if why_not(model, training):
        return None
    graph = model.graph
    region: Any
    (region,) = model.schedule(training).items
    given, structure = private.same_graph(model)
    if isinstance(structure, (list, tuple)) and len(structure) == 1:  # as Keras gives a list of one
        (structure,) = structure
    kind, names = _inputs(given)
    return Whole(
        region,
        tuple(graph.inputs.index(tensor) for tensor in region.inputs),
        tuple((tensor.dtype, tensor.shape) for tensor in graph.inputs),
        kind,
        names,
        tuple(region.outputs.index(tensor) for tensor in graph.outputs),
        structure,
    )


def _inputs(given: Any) -> tuple[str, tuple[str, ...]]:
    """What kind of a structure the inputs of a model are, and their names."""
    if isinstance(given, keras.KerasTensor):
        return "one", (given.name,)
    if isinstance(given, (list, tuple)) and all(isinstance(x, keras.KerasTensor) for x in given):
        return "list", tuple(x.name for x in given)
    if isinstance(given, dict) and all(isinstance(x, keras.KerasTensor) for x in given.values()):
        return "dict", tuple(sorted(given))
    return "other", ()
