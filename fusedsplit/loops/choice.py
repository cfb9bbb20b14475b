"""Who runs a loop: the core, or Keras."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from fusedsplit.loops import _keras_private as private
from fusedsplit.loops.reasons import NotNative
from fusedsplit.native import library


def run(model: Any, method: str, prepare: Callable[[], Callable[[], Any]], by_keras: Callable[[], Any]) -> Any:
    """What `prepare` gives, run; or Keras' way, where the model says so or there is a reason.

    Raises:
        ValueError: with the reason, if the model says loop="native".
    """
    if model.loop == "keras":
        return by_keras()
    try:
        native = prepare()
    except NotNative as reason:
        if model.loop == "native":
            raise ValueError(
                f"loop='native': expected a model, compiled and given data, that {method} natively. Received: "
                f"{model.name!r}: {reason}; loop='auto' runs Keras' loop instead"
            ) from None
    else:
        return native()
    return by_keras()  # outside of the handler: an error of Keras' is not "during" ours


def whole(model: Any, training: bool) -> Any:
    """The model as one region.

    Raises:
        NotNative: if it is more than that, or something stands against native loops altogether.
    """
    why, found = standing(model), model.whole(training)
    if why or found is None:
        raise NotNative("; ".join(why + model.why_not_whole(training)))
    kept = found.region.computation.kept()
    if kept is None or not kept.are_current():
        changing = found.region.computation.unfusable_reasons()
        if changing:
            raise NotNative("; ".join(changing))
    return found


def standing(model: Any) -> list[str]:
    """What stands against native loops of a model altogether."""
    why = []
    if private.has_strategy(model):
        why.append("a tf.distribute strategy is at work")
    if private.replaced_steps(model):
        why.append(f"the model was given another {', '.join(private.replaced_steps(model))}")
    if not tf.executing_eagerly():
        why.append("it is called within a graph")
    if model.compiled and model.run_eagerly or tf.config.functions_run_eagerly():
        why.append("it is to run eagerly")
    problem = library.core_problem()
    if problem is not None:
        why.append(problem)
    return why
