"""Keras' own function for each activation that a plan names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf
from keras import activations

from fusedsplit.plan import Activation


@tf.custom_gradient
def _softsign(x: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
    """x / (1 + |x|), differentiable to any order: TensorFlow has no gradient for the gradient of its own."""
    return tf.nn.softsign(x), lambda dy: dy / tf.square(1 + tf.abs(x))


_SPECIAL: dict[str, Callable[[Any, float], Any]] = {
    "leaky_relu": lambda x, alpha: activations.leaky_relu(x, negative_slope=alpha),
    "elu": lambda x, alpha: activations.elu(x, alpha=alpha),
    "gelu_tanh": lambda x, _: activations.gelu(x, approximate=True),
    "linear": lambda x, _: x,
    "softsign": lambda x, _: _softsign(x),
}


def activate(activation: Activation, x: Any) -> Any:
    """Keras' own function for an activation of a plan (or softmax, over the last axis)."""
    if activation.name in _SPECIAL:
        return _SPECIAL[activation.name](x, activation.alpha)
    return getattr(activations, activation.name)(x)
