"""Lambdas and operations of `keras.ops`: traced, and understood operation by operation."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any, Union

import keras

from fusedsplit.models.graph import Call, Tensor
from fusedsplit.models.rows import NotRowWise, RowProgram, View
from fusedsplit.models.tf_trace import Traced, trace

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
    training = program.training if call.is_layer else None
    known = _traced.setdefault(call, {})
    if training not in known:
        try:
            known[training] = _trace(call, args, dict(kwargs) if training is None else {**kwargs, "training": training})
        except NotRowWise as reason:
            known[training] = str(reason)
    traced = known[training]
    if isinstance(traced, str):
        raise NotRowWise(traced)
    views = [leaf for leaf in keras.tree.flatten((args, kwargs)) if isinstance(leaf, View)]
    return traced.lower(program, views)


def _trace(call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Traced:
    tensors = iter(call.inputs)

    def symbolic(leaf: Any) -> Any:
        return _symbolic(next(tensors)) if isinstance(leaf, View) else leaf

    args, kwargs = keras.tree.map_structure(symbolic, (args, kwargs))
    return trace(call.operation.call, *args, **kwargs)


def _symbolic(tensor: Tensor) -> keras.KerasTensor:
    return keras.KerasTensor(tensor.shape, tensor.dtype)
