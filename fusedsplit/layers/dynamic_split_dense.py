"""DynamicSplitDense: where the stem's output is cut depends on the data."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras.layers import Layer

from fusedsplit.layers.dynamic import CallableSplit, LearnedSplit, masked
from fusedsplit.layers.fused_layer import FusedLayer
from fusedsplit.layers.serialization import serialize_function
from fusedsplit.layers.shapes import Shape
from fusedsplit.layers.spec import Branch, Gain, SplitSpec
from fusedsplit.layers.sublayers import SpecReader
from fusedsplit.plan import SIDES, Live, Side


@keras.saving.register_keras_serializable(package="fusedsplit")
class DynamicSplitDense(FusedLayer):
    """A split whose point p depends on the data.

        h = stem(inputs)
        output = head(merge([left(h where column < p else 0), right(h where column >= p else 0)]))

    A masked feature counts as zero, so both branches have as many inputs as the stem has units. The compiled op skips
    the masked columns: left's product runs over p of them, right's over the others. Zero it is whatever the feature is:
    neither a masked NaN or infinity nor its gradient reaches the branch. The soft mask of a learned split, which holds
    while training, is a factor instead, and lets them through.

    Example:

    >>> import numpy as np, tensorflow as tf, fusedsplit as fs
    >>> from keras.layers import Dense
    >>> positive = lambda x: tf.reduce_sum(tf.cast(x > 0, tf.int32), axis=-1)  # one point for each row
    >>> layer = fs.DynamicSplitDense(Dense(8), Dense(4, activation="relu"), Dense(6), split=positive)
    >>> layer(np.ones((32, 10), "float32")).shape
    TensorShape([32, 10])

    Args:
        stem: see `SplitDense`.
        left: a branch, see `SplitDense`; it sees the columns below the point.
        right: a branch; it sees the columns from the point on.
        split: a callable from the inputs to an integer tensor, of shape () for one point or `(batch_size, ...)` for
            one for each row, clamped to [0, units]; or "learned", a trainable point (see `LearnedSplit`, which may be
            given for its options): soft while training, hard at inference.
        merge: see `SplitDense`.
        head: see `SplitDense`.
        backend: see `SplitDense`.
        **kwargs: of `keras.layers.Layer`.

    Call arguments:
        inputs: see `SplitDense`; `split`, where it is a callable, is called on them too.
        training: whether Dropout layers are active and a learned split is soft; see `SplitDense`.
        mask: see `SplitDense`. The split does not see it: masked steps are split as all others are.

    Input shape:
        `(batch_size, ..., input_dim)`, rank 2 or more.

    Output shape:
        `(batch_size, ..., units)`.

    Raises:
        ValueError: if `split` is none of these, or gives floats or another shape.
    """

    def __init__(
        self,
        stem: Any,
        left: Any,
        right: Any,
        *,
        split: Any,
        merge: Any = "concat",
        head: Any = None,
        backend: str = "auto",
        **kwargs: Any,
    ):
        if not (split == "learned" or callable(split)):
            raise ValueError(f"`split`: expected 'learned', a LearnedSplit or a callable. Received: split={split!r}")
        if stem is None or (isinstance(stem, (list, tuple)) and not stem):
            raise ValueError(f"`stem`: expected a Dense or a list of them. Received: {stem!r}")
        super().__init__(stem, [left, right], merge, head, backend, **kwargs)
        split = LearnedSplit(dtype=self.dtype_policy) if split == "learned" else split
        self.splitter = split if isinstance(split, LearnedSplit) else CallableSplit(split)

    @property
    def _units(self) -> int:
        return int(self.stem[-1].units)

    def build(self, input_shape: Any) -> None:
        self.splitter.build_for(self._units, tuple(input_shape), self.compute_dtype)
        super().build(input_shape)

    def source_shapes(self, shapes: list[Shape], stack: Callable[[list[Layer], Shape], Shape]) -> list[Shape]:
        return [stack(self.stem, shapes[0])] * 2

    def branch_sources(self, unfused: Any, sources: list[Any]) -> list[Any]:
        x, h = sources[0], unfused.stack(self.stem, sources[0])
        if isinstance(self.splitter, LearnedSplit):
            mask = self.splitter(x, training=unfused.training)
        else:
            mask = unfused.apply(lambda t: self.splitter.mask(t, unfused.training), x)
        return unfused.apply(lambda t: masked(*t), [h, mask])

    def block(self, reader: SpecReader, widths: Sequence[int]) -> SplitSpec:
        stem = reader.items(self.stem, widths[0])
        sides = [self._side(reader, side, layers) for side, layers in zip(SIDES, self.branches)]
        block = self.finish_block(reader, widths, stem, sides)
        return dataclasses.replace(block, points=int(any(branch.live for branch in sides)))

    def _side(self, reader: SpecReader, side: Side, layers: list[Layer]) -> Branch:
        """One branch: a soft mask is multiplied in; with a hard one a first product skips the masked columns."""
        if reader.training and isinstance(self.splitter, LearnedSplit):
            gated = self.splitter.gate is not None
            mask = reader.mask(side, self._units) if gated else Gain(reader.param(self, f"_soft_{side}"))
            return Branch(None, 0, self._units, (mask, *reader.items(layers, self._units)))
        return Branch(None, 0, self._units, reader.items(layers, self._units), Live(0, side))

    @property
    def _soft_leading(self) -> Any:
        """The soft mask of a point that is one for all rows: a param of the plan, through which its gradient flows."""
        assert isinstance(self.splitter, LearnedSplit)
        return self.splitter.soft_mask(None)

    @property
    def _soft_trailing(self) -> Any:
        return 1 - self._soft_leading

    def nested_reasons(self, dtype: str) -> list[str]:
        own = f"{type(self).__name__} {self.name!r} splits at a point of its own, which only an outermost layer can"
        return [*super().nested_reasons(dtype), own]

    def points(self, x: Any) -> Any:
        return self.splitter.points(x)

    def mask(self, source: Any, width: int, x: Any) -> Any:
        if source not in SIDES:
            return super().mask(source, width, x)
        left = self.splitter.mask(x, training=True)
        return left if source == "leading" else 1 - left

    def get_config(self) -> dict[str, Any]:
        if isinstance(self.splitter, LearnedSplit):
            split = keras.saving.serialize_keras_object(self.splitter)
            split.pop("build_config", None)
        else:
            split = serialize_function("split", self.splitter.function)
        return {**super().get_config(), "split": split}

    @classmethod
    def from_parts(cls, config: dict[str, Any]) -> DynamicSplitDense:
        config["left"], config["right"] = config.pop("branches")
        config["split"] = keras.saving.deserialize_keras_object(config["split"])
        return cls(**config)
