"""A region: calls of a model's graph that run as one plan, and what it hands to dispatch."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from fusedsplit.backends import dispatch
from fusedsplit.backends.base import Operands, Run
from fusedsplit.layers._keras_private import KeptVariables, tensor_of
from fusedsplit.layers.sublayers import all_sublayers, dynamic_reasons, is_fused
from fusedsplit.models import _keras_private as private
from fusedsplit.models import calls
from fusedsplit.models.graph import Call, Tensor
from fusedsplit.models.row_plan import Finished
from fusedsplit.models.rows import NotRowWise, RowProgram, Source, View
from fusedsplit.plan import Plan


@dataclasses.dataclass(frozen=True, eq=False)
class Region:
    """Calls that run as one plan.

    Attributes:
        calls: in an order in which they can run.
        inputs: the tensors that they read and do not make.
        outputs: the tensors of theirs that something outside reads, or that the model gives out.
        lead: how many leading axes are rows.
        training: whether the region is for training.
        dtype: what it computes in.
    """

    calls: tuple[Call, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    lead: int
    training: bool
    dtype: str

    @property
    def layers(self) -> list[Any]:
        """The layers (and operations of `keras.ops`) that it computes, each once."""
        return list(dict.fromkeys(call.operation for call in self.calls))

    @property
    def plan(self) -> Plan:
        """What the region computes, at inference or while training."""
        return self.computation.plan()

    @functools.cached_property
    def computation(self) -> RegionComputation:
        return RegionComputation(self)

    @property
    def name(self) -> str:
        return ", ".join(call.path for call in self.calls)

    def call(self, inputs: Sequence[Any], backend: str) -> list[Any]:
        """The outputs as Keras gives them, masks included."""
        masks = {t: private.mask_of(x) for t, x in zip(self.inputs, inputs) if private.mask_of(x) is not None}
        passed = calls.passed_masks(self.calls, masks)
        reasons = ["a mask goes through more than layers that pass it on"] if passed is None else []
        if not _same_rows(inputs, self.lead):
            reasons.append("its inputs have different leading dimensions")
        with private.variables_as_they_are():
            outputs = dispatch.call(self.computation, inputs, backend, reasons)
        for tensor, y in zip(self.outputs, outputs):
            if passed and tensor in passed and private.mask_of(y) is None:
                private.set_mask(y, passed[tensor])
        return outputs

    def __repr__(self) -> str:
        return f"<Region of {len(self.calls)} calls: {self.name}>"


def lower(
    region_calls: Sequence[Call], inputs: Sequence[Tensor], lead: int, training: bool, dtype: str
) -> tuple[RowProgram, dict[Tensor, View]]:
    """The row program of calls, and where each of their tensors stands.

    Raises:
        NotRowWise: if one of them has no row program there; the message names it.
    """
    program = RowProgram(lead, training, dtype)
    views = {tensor: program.input(row_shape(tensor, lead)) for tensor in inputs}
    for call in region_calls:
        try:
            results = calls.lower(call, program, views)
        except NotRowWise as reason:
            raise NotRowWise(f"{call}: {reason}") from None
        views.update(zip(call.outputs, results))
    return program, views


def row_shape(tensor: Tensor, lead: int) -> tuple[int, ...]:
    """What is left of a tensor's shape behind the axes that are rows.

    Raises:
        NotRowWise: if a size of it is not known.
    """
    shape = tensor.shape[lead:]
    if len(tensor.shape) < lead or None in shape:
        raise NotRowWise(f"it reads a tensor of shape {tensor.shape}, of whose rows a size is unknown")
    return shape  # type: ignore[return-value]


class RegionComputation:
    """What a region hands to dispatch: see `Computation` in `backends/base.py`."""

    def __init__(self, region: Region):
        self._region = region
        self.name = region.name
        self.dtype = region.dtype
        program, views = lower(region.calls, region.inputs, region.lead, region.training, region.dtype)
        self._masks = program.masks
        outputs = [views[tensor] for tensor in region.outputs]
        logits = [program.output_logits(view) for view in outputs]
        self.logit_outputs = tuple(i for i, view in enumerate(logits) if view is not None)
        self._plain = program.plan(outputs)
        self._with_logits = program.plan([*outputs, *(view for view in logits if view is not None)])
        self._sources = [program.sources[i] for i in self._plain.sources]
        assert self._plain.sources == self._with_logits.sources
        self._function: tuple[list[Any], Any] = [], None
        self._layers = [call.operation for call in region.calls if call.is_layer]

    def _finished(self, logits: bool) -> Finished:
        return self._with_logits if logits else self._plain

    def unfusable_reasons(self) -> list[str]:
        return dynamic_reasons(self._layers)

    def plan(self, logits: bool = False) -> Plan:
        return self._finished(logits).plan

    @property
    def output_places(self) -> list[int]:
        """Where each output of the region is among those of its plan."""
        return list(self._plain.outputs)

    def params(self) -> list[Any]:
        values = [_values(source.read(), self.dtype) for source in self._sources]
        places = [i for i, source in enumerate(self._sources) if source.compute is not None]
        if places:
            for i, value in zip(places, self._computed([values[i] for i in places])):
                values[i] = value
        return values

    def _computed(self, given: Sequence[Sequence[Any]]) -> list[Any]:
        """The params that are computed from others, given these."""
        flat = keras.tree.flatten(given)
        if not tf.executing_eagerly() or not all(x is None or isinstance(x, tf.Variable) for x in flat):
            return self._compute(given)
        # By a function of variables that it knows: a quarter of the cost of its operations, or of handing them in.
        known, function = self._function
        if len(known) != len(flat) or any(a is not b for a, b in zip(flat, known)):
            function = tf.function(lambda: self._compute(given), autograph=False).get_concrete_function()
            self._function = flat, function
        return list(function())

    def _compute(self, given: Sequence[Sequence[Any]]) -> list[Any]:
        computes = [source.compute for source in self._sources if source.compute is not None]
        return [compute(*operands) for compute, operands in zip(computes, given)]

    def kept(self) -> KeptVariables | None:
        """The variables of layers that the params are, in their order; None where a param is something else."""
        return self._kept

    @functools.cached_property
    def _kept(self) -> KeptVariables | None:
        layers = [layer for top in self._layers for layer in (top, *(all_sublayers(top) if is_fused(top) else ()))]
        by_id = {id(layer): layer for layer in layers if isinstance(layer, keras.layers.Dense)}
        try:
            weights = [(by_id[source.key[0]], source.key[1]) for source in self._sources]  # type: ignore[index]
            return KeptVariables(layers, weights)
        except LookupError:
            return None

    def sources(self) -> list[Source]:
        """Where each param of the plan comes from."""
        return list(self._sources)

    def masks(self) -> list[tuple[Any, tuple[int, ...]]]:
        """(layer, shape of a row) of each mask: the plan's inputs behind the region's."""
        return list(self._masks)

    def outputs(self) -> list[int]:
        """For each output of the region, its place among the plan's."""
        return list(self._plain.outputs)

    def places(self) -> tuple[list[int], dict[int, int]]:
        """In the plan with logits: the place of each output of the region, and of the logits that some have."""
        given = self._with_logits.outputs
        count = len(self._region.outputs)
        return given[:count], dict(zip(self.logit_outputs, given[count:]))

    def operands(self, inputs: Sequence[Any]) -> Operands:
        rows = [_as_rows(x, self._region.lead, tensor) for x, tensor in zip(inputs, self._region.inputs)]
        masks = [self._mask(layer, shape, inputs[0]) for layer, shape in self._masks]
        return Operands([*rows, *masks], self.params(), [])

    def _mask(self, layer: Any, shape: tuple[int, ...], x: Any) -> tf.Tensor:
        """Keras' own Dropout on ones, so that the same numbers are drawn."""
        ones = tf.ones(tf.concat([tf.shape(x)[: self._region.lead], shape], 0), self.dtype)
        mask = layer(ones, training=True)
        return tf.reshape(mask, tf.concat([tf.shape(x)[: self._region.lead], [math.prod(shape)]], 0))

    def execute(self, run: Run, operands: Operands, logits: bool = False) -> list[Any]:
        finished = self._finished(logits)
        results = run(finished.plan, *operands)
        given = [results[i] for i in finished.outputs]
        lead = self._region.lead
        tensors = [*self._region.outputs, *(self._region.outputs[i] for i in self.logit_outputs if logits)]
        return [_from_rows(y, lead, tensor) for y, tensor in zip(given, tensors)]

    def call_unfused(self, inputs: Sequence[Any]) -> list[Any]:
        values = dict(zip(self._region.inputs, inputs))
        calls.run(self._region.calls, values, self._region.training)
        return [values[tensor] for tensor in self._region.outputs]


