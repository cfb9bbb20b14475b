"""Keras sub-layers -> spec: which layers may stand where, and what each of them computes."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import activations
from keras.layers import Dense, Dropout, Layer

from fusedsplit.layers.spec import DenseSpec, Item, Mask, items_width
from fusedsplit.plan import LINEAR, Activation

ACTIVATION_LAYERS = (
    keras.layers.Activation,
    keras.layers.ReLU,
    keras.layers.LeakyReLU,
    keras.layers.ELU,
    keras.layers.Softmax,
)
BRANCH_LAYERS = (Dense, Dropout, *ACTIVATION_LAYERS)


def _leaky_relu(slope: float) -> Activation:
    """TensorFlow's operation has its slope in float32, whatever it computes in."""
    return Activation("leaky_relu", float(np.float32(slope)))


# Keras' functions and what a plan calls them, with Keras' default parameters.
_FUNCTIONS: dict[Callable[..., Any], Activation] = {
    activations.linear: LINEAR,
    activations.relu: Activation("relu"),
    activations.relu6: Activation("relu6"),
    activations.leaky_relu: _leaky_relu(0.2),
    activations.elu: Activation("elu", 1.0),
    activations.selu: Activation("selu"),
    activations.gelu: Activation("gelu"),
    activations.silu: Activation("silu"),
    activations.sigmoid: Activation("sigmoid"),
    activations.hard_sigmoid: Activation("hard_sigmoid"),
    activations.tanh: Activation("tanh"),
    activations.softplus: Activation("softplus"),
    activations.softsign: Activation("softsign"),
    activations.exponential: Activation("exponential"),
    activations.softmax: Activation("softmax"),
}


def as_stack(what: str, layers: Any, allowed: tuple[type, ...]) -> list[Layer]:
    """`layers` (a layer, a list of layers, or None) as a list.

    Raises:
        ValueError: if one of them is not an instance of `allowed`.
    """
    if layers is None:
        return []
    stack = list(layers) if isinstance(layers, (list, tuple)) else [layers]
    for layer in stack:
        if not isinstance(layer, allowed):
            names = ", ".join(cls.__name__ for cls in allowed)
            raise ValueError(f"`{what}`: expected {names}, a list of them, or None. Received: {layer!r}")
    return stack


def activation_of(function: Any) -> Activation | None:
    """What a plan calls a Keras activation function or layer, or None where it has no name for it."""
    if isinstance(function, Layer):
        return _activation_of_layer(function)
    if isinstance(function, functools.partial) and not function.args:
        return _activation_of_partial(function.func, function.keywords)
    try:
        return _FUNCTIONS.get(function)
    except TypeError:  # an unhashable callable
        return None


def _known_activation(function: Any) -> Activation:
    """That of a sub-layer without `static_reasons`, which has one."""
    activation = activation_of(function)
    assert activation is not None, function
    return activation


def _activation_of_partial(function: Any, keywords: dict[str, Any]) -> Activation | None:
    if function is activations.gelu and set(keywords) == {"approximate"}:
        return Activation("gelu_tanh" if keywords["approximate"] else "gelu")
    if function is activations.leaky_relu and set(keywords) == {"negative_slope"}:
        return _leaky_relu(keywords["negative_slope"])
    if function is activations.elu and set(keywords) == {"alpha"}:
        return Activation("elu", float(keywords["alpha"]))
    return None


def _activation_of_layer(layer: Layer) -> Activation | None:
    kind = type(layer)  # a subclass may compute anything
    if kind is keras.layers.Activation:
        return activation_of(layer.activation)
    if kind is keras.layers.LeakyReLU:
        return _leaky_relu(layer.negative_slope)
    if kind is keras.layers.ELU:
        return Activation("elu", float(layer.alpha))
    if kind is keras.layers.Softmax and layer.axis in (-1, [-1], (-1,)):
        return Activation("softmax")
    if kind is keras.layers.ReLU and not layer.threshold:
        if not layer.negative_slope and layer.max_value in (None, 6):
            return Activation("relu6" if layer.max_value else "relu")
        if layer.negative_slope and layer.max_value is None:
            return _leaky_relu(layer.negative_slope)
    return None


