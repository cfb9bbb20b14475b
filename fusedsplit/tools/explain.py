"""`fs.explain`: which backend runs a layer, where, and what speaks against each other one; the entry for models."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras

from fusedsplit import config
from fusedsplit.backends import dispatch
from fusedsplit.backends.base import CallContext
from fusedsplit.tools import explain_model
from fusedsplit.tools.explain_model import ModelExplanation
from fusedsplit.tools.tables import table


@dataclasses.dataclass(frozen=True)
class Explanation:
    """The choice of a backend in every situation; prints as a table.

    Attributes:
        layer: the layer's name.
        choices: situation -> the backend that runs there, or why the call would raise.
        reasons: backend -> situation -> why it cannot run there (absent where it can).
        plan: the plan as text, or why there is none.
    """

    layer: str
    choices: dict[str, str]
    reasons: dict[str, dict[str, list[str]]]
    plan: str

    def __str__(self) -> str:
        text = [f"{self.layer}", table(("where", "runs"), list(self.choices.items())), ""]
        rows = []
        for backend, situations in self.reasons.items():
            if not situations:
                rows.append((backend, "everywhere", ""))
            for reason, where in _by_reason(situations).items():
                rows.append(
                    (
                        backend,
                        "not: " + (", ".join(where) if len(where) < len(self.choices) else "anywhere"),
                        reason,
                    )
                )
        text += [table(("backend", "can run", "reason against"), rows), "", self.plan]
        return "\n".join(text)


def _by_reason(situations: dict[str, list[str]]) -> dict[str, list[str]]:
    grouped: dict[str, list[str]] = {}
    for situation, reasons in situations.items():
        for reason in reasons:
            grouped.setdefault(reason, []).append(situation)
    return grouped


def explain(layer: Any) -> Explanation | ModelExplanation:
    """Which backend runs a layer, in each situation, and the reasons against each other one; or what of a model is
    fused, or would be by `fs.fuse`, and why not the rest.

    Example:

    >>> import fusedsplit as fs
    >>> from keras.layers import Dense
    >>> layer = fs.SplitDense(Dense(8), [Dense(4), Dense(6)])
    >>> layer.build((None, 10))
    >>> print(fs.explain(layer))  # doctest: +SKIP
    >>> import keras
    >>> x = keras.Input((10,))
    >>> model = keras.Model(x, keras.layers.Softmax(axis=0)(Dense(4)(Dense(8)(x))))
    >>> explanation = fs.explain(model)
    >>> len(explanation.regions), list(explanation.left)
    (1, ['its activation Softmax is not one that can be fused'])

    Args:
        layer: a built fused layer, or a Keras model, fused or not.

    Returns:
        An `Explanation` of a layer, a `ModelExplanation` of a model; both print as tables.

    Raises:
        ValueError: if `layer` is neither a built fusedsplit layer nor a model whose graph can be seen.
    """
    if isinstance(layer, keras.Model):
        return explain_model.explain(layer)
    if not hasattr(layer, "unfusable_reasons") or not layer.built:
        raise ValueError(f"expected a built fused layer, or a Keras model. Received: {layer!r}")
    dtype = layer.compute_dtype
    situations = {
        "eager": (CallContext(dtype), False),
        "eager, training": (CallContext(dtype), True),
        "graph": (CallContext(dtype, eager=False), False),
        "graph, training": (CallContext(dtype, eager=False), True),
        "inside XLA": (CallContext(dtype, eager=False, in_xla=True), False),
        "saving, export": (CallContext(dtype, eager=False, in_save=True), False),
    }
    choices: dict[str, str] = {}
    reasons: dict[str, dict[str, list[str]]] = {name: {} for name in config.BACKENDS}
    unfusable = layer.unfusable_reasons()
    for situation, (context, training) in situations.items():
        plan = None if unfusable else layer.computation(training).plan()
        against = dispatch.reasons_against(plan, context, unfusable)
        for name, found in against.items():
            if found:
                reasons[name][situation] = found
        try:
            choice = dispatch.choose(layer.backend, plan, context, unfusable, layer.backend_is_loaded)
            choices[situation] = f"{choice.name} ({choice.why})"
        except ValueError:
            choices[situation] = f"raises: backend={layer.backend!r} cannot run there"
    text = str(layer.computation().plan()) if not unfusable else "no plan: " + "; ".join(unfusable)
    return Explanation(layer.name, choices, reasons, text)
