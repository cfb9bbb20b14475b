"""SplitDense and MergeDense: sub-layers, config, call; no arithmetic."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import keras
from keras.layers import Dense, Layer

from fusedsplit import config as settings
from fusedsplit import dispatch
from fusedsplit.lower import lower
from fusedsplit.plan import Plan
from fusedsplit.spec import MERGES, Branch, SplitSpec, split_sizes
from fusedsplit.sublayers import (
    BRANCH_LAYERS,
    as_stack,
    check_serializable,
    dynamic_reasons,
    items_of,
    static_reasons,
)


@dataclasses.dataclass(frozen=True)
class _Structure:
    """Which of the flat list of sub-layers stand where."""

    stem: tuple[int, ...]
    branches: tuple[tuple[int, ...], ...]
    head: tuple[int, ...]


class FusedLayer(Layer):
    """What the fused layers have in common: owning sub-layers, building them, and going through `dispatch`."""

    def __init__(self, stem: Any, branches: Any, merge: Any, head: Any, backend: str, **kwargs: Any):
        if not isinstance(branches, (list, tuple)) or not branches:
            raise ValueError(f"`branches`: expected a list of at least one branch. Received: {branches!r}")
        if merge is not None and merge not in MERGES:
            raise ValueError(f"`merge`: expected one of {MERGES}, or None. Received: merge={merge!r}")
        if merge is None and head is not None:
            raise ValueError("`head`: expected None where merge=None gives several outputs. Received: a head")
        if backend not in ("auto", *settings.BACKENDS):
            raise ValueError(f"`backend`: expected 'auto' or one of {settings.BACKENDS}. Received: {backend!r}")
        stacks = [as_stack("stem", stem, (Dense,))]
        stacks += [as_stack(f"branches[{i}]", branch, BRANCH_LAYERS) for i, branch in enumerate(branches)]
        stacks += [as_stack("head", head, (Dense,))]
        flat: list[Layer] = []
        indices = [tuple(_index(flat, layer) for layer in stack) for stack in stacks]
        kwargs.setdefault("dtype", self._default_policy(flat))
        super().__init__(**kwargs)
        self._check_policy(flat)
        self.supports_masking = True
        self.backend = backend
        self.merge = merge
        # One flat list, because Keras up to 3.12 does not save a list inside a list.
        self._sublayers = flat
        self._structure = _Structure(indices[0], tuple(indices[1:-1]), indices[-1])
        self._spec: SplitSpec | None = None
        self._static_reasons: list[str] = []

    @staticmethod
    def _default_policy(flat: list[Layer]) -> Any:
        return flat[0].dtype_policy if flat else None

    def _check_policy(self, flat: list[Layer]) -> None:
        """An explicit dtype could only repeat what the sub-layers say."""
        if flat and self.dtype_policy.name != flat[0].dtype_policy.name:
            raise ValueError(
                f"`dtype`: expected the policy of the first sub-layer, {flat[0].dtype_policy.name!r} "
                f"(set it there). Received: dtype={self.dtype_policy.name!r}"
            )

    @property
    def sublayers(self) -> list[Layer]:
        """Every sub-layer once, in weight order."""
        return list(self._sublayers)

    @property
    def stem(self) -> list[Layer]:
        return [self._sublayers[i] for i in self._structure.stem]

    @property
    def branches(self) -> list[list[Layer]]:
        return [[self._sublayers[i] for i in branch] for branch in self._structure.branches]

    @property
    def head(self) -> list[Layer]:
        return [self._sublayers[i] for i in self._structure.head]

    @property
    def spec(self) -> SplitSpec:
        """What the layer computes.

        Raises:
            ValueError: if the layer is not built, or can only be computed by its sub-layers themselves.
        """
        if not self.built:
            raise ValueError(f"expected a built layer, whose input sizes are known. Received: {self.name!r}, not built")
        if self._spec is None:
            raise ValueError(f"{self.name!r} has no spec: " + "; ".join(self._static_reasons))
        return self._spec

    @property
    def plan(self) -> Plan:
        """The plan of `spec`, with the logits of a last sigmoid or softmax as a second output."""
        return lower(self.spec, logits=self.spec.has_logits)

    @property
    def params(self) -> list[Any]:
        """The weights in the order of `spec.params`: tf.Variables, or computed tensors (LoRA), read at each access."""
        return [_tensor(getattr(layer, name)) for layer, name in self._weights]

    def unfusable_reasons(self, training: bool | None = None) -> list[str]:
        """Why a call now must go through the sub-layers themselves; empty if it need not."""
        return self._static_reasons + dynamic_reasons(self._sublayers, training)

    def build(self, input_shape: Any) -> None:
        shapes = self._as_shapes(input_shape)
        self.input_shapes = tuple(shapes)
        sources = shapes
        if self.stem:
            out = _build_stack(self.stem, shapes[0])
            sources = [(*out[:-1], size) for size in self.split_sizes]
        elif len(shapes) == 1:
            sources = shapes * len(self.branches)
        outs = [_build_stack(branch, shape) for branch, shape in zip(self.branches, sources)]
        self._check_merge([out[-1] for out in outs])
        if self.head:
            _build_stack(self.head, self._merged_shape(outs))
        self._read_spec([shape[-1] for shape in shapes], [shape[-1] for shape in sources])
        specs = [keras.layers.InputSpec(min_ndim=2, axes={-1: shape[-1]}) for shape in shapes]
        self.input_spec = specs if self.takes_list else specs[0]

    def _check_merge(self, widths: list[int]) -> None:
        if self.merge not in (None, "concat") and len(set(widths)) > 1:
            raise ValueError(f"merge={self.merge!r}: expected branch outputs of one width. Received: widths {widths}")

    def _merged_shape(self, outs: list[tuple]) -> tuple:
        width = sum(out[-1] for out in outs) if self.merge == "concat" else outs[0][-1]
        return (*outs[0][:-1], width)

    def _read_spec(self, input_widths: list[int], source_widths: list[int]) -> None:
        self._static_reasons = [
            reason for layer in self._sublayers for reason in static_reasons(layer, self.compute_dtype)
        ]
        self._weights: list[tuple[Layer, str]] = []
        if self._static_reasons:
            return
        weights: list[tuple[Layer, str]] = []

        def weight_index(weight: tuple[Layer, str]) -> int:
            for i, (layer, name) in enumerate(weights):
                if layer is weight[0] and name == weight[1]:
                    return i
            weights.append(weight)
            return len(weights) - 1

        stem = items_of(self.stem, weight_index)
        branches = []
        for i, branch in enumerate(self.branches):
            width = source_widths[i]
            source, start = (None, sum(source_widths[:i])) if self.stem else (i if self.takes_list else 0, 0)
            branches.append(Branch(source, start, start + width, items_of(branch, weight_index)))
        head = items_of(self.head, weight_index)
        shapes = tuple(tuple(getattr(layer, name).shape) for layer, name in weights)
        self._spec = SplitSpec(tuple(input_widths), shapes, stem, tuple(branches), self.merge, head)
        self._weights = weights

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        return dispatch.call_layer(self, inputs, training)

    def compute_output_shape(self, input_shape: Any) -> Any:
        shapes = self._as_shapes(input_shape)
        sources = shapes
        if self.stem:
            out = _stack_shape(self.stem, shapes[0])
            sources = [(*out[:-1], size) for size in self.split_sizes]
        elif len(shapes) == 1:
            sources = shapes * len(self.branches)
        outs = [_stack_shape(branch, shape) for branch, shape in zip(self.branches, sources)]
        if self.merge is None:
            return outs
        return _stack_shape(self.head, self._merged_shape(outs))

    def compute_output_spec(self, inputs: Any, training: bool | None = None) -> Any:
        shape = self.compute_output_shape(keras.tree.map_structure(lambda x: tuple(x.shape), inputs))
        if self.merge is None:
            return [keras.KerasTensor(s, dtype=self.compute_dtype) for s in shape]
        return keras.KerasTensor(shape, dtype=self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        config.update(
            sublayers=[_serialize(layer) for layer in self._sublayers],
            stem=list(self._structure.stem),
            branches=[list(branch) for branch in self._structure.branches],
            head=list(self._structure.head),
            merge=self.merge,
            backend=self.backend,
        )
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> FusedLayer:
        config = dict(config)
        flat = [keras.saving.deserialize_keras_object(layer) for layer in config.pop("sublayers")]
        for part in ("stem", "head"):
            stack = [flat[i] for i in config.pop(part)]
            if stack:
                config[part] = stack
        config["branches"] = [[flat[i] for i in branch] or None for branch in config["branches"]]
        return cls(**config)

    # What the subclasses say of their inputs.
    takes_list: bool = False
    split_sizes: tuple[int, ...] = ()

    def _as_shapes(self, input_shape: Any) -> list[tuple]:
        """The shape of each input, checked."""
        raise NotImplementedError


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

    Args:
        stem: a `keras.layers.Dense`, or a list of them applied in turn.
        branches: a list; each branch is a Dense, a list of Dense / Activation / Dropout layers, an activation layer,
            or None (the slice unchanged).
        split: the sizes of the slices along the last axis, as in `tf.split`; an int n for n equal parts; None for
            equal parts.
        merge: "concat", "add", "subtract" (the first minus the others), "multiply", "average", "maximum", "minimum",
            or None for a list of the branch outputs.
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
        split: Any = None,
        merge: str | None = "concat",
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

    def _as_shapes(self, input_shape: Any) -> list[tuple]:
        return [_checked_shape(self, input_shape)]

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
        `(batch_size, ..., input_dim)`, or a list of such shapes that differ in the last dimension only.

    Output shape:
        `(batch_size, ..., units)`.

    Raises:
        ValueError: if a list of inputs is of another length than the branches, or the branch widths do not fit the
            merge.
    """

    def __init__(
        self,
        branches: Any,
        *,
        merge: str | None = "concat",
        head: Any = None,
        backend: str = "auto",
        **kwargs: Any,
    ):
        super().__init__(None, branches, merge, head, backend, **kwargs)

    def build(self, input_shape: Any) -> None:
        self.takes_list = _is_list_of_shapes(input_shape)
        super().build(input_shape)

    def _as_shapes(self, input_shape: Any) -> list[tuple]:
        if not _is_list_of_shapes(input_shape):
            return [_checked_shape(self, input_shape)]
        shapes = [_checked_shape(self, shape) for shape in input_shape]
        if len(shapes) != len(self.branches):
            raise ValueError(
                f"{self.name}: expected {len(self.branches)} inputs, one for each branch. Received: shapes {shapes}"
            )
        if len({shape[1:-1] for shape in shapes}) > 1:
            raise ValueError(f"{self.name}: expected inputs equal in all but the last axis. Received: shapes {shapes}")
        return shapes