def _same_rows(inputs: Sequence[Any], lead: int) -> bool:
    """Whether the leading dimensions are equal, as far as they are known."""
    rows = [x.shape[:lead] for x in inputs if x is not None]
    return all(first.is_compatible_with(other) for first, other in zip(rows, rows[1:]))


def _values(weight: Any, dtype: str) -> Any:
    """A weight as a tensor, or a tuple of them; None is left."""
    if isinstance(weight, tuple):
        return tuple(_values(w, dtype) for w in weight)
    return tf.constant(weight, dtype) if isinstance(weight, np.ndarray) else tensor_of(weight)


def _as_rows(x: Any, lead: int, tensor: Tensor) -> Any:
    """A tensor with all axes behind the leading ones joined."""
    if len(tensor.shape) == lead + 1:
        return x
    width = math.prod(tensor.shape[lead:])  # type: ignore[arg-type]
    return tf.reshape(x, tf.concat([tf.shape(x)[:lead], [width]], 0))


def _from_rows(y: Any, lead: int, tensor: Tensor) -> Any:
    """The reverse."""
    if len(tensor.shape) == lead + 1:
        return y
    y = tf.reshape(y, tf.concat([tf.shape(y)[:lead], tensor.shape[lead:]], 0))
    y.set_shape([None] * lead + list(tensor.shape[lead:])) if not tf.executing_eagerly() else None
    return y
