"""Every private name of Keras that the layers need, or loops and models alike, as Keras 3.5 to 3.15 have them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras.layers import Dense, Layer

try:
    from keras.src.backend import Variable  # in Keras 3.5 `keras.Variable` is a subclass of what layers make
except ImportError:
    Variable = keras.Variable
try:
    from keras.src.backend.common import global_state
except ImportError:  # a Keras that keeps its state elsewhere: whether a scope is open is not known then
    global_state = None


def is_compiled(model: Any) -> bool:
    return bool(model.compiled) and model._compile_config is not None


def output_names(model: Any) -> list[str]:
    return list(getattr(model, "output_names", ()))


def in_no_scope() -> bool:
    """Whether no scope of Keras is open within which a variable has another value, or an output another layout."""
    try:
        state = vars(global_state.GLOBAL_STATE_TRACKER)  # this thread's; `clear_session` makes another one
    except AttributeError:
        return False
    return (
        state.get("autocast_scope") is None
        and state.get("stateless_scope") is None
        and state.get("distribution") is None
    )


def tensor_of(weight: Any) -> Any:
    """What a variable of Keras stands for, a tf.Variable outside of its scopes; anything else as it is."""
    return weight.value if isinstance(weight, Variable) else weight


def is_rematerialized(layer: Layer) -> bool:
    """Whether Keras computes what a layer computes anew when it is differentiated."""
    return getattr(layer, "_remat_mode", None) is not None


def has_losses(layer: Layer) -> bool:
    """Whether a call would first have to forget the losses of an earlier one."""
    return bool(getattr(layer, "_losses", True))


class KeptVariables:
    """The tf.Variables that layers had as weights when they were looked at, for as long as they still have them.

    A layer has others after `enable_lora`, `quantize`, a new `build` or an assignment: its attributes differ then.
    Dense's own properties take longer than a small plan.

    Args:
        layers: every layer whose state matters; none has an activity regularizer or is quantized.
        weights: (layer, "kernel" | "bias") for each variable that is wanted.

    Raises:
        LookupError: if a weight is computed, a policy may change within, or this Keras keeps its state elsewhere.
    """

    def __init__(self, layers: Sequence[Layer], weights: Sequence[tuple[Layer, str]]):
        self._denses, self._others = [], []
        for layer in layers:
            state = vars(layer)
            policy = state["_dtype_policy"]
            if isinstance(policy, keras.dtype_policies.DTypePolicyMap):
                raise LookupError(policy)
            if isinstance(layer, Dense):
                self._denses.append((state, policy, state["_kernel"], state["bias"]))
            else:
                self._others.append((state, policy))
        self._variables = [vars(layer)["_kernel" if name == "kernel" else name] for layer, name in weights]
        if not self.are_current() or any(getattr(v, "_value", None) is None for v in self._variables):
            raise LookupError(self._variables)

    def are_current(self) -> bool:
        try:
            for state, policy, kernel, bias in self._denses:
                if (
                    state["_kernel"] is not kernel
                    or state["bias"] is not bias
                    or state["lora_enabled"]
                    or state["_dtype_policy"] is not policy
                    or state["activity_regularizer"] is not None
                ):
                    return False
            for state, policy in self._others:
                if state["_dtype_policy"] is not policy or state["activity_regularizer"] is not None:
                    return False
        except KeyError:
            return False
        return True

    def values(self) -> list[Any]:
        return [variable._value for variable in self._variables]