def _index(flat: list[Layer], layer: Layer) -> int:
    """The place of `layer` in the flat list, where it is added if it is new."""
    for i, known in enumerate(flat):
        if known is layer:
            return i
    flat.append(layer)
    return len(flat) - 1


def _tensor(weight: Any) -> Any:
    return weight.value if isinstance(weight, keras.Variable) else weight


def _serialize(layer: Layer) -> dict[str, Any]:
    check_serializable(layer)
    serialized = keras.saving.serialize_keras_object(layer)
    # The layer builds its sub-layers itself; a sub-layer that is rebuilt first would add state to a locked one.
    serialized.pop("build_config", None)
    return serialized


def _is_list_of_shapes(input_shape: Any) -> bool:
    return isinstance(input_shape, (list, tuple)) and bool(input_shape) and isinstance(input_shape[0], (list, tuple))


def _checked_shape(layer: Layer, shape: Iterable) -> tuple:
    shape = tuple(shape)
    if len(shape) < 2:
        raise ValueError(f"{layer.name}: expected an input of rank 2 or more. Received: shape {shape}")
    if shape[-1] is None:
        raise ValueError(f"{layer.name}: expected an input whose last dimension is known. Received: shape {shape}")
    return shape


def _build_stack(layers: list[Layer], shape: tuple) -> tuple:
    for layer in layers:
        if not layer.built:
            layer.build(shape)
        elif isinstance(layer, Dense) and layer.kernel.shape[0] != shape[-1]:
            raise ValueError(
                f"Dense {layer.name!r}: expected a kernel for inputs of width {shape[-1]}. "
                f"Received: a built one of shape {tuple(layer.kernel.shape)}"
            )
        shape = tuple(layer.compute_output_shape(shape))
    return shape


def _stack_shape(layers: list[Layer], shape: tuple) -> tuple:
    for layer in layers:
        shape = tuple(layer.compute_output_shape(shape))
    return shape
