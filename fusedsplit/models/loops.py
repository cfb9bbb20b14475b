"""Who runs `fit`, `evaluate` and `predict` of a fused model: native loops, where the package has them, or Keras'."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

try:
    from fusedsplit.loops import evaluate, fit, predict, why
except ImportError as error:  # they were removed, or native/ was; or a Keras that they do not know
    NATIVE: dict[str, Callable[..., Any]] = {}
    MISSING = f"the package is without its native loops: {error}"
else:
    NATIVE = {
        "fit": fit.fit,
        "evaluate": evaluate.evaluate,
        "test_on_batch": evaluate.test_on_batch,
        "predict": predict.predict,
        "predict_on_batch": predict.predict_on_batch,
    }
    MISSING = ""

LOOPS = ("auto", "native", "keras")
_EXPLAINED = ("fit", "evaluate", "predict")


def check_name(loop: str) -> None:
    if loop not in LOOPS:
        raise ValueError(f"`loop`: expected 'auto', 'native' or 'keras'. Received: {loop!r}")


def run(method: str, model: Any, by_keras: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    """A method of a fused model; `by_keras` takes the same arguments.

    Raises:
        ValueError: with the reason, if the model says loop="native" and that cannot be.
    """
    if not MISSING:
        return NATIVE[method](model, by_keras, arguments)
    if model.loop == "native":
        raise ValueError(f"loop='native': expected a package with native loops. Received: {model.name!r}: {MISSING}")
    return by_keras(**arguments)


def who(model: Any) -> dict[str, str]:
    """Who would run each method, and every reason that is known without data."""
    if not MISSING:
        return {method: why.who(model, method) for method in _EXPLAINED}
    runs = "raises: loop='native', and " if model.loop == "native" else "Keras' loop: "
    return dict.fromkeys(_EXPLAINED, runs + MISSING)
