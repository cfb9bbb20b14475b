"""SplitDense: the stem's output is cut, and each branch takes a slice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras.layers import Layer

from fusedsplit.layers.fused_layer import FusedLayer
from fusedsplit.layers.shapes import Shape
from fusedsplit.layers.spec import Branch, SplitSpec, split_sizes
from fusedsplit.layers.sublayers import SpecReader


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

    Call arguments:
        inputs: a tensor of rank 2 or more; integers are cast as `Dense` casts them.
        training: whether Dropout layers are active. Where it is not given it is that of the model around the layer:
            True in `fit`, False in `evaluate` and `predict`; and False without one.
        mask: not an argument, as with `Dense`. The mask that the inputs carry is passed on with the output; with
            merge=None, with the first of them.

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
