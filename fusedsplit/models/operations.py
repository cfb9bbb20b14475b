"""What each layer of Keras computes, as operations on views: the registry that `fs.fuse` reads models by.

A *lowering* is called as the layer itself is, with views in the places of tensors, and behind the layer the program
that it adds to. It gives a view, or a list of them, or raises NotRowWise with the reason why the layer stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers as kl

from fusedsplit.layers.dynamic_split_dense import DynamicSplitDense
from fusedsplit.layers.merge_dense import MergeDense
from fusedsplit.layers.split_dense import SplitDense
from fusedsplit.layers.sublayers import ACTIVATION_LAYERS, activation_of
from fusedsplit.models.rows import NotRowWise, RowProgram, View, concat

Lowering = Callable[..., Any]
_LOWERINGS: dict[type, Lowering] = {}


def register(*classes: type) -> Callable[[Lowering], Lowering]:
    """Teaches `fs.fuse` layers of one's own: a decorator of what they compute, as operations on views.

    Example:

    >>> import keras, fusedsplit as fs
    >>> class Halve(keras.layers.Layer):
    ...     def call(self, x):
    ...         return 0.5 * x
    >>> @fs.fuse.register(Halve)
    ... def halve(layer, program, x):
    ...     return program.scale(x, 0.5)

    Args:
        *classes: of layers; subclasses are not meant, since they may compute anything.

    Returns:
        A decorator for a function `(layer, program, *args, **kwargs)`, which is called as the layer is, with a
        `View` in the place of each tensor, and adds what the layer computes to the `RowProgram`.

    Raises:
        TypeError: if one of the classes is no layer class, or what is decorated no function.
    """
    for cls in classes:
        if not (isinstance(cls, type) and issubclass(cls, kl.Layer)):
            raise TypeError(f"expected subclasses of keras.layers.Layer. Received: {cls!r}")

    def decorate(lowering: Lowering) -> Lowering:
        if not callable(lowering):
            raise TypeError(f"expected a function (layer, program, *args). Received: {lowering!r}")
        for cls in classes:
            _LOWERINGS[cls] = lowering
        return lowering

    return decorate


def lowering_of(layer: Any) -> Lowering:
    """The lowering of a layer's exact class.

    Raises:
        NotRowWise: if there is none.
    """
    found = _LOWERINGS.get(type(layer))
    if found is None:
        known = [cls.__name__ for cls in type(layer).__mro__[1:] if cls in _LOWERINGS]
        subclass = f" (a subclass of {known[0]} may compute anything)" if known else ""
        raise NotRowWise(f"{type(layer).__name__} is not known to be row-wise{subclass}")
    return found


@register(kl.Dense)
def _dense(layer: kl.Dense, program: RowProgram, x: View) -> View:
    bias = program.weight(layer, "bias") if layer.use_bias else None
    y = program.dense(x, program.weight(layer, "kernel"), bias)
    return _activated(program, y, layer.activation)


def _activated(program: RowProgram, x: View, function: Any) -> View:
    activation = activation_of(function)
    if activation is None:
        name = getattr(function, "__name__", type(function).__name__)
        raise NotRowWise(f"its activation {name} is not one that can be fused")
    return program.activate(x, activation)


@register(*ACTIVATION_LAYERS)
def _activation(layer: Any, program: RowProgram, x: View, mask: Any = None) -> View:
    if mask is not None:
        raise NotRowWise("it is called with a mask")
    return _activated(program, x, layer)


@register(kl.Identity)
def _identity(layer: Any, program: RowProgram, x: View) -> View:
    return x


@register(kl.Dropout)
def _dropout(layer: kl.Dropout, program: RowProgram, x: View, training: Any = None) -> View:
    if not program.training or not layer.rate:
        return x
    if layer.noise_shape is not None:
        raise NotRowWise("its noise_shape may go across rows")
    return program.merge("mul", [x, program.mask(layer, x.shape)])


@register(kl.GaussianNoise, kl.GaussianDropout, kl.AlphaDropout, kl.SpatialDropout1D)
def _noise(layer: Any, program: RowProgram, x: View, training: Any = None) -> View:
    if program.training:
        raise NotRowWise("it is random while training")
    return x


@register(kl.TimeDistributed)
def _time_distributed(layer: kl.TimeDistributed, program: RowProgram, x: View, training: Any = None) -> View:
    if type(layer.layer) is not kl.Dense:
        raise NotRowWise(f"it distributes a {type(layer.layer).__name__}; a Dense is fused")
    return _dense(layer.layer, program, x)


# Merge layers.


def _row_axis(program: RowProgram, axis: int, rank: int) -> int:
    """An axis of tensors of that rank, counted within a row."""
    axis = axis % (rank + program.lead)
    if axis < program.lead:
        raise NotRowWise(f"it works along axis {axis}, which goes across rows")
    return axis - program.lead


@register(kl.Concatenate)
def _concatenate(layer: kl.Concatenate, program: RowProgram, xs: Sequence[View]) -> View:
    return concat(xs, _row_axis(program, layer.axis, len(xs[0].shape)))


def _merged(op: str, scales: Callable[[int], list[float] | None] = lambda n: None) -> Lowering:
    def lower(layer: Any, program: RowProgram, xs: Sequence[View]) -> View:
        if len({len(x.shape) for x in xs}) > 1:
            raise NotRowWise("its inputs are of different ranks")
        return program.merge(op, xs, scales(len(xs)))

    return lower


register(kl.Add)(_merged("add"))
register(kl.Subtract)(_merged("add", lambda n: [1.0, -1.0]))
register(kl.Multiply)(_merged("mul"))
register(kl.Average)(_merged("add", lambda n: [1.0 / n] * n))
register(kl.Maximum)(_merged("max"))
register(kl.Minimum)(_merged("min"))


# Shapes.


@register(kl.Flatten)
def _flatten(layer: kl.Flatten, program: RowProgram, x: View) -> View:
    if program.lead > 1:
        raise NotRowWise("it joins axes that are rows")
    if layer.data_format == "channels_first" and len(x.shape) > 1:
        raise NotRowWise("its data_format is channels_first")
    return x.reshape((-1,))


@register(kl.Reshape)
def _reshape(layer: kl.Reshape, program: RowProgram, x: View) -> View:
    if program.lead > 1:
        raise NotRowWise("it may join axes that are rows")
    return x.reshape(tuple(layer.target_shape))


@register(kl.Permute)
def _permute(layer: kl.Permute, program: RowProgram, x: View) -> View:
    if program.lead > 1:
        raise NotRowWise("it may move axes that are rows")
    return x.transpose([axis - 1 for axis in layer.dims])


@register(kl.RepeatVector)
def _repeat_vector(layer: kl.RepeatVector, program: RowProgram, x: View) -> View:
    return View(np.broadcast_to(x.columns, (layer.n, *x.shape)))


# Scales and shifts.


@register(kl.Rescaling)
def _rescaling(layer: kl.Rescaling, program: RowProgram, x: View) -> View:
    return program.scale(x, layer.scale, layer.offset)


@register(kl.BatchNormalization)
def _batch_normalization(
    layer: kl.BatchNormalization, program: RowProgram, x: View, training: Any = None, mask: Any = None
) -> View:
    if program.training:
        raise NotRowWise("while training it looks across rows")
    if _row_axis(program, layer.axis, len(x.shape)) != len(x.shape) - 1:
        raise NotRowWise(f"it normalizes axis {layer.axis}; the last one is fused")

    def gain(mean: Any, variance: Any, gamma: Any, beta: Any) -> Any:
        inverse = tf.math.rsqrt(variance + layer.epsilon)
        return inverse if gamma is None else inverse * gamma

    def shift(mean: Any, variance: Any, gamma: Any, beta: Any) -> Any:
        offset = -mean * gain(mean, variance, gamma, beta)
        return offset if beta is None else offset + beta

    def read() -> tuple[Any, ...]:
        gamma, beta = layer.gamma if layer.scale else None, layer.beta if layer.center else None
        return layer.moving_mean, layer.moving_variance, gamma, beta

    width = (x.shape[-1],)
    scale = program.param((id(layer), "gain"), width, read, gain)
    return program.scale_by(x, scale, program.param((id(layer), "shift"), width, read, shift))


@register(kl.LayerNormalization)
def _layer_normalization(layer: kl.LayerNormalization, program: RowProgram, x: View) -> View:
    axes = [layer.axis] if isinstance(layer.axis, int) else list(layer.axis)
    if [_row_axis(program, axis, len(x.shape)) for axis in axes] != [len(x.shape) - 1]:
        raise NotRowWise(f"it normalizes axis {layer.axis}; the last one alone is fused")
    if getattr(layer, "rms_scaling", False):
        raise NotRowWise("it scales by the root mean square")
    y = program.row("normalize", x, layer.epsilon)
    gain = program.weight(layer, "gamma") if layer.scale else None
    shift = program.weight(layer, "beta") if layer.center else None
    return program.scale_by(y, gain, shift) if layer.scale or layer.center else y


# Fused layers.


@register(SplitDense, MergeDense)
def _fused(layer: Any, program: RowProgram, inputs: Any, training: Any = None) -> Any:
    views = keras.tree.flatten(inputs)
    computation = layer.computation(program.training)
    reasons = computation.unfusable_reasons()
    if reasons:
        raise NotRowWise("; ".join(reasons))
    if not computation.is_one_plan:
        raise NotRowWise("its merge is a callable, which runs between two plans")
    if any(len(view.shape) != 1 for view in views):
        raise NotRowWise("its rows are of more than one axis here")
    masks = [program.mask(source, (width,)) for source, width in computation.masks]
    params = [program.weight(*weight) for weight in computation.weights]
    outputs = program.inline(computation.plan(logits=True), [*views, *masks], params)
    count = len(outputs) - len(computation.logit_outputs)
    program.logits.update((outputs[i], logits) for i, logits in zip(computation.logit_outputs, outputs[count:]))
    outputs = outputs[:count]
    return outputs if layer.merge_function is None else outputs[0]


@register(DynamicSplitDense)
def _dynamic(layer: DynamicSplitDense, program: RowProgram, x: View, training: Any = None) -> View:
    raise NotRowWise("where it splits depends on the data; it is a program of its own")
