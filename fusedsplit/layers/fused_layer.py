"""What the fused layers have in common: owning sub-layers, building them, config, and going through `dispatch`."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
from keras.layers import Dense, Layer

from fusedsplit import dispatch, merges
from fusedsplit.merges import NamedMerge
from fusedsplit.spec import Branch, CallableMerge, SplitSpec
from fusedsplit.sublayers import (
    BRANCH_LAYERS,
    SpecReader,
    as_stack,
    check_serializable,
    dynamic_reasons,
    is_fused,
    static_reasons,
)

# A shape, or one for each input.
Shape = tuple[int | None, ...]


@dataclasses.dataclass(frozen=True)
class _Structure:
    """Which of the flat list of sub-layers stand where."""

    stem: tuple[int, ...]
    branches: tuple[tuple[int, ...], ...]
    head: tuple[int, ...]


class FusedLayer(Layer):
    """Base class of `SplitDense`, `MergeDense` and `DynamicSplitDense`."""

    # Whether the layer was built for a list of inputs.
    takes_list = False

    def __init__(self, stem: Any, branches: Any, merge: Any, head: Any, backend: str, **kwargs: Any):
        if not isinstance(branches, (list, tuple)) or not branches:
            raise ValueError(f"`branches`: expected a list of at least one branch. Received: {branches!r}")
        merge_function = merges.get(merge)
        if merge is None and head is not None:
            raise ValueError("`head`: expected None where merge=None gives several outputs. Received: a head")
        stacks = [as_stack("stem", stem, (Dense,))]
        stacks += [as_stack(f"branches[{i}]", b, (*BRANCH_LAYERS, FusedLayer)) for i, b in enumerate(branches)]
        stacks += [as_stack("head", head, (Dense,))]
        flat: list[Layer] = []
        indices = [tuple(_index(flat, layer) for layer in stack) for stack in stacks]
        if flat:
            kwargs.setdefault("dtype", flat[0].dtype_policy)
        super().__init__(**kwargs)
        _check_policy(self, flat)
        self.supports_masking = True
        self.backend = dispatch.check_name(backend)
        # One flat list, because Keras up to 3.12 does not save a list inside a list.
        self._sublayers = flat
        self._structure = _Structure(indices[0], tuple(indices[1:-1]), indices[-1])
        # In a box that Keras does not look into: a merge that is a layer is a function here, not a part.
        self._merge = _Box(merge_function)
        self._specs: dict[bool, SplitSpec] = {}
        self._readers: dict[bool, SpecReader] = {}
        self._static_reasons: list[str] = []
        # Whether a call on one tensor depends on nothing but the tensor and the weights.
        self._plain = False
        self._width = 0

    # Sub-layers.

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
    def merge_function(self) -> NamedMerge | Callable[[list[Any]], Any] | None:
        """A merge of `fusedsplit.merges`, a callable on the list of branch outputs, or None."""
        return self._merge.content

    def branch_sources(self, unfused: Any, sources: list[Any]) -> list[Any]:
        """What each branch reads, by an unfused computation (of `backends/reference.py`)."""
        raise NotImplementedError

    # What is computed.

    @property
    def spec(self) -> SplitSpec:
        """What the layer computes at inference.

        Raises:
            ValueError: if the layer is not built, or can only be computed by its sub-layers themselves.
        """
        return self.spec_for(training=False)

    def spec_for(self, training: bool | None) -> SplitSpec:
        """`spec`, or what the layer computes while training, where a mask for each Dropout is one more input."""
        if not self.built:
            raise ValueError(f"expected a built layer, whose input sizes are known. Received: {self.name!r}, not built")
        if not self._specs:
            raise ValueError(f"{self.name!r} has no spec: " + "; ".join(self._static_reasons))
        return self._specs[bool(training)]

    @property
    def params(self) -> list[Any]:
        """The weights in the order of `spec.params`: tf.Variables, or computed tensors (LoRA), read at each access."""
        return self.params_for(training=False)

    def params_for(self, training: bool | None) -> list[Any]:
        """`params`, or what takes their place while training."""
        return [_tensor(getattr(layer, name)) for layer, name in self._readers[bool(training)].weights]

    def unfusable_reasons(self) -> list[str]:
        """Why a call now must go through the sub-layers themselves; empty if it need not."""
        return self._static_reasons + dynamic_reasons(self._sublayers)

    def nested_reasons(self, dtype: str) -> list[str]:
        """Why the layer cannot be a part of another one's plan."""
        reasons = [r for layer in self._sublayers for r in static_reasons(layer, dtype)]
        if not isinstance(self.merge_function, NamedMerge):
            reasons.append(f"{type(self).__name__} {self.name!r} has a merge that is no plan step")
        return reasons

    def prepare(self, inputs: list[Any], training: bool | None) -> dispatch.Prepared:
        """The spec of a call, and all tensors that it is computed from."""
        masks = [self.mask(source, width, inputs[0]) for source, width in self._readers[bool(training)].masks]
        return dispatch.Prepared(self.spec_for(training), [*inputs, *masks], self.params_for(training), [])

    def mask(self, source: Any, width: int, x: Any) -> Any:
        """A mask of the training spec: Keras' own Dropout on ones, so that the same numbers are drawn."""
        return source(dispatch.ones_like_rows(x, width), training=True)

    def block(self, reader: SpecReader, widths: Sequence[int]) -> SplitSpec:
        """The layer as a spec without params of its own: those of `reader`."""
        raise NotImplementedError

    def finish_block(
        self, reader: SpecReader, widths: Sequence[int], stem: tuple, branches: Sequence[Branch]
    ) -> SplitSpec:
        """A spec from its stem and branches: what comes after them is the same for every layer."""
        how = self.merge_function
        part_widths = [branch.width for branch in branches]
        if how is None:
            return SplitSpec(tuple(widths), (), stem, tuple(branches), None, ())
        if not isinstance(how, NamedMerge):
            how = CallableMerge(how, _callable_width(how, part_widths, self.compute_dtype))
        head = reader.items(self.head, how.output_width(part_widths, widths[0]))
        return SplitSpec(tuple(widths), (), stem, tuple(branches), how, head)

    # Building.

    def as_shapes(self, input_shape: Any) -> list[Shape]:
        """The shape of each input, checked."""
        return [checked_shape(self, input_shape)]

    def build(self, input_shape: Any) -> None:
        shapes = self.as_shapes(input_shape)
        self.input_shapes = tuple(shapes)
        self._walk(shapes, _build_stack)
        widths = [shape[-1] for shape in shapes]
        self._static_reasons = [r for layer in self._sublayers for r in static_reasons(layer, self.compute_dtype)]
        if not self._static_reasons:
            for training in (False, True):
                reader = SpecReader(len(widths), training)
                block = self.block(reader, widths)
                inputs = (*widths, *(width for _, width in reader.masks))
                self._specs[training] = dataclasses.replace(block, inputs=inputs, params=reader.shapes)
                self._readers[training] = reader
        self._plain = (
            bool(self._specs)
            and self._specs[False] == self._specs[True]
            and len(self._specs[False].inputs) == 1
            and not self._specs[False].points
        )
        self._width = widths[0]
        specs = [keras.layers.InputSpec(min_ndim=2, axes={-1: width}) for width in widths]
        self.input_spec = specs if self.takes_list else specs[0]

    def source_shapes(self, shapes: list[Shape], stack: Callable[[list[Layer], Shape], Shape]) -> list[Shape]:
        """The shape of what each branch reads; `stack` gives the shape behind a stack of layers, building them."""
        raise NotImplementedError

    def _walk(self, shapes: list[Shape], stack: Callable[[list[Layer], Shape], Shape]) -> Any:
        """The output shape or shapes, stack by stack."""
        sources = self.source_shapes(shapes, stack)
        outs = [stack(branch, shape) for branch, shape in zip(self.branches, sources)]
        how = self.merge_function
        if how is None:
            return outs
        widths = [out[-1] for out in outs]
        if isinstance(how, NamedMerge):
            width = how.output_width(widths, shapes[0][-1])
        else:
            width = _callable_width(how, widths, self.compute_dtype)
        return stack(self.head, (*outs[0][:-1], width))

    # Calling.

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if len(args) == 1 and not kwargs and self._plain:
            output = dispatch.call_layer_eagerly(self, args[0])
            if output is not None:
                return output
        return super().__call__(*args, **kwargs)

    def takes_tensor(self, shape: Any) -> bool:
        """Whether `input_spec` allows one tensor of that shape."""
        return len(shape) >= 2 and shape[-1] == self._width

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        return dispatch.call_layer(self, inputs, training)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return self._walk(self.as_shapes(input_shape), _stack_shape)

    def compute_output_spec(self, inputs: Any, training: bool | None = None) -> Any:
        shape = self.compute_output_shape(keras.tree.map_structure(lambda x: tuple(x.shape), inputs))
        if self.merge_function is None:
            return [keras.KerasTensor(s, dtype=self.compute_dtype) for s in shape]
        return keras.KerasTensor(shape, dtype=self.compute_dtype)

    # Config.

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        config.update(
            sublayers=[_serialize(layer) for layer in self._sublayers],
            stem=list(self._structure.stem),
            branches=[list(branch) for branch in self._structure.branches],
            head=list(self._structure.head),
            merge=_serialize_merge(self.merge_function),
            backend=self.backend,
        )
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> FusedLayer:
        config = dict(config)
        flat = [_deserialize(layer) for layer in config.pop("sublayers")]
        for part in ("stem", "head"):
            stack = [flat[i] for i in config.pop(part)]
            if stack:
                config[part] = stack
        config["branches"] = [[flat[i] for i in branch] or None for branch in config["branches"]]
        merge = config["merge"]
        if isinstance(merge, dict) and "merge" not in merge:
            config["merge"] = keras.saving.deserialize_keras_object(merge)
        return cls.from_parts(config)

    @classmethod
    def from_parts(cls, config: dict[str, Any]) -> FusedLayer:
        """The layer from a config whose sub-layers are made again."""
        return cls(**config)


