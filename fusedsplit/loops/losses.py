"""Keras' losses as the native step knows them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras

from fusedsplit.loops import _keras_private as private
from fusedsplit.loops.reasons import NotNative
from fusedsplit.native.recipe import Loss, Regularizer

# Keras' function -> the name in a recipe.
_NAMES = {
    keras.losses.mean_squared_error: "mean_squared_error",
    keras.losses.mean_absolute_error: "mean_absolute_error",
    keras.losses.mean_squared_logarithmic_error: "mean_squared_logarithmic_error",
    keras.losses.mean_absolute_percentage_error: "mean_absolute_percentage_error",
    keras.losses.huber: "huber",
    keras.losses.log_cosh: "log_cosh",
    keras.losses.poisson: "poisson",
    keras.losses.kl_divergence: "kl_divergence",
    keras.losses.hinge: "hinge",
    keras.losses.squared_hinge: "squared_hinge",
    keras.losses.categorical_hinge: "categorical_hinge",
    keras.losses.binary_crossentropy: "binary_crossentropy",
    keras.losses.categorical_crossentropy: "categorical_crossentropy",
    keras.losses.sparse_categorical_crossentropy: "sparse_categorical_crossentropy",
}
SPARSE = "sparse_categorical_crossentropy"
# The activation whose argument a crossentropy takes in its place.
_LOGITS_OF = {
    "binary_crossentropy": "sigmoid",
    "categorical_crossentropy": "softmax",
    "sparse_categorical_crossentropy": "softmax",
}
_FIELDS = ("from_logits", "label_smoothing", "delta")


@dataclasses.dataclass(frozen=True)
class CompiledLoss:
    """A loss that a model was compiled with.

    Attributes:
        loss: as the native step computes it; its outputs are the model's.
        tracker: Keras' Mean of it alone, or None where there is but one loss.
        tracked: what it is multiplied by in that.
    """

    loss: Loss
    tracker: Any
    tracked: float


def described(loss: Any, dtype: str, width: int, lead: int = 1) -> Loss:
    """A loss of Keras of an output `width` wide behind `lead` axes of rows, which is named by the caller.

    Raises:
        NotNative: if the native step does not compute it.
    """
    name = getattr(loss, "name", loss)
    called = private.loss_function(loss)
    if called is None:
        raise NotNative(f"the loss {name!r} is a {type(loss).__name__}, a class of its own")
    function, kwargs = called
    known = _NAMES.get(function)
    if known is None:
        raise NotNative(f"the loss {name!r} is not built natively")
    if loss.dtype != dtype:
        raise NotNative(f"the loss {name!r} computes in {loss.dtype}, the model in {dtype}")
    if loss.reduction in (None, "none"):
        raise NotNative(f"the loss {name!r} is not reduced")
    if kwargs.pop("axis", -1) not in (-1, lead):
        raise NotNative(f"the loss {name!r} is along another axis than the last")
    if kwargs.pop("ignore_class", None) is not None:
        raise NotNative(f"the loss {name!r} ignores a class")
    fields = {field: kwargs.pop(field) for field in _FIELDS if field in kwargs}
    if kwargs:
        raise NotNative(f"the loss {name!r} is given {', '.join(sorted(kwargs))}")
    if known in ("categorical_crossentropy", SPARSE) and width < 2:
        raise NotNative(f"the loss {name!r} is of an output of one column")
    return Loss(
        known, 0, **{k: _plain(v) for k, v in fields.items()}, reduction=loss.reduction, epsilon=keras.config.epsilon()
    )


def _plain(value: Any) -> Any:
    """A number as Python has it."""
    return value if isinstance(value, bool) else float(value)


def compiled(model: Any, dtype: str, widths: Sequence[int], names: Sequence[str], lead: int) -> list[CompiledLoss]:
    """The losses of a compiled model whose losses are built.

    Args:
        model: compiled.
        dtype: what it computes in.
        widths: of its outputs.
        names: of its outputs, or their keys in a dict.
        lead: how many of their axes are rows.

    Raises:
        NotNative: if the native step does not compute one of them.
    """
    entries = private.loss_entries(model)
    if not entries:
        raise NotNative("the model has no loss besides regularizers")
    if private.compile_loss_dtype(model) != dtype:
        raise NotNative(f"the losses are summed in {private.compile_loss_dtype(model)}, the model computes in {dtype}")
    found = []
    for entry in entries:
        output = _output(entry.path, names)
        weight = 1.0 if entry.weight is None else float(entry.weight)
        loss = dataclasses.replace(described(entry.loss, dtype, widths[output], lead), output=output, weight=weight)
        found.append(CompiledLoss(loss, entry.tracker, weight if entry.tracks_weighted else 1.0))
    return found


def _output(path: tuple[Any, ...], names: Sequence[str]) -> int:
    """The output of a model that a path within its structure leads to."""
    if len(names) == 1:
        return 0
    if len(path) == 1 and isinstance(path[0], int):
        return path[0]
    if len(path) == 1 and path[0] in names:
        return names.index(path[0])
    raise NotNative(f"a loss of outputs within outputs: {path}")


def placed(losses: Sequence[CompiledLoss], outputs: Sequence[int], logits: dict[int, tuple[int, str]]) -> list[Loss]:
    """The losses on a plan.

    Args:
        losses: on the model's outputs.
        outputs: for each output of the model, its place among the plan's.
        logits: for outputs that end in a sigmoid or softmax, the place of its argument, and which of the two.

    Raises:
        NotNative: if a crossentropy would take the argument of the other activation.
    """
    found = []
    for loss in (known.loss for known in losses):
        at = None
        if loss.name in _LOGITS_OF and loss.output in logits:
            at, activation = logits[loss.output]
            if activation != _LOGITS_OF[loss.name]:
                raise NotNative(f"the loss {loss.name!r} is of an output that ends in a {activation}")
        from_logits = loss.from_logits and at is None
        found.append(dataclasses.replace(loss, output=outputs[loss.output], logits=at, from_logits=from_logits))
    return found


def regularizer(variable: Any) -> Regularizer | None:
    """The regularizer of a variable.

    Raises:
        NotNative: if it is none of Keras' l1 and l2, or has other factors there than in the core, which rounds them.
    """
    found = variable.regularizer
    kinds = (keras.regularizers.L1, keras.regularizers.L2, keras.regularizers.L1L2)
    if found is None:
        return None
    if type(found) not in kinds:
        name = getattr(found, "__name__", type(found).__name__)
        raise NotNative(f"the regularizer {name} of {variable.path!r} is not built natively")
    if variable.dtype == "float64" and not private.rounds_regularizers():
        raise NotNative(f"this Keras does not round the factors of the regularizer of {variable.path!r} to float32")
    return Regularizer(float(getattr(found, "l1", 0.0)), float(getattr(found, "l2", 0.0)))
