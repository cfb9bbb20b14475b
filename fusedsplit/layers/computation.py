"""What a spec, or a layer, hands to dispatch: see `Computation` in `backends/base.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import keras
import tensorflow as tf

from fusedsplit.backends.base import Operands, Run
from fusedsplit.layers import magnitude, reference
from fusedsplit.layers._keras_private import KeptVariables, in_no_scope, tensor_of
from fusedsplit.layers.lower import lower
from fusedsplit.layers.spec import CallableMerge, SplitSpec
from fusedsplit.layers.sublayers import SpecReader, all_sublayers, dynamic_reasons
from fusedsplit.plan import Plan


class SpecComputation:
    """A spec on tensors that are given, as one plan or, where `SplitSpec.stages` cuts it, several."""

    name = "spec"

    def __init__(self, spec: SplitSpec, dtype: str):
        self.spec = spec
        self.dtype = dtype
        self.is_one_plan = spec.is_one_plan
        self._stages = spec.stages()
        self.logit_outputs: tuple[int, ...] = (0,) if spec.has_logits else ()

    def unfusable_reasons(self) -> list[str]:
        return []

    def plan(self, logits: bool = False) -> Plan:
        """The plan, or the first of them."""
        return lower(self._stages[0].spec, logits and self.is_one_plan)

    def execute(self, run: Run, operands: Operands, logits: bool = False) -> list[Any]:
        inputs, params, points = operands
        if self.is_one_plan:
            return run(self.plan(logits), inputs, params, points)
        for stage in self._stages:
            plan = lower(stage.spec, logits and stage is self._stages[-1])
            own_points = points if stage.spec.points else ()
            outputs = run(plan, inputs, [params[i] for i in stage.places], own_points)
            if isinstance(stage.then, CallableMerge):
                inputs = outputs = [stage.then.function(outputs)]
            elif stage.then:
                inputs = [*inputs, *(reference.cut(outputs[0], branch, points) for branch in stage.then)]
        return outputs

    def unfused(self, operands: Operands) -> list[Any]:
        return reference.compute(self.spec, *operands)

    def magnitude(self, operands: Operands) -> list[Any]:
        """On absolute values, what bounds the sum of the terms at each element, and of its derivatives."""
        return magnitude.compute(self.spec, *operands)

    @property
    def depth(self) -> int:
        """How many products stand one behind the other."""
        return magnitude.depth(self.spec)


class LayerComputation(SpecComputation):
    """A built fused layer's, at inference or while training."""

    def __init__(self, layer: Any, spec: SplitSpec, reader: SpecReader, training: bool):
        super().__init__(spec, layer.compute_dtype)
        self._layer = layer
        self._reader = reader
        self._training = training
        self._kept: KeptVariables | None = None

    @property
    def name(self) -> str:  # type: ignore[override]
        return self._layer.name

    def unfusable_reasons(self) -> list[str]:
        return dynamic_reasons(self._layer.sublayers)

    @property
    def weights(self) -> list[tuple[Any, str]]:
        """(layer, "kernel" | "bias") for each param."""
        return self._reader.weights

    @property
    def masks(self) -> list[tuple[Any, int]]:
        """What gives each mask, and its width."""
        return self._reader.masks

    def params(self) -> list[Any]:
        """tf.Variables, or computed tensors (LoRA), as they are at each access."""
        kept = self._kept_variables() if in_no_scope() else None
        return self._looked_up() if kept is None else kept.values()

    def plain_params(self) -> list[Any] | None:
        """The params where no scope of Keras is open; None where the plan cannot run."""
        kept = self._kept_variables()
        if kept is not None:
            return kept.values()
        return None if self.unfusable_reasons() else self._looked_up()

    def _looked_up(self) -> list[Any]:
        return [tensor_of(getattr(layer, name)) for layer, name in self._reader.weights]

    def _kept_variables(self) -> KeptVariables | None:
        """The variables, where they are all that the params are and nothing speaks against running the plan."""
        kept = self._kept
        if kept is None or not kept.are_current():
            kept = self._kept = self._look()
        return kept

    def _look(self) -> KeptVariables | None:
        if self.unfusable_reasons():
            return None
        try:
            return KeptVariables(all_sublayers(self._layer), self._reader.weights)
        except LookupError:
            return None

    def operands(self, inputs: Sequence[Any]) -> Operands:
        inputs = list(inputs)
        masks = [self._layer.mask(source, width, inputs[0]) for source, width in self._reader.masks]
        points = [as_rows(self._layer.points(inputs[0]))] if self.spec.points else []
        return Operands([*inputs, *masks], self.params(), points)

    def call_unfused(self, inputs: Sequence[Any]) -> list[Any]:
        return keras.tree.flatten(reference.call(self._layer, list(inputs), self._training))


class UnfusedComputation:
    """That of a layer whose sub-layers have no spec: only they themselves can compute it."""

    logit_outputs: tuple[int, ...] = ()
    is_one_plan = False

    def __init__(self, layer: Any, reasons: Sequence[str], training: bool):
        self._layer = layer
        self._reasons = list(reasons)
        self._training = training

    @property
    def spec(self) -> SplitSpec:
        self._has_no("spec")

    def plan(self, logits: bool = False) -> Plan:
        self._has_no("plan")

    def params(self) -> list[Any]:
        self._has_no("params of a spec")

    def operands(self, inputs: Sequence[Any]) -> Operands:
        self._has_no("operands of a plan")

    def execute(self, run: Run, operands: Operands, logits: bool = False) -> list[Any]:
        self._has_no("plan")

    def _has_no(self, what: str) -> NoReturn:
        raise ValueError(f"{self.name!r} has no {what}: " + "; ".join(self._reasons))

    @property
    def name(self) -> str:
        return self._layer.name

    @property
    def dtype(self) -> str:
        return self._layer.compute_dtype

    def unfusable_reasons(self) -> list[str]:
        return [*self._reasons, *dynamic_reasons(self._layer.sublayers)]

    def call_unfused(self, inputs: Sequence[Any]) -> list[Any]:
        return keras.tree.flatten(reference.call(self._layer, list(inputs), self._training))


def ones_like_rows(x: Any, width: int) -> tf.Tensor:
    """Ones of the leading dimensions of x, with `width` columns."""
    shape = x.shape[:-1] if x.shape.is_fully_defined() else tf.shape(x)[:-1]
    return tf.ones(tf.concat([shape, [width]], 0), x.dtype)


def as_rows(points: tf.Tensor) -> tf.Tensor:
    """Points of x's leading dimensions as one for each row of the flattened x; a single one stays as it is."""
    return tf.reshape(points, [-1]) if points.shape.rank else points
