"""Where a `DynamicSplitDense` splits: points given by a callable, or learned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from keras.layers import Dense

from fusedsplit.layers.shapes import Shape


def hard_points(points: Any, x: Any, units: int) -> tf.Tensor:
    """Points as int32, clamped to [0, units].

    Args:
        points: what a split callable gave: an int, or an integer tensor of shape () or of x's leading dimensions.
        x: what it was called on, of shape (..., width).
        units: how many columns there are to split.

    Raises:
        ValueError: if the points are not integers, or of another shape.
    """
    points = tf.convert_to_tensor(points)
    if not points.dtype.is_integer:
        raise ValueError(f"`split`: expected a callable that gives integers. Received: dtype {points.dtype.name}")
    leading = x.shape[:-1]
    if points.shape.rank is None or (points.shape.rank and not points.shape.is_compatible_with(leading)):
        raise ValueError(
            f"`split`: expected a callable that gives one point (shape ()) or one for each row (shape {leading}). "
            f"Received: shape {points.shape}"
        )
    return tf.cast(tf.clip_by_value(points, 0, units), tf.int32)


def hard_mask(points: tf.Tensor, units: int) -> tf.Tensor:
    """Whether a column is below the point; shape (units,), or (..., units) where each row has its own point."""
    return tf.range(units) < (points[..., None] if points.shape.rank else points)


def masked(h: tf.Tensor, mask: tf.Tensor) -> list[tf.Tensor]:
    """What the left branch sees of h, and what the right one does.

    Args:
        h: the stem's output.
        mask: a hard one, beyond which there are zeros whatever h is, or a soft one, which is multiplied in.
    """
    if mask.dtype != tf.bool:
        return [h * mask, h * (1 - mask)]
    zero = tf.zeros([], h.dtype)
    return [tf.where(mask, h, zero), tf.where(mask, zero, h)]


class CallableSplit:
    """A split point that a function computes from the inputs."""

    def __init__(self, function: Callable[[Any], Any]):
        self.function = function

    def build_for(self, units: int, input_shape: Shape, dtype: str) -> None:
        """Learns how many columns there are, and checks what the function gives by tracing it."""
        self.units = units
        spec = tf.TensorSpec(input_shape, dtype)
        tf.function(self.points, autograph=False).get_concrete_function(spec)

    def points(self, x: Any) -> tf.Tensor:
        """The points for inputs x, as `hard_points` gives them."""
        return hard_points(self.function(x), x, self.units)

    def mask(self, x: Any, training: bool | None) -> tf.Tensor:
        """Which columns the left branch sees."""
        return hard_mask(self.points(x), self.units)


@keras.saving.register_keras_serializable(package="fusedsplit")
class LearnedSplit(keras.layers.Layer):
    """A trainable split point p: column j counts as `sigmoid((p - j - 1/2) / temperature)` on the left.

    What is left of 1 counts on the right. That soft mask holds while training; at inference the split is hard, at p
    rounded to a whole column. The point is one number for all rows, or, with a gate, `units * sigmoid(gate(x))` for
    each row.

    Example:

    >>> import fusedsplit as fs
    >>> from keras.layers import Dense
    >>> split = fs.LearnedSplit(temperature=2.0, gate=Dense(1))
    >>> layer = fs.DynamicSplitDense(Dense(16), Dense(4), Dense(4), split=split)

    Args:
        temperature: the width of the soft edge, in columns; positive.
        initial: where the point starts, as a fraction of the columns; without a gate.
        gate: a `Dense(1)`, which makes the point depend on the data; or None.
        **kwargs: of `keras.layers.Layer`.

    Call arguments:
        inputs: those of the `DynamicSplitDense` that the split belongs to, which calls it.
        training: whether the mask is soft.
        mask: none is taken or passed on.

    Raises:
        ValueError: if the temperature is not positive, the fraction is not between 0 and 1, or the gate is not a Dense
            with one unit.
    """

    def __init__(self, temperature: float = 1.0, initial: float = 0.5, gate: Dense | None = None, **kwargs: Any):
        if not temperature > 0:
            raise ValueError(f"`temperature`: expected a positive number. Received: {temperature!r}")
        if not 0 <= initial <= 1:
            raise ValueError(f"`initial`: expected a fraction between 0 and 1. Received: {initial!r}")
        if gate is not None and not (isinstance(gate, Dense) and gate.units == 1):
            raise ValueError(f"`gate`: expected a Dense with one unit, or None. Received: {gate!r}")
        super().__init__(**kwargs)
        self.temperature = float(temperature)
        self.initial = float(initial)
        self.gate = gate
        self.units = 0

    def build_for(self, units: int, input_shape: Shape, dtype: str) -> None:
        """Makes the point for that many columns."""
        self.units = units
        if not self.built:
            self.build(input_shape)

    def build(self, input_shape: Shape) -> None:
        if self.gate is not None:
            if not self.gate.built:
                self.gate.build(input_shape)
        else:
            start = keras.initializers.Constant(self.initial * self.units)
            self.point = self.add_weight(shape=(), initializer=start, name="point")

    def position(self, x: Any) -> tf.Tensor:
        """The point, in columns, not rounded: shape (), or that of x's leading dimensions."""
        if self.gate is not None:
            return self.units * tf.sigmoid(self.gate(x)[..., 0])
        return tf.convert_to_tensor(self.point.value)

    def points(self, x: Any) -> tf.Tensor:
        """The point in whole columns, for inference."""
        return hard_points(tf.cast(tf.round(self.position(x)), tf.int32), x, self.units)

    def soft_mask(self, x: Any) -> tf.Tensor:
        """What the left branch's columns are multiplied by while training."""
        position = self.position(x)
        position = position[..., None] if position.shape.rank else position
        columns = tf.range(self.units, dtype=position.dtype)
        return tf.sigmoid((position - columns - 0.5) / self.temperature)

    def mask(self, x: Any, training: bool | None) -> tf.Tensor:
        """What the left branch's columns are multiplied by, or, at inference, which ones it sees."""
        return self.soft_mask(x) if training else hard_mask(self.points(x), self.units)

    def call(self, inputs: Any, training: bool | None = None) -> tf.Tensor:
        return self.mask(inputs, training)

    def get_config(self) -> dict[str, Any]:
        gate = None if self.gate is None else keras.saving.serialize_keras_object(self.gate)
        if gate is not None:
            gate.pop("build_config", None)
        return {**super().get_config(), "temperature": self.temperature, "initial": self.initial, "gate": gate}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> LearnedSplit:
        config = dict(config)
        if config["gate"] is not None:
            config["gate"] = keras.saving.deserialize_keras_object(config["gate"])
        return cls(**config)
