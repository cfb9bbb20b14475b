"""What the fused layers have in common: owning sub-layers, building them, config, and going through `dispatch`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras.layers import Dense, Layer

from fusedsplit.backends import dispatch
from fusedsplit.layers import merges
from fusedsplit.layers._keras_private import has_losses, in_no_scope, is_rematerialized
from fusedsplit.layers.computation import LayerComputation, UnfusedComputation, ones_like_rows
from fusedsplit.layers.merges import MergeFunction, NamedMerge
from fusedsplit.layers.serialization import deserialize, serialize, serialize_merge
from fusedsplit.layers.shapes import Shape, build_stack, callable_width, checked_shape, stack_shape, width
from fusedsplit.layers.spec import Branch, CallableMerge, Item, SplitSpec
from fusedsplit.layers.sublayers import BRANCH_LAYERS, SpecReader, as_stack, static_reasons


@dataclasses.dataclass(frozen=True)
class _Structure:
    """Which of the flat list of sub-layers stand where."""

    stem: tuple[int, ...]
    branches: tuple[tuple[int, ...], ...]
    head: tuple[int, ...]


class FusedLayer(Layer):
    """Base class of `SplitDense`, `MergeDense` and `DynamicSplitDense`.

    Attributes:
        backend: what computes the layer, see `SplitDense`.
        backend_is_loaded: whether that comes from a config: such a choice was made elsewhere, and gives way, with the
            warning, where it cannot run. One that is made in code never does.
    """

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
        self.backend = backend
        # One flat list, because Keras up to 3.12 does not save a list inside a list.
        self._sublayers = flat
        self._structure = _Structure(indices[0], tuple(indices[1:-1]), indices[-1])
        # In a box that Keras does not look into: a merge that is a layer is a function here, not a part.
        self._merge = _Box(merge_function)
        self._merge_widths: dict[tuple[int, ...], int] = {}
        # By whether they are for training.
        self._computations: dict[bool, LayerComputation | UnfusedComputation] = {}
        # What a call on one tensor computes, where that depends on nothing but the tensor and the weights, as far as
        # `build` knows.
        self._plain: LayerComputation | None = None
        self._width = 0
        self._built_policy: Any = None
        self._built_input_spec: Any = None

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "backend":  # said in code, be it what a config said already, over which Keras would pass
            dispatch.check_name(value)
            self.backend_is_loaded = False
        super().__setattr__(name, value)

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
    def merge_function(self) -> NamedMerge | MergeFunction | None:
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
        return self.computation(training).spec

    @property
    def params(self) -> list[Any]:
        """The weights in the order of `spec.params`: tf.Variables, or computed tensors (LoRA), read at each access."""
        return self.computation().params()

    def computation(self, training: bool | None = False) -> LayerComputation | UnfusedComputation:
        """What the layer hands to dispatch, at inference or while training.

        Raises:
            ValueError: if the layer is not built.
        """
        if not self.built:
            raise ValueError(f"expected a built layer, whose input sizes are known. Received: {self.name!r}, not built")
        return self._computations[bool(training)]

    def unfusable_reasons(self) -> list[str]:
        """Why a call now must go through the sub-layers themselves; empty if it need not."""
        return self.computation().unfusable_reasons()

    def nested_reasons(self, dtype: str) -> list[str]:
        """Why the layer cannot be a part of another one's plan."""
        reasons = [r for layer in self._sublayers for r in static_reasons(layer, dtype)]
        if not isinstance(self.merge_function, NamedMerge):
            reasons.append(f"{type(self).__name__} {self.name!r} has a merge that is no plan step")
        return reasons

    def mask(self, source: Any, width: int, x: Any) -> Any:
        """A mask of the training spec: Keras' own Dropout on ones, so that the same numbers are drawn."""
        return source(ones_like_rows(x, width), training=True)

    def points(self, x: Any) -> Any:
        """Where a spec with points splits, given the layer's (first) input."""
        raise NotImplementedError

    def block(self, reader: SpecReader, widths: Sequence[int]) -> SplitSpec:
        """The layer as a spec without params of its own: those of `reader`."""
        raise NotImplementedError

    def finish_block(
        self, reader: SpecReader, widths: Sequence[int], stem: tuple[Item, ...], branches: Sequence[Branch]
    ) -> SplitSpec:
        """A spec from its stem and branches: what comes after them is the same for every layer."""
        how = self.merge_function
        part_widths = [branch.width for branch in branches]
        if how is None:
            return SplitSpec(tuple(widths), (), stem, tuple(branches), None, ())
        if isinstance(how, NamedMerge):
            merge: NamedMerge | CallableMerge = how
        else:
            merge = CallableMerge(how, self._callable_width(how, part_widths))
        head = reader.items(self.head, merge.output_width(part_widths, widths[0]))
        return SplitSpec(tuple(widths), (), stem, tuple(branches), merge, head)

    # Building.

    def as_shapes(self, input_shape: Any) -> list[Shape]:
        """The shape of each input, checked."""
        return [checked_shape(self, input_shape)]

    def build(self, input_shape: Any) -> None:
        shapes = self.as_shapes(input_shape)
        self.input_shapes = tuple(shapes)
        self._walk(shapes, build_stack)
        widths = [width(shape) for shape in shapes]
        reasons = [r for layer in self._sublayers for r in static_reasons(layer, self.compute_dtype)]
        for training in (False, True):
            self._computations[training] = self._make_computation(widths, reasons, training)
        self._plain = self._plain_computation()
        self._width = widths[0]
        self._built_policy = self.dtype_policy
        specs = [keras.layers.InputSpec(min_ndim=2, axes={-1: w}) for w in widths]
        self._built_input_spec = self.input_spec = specs if self.takes_list else specs[0]

    def _make_computation(
        self, widths: Sequence[int], reasons: Sequence[str], training: bool
    ) -> LayerComputation | UnfusedComputation:
        if reasons:
            return UnfusedComputation(self, reasons, training)
        reader = SpecReader(len(widths), training)
        block = self.block(reader, widths)
        inputs = (*widths, *(mask_width for _, mask_width in reader.masks))
        spec = dataclasses.replace(block, inputs=inputs, params=reader.shapes)
        return LayerComputation(self, spec, reader, training)

    def _plain_computation(self) -> LayerComputation | None:
        """What is computed from one tensor and the weights alone, training or not, as one plan; None if nothing is."""
        inference, training = self._computations[False], self._computations[True]
        if not isinstance(inference, LayerComputation) or not inference.is_one_plan:
            return None
        if is_rematerialized(self) or type(self).compute_mask is not Layer.compute_mask:
            return None
        spec = inference.spec
        return inference if spec == training.spec and len(spec.inputs) == 1 and not spec.points else None

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
        widths = [width(out) for out in outs]
        if isinstance(how, NamedMerge):
            merged = how.output_width(widths, width(shapes[0]))
        else:
            merged = self._callable_width(how, widths)
        return stack(self.head, (*outs[0][:-1], merged))

    def _callable_width(self, merge: MergeFunction, widths: Sequence[int]) -> int:
        key = tuple(widths)
        if key not in self._merge_widths:
            self._merge_widths[key] = callable_width(merge, widths, self.compute_dtype)
        return self._merge_widths[key]

    # Calling.

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if len(args) == 1 and not kwargs and self._plain is not None and self._is_plain_still():
            outputs = self._call_eagerly(self._plain, args[0])
            if outputs is not None:
                return outputs if self.merge_function is None else outputs[0]
        return super().__call__(*args, **kwargs)

    def _is_plain_still(self) -> bool:
        """Whether nothing that Keras does around a call is needed, as far as it may change after `build`."""
        return (
            getattr(self.call, "__func__", None) is _call
            and self.activity_regularizer is None
            and self.dtype_policy is self._built_policy
            and self.input_spec is self._built_input_spec
            and not has_losses(self)
            and in_no_scope()
        )

    def _call_eagerly(self, computation: LayerComputation, x: Any) -> list[Any] | None:
        """The outputs for a plain tensor, without what Keras does around a call; None where that may be needed."""
        if not dispatch.is_eager_tensor(x) or len(x.shape) < 2 or x.shape[-1] != self._width:
            return None
        params = computation.plain_params()
        return None if params is None else dispatch.call_eagerly(computation, x, params, self.backend)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        computation, inputs = self.computation(training), keras.tree.flatten(inputs)
        outputs = dispatch.call(computation, inputs, self.backend, loaded=self.backend_is_loaded)
        return outputs if self.merge_function is None else outputs[0]

    def compute_output_shape(self, input_shape: Any) -> Any:
        return self._walk(self.as_shapes(input_shape), stack_shape)

    def compute_output_spec(self, inputs: Any, training: bool | None = None) -> Any:
        shape = self.compute_output_shape(keras.tree.map_structure(lambda x: tuple(x.shape), inputs))
        if self.merge_function is None:
            return [keras.KerasTensor(s, dtype=self.compute_dtype) for s in shape]
        return keras.KerasTensor(shape, dtype=self.compute_dtype)

    # Config.

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        config.update(
            sublayers=[serialize(layer) for layer in self._sublayers],
            stem=list(self._structure.stem),
            branches=[list(branch) for branch in self._structure.branches],
            head=list(self._structure.head),
            merge=serialize_merge(self.merge_function),
            backend=self.backend,
        )
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> FusedLayer:
        config = dict(config)
        flat = [deserialize(layer) for layer in config.pop("sublayers")]
        for part in ("stem", "head"):
            stack = [flat[i] for i in config.pop(part)]
            if stack:
                config[part] = stack
        config["branches"] = [[flat[i] for i in branch] or None for branch in config["branches"]]
        merge = config["merge"]
        if isinstance(merge, dict) and "merge" not in merge:
            config["merge"] = keras.saving.deserialize_keras_object(merge)
        layer = cls.from_parts(config)
        layer.backend_is_loaded = True
        return layer

    @classmethod
    def from_parts(cls, config: dict[str, Any]) -> FusedLayer:
        """The layer from a config whose sub-layers are made again."""
        return cls(**config)


_call = FusedLayer.call  # a subclass, an instance or a test may have another one


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
