"""The unfused computation: the Keras sub-layers called one by one, as the programs that we fuse write it.

Nothing here uses the plan. That independence is what makes it a reference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from fusedsplit.backends import dispatch
from fusedsplit.backends.activations import activate
from fusedsplit.layers.merges import Concat, Elementwise, NamedMerge
from fusedsplit.layers.spec import Branch, CallableMerge, DenseSpec, Gain, Item, Mask, SplitSpec
from fusedsplit.plan import Activation


def merge(how: Any, parts: Sequence[Any], source: Any) -> Any:
    """Merges branch outputs without a plan; None gives them back as a list.

    Args:
        how: a named merge, a callable on the list of parts, or None.
        parts: the branch outputs.
        source: the layer's (first) input.
    """
    if how is None:
        return list(parts)
    if isinstance(how, NamedMerge):
        return how.unfused(parts, source)
    return how(list(parts))


def call(layer: Any, inputs: Any, training: bool | None = None) -> Any:
    """Calls the sub-layers of a fused layer one by one.

    Args:
        layer: a built fused layer.
        inputs: what the layer was called on, a tensor or a list of them.
        training: passed to Dropout.
    """
    return _Unfused(training).layer(layer, inputs)


def model(layer: Any) -> keras.Model:
    """The unfused functional model of a built layer: Dense + `Lambda(tf.split)` + merge layer, sharing its weights.

    Args:
        layer: a built fused layer.

    Returns:
        A `keras.Model` that holds the layer's own sub-layers.

    Raises:
        ValueError: if the layer is not built, so that its input sizes are unknown.
    """
    if not getattr(layer, "built", False) or not hasattr(layer, "sublayers"):
        raise ValueError(f"expected a built fusedsplit layer. Received: {layer!r}")
    inputs = [
        keras.Input(shape=shape[1:], batch_size=shape[0], dtype=layer.compute_dtype) for shape in layer.input_shapes
    ]
    inputs = inputs if layer.takes_list else inputs[0]
    return keras.Model(inputs, _UnfusedModel(None).fused(layer, inputs), name=f"{layer.name}_reference")


class _Unfused:
    """Calls sub-layers on tensors."""

    def __init__(self, training: bool | None):
        self.training = training

    def layer(self, layer: Any, inputs: Any) -> Any:
        sources = keras.tree.flatten(inputs)
        parts = [self.stack(branch, x) for branch, x in zip(layer.branches, layer.branch_sources(self, sources))]
        merged = self.merge(layer.merge_function, parts, sources[0])
        return self.stack(layer.head, merged)

    def stack(self, layers: Sequence[Any], x: Any) -> Any:
        for sublayer in layers:
            if hasattr(sublayer, "sublayers"):
                x = self.fused(sublayer, x)
            elif isinstance(sublayer, keras.layers.Dropout):
                x = sublayer(x, training=self.training)
            else:
                x = sublayer(x)
        return x

    def fused(self, sublayer: Any, x: Any) -> Any:
        """A fused layer among the sub-layers."""
        if sublayer.activity_regularizer is None:
            return self.layer(sublayer, x)
        with dispatch.use_backend("reference"):  # by Keras' own call, which counts the loss
            return sublayer(x, training=self.training)

    def apply(self, function: Callable[[Any], Any], x: Any) -> Any:
        """A function that is no layer."""
        return function(x)

    def split(self, x: Any, sizes: Sequence[int]) -> list[Any]:
        return self.apply(lambda t: tf.split(t, list(sizes), axis=-1), x)

    def merge(self, how: Any, parts: Sequence[Any], source: Any) -> Any:
        return merge(how, parts, source)


class _UnfusedModel(_Unfused):
    """Calls sub-layers on symbolic tensors, with a `Lambda` around whatever is no layer."""

    def fused(self, sublayer: Any, x: Any) -> Any:
        y = self.layer(sublayer, x)
        if sublayer.activity_regularizer is None:
            return y
        return keras.layers.Identity(activity_regularizer=sublayer.activity_regularizer)(y)

    def apply(self, function: Callable[[Any], Any], x: Any) -> Any:
        return keras.layers.Lambda(function)(x)

    def merge(self, how: Any, parts: Sequence[Any], source: Any) -> Any:
        if how is None or isinstance(how, (Concat, Elementwise)):
            return merge(how, parts, source)
        return self.apply(lambda tensors: merge(how, tensors[:-1], tensors[-1]), [*parts, source])


def compute(
    spec: SplitSpec,
    inputs: Sequence[Any],
    params: Sequence[Any],
    points: Sequence[Any] = (),
    activate: Callable[[Activation, Any], Any] = activate,
    merge: Callable[[Any, Sequence[Any], Any], Any] = merge,
) -> list[Any]:
    """The spec on plain tensors, layer by layer.

    Args:
        spec: what to compute.
        inputs: tensors of shape (..., width).
        params: weights of the same dtype, in the spec's order.
        points: int32 tensors, as `spec.points` says.
        activate: applies an activation; Keras' own functions by default.
        merge: merges the branch outputs; as the spec says by default.

    Returns:
        The outputs, one for each of `spec.output_widths`.
    """
    outputs = _Computation(inputs, params, points, activate, merge).block(spec, inputs)
    return outputs if spec.merge is None else [outputs]


class _Computation:
    """The walk over a spec."""

    def __init__(
        self,
        inputs: Sequence[Any],
        params: Sequence[Any],
        points: Sequence[Any],
        activate: Callable[[Activation, Any], Any],
        merge: Callable[[Any, Sequence[Any], Any], Any],
    ):
        self.inputs = inputs
        self.params = params
        self.points = points
        self.activate = activate
        self.merge = merge

    def block(self, spec: SplitSpec, inputs: Sequence[Any]) -> Any:
        stem = self.stack(spec.stem, inputs[0])
        parts = []
        for branch in spec.branches:
            x = stem if branch.source is None else inputs[branch.source]
            parts.append(self.stack(branch.items, cut(x, branch, self.points)))
        how = spec.merge.function if isinstance(spec.merge, CallableMerge) else spec.merge
        merged = self.merge(how, parts, inputs[0])
        return merged if spec.merge is None else self.stack(spec.head, merged)

    def stack(self, items: Sequence[Item], x: Any) -> Any:
        for item in items:
            if isinstance(item, DenseSpec):
                x = tf.linalg.matmul(x, self.params[item.kernel])
                if item.bias is not None:
                    x = tf.nn.bias_add(x, self.params[item.bias])
                x = self.activate(item.activation, x)
            elif isinstance(item, SplitSpec):
                x = self.block(item, [x])
            elif isinstance(item, Mask):
                x = x * self.inputs[item.input]
            elif isinstance(item, Gain):
                x = x * self.params[item.param]
            else:
                x = self.activate(item, x)
        return x


def cut(x: Any, branch: Branch, points: Sequence[Any]) -> Any:
    """The slice that a branch reads, with zeros in the columns that do not count."""
    x = x[..., branch.start : branch.stop]
    if branch.live is None:
        return x
    point = points[branch.live.point]
    if point.shape.rank:
        point = tf.reshape(point, tf.concat([tf.shape(x)[:-1], [1]], 0))
    columns = tf.range(x.shape[-1], dtype=point.dtype)
    return tf.where(columns < point if branch.live.side == "leading" else columns >= point, x, tf.zeros([], x.dtype))
