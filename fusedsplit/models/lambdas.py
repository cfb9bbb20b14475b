"""Lambdas and operations of `keras.ops`: traced, and understood operation by operation."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Mapping
from typing import Any, Union

import keras

from fusedsplit.models.graph import Call
from fusedsplit.models.rows import NotRowWise, RowProgram, View
from fusedsplit.models.tracing.trace import Traced, trace, trace_once

# Tracing takes milliseconds, and a call is lowered several times; it lives as long as the graph that was read. Of what
# cannot be traced only the reason is kept: an exception holds every frame that it went through, and so the call itself.
_traced: weakref.WeakKeyDictionary[Call, dict[Any, Union[Traced, str]]] = weakref.WeakKeyDictionary()


def traces(call: Call) -> bool:
    """Whether a call is understood by tracing it: that of a Lambda, or of no layer at all."""
    return not call.is_layer or type(call.operation) is keras.layers.Lambda


def lower_call(call: Call, program: RowProgram, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Adds what such a call computes to a program, and gives its outputs.

    What it reads from outside is read when its graph is lowered for the first time, and kept.

    Args:
        call: of the graph.
        program: what is added to.
        args: its arguments, with a view in the place of each tensor.
        kwargs: those by keyword.

    Raises:
        NotRowWise: with TensorFlow's operation that is not row-wise, or not understood.
    """
    if _reads_training(call):
        kwargs = {**kwargs, "training": program.training}
    key = kwargs.get("training")
    known = _traced.setdefault(call, {})
    if key not in known:
        try:
            known[key] = _trace(call, args, kwargs)
        except NotRowWise as reason:
            known[key] = str(reason)
    traced = known[key]
    if isinstance(traced, str):
        raise NotRowWise(traced)
    views = [leaf for leaf in keras.tree.flatten((args, dict(kwargs))) if isinstance(leaf, View)]
    return traced.lower(program, views)


def _reads_training(call: Call) -> bool:
    """Whether it is a Lambda whose function takes `training`."""
    try:
        return call.is_layer and "training" in inspect.signature(call.operation.function).parameters
    except (TypeError, ValueError):  # something built in
        return False


def _trace(call: Call, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Traced:
    tensors = iter(call.inputs)

    def symbolic(leaf: Any) -> Any:
        if not isinstance(leaf, View):
            return leaf
        tensor = next(tensors)
        return keras.KerasTensor(tensor.shape, tensor.dtype)

    args, kwargs = keras.tree.map_structure(symbolic, (args, dict(kwargs)))
    by_keras = type(call.operation).__module__.startswith("keras.") and not call.is_layer
    return (trace_once if by_keras else trace)(call.operation.call, *args, **kwargs)
