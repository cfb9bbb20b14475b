"""Shapes through stacks of sub-layers, which are built on the way."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import keras
from keras.layers import Dense, Layer

from fusedsplit.layers.merges import MergeFunction

# A shape, or one for each input.
Shape = tuple[int | None, ...]


def checked_shape(layer: Layer, shape: Iterable[int | None]) -> Shape:
    """`shape`, if it is one that a fused layer can be built for."""
    shape = tuple(shape)
    if len(shape) < 2:
        raise ValueError(f"{layer.name}: expected an input of rank 2 or more. Received: shape {shape}")
    if shape[-1] is None:
        raise ValueError(f"{layer.name}: expected an input whose last dimension is known. Received: shape {shape}")
    return shape


def width(shape: Shape) -> int:
    """The last dimension, of a shape of which it is known."""
    assert shape[-1] is not None, shape
    return shape[-1]


def build_stack(layers: list[Layer], shape: Shape) -> Shape:
    for layer in layers:
        if not layer.built:
            layer.build(shape)
        elif isinstance(layer, Dense) and layer.kernel.shape[0] != shape[-1]:
            raise ValueError(
                f"Dense {layer.name!r}: expected a kernel for inputs of width {shape[-1]}. "
                f"Received: a built one of shape {tuple(layer.kernel.shape)}"
            )
        shape = _one_shape(layer, layer.compute_output_shape(shape))
    return shape


def stack_shape(layers: list[Layer], shape: Shape) -> Shape:
    for layer in layers:
        shape = _one_shape(layer, layer.compute_output_shape(shape))
    return shape


def _one_shape(layer: Layer, shape: Any) -> Shape:
    if isinstance(shape, list):
        raise ValueError(f"{layer.name!r}: expected a part with one output. Received: outputs of shapes {shape}")
    return tuple(shape)


def callable_width(merge: MergeFunction, widths: Sequence[int], dtype: str) -> int:
    """The width of what a callable merge gives, found by tracing it."""
    parts = [keras.KerasTensor((None, width), dtype=dtype) for width in widths]
    merged = keras.layers.Lambda(merge).compute_output_spec(parts)
    shape = getattr(merged, "shape", None)
    if shape is None or len(shape) < 2 or shape[-1] is None:
        raise ValueError(
            f"`merge`: expected a callable that gives one tensor of shape (batch, ..., width). Received: {merged!r} "
            f"from branch outputs of widths {list(widths)}"
        )
    return int(shape[-1])