def static_reasons(layer: Layer, dtype: str) -> list[str]:
    """Why a sub-layer can only be called itself, as far as it is known once it is built."""
    if is_fused(layer):
        return layer.nested_reasons(dtype)
    name = f"{type(layer).__name__} {layer.name!r}"
    if isinstance(layer, Dropout):
        return [] if type(layer) is Dropout else [f"{name} is a subclass of Dropout"]
    reasons = []
    if isinstance(layer, Dense) and type(layer) is not Dense:
        reasons.append(f"{name} is a subclass of Dense, which may compute anything")
    policy = layer.dtype_policy
    if policy.compute_dtype != policy.variable_dtype:
        reasons.append(f"{name} has the mixed dtype policy {policy.name!r}")
    elif policy.compute_dtype != dtype:
        reasons.append(f"{name} computes in {policy.compute_dtype}, the layer in {dtype}")
    function = layer.activation if isinstance(layer, Dense) else layer
    if activation_of(function) is None:
        reasons.append(f"{name}: its activation {_function_name(function)} is not one that can be fused")
    return reasons


def dynamic_reasons(layers: Sequence[Layer]) -> list[str]:
    """Why a call must go through the sub-layers themselves, as far as it may change from call to call."""
    reasons = []
    for layer in layers:
        if is_fused(layer):
            reasons += dynamic_reasons(layer.sublayers)
        if getattr(layer, "activity_regularizer", None) is not None:
            reasons.append(f"{type(layer).__name__} {layer.name!r} has an activity regularizer")
        if getattr(layer, "quantization_mode", None) is not None:
            reasons.append(f"{type(layer).__name__} {layer.name!r} is quantized ({layer.quantization_mode})")
    return reasons


def all_sublayers(layer: Any) -> list[Layer]:
    """The sub-layers of a fused layer, and those of the fused layers among them."""
    return [x for sub in layer.sublayers for x in ([sub, *all_sublayers(sub)] if is_fused(sub) else [sub])]


def is_fused(layer: Layer) -> bool:
    """Whether a sub-layer is itself a fused layer."""
    return hasattr(layer, "sublayers")


class SpecReader:
    """Reads stacks of built sub-layers without `static_reasons` as spec items, and keeps what they refer to.

    Attributes:
        weights: (layer, "kernel" | "bias") for each param, in weight order.
        masks: for each mask that is multiplied in, what gives it (an active Dropout layer, or a name of the owner's)
            and its width, in order; the masks are the inputs that follow the first `inputs` ones.
    """

    def __init__(self, inputs: int, training: bool):
        self.inputs = inputs
        self.training = training
        self.weights: list[tuple[Layer, str]] = []
        self.masks: list[tuple[Any, int]] = []

    def items(self, layers: Sequence[Layer], width: int) -> tuple[Item, ...]:
        """What a stack computes on a value of `width` columns."""
        items: list[Item] = []
        for layer in layers:
            item = self.item(layer, width)
            if item is not None:
                items.append(item)
                width = items_width(width, (item,))
        return tuple(items)

    def item(self, layer: Layer, width: int) -> Item | None:
        if is_fused(layer):
            return layer.block(self, [width])
        if isinstance(layer, Dense):
            kernel = self.param(layer, "kernel")
            bias = self.param(layer, "bias") if layer.use_bias else None
            return DenseSpec(layer.units, kernel, bias, _known_activation(layer.activation))
        if isinstance(layer, Dropout):
            return self.mask(layer, width) if self.training and layer.rate > 0 else None
        activation = _known_activation(layer)
        return None if activation == LINEAR else activation

    def mask(self, source: Any, width: int) -> Mask:
        self.masks.append((source, width))
        return Mask(self.inputs + len(self.masks) - 1)

    def param(self, layer: Layer, name: str) -> int:
        """The place of a weight among the params; a shared one has one place."""
        for i, (known, known_name) in enumerate(self.weights):
            if known is layer and known_name == name:
                return i
        self.weights.append((layer, name))
        return len(self.weights) - 1

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        return tuple(tuple(getattr(layer, name).shape) for layer, name in self.weights)


def check_serializable(layer: Layer) -> None:
    """Refuses an activation function that could be saved but not loaded again.

    Raises:
        ValueError: if the activation is a plain function that is neither Keras' own nor registered.
    """
    function = getattr(layer, "activation", None)
    if function is None or isinstance(function, Layer) or not isinstance(function, types.FunctionType):
        return
    if getattr(activations, function.__name__, None) is function:
        return
    if keras.saving.get_registered_object(keras.saving.get_registered_name(function)) is not function:
        raise ValueError(
            f"{type(layer).__name__} {layer.name!r}: expected an activation of Keras, or one registered with "
            f"@keras.saving.register_keras_serializable(), so that it can be loaded. Received: activation={function!r}"
        )


def _function_name(function: Any) -> str:
    return getattr(function, "__name__", None) or repr(function)
