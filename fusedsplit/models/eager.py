"""The short way of a call in eager mode: around a small model, what Keras does takes many times as long as its plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fusedsplit.backends import dispatch
from fusedsplit.layers._keras_private import in_no_scope
from fusedsplit.models import _keras_private as private
from fusedsplit.models import whole
from fusedsplit.models.whole import Whole


def call(model: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any | None:
    """The outputs of a fused model that is one region, called on plain tensors; None where Keras is needed."""
    training = kwargs.get("training")
    if len(args) != 1 or len(kwargs) > ("training" in kwargs) or not (training is None or type(training) is bool):
        return None
    if private.within_a_call() or not in_no_scope() or private.has_another_input_spec(model):
        return None
    found = model.made_once(("whole", training), lambda: _read(model, training))
    if found is None or found.region.computation.unfusable_reasons():
        return None
    inputs = found.plain(args[0])
    if inputs is None:
        return None
    return found.packed(dispatch.call(found.region.computation, inputs, model.backend))


def _read(model: Any, training: bool | None) -> Whole | None:
    """A model as one region, where that is what a call of it runs."""
    if training is None and model.graph.bakes_training:
        return None
    return whole.read(model, bool(training))
