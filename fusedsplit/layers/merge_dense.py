"""MergeDense: every branch reads the whole input, or an input of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras.layers import Layer

from fusedsplit.layers.fused_layer import FusedLayer
from fusedsplit.layers.shapes import Shape, checked_shape
from fusedsplit.layers.spec import Branch, SplitSpec
from fusedsplit.layers.sublayers import SpecReader


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

    Call arguments:
        inputs: a tensor for every branch; or a list with one tensor for each branch, or a dict of them, equal in all
            but the last dimension.
        training: see `SplitDense`.
        mask: see `SplitDense`. Of several inputs, the mask of the first is passed on.

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


def _has_several_shapes(input_shape: Any) -> bool:
    if isinstance(input_shape, dict):
        return True
    return isinstance(input_shape, (list, tuple)) and bool(input_shape) and isinstance(input_shape[0], (list, tuple))
