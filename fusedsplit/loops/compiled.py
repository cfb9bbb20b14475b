"""What a model was compiled with, and its data, as the core takes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from fusedsplit.loops import _keras_private as private
from fusedsplit.loops import data, losses, metrics
from fusedsplit.loops.data import Batch, Inputs
from fusedsplit.loops.losses import SPARSE
from fusedsplit.loops.reasons import NotNative
from fusedsplit.native.recipe import Loss, Metric, Recipe
from fusedsplit.plan import Plan, Row


class Compiled:
    """A compiled model that is one region: its losses, its metrics, and how its data is read.

    Args:
        model: compiled.
        whole: the model as one region, at inference or while training.
        x, y, sample_weight: a first batch, or all of the data; Keras builds its losses and metrics from these.

    Raises:
        NotNative: if the core does not compute a loss.
    """

    def __init__(self, model: Any, whole: Any, x: Any, y: Any, sample_weight: Any):
        self.inputs = Inputs(whole)
        self.whole = whole
        self.dtype = whole.region.dtype
        self._keyed = isinstance(whole.structure, dict)
        self._names = data.keys(whole.structure) if self._keyed else private.output_names(model)
        self._widths = widths(whole)
        self._by_name = private.takes_targets_by_name(model)
        self._keys = set(self._names)
        if self._keyed:
            private.check_named(model, y, self._keys)
        self._build(model, x, y, sample_weight, whole.region.training)
        if self._keyed:
            self._keys = private.keys_of_targets(model, self._keys)
        self.losses = losses.compiled(model, self.dtype, self._widths, self._names, whole.region.lead)
        self._spread_out = all(known.loss.reduction != "mean_with_sample_weight" for known in self.losses)
        self._kinds = [(known.loss.output, known.loss.name) for known in self.losses]
        self.metrics = metrics.compiled(model, self.dtype, dict(self._kinds), self._names if self._keyed else None)

    @staticmethod
    def _build(model: Any, x: Any, y: Any, sample_weight: Any, training: bool) -> None:
        if y is None:
            raise NotNative("there are no targets")
        inputs, targets = (keras.tree.map_structure(data.array, part) for part in (x, y))
        weights = keras.tree.map_structure(lambda w: None if w is None else data.array(w), sample_weight)
        try:
            private.symbolic_build(model, inputs, targets, weights, optimizer=training)
        except Exception as error:  # Keras' own loop will say the same
            raise NotNative(f"Keras cannot build its losses and metrics: {error}") from error

    def batch(self, x: Any, y: Any, sample_weight: Any) -> Batch:
        """Rows as the core reads them.

        Raises:
            NotNative: if Keras has to sort them out, or to say what is wrong with them.
        """
        flat = self.inputs.flat(x)
        if y is None:
            raise NotNative("there are no targets")
        targets = [None if t is None else data.array(t) for t in self._spread(y, "y")]
        if isinstance(y, Mapping) and sample_weight is not None and len(self._names) > 1 and not self._keyed:
            raise NotNative("targets by name beside sample weights")
        if isinstance(sample_weight, Mapping) and not isinstance(y, Mapping):
            raise NotNative("sample weights by name beside targets that are not")
        weights = self._weights(sample_weight)
        inputs = self.inputs.rows(flat)
        rows, *others = self.inputs.leading(flat)
        within = tuple(others)
        if any(a is not None and len(a) != rows for a in (*flat, *targets, *weights)):
            raise NotNative("the arrays have different numbers of rows")
        if len(inputs[0]) == 0:
            raise NotNative("there are no rows")
        of_core = [w if w is None else data.weight(w, within, self.dtype, self._spread_out) for w in weights]
        return Batch(
            rows,
            within,
            inputs,
            [self._target(targets[output], within, output, name) for output, name in self._kinds],
            [of_core[output] for output, _ in self._kinds],
            targets,
            weights if within else of_core,
        )

    def shapes(self) -> list[tuple[Any, int, Any, tuple[int, ...]]]:
        """Of one input and one loss: the dtype and width of the arrays that the core reads as they lie, and the dtype
        and shape of a row of the targets; nothing where there are more."""
        (_, shape), *others = self.inputs.specs
        if others or len(self._kinds) != 1 or self.inputs.lead != 1 or len(shape) != 2 or len(self._widths) != 1:
            return []
        dtype = np.dtype(self.dtype)
        out = ((), np.dtype(np.int64)) if self._kinds[0][1] == SPARSE else ((self._widths[0],), dtype)
        return [(dtype, shape[1], out[1], out[0])]

    def _target(self, y: np.ndarray | None, within: tuple[int, ...], output: int, loss: str) -> np.ndarray:
        if y is None:
            raise NotNative("there is no target for an output that has a loss")
        make = data.classes if loss == SPARSE else data.target
        return make(y, within, self._widths[output], self.dtype)

    def _spread(self, value: Any, what: str) -> list[Any]:
        """What is given for each output, in their order."""
        if self._keyed:
            return data.by_key(value, self._names, self._keys, what)
        return data.spread(value, self._names, self._by_name, what)

    def _weights(self, sample_weight: Any) -> list[np.ndarray | None]:
        """Those of each output, as they are given."""
        if sample_weight is None or not isinstance(sample_weight, (Mapping, list, tuple)):
            one = None if sample_weight is None else data.array(sample_weight)
            if one is not None and len(self._names) > 1 and one.shape[1:] not in ((), (1,)):
                raise NotNative(f"sample weights of shape {one.shape} for several outputs")
            return [one] * len(self._names)
        given = self._spread(sample_weight, "sample_weight")
        if not self._by_name and any(w is None for w in given):
            raise NotNative("this Keras takes no None among sample weights")
        return [None if w is None else data.array(w) for w in given]

    def on_plan(self, **training: Any) -> tuple[Plan, Recipe, list[int]]:
        """The plan of the region, the recipe for it, and for each output of the model its place among the plan's."""
        computation = self.whole.region.computation
        plan = computation.plan(logits=True)
        given, logits = computation.places()
        outputs = [given[i] for i in self.whole.order]
        ends = {output: (logits[i], _last(plan, given[i])) for output, i in enumerate(self.whole.order) if i in logits}
        placed: list[Loss] = losses.placed(self.losses, outputs, ends)
        summed: list[Metric] = [metrics.placed(metric, outputs) for _, metric in self.metrics.summed]
        return plan, Recipe(losses=tuple(placed), metrics=tuple(summed), **training), outputs


def widths(whole: Any) -> list[int]:
    """The columns of each output of a model that is one region.

    Raises:
        NotNative: if one has more than the rows of the core and these.
    """
    outputs = [whole.region.outputs[i] for i in whole.order]
    if any(len(tensor.shape) != whole.region.lead + 1 for tensor in outputs):
        raise NotNative("a row of its outputs has more axes than one of columns")
    return [int(tensor.shape[-1]) for tensor in outputs]


def _last(plan: Plan, place: int) -> str:
    """What the values of an output of a plan that has logits are of those."""
    value = plan.outputs[place]
    return "softmax" if any(isinstance(s, Row) and s.dst.value == value for s in plan.steps) else "sigmoid"
