"""SplitDense, MergeDense and DynamicSplitDense: what the branches of each read; no arithmetic."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras.layers import Layer

from fusedsplit import dispatch
from fusedsplit.dynamic import CallableSplit, LearnedSplit
from fusedsplit.fused_layer import FusedLayer, Shape, checked_shape, serialize_function
from fusedsplit.plan import Live
from fusedsplit.spec import Branch, DenseSpec, Gain, SplitSpec, split_sizes
from fusedsplit.sublayers import SpecReader


@keras.saving.register_keras_serializable(package="fusedsplit")
class SplitDense(FusedLayer):
    """`head(concat_i(branch_i(split_i(stem(inputs)))))` as one layer.

    With one Dense as the stem and one for each branch it computes

        h = stem_activation(inputs @ stem_kernel + stem_bias)
        y_i = activation_i(h[..., start_i:stop_i] @ kernel_i + bias_i)
        output = head(merge([y_1, ..., y_n]))

    without materializing the split or the concatenation. The layer owns the given sub-layers themselves: it builds
    those that are not built, computes with their kernels and biases, and its weights are theirs, in the order stem,
    branches, head.

    Example:

    >>> import numpy as np, fusedsplit as fs
    >>> from keras.layers import Dense
    >>> layer = fs.SplitDense(Dense(8), [Dense(4, activation="relu"), Dense(6, activation="relu")], head=Dense(1))
    >>> layer(np.ones((32, 10), "float32")).shape
    TensorShape([32, 1])

    A gated linear unit is a split whose parts are multiplied, one through its activation (SwiGLU: "silu", GEGLU:
    "gelu", GLU: "sigmoid"):

    >>> from keras.layers import Activation
    >>> swiglu = fs.SplitDense(Dense(128), [Activation("silu"), None], merge="multiply", head=Dense(16))

    Args:
        stem: a `keras.layers.Dense`, or a list of them applied in turn.
        branches: a list; each branch is a Dense, a list of Dense / Activation / Dropout layers, an activation layer,
            another fused layer with one output, or None (the slice unchanged).
        split: the sizes of the slices along the last axis, as in `tf.split`; an int n for n equal parts; None for
            equal parts.
        merge: "concat", "add", "subtract" (the first minus the others), "multiply", "average", "maximum", "minimum",
            one of `fusedsplit.merges`, a differentiable callable on the list of branch outputs, or None for that list.
        head: a Dense or a list of them, applied to the merged value; or None.
        backend: "auto", "op" (the compiled C++ op), "xla", "tf" or "reference". An explicit choice that cannot run
            raises; "auto" falls back, with one warning.
        **kwargs: of `keras.layers.Layer`. `dtype` is that of the stem.

    Input shape:
        `(batch_size, ..., input_dim)`, rank 2 or more.

    Output shape:
        `(batch_size, ..., units)`, where units is that of the head, or of the merged branches.

    Raises:
        ValueError: if the split does not fit the stem's units or the number of branches, a part is not a layer of an
            allowed kind, the branch widths do not fit the merge, or the input's last dimension is unknown.
    """

    def __init__(
        self,
        stem: Any,
        branches: Any,
        *,
        split: int | Sequence[int] | None = None,
        merge: Any = "concat",
        head: Any = None,
        backend: str = "auto",
        **kwargs: Any,
    ):
        if stem is None or (isinstance(stem, (list, tuple)) and not stem):
            raise ValueError(
                f"`stem`: expected a Dense or a list of them (without one, use MergeDense). Received: {stem!r}"
            )
        super().__init__(stem, branches, merge, head, backend, **kwargs)
        self.split_sizes = split_sizes(split, self.stem[-1].units, len(self.branches))

    def source_shapes(self, shapes: list[Shape], stack: Callable[[list[Layer], Shape], Shape]) -> list[Shape]:
        out = stack(self.stem, shapes[0])
        return [(*out[:-1], size) for size in self.split_sizes]

    def branch_sources(self, unfused: Any, sources: list[Any]) -> list[Any]:
        return unfused.split(unfused.stack(self.stem, sources[0]), self.split_sizes)

    def block(self, reader: SpecReader, widths: Sequence[int]) -> SplitSpec:
        stem = reader.items(self.stem, widths[0])
        branches, at = [], 0
        for layers, size in zip(self.branches, self.split_sizes):
            branches.append(Branch(None, at, at + size, reader.items(layers, size)))
            at += size
        return self.finish_block(reader, widths, stem, branches)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "split": list(self.split_sizes)}


@keras.saving.register_keras_serializable(package="fusedsplit")
class MergeDense(FusedLayer):
    """`head(merge([branch_1(x_1), ..., branch_n(x_n)]))` as one layer.

    Called on one tensor, every branch sees all of it; called on a list, branch i sees tensor i.

    Example:

    >>> import numpy as np, fusedsplit as fs
    >>> from keras.layers import Dense
    >>> layer = fs.MergeDense([Dense(64, activation="relu"), Dense(64, activation="relu")], merge="add")
    >>> layer(np.ones((32, 10), "float32")).shape
    TensorShape([32, 64])

    Args:
        branches: a list; see `SplitDense`.
        merge: see `SplitDense`.
        head: see `SplitDense`.
        backend: see `SplitDense`.
        **kwargs: of `keras.layers.Layer`. `dtype` is that of the first branch.

    Input shape:
        `(batch_size, ..., input_dim)`, or a list (or dict, in the order of its sorted keys, as Keras flattens it) of
        such shapes that differ in the last dimension only.

    Output shape:
        `(batch_size, ..., units)`.

    Raises:
        ValueError: if a list of inputs is of another length than the branches, or the branch widths do not fit the
            merge.
    """

    def __init__(self, branches: Any, *, merge: Any = "concat", head: Any = None, backend: str = "auto", **kwargs: Any):
        super().__init__(None, branches, merge, head, backend, **kwargs)

    def build(self, input_shape: Any) -> None:
        self.takes_list = _has_several_shapes(input_shape)
        super().build(input_shape)

    def as_shapes(self, input_shape: Any) -> list[Shape]:
        if not _has_several_shapes(input_shape):
            return [checked_shape(self, input_shape)]
        if isinstance(input_shape, dict):
            input_shape = [input_shape[key] for key in sorted(input_shape)]
        shapes = [checked_shape(self, shape) for shape in input_shape]
        if len(shapes) != len(self.branches):
            raise ValueError(
                f"{self.name}: expected {len(self.branches)} inputs, one for each branch. Received: shapes {shapes}"
            )
        if len({shape[1:-1] for shape in shapes}) > 1:
            raise ValueError(f"{self.name}: expected inputs equal in all but the last axis. Received: shapes {shapes}")
        return shapes

    def source_shapes(self, shapes: list[Shape], stack: Callable[[list[Layer], Shape], Shape]) -> list[Shape]:
        return shapes if len(shapes) > 1 else shapes * len(self.branches)

    def branch_sources(self, unfused: Any, sources: list[Any]) -> list[Any]:
        return sources if len(sources) > 1 else sources * len(self.branches)

    def block(self, reader: SpecReader, widths: Sequence[int]) -> SplitSpec:
        branches = []
        for i, layers in enumerate(self.branches):
            source = i if len(widths) > 1 else 0
            branches.append(Branch(source, 0, widths[source], reader.items(layers, widths[source])))
        return self.finish_block(reader, widths, (), branches)


@keras.saving.register_keras_serializable(package="fusedsplit")
class DynamicSplitDense(FusedLayer):
    """A split whose point p depends on the data.

        h = stem(inputs)
        output = head(merge([left(h where column < p else 0), right(h where column >= p else 0)]))

    A masked feature counts as zero, so both branches have as many inputs as the stem has units. The compiled op skips
    the masked columns: left's product runs over p of them, right's over the others.

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
        return self.stem[-1].units

    def build(self, input_shape: Any) -> None:
        self.splitter.build_for(self._units, tuple(input_shape), self.compute_dtype)
        super().build(input_shape)

    def source_shapes(self, shapes: list[Shape], stack: Callable[[list[Layer], Shape], Shape]) -> list[Shape]:
        return [stack(self.stem, shapes[0])] * 2

    def branch_sources(self, unfused: Any, sources: list[Any]) -> list[Any]:
        x, h = sources[0], unfused.stack(self.stem, sources[0])
        if self.splitter.soft:
            mask = self.splitter(x, training=unfused.training)
        else:
            mask = unfused.apply(lambda t: self.splitter.mask(t, unfused.training), x)
        return [unfused.apply(lambda t: t[0] * t[1], [h, mask]), unfused.apply(lambda t: t[0] * (1 - t[1]), [h, mask])]

    def block(self, reader: SpecReader, widths: Sequence[int]) -> SplitSpec:
        stem = reader.items(self.stem, widths[0])
        sides = [self._side(reader, side, layers) for side, layers in zip(("leading", "trailing"), self.branches)]
        block = self.finish_block(reader, widths, stem, sides)
        return dataclasses.replace(block, points=int(any(branch.live for branch in sides)))

    def _side(self, reader: SpecReader, side: str, layers: list[Layer]) -> Branch:
        """One branch: its first product skips the masked columns, where it has one and the mask is hard."""
        if reader.training and self.splitter.soft:
            gated = self.splitter.gate is not None
            mask = reader.mask(("soft", side), self._units) if gated else Gain(reader.param(self, f"_soft_{side}"))
            return Branch(None, 0, self._units, (mask, *reader.items(layers, self._units)))
        items = reader.items(layers, self._units)
        if items and isinstance(items[0], DenseSpec):
            return Branch(None, 0, self._units, items, Live(0, side))
        return Branch(None, 0, self._units, (reader.mask(("hard", side), self._units), *items))

    @property
    def _soft_leading(self) -> Any:
        """The soft mask of a point that is one for all rows: a param of the plan, through which its gradient flows."""
        return self.splitter.soft_mask(None)

    @property
    def _soft_trailing(self) -> Any:
        return 1 - self.splitter.soft_mask(None)

    def prepare(self, inputs: list[Any], training: bool | None) -> dispatch.Prepared:
        prepared = super().prepare(inputs, training)
        if not prepared.spec.points:
            return prepared
        points = self.splitter.points(inputs[0])
        return prepared._replace(points=[dispatch.as_rows(points)])

    def mask(self, source: Any, width: int, x: Any) -> Any:
        if not isinstance(source, tuple):
            return super().mask(source, width, x)
        kind, side = source
        left = self.splitter.soft_mask(x) if kind == "soft" else self.splitter.mask(x, training=False)
        left = left * dispatch.ones_like_rows(x, width)
        return left if side == "leading" else 1 - left

    def get_config(self) -> dict[str, Any]:
        if self.splitter.soft:
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


def _has_several_shapes(input_shape: Any) -> bool:
    if isinstance(input_shape, dict):
        return True
    return isinstance(input_shape, (list, tuple)) and bool(input_shape) and isinstance(input_shape[0], (list, tuple))
