"""Keras' metrics in native loops: sums in the core, or Keras' own objects on rows collected for them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from fusedsplit.loops import _keras_private as private
from fusedsplit.loops.reasons import NotNative
from fusedsplit.native.recipe import Metric

# Metrics that are a sum over rows through a sum of weights -> the name in a recipe.
_ADDITIVE = {
    keras.metrics.BinaryAccuracy: "binary_accuracy",
    keras.metrics.CategoricalAccuracy: "categorical_accuracy",
    keras.metrics.SparseCategoricalAccuracy: "sparse_categorical_accuracy",
    keras.metrics.MeanSquaredError: "mean_squared_error",
    keras.metrics.RootMeanSquaredError: "mean_squared_error",
    keras.metrics.MeanAbsoluteError: "mean_absolute_error",
}
# What one update of the others costs is worth about so many rows.
COLLECTED_ROWS = 10_000


@dataclasses.dataclass(frozen=True)
class MetricUse:
    """A metric that a model was compiled with.

    Attributes:
        metric: Keras' own object.
        output: of the model, that it is about.
        weighted: whether it is given the sample weights.
    """

    metric: Any
    output: int
    weighted: bool


@dataclasses.dataclass(frozen=True)
class CompiledMetrics:
    """The metrics of a compiled model.

    Attributes:
        summed: those that the core sums, and how.
        collected: those that are given many rows at once.
        stepped: those that are given each batch by itself.
        names: the keys of Keras' logs, and the metric that each one's value is of.
    """

    summed: tuple[tuple[MetricUse, Metric], ...]
    collected: tuple[MetricUse, ...]
    stepped: tuple[MetricUse, ...]
    names: dict[str, Any]

    @property
    def updated(self) -> tuple[MetricUse, ...]:
        """Those whose `update_state` is called."""
        return self.collected + self.stepped


def compiled(model: Any, dtype: str, losses: dict[int, str], keys: Sequence[str] | None) -> CompiledMetrics:
    """The metrics of a model whose metrics are built.

    Args:
        model: compiled.
        dtype: what it computes in.
        losses: output -> the name of the loss whose targets the core is given for it.
        keys: of its outputs, where they are a dict.

    Raises:
        NotNative: if it has metrics that it was not compiled with.
    """
    foreign = private.foreign_metrics(model)
    if foreign:
        raise NotNative(f"the metric {foreign[0].name!r} was not given to compile")
    summed, collected, stepped = [], [], []
    for metric, output, weighted in private.metric_entries(model, keys):
        use = MetricUse(metric, output, weighted)
        native = _summed(use, dtype, losses.get(output))
        if native is not None:
            summed.append((use, native))
        elif type(metric).__module__.startswith("keras.") and not private.is_of_a_function(metric):
            collected.append(use)
        else:
            stepped.append(use)
    return CompiledMetrics(tuple(summed), tuple(collected), tuple(stepped), private.log_names(model))


def _summed(use: MetricUse, dtype: str, loss: str | None) -> Metric | None:
    """The metric as the core sums it; None where it does not.

    The core has the targets that the loss of that output wants: classes for one, numbers for the others.
    """
    name = _ADDITIVE.get(type(use.metric))
    if name is None or use.metric.dtype != dtype or loss is None:
        return None
    if (name == "sparse_categorical_accuracy") != (loss == "sparse_categorical_crossentropy"):
        return None
    return Metric(name, use.output, use.weighted, float(getattr(use.metric, "threshold", 0.5)))


def placed(metric: Metric, outputs: Sequence[int]) -> Metric:
    """A metric of an output of the model, on a plan where those have these places."""
    return dataclasses.replace(metric, output=outputs[metric.output])


def mean(metric: Any, total: float, count: float) -> float:
    """What a metric that is summed in the core says of its sums."""
    value = total / count if count else 0.0
    if isinstance(metric, keras.metrics.RootMeanSquaredError):
        return math.sqrt(value) if value >= 0 else math.nan
    return value


class Updates:
    """Calls of `update_state` of Keras' own metrics, in a graph, as Keras makes them.

    Args:
        uses: the metrics.
    """

    def __init__(self, uses: Sequence[MetricUse]):
        self._uses = tuple(uses)
        self._functions: dict[Any, Any] = {}

    def __call__(self, targets: Sequence[Any], outputs: Sequence[Any], weights: Sequence[Any]) -> None:
        """Updates all of them; the sequences are over the model's outputs."""
        given = []
        for use in self._uses:
            rows = [targets[use.output], outputs[use.output]]
            weight = weights[use.output] if use.weighted else None
            given.append(tuple(rows if weight is None else [*rows, weight]))
        key = tuple((len(arrays), *((a.dtype.str, a.shape[1:]) for a in arrays)) for arrays in given)
        if key not in self._functions:
            self._functions[key] = self._function(given)
        self._functions[key](given)

    def _function(self, given: Sequence[tuple[np.ndarray, ...]]) -> Any:
        specs = [tuple(tf.TensorSpec((None, *a.shape[1:]), a.dtype) for a in arrays) for arrays in given]

        def update(all_arrays: Any) -> None:
            for use, arrays in zip(self._uses, all_arrays):
                use.metric.update_state(*arrays)

        return tf.function(update, autograph=False, input_signature=[specs])
