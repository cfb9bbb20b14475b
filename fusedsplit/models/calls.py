"""One call of a graph: lowered to a row program, or run as Keras runs it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any

import keras
from keras import layers as kl

from fusedsplit.layers.sublayers import dynamic_reasons
from fusedsplit.models import _keras_private as private
from fusedsplit.models import lambdas
from fusedsplit.models.graph import Call, Tensor
from fusedsplit.models.operations import lowering_of
from fusedsplit.models.rows import NotRowWise, RowProgram, View


def lower(call: Call, program: RowProgram, views: Mapping[Tensor, View]) -> list[View]:
    """Adds what a call computes to a program, and gives its outputs.

    Raises:
        NotRowWise: with the reason why there is no row program for it.
        TypeError: if a registered lowering gives something else than views.
    """
    args, kwargs = call.arguments(views)
    # Keras 3.5 notes a list of None where a list of tensors has no masks.
    if any(mask is not None for mask in keras.tree.flatten(kwargs.pop("mask", None))):
        raise NotRowWise("it is called with a mask")
    kwargs.pop("training", None)
    outputs = (
        lambdas.lower_call(call, program, args, kwargs) if lambdas.traces(call) else _layer(call, program, args, kwargs)
    )
    found = keras.tree.flatten(outputs)
    if len(found) != len(call.outputs) or not all(isinstance(view, View) for view in found):
        raise TypeError(
            f"{call}: expected a lowering that gives a View for each of its {len(call.outputs)} outputs. "
            f"Received: {outputs!r}"
        )
    for view, tensor in zip(found, call.outputs):
        if view.shape != tensor.shape[program.lead :]:
            raise NotRowWise(f"its rows come out as {view.shape}, where Keras says {tensor.shape}")
    return found


def _layer(call: Call, program: RowProgram, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return lowering_of(call.operation)(call.operation, program, *args, **kwargs)


def standing_reasons(call: Call) -> list[str]:
    """Why a call must be left to Keras, whatever it computes."""
    operation = call.operation
    dtypes = {tensor.dtype for tensor in (*call.inputs, *call.outputs)}
    reasons = []
    if call.is_layer:
        reasons += [
            reason.removeprefix(f"{type(operation).__name__} {operation.name!r} ")
            for reason in dynamic_reasons([operation])
        ]
        if "call" in vars(operation):
            reasons.append("its call was replaced")
        policy = operation.dtype_policy
        if policy.compute_dtype != policy.variable_dtype:
            reasons.append(f"it has the mixed dtype policy {policy.name!r}")
        dtypes |= {policy.compute_dtype}
    if isinstance(operation, keras.layers.Dense):  # casts whatever it is given, integers for one
        dtypes -= {tensor.dtype for tensor in call.inputs if not tensor.dtype.startswith(("float", "bfloat"))}
    if len(dtypes) > 1:
        reasons.append(f"it computes with several dtypes: {', '.join(sorted(dtypes))}")
    elif not next(iter(dtypes)).startswith(("float", "bfloat")):
        reasons.append(f"it computes in {next(iter(dtypes))}")
    return reasons


def run(calls: Iterable[Call], values: MutableMapping[Tensor, Any], training: bool | None) -> None:
    """Runs calls as a functional model does, masks included."""
    for call in calls:
        args, kwargs = call.arguments(values)
        operation = private.with_training(call.operation, training)
        outputs = operation(*args, **kwargs)
        values.update(zip(call.outputs, keras.tree.flatten(outputs)))


# Layers of one input that give its mask to their output. Others combine masks, or compute with them.
_PASS_MASKS = (
    *(kl.Dense, kl.Activation, kl.ReLU, kl.LeakyReLU, kl.ELU, kl.Identity, kl.LayerNormalization),
    *(kl.Dropout, kl.GaussianNoise, kl.GaussianDropout, kl.AlphaDropout),
)


def passed_masks(calls: Iterable[Call], masks: Mapping[Tensor, Any]) -> dict[Tensor, Any] | None:
    """The masks of tensors, given those of what the calls read; None if one of the calls does not just pass them on."""
    passed = dict(masks)
    if passed:
        for call in calls:
            if any(tensor in passed for tensor in call.inputs):
                if type(call.operation) not in _PASS_MASKS:
                    return None
                passed[call.outputs[0]] = passed[call.inputs[0]]
    return passed
