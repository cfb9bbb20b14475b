"""Who would run a loop, as far as that can be told without data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from fusedsplit.loops import _keras_private as private
from fusedsplit.loops import choice, compiled, data, losses, optimizers
from fusedsplit.loops.reasons import NotNative

_NATIVE = "the core"


def who(model: Any, method: str) -> str:
    """Who runs a method of a fused model: the core, or Keras' loop, and every reason that is known for that."""
    if model.loop == "keras":
        return "Keras' loop: the model says loop='keras'"
    why = against(model, method)
    if not why:
        return f"{_NATIVE}, where it takes the data and callbacks" if method != "predict" else _NATIVE
    if model.loop == "native":
        return f"raises: loop='native', and {'; '.join(why)}"
    return f"Keras' loop: {'; '.join(why)}"


def against(model: Any, method: str) -> list[str]:
    """What is known to stand against the core's running a method, without data."""
    why: list[str] = choice.standing(model) + model.why_not_whole(training=method == "fit")
    if method == "predict" or not private.is_compiled(model):
        return why
    found = model.whole(training=method == "fit")
    if found is not None:
        why += _of_losses(model, found) + _reason(lambda: compiled.widths(found))
        why += _reason(lambda: data.keys(found.structure)) if isinstance(found.structure, dict) else []
    if method == "fit":
        why += _reason(lambda: optimizers.described(model.optimizer))
        for variable in model.trainable_variables:
            why += _reason(lambda: losses.regularizer(variable))  # noqa: B023
            why += [f"{variable.path!r} has a constraint"] if variable.constraint is not None else []
    return list(dict.fromkeys(why))


def _of_losses(model: Any, whole: Any) -> list[str]:
    """Of the losses as they were given to `compile`: built they are only with data."""
    width = 2  # what depends on the output's width is seen later
    why = []
    losses_given = _flat(model.loss)
    for given in losses_given:
        if given is None or str(given).lower() in ("crossentropy", "ce"):
            continue
        loss = keras.losses.get(given)
        if not isinstance(loss, keras.losses.Loss):
            loss = private.wrapped(loss)
        why += _reason(lambda: losses.described(loss, whole.region.dtype, width, whole.region.lead))  # noqa: B023
    if all(given is None for given in losses_given):
        why.append("the model has no loss besides regularizers")
    return why


def _flat(given: Any) -> list[Any]:
    """What `compile` was given for each output; Keras 3.5 keeps dicts and lists that keras.tree takes for leaves."""
    if isinstance(given, Mapping):
        given = list(given.values())
    return [x for part in given for x in _flat(part)] if isinstance(given, (list, tuple)) else [given]


def _reason(look: Any) -> list[str]:
    try:
        look()
    except NotNative as reason:
        return [str(reason)]
    return []