@dataclasses.dataclass(frozen=True)
class _Box:
    content: Any


def _index(flat: list[Layer], layer: Layer) -> int:
    """The place of `layer` in the flat list, where it is added if it is new."""
    for i, known in enumerate(flat):
        if known is layer:
            return i
    flat.append(layer)
    return len(flat) - 1


def _check_policy(layer: Layer, flat: list[Layer]) -> None:
    """An explicit dtype could only repeat what the sub-layers say."""
    if flat and layer.dtype_policy.name != flat[0].dtype_policy.name:
        raise ValueError(
            f"`dtype`: expected the policy of the first sub-layer, {flat[0].dtype_policy.name!r} "
            f"(set it there). Received: dtype={layer.dtype_policy.name!r}"
        )


def _tensor(weight: Any) -> Any:
    return weight.value if isinstance(weight, keras.Variable) else weight


def _serialize(layer: Layer) -> dict[str, Any]:
    if not is_fused(layer):
        check_serializable(layer)
    serialized = keras.saving.serialize_keras_object(layer)
    # The layer builds its sub-layers itself; a sub-layer that is rebuilt first would add state to a locked one.
    serialized.pop("build_config", None)
    return serialized


def _deserialize(serialized: dict[str, Any]) -> Layer:
    config = dict(serialized["config"])
    if isinstance(config.get("activation"), dict):
        # Keras up to 3.5 cannot read an activation that is a layer back by itself.
        config["activation"] = keras.saving.deserialize_keras_object(config["activation"])
    return keras.saving.deserialize_keras_object({**serialized, "config": config})


