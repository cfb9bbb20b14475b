"""Keras' optimizers as the native step knows them, and their learning rates."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from fusedsplit.loops import _keras_private as private
from fusedsplit.loops.reasons import NotNative
from fusedsplit.loops.variables import read
from fusedsplit.native.recipe import Optimizer

# Keras' class -> its name in a recipe, and those of its hyperparameters that are there by the same names.
_KINDS: dict[type, tuple[str, tuple[str, ...]]] = {
    keras.optimizers.SGD: ("sgd", ("momentum", "nesterov")),
    keras.optimizers.Adam: ("adam", ("beta_1", "beta_2", "epsilon", "amsgrad")),
    keras.optimizers.AdamW: ("adamw", ("beta_1", "beta_2", "epsilon", "amsgrad")),
    keras.optimizers.RMSprop: ("rmsprop", ("rho", "momentum", "epsilon", "centered")),
    keras.optimizers.Adagrad: ("adagrad", ("epsilon",)),
    keras.optimizers.Nadam: ("nadam", ("beta_1", "beta_2", "epsilon")),
    keras.optimizers.Lion: ("lion", ("beta_1", "beta_2")),
}


def described(optimizer: Any) -> Optimizer:
    """An optimizer of Keras.

    Raises:
        NotNative: if the native step does not know it.
    """
    kind = _KINDS.get(type(optimizer))
    if kind is None:
        raise NotNative(f"the optimizer {type(optimizer).__name__} is not built natively")
    if optimizer.loss_scale_factor is not None:
        raise NotNative("the optimizer scales the loss")
    rate = private.own_learning_rate(optimizer)
    schedule = isinstance(rate, keras.optimizers.schedules.LearningRateSchedule)
    if not schedule and not hasattr(rate, "assign"):
        raise NotNative("the learning rate is a function of the user's")
    name, fields = kind
    return Optimizer(
        name,
        **{field: _plain(getattr(optimizer, field)) for field in fields},
        weight_decay=float(optimizer.weight_decay or 0.0),
        clipnorm=_positive(optimizer.clipnorm),
        global_clipnorm=_positive(optimizer.global_clipnorm),
        clipvalue=_positive(optimizer.clipvalue),
        use_ema=bool(optimizer.use_ema),
        ema_momentum=float(optimizer.ema_momentum),
        ema_overwrite_frequency=optimizer.ema_overwrite_frequency or None,
        gradient_accumulation_steps=optimizer.gradient_accumulation_steps or 1,
    )


def _plain(value: Any) -> Any:
    return value if isinstance(value, bool) else float(value)


def _positive(value: Any) -> float | None:
    """A bound of gradients; those that are none or not above zero bound nothing."""
    return float(value) if value and value > 0 else None


class Rates:
    """The learning rates of an optimizer's steps."""

    def __init__(self, optimizer: Any):
        self._rate = private.own_learning_rate(optimizer)
        self._schedule = not hasattr(self._rate, "assign")
        self._known = np.empty(0)
        self._first = 0
        self._function: Any = None

    @property
    def constant(self) -> bool:
        """Whether they are one number, until somebody sets it."""
        return not self._schedule

    def refresh(self) -> None:
        """Reads what may have been changed."""
        if not self._schedule:
            self._known = np.full(max(len(self._known), 64), float(read(self._rate)))

    def of(self, first: int, steps: int) -> np.ndarray:
        """Those of `steps` steps, the first of which is number `first`; there may be more of them."""
        if not self._schedule:
            if steps > len(self._known):
                self._known = np.full(2 * steps, self._known[0])
            return self._known
        at = first - self._first
        if at < 0 or at + steps > len(self._known):
            self._known = self._computed(first, max(steps, 256))
            self._first, at = first, 0
        return self._known[at : at + steps]

    def _computed(self, first: int, steps: int) -> np.ndarray:
        """By Keras' own schedule, in a graph, as Keras calls it."""
        if self._function is None:

            def one(step: Any) -> Any:
                return tf.cast(self._rate(step), tf.float64)

            def all_of_them(numbers: Any) -> Any:
                return tf.map_fn(one, numbers, fn_output_signature=tf.float64)

            signature = [tf.TensorSpec([None], tf.int64)]
            self._function = tf.function(all_of_them, autograph=False, input_signature=signature)
        return np.array(self._function(tf.range(first, first + steps, dtype=tf.int64)))
