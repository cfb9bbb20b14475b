"""The unfused computation: the Keras sub-layers called one by one, as the programs that we fuse write it.

Nothing here uses the plan. That independence is what makes it a reference.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import activations

from fusedsplit.plan import Activation
from fusedsplit.spec import DenseSpec, Item, SplitSpec

_MERGE_LAYERS = {
    "concat": keras.layers.Concatenate,
    "add": keras.layers.Add,
    "multiply": keras.layers.Multiply,
    "average": keras.layers.Average,
    "maximum": keras.layers.Maximum,
    "minimum": keras.layers.Minimum,
}


def merge(name: str | None, parts: Sequence[Any]) -> Any:
    """Merges branch outputs with Keras' own merge layers; None gives them back as a list."""
    if name is None:
        return list(parts)
    if len(parts) == 1:
        return parts[0]
    dtype = keras.backend.standardize_dtype(parts[0].dtype)  # or the merge layer would cast to its default
    if name == "subtract":
        return functools.reduce(lambda x, y: keras.layers.Subtract(dtype=dtype)([x, y]), parts)
    return _MERGE_LAYERS[name](dtype=dtype)(list(parts))


def call(layer: Any, inputs: Any, training: bool | None = None) -> Any:
    """Calls the sub-layers of a fused layer one by one.

    Args:
        layer: a built `SplitDense` or `MergeDense`.
        inputs: what the layer was called on, a tensor or a list of them.
        training: passed to Dropout.
    """
    return _unfused(layer, inputs, lambda x, sizes: tf.split(x, sizes, axis=-1), training)


def model(layer: Any) -> keras.Model:
    """The unfused functional model of a built layer: Dense + `Lambda(tf.split)` + merge layer, sharing its weights.

    Args:
        layer: a built `SplitDense` or `MergeDense`.

    Returns:
        A `keras.Model` that holds the layer's own sub-layers.

    Raises:
        ValueError: if the layer is not built, so that its input sizes are unknown.
    """
    if not getattr(layer, "built", False) or not hasattr(layer, "sublayers"):
        raise ValueError(f"expected a built SplitDense or MergeDense. Received: {layer!r}")
    shapes = layer.input_shapes
    inputs = [keras.Input(shape=shape[1:], batch_size=shape[0], dtype=layer.compute_dtype) for shape in shapes]
    inputs = inputs if layer.takes_list else inputs[0]

    def split(x, sizes):
        return keras.layers.Lambda(lambda t: tf.split(t, sizes, axis=-1))(x)

    return keras.Model(inputs, _unfused(layer, inputs, split, None), name=f"{layer.name}_reference")


def _unfused(layer: Any, inputs: Any, split: Callable[[Any, list[int]], list[Any]], training: bool | None) -> Any:
    sources = list(inputs) if isinstance(inputs, (list, tuple)) else [inputs]
    if layer.stem:
        x = _stack(layer.stem, sources[0], training)
        sources = split(x, list(layer.split_sizes))
    elif len(sources) == 1:
        sources = sources * len(layer.branches)
    parts = [_stack(branch, x, training) for branch, x in zip(layer.branches, sources)]
    merged = merge(layer.merge, parts)
    return _stack(layer.head, merged, training) if layer.head else merged


def _stack(layers: Sequence[Any], x: Any, training: bool | None) -> Any:
    for sublayer in layers:
        x = sublayer(x, training=training) if isinstance(sublayer, keras.layers.Dropout) else sublayer(x)
    return x


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


def compute(
    spec: SplitSpec,
    inputs: Sequence[Any],
    params: Sequence[Any],
    activate: Callable[[Activation, Any], Any] = activate,
) -> list[Any]:
    """The spec on plain tensors, layer by layer.

    Args:
        spec: what to compute.
        inputs: tensors of shape (..., width).
        params: weights of the same dtype, in the spec's order.
        activate: applies an activation; Keras' own functions by default.

    Returns:
        The outputs, one for each of `spec.output_widths`.
    """

    def stack(items: Sequence[Item], x: Any) -> Any:
        for item in items:
            if isinstance(item, DenseSpec):
                x = tf.linalg.matmul(x, params[item.kernel])
                if item.bias is not None:
                    x = tf.nn.bias_add(x, params[item.bias])
                x = activate(item.activation, x)
            else:
                x = activate(item, x)
        return x

    stem = stack(spec.stem, inputs[0]) if spec.stem else None
    parts = []
    for branch in spec.branches:
        source = stem if branch.source is None else inputs[branch.source]
        parts.append(stack(branch.items, source[..., branch.start : branch.stop]))
    merged = merge(spec.merge, parts)
    return merged if spec.merge is None else [stack(spec.head, merged)]