def _serialize_merge(merge: Any) -> Any:
    if merge is None:
        return None
    if isinstance(merge, merges.Concat):
        return "concat"
    if isinstance(merge, merges.Elementwise):
        return merge.name
    if isinstance(merge, NamedMerge):
        return merge.get_config()
    return serialize_function("merge", merge)


def serialize_function(what: str, function: Any) -> Any:
    """The config of a function that can be loaded again.

    Raises:
        ValueError: if it is not registered with Keras.
    """
    if not isinstance(function, Layer):
        registered = keras.saving.get_registered_object(keras.saving.get_registered_name(function))
        if registered is not function:
            raise ValueError(
                f"`{what}`: expected a function registered with @keras.saving.register_keras_serializable(), so that "
                f"it can be loaded. Received: {what}={function!r}"
            )
    return keras.saving.serialize_keras_object(function)


@functools.lru_cache(maxsize=256)
def _callable_width_cached(merge: Callable, widths: tuple[int, ...], dtype: str) -> int:
    parts = [keras.KerasTensor((None, width), dtype=dtype) for width in widths]
    merged = keras.layers.Lambda(merge).compute_output_spec(parts)
    shape = getattr(merged, "shape", None)
    if shape is None or len(shape) < 2 or shape[-1] is None:
        raise ValueError(
            f"`merge`: expected a callable that gives one tensor of shape (batch, ..., width). Received: {merged!r} "
            f"from branch outputs of widths {list(widths)}"
        )
    return shape[-1]


def _callable_width(merge: Callable, widths: Sequence[int], dtype: str) -> int:
    """The width of what a callable merge gives, found by tracing it."""
    return _callable_width_cached(merge, tuple(widths), dtype)


def checked_shape(layer: Layer, shape: Iterable) -> Shape:
    """`shape`, if it is one that a fused layer can be built for."""
    shape = tuple(shape)
    if len(shape) < 2:
        raise ValueError(f"{layer.name}: expected an input of rank 2 or more. Received: shape {shape}")
    if shape[-1] is None:
        raise ValueError(f"{layer.name}: expected an input whose last dimension is known. Received: shape {shape}")
    return shape


def _build_stack(layers: list[Layer], shape: Shape) -> Shape:
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


def _stack_shape(layers: list[Layer], shape: Shape) -> Shape:
    for layer in layers:
        shape = _one_shape(layer, layer.compute_output_shape(shape))
    return shape


def _one_shape(layer: Layer, shape: Any) -> Shape:
    if isinstance(shape, list):
        raise ValueError(f"{layer.name!r}: expected a part with one output. Received: outputs of shapes {shape}")
    return tuple(shape)
