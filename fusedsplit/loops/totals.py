"""What an epoch has seen so far: the sums behind its logs, and the variables of Keras' metrics that hold them."""

from __future__ import annotations

import contextlib
from typing import Any

import keras
import numpy as np

from fusedsplit.loops import _keras_private as private
from fusedsplit.loops import metrics
from fusedsplit.loops.compiled import Compiled
from fusedsplit.loops.data import Batch
from fusedsplit.loops.metrics import COLLECTED_ROWS, Updates
from fusedsplit.loops.variables import write
from fusedsplit.native.trainer import Steps


class Totals:
    """The running sums of losses and metrics.

    Args:
        model: compiled.
        compiled: the same, read.
        even: whether all batches are known to have equally many rows; Keras takes the mean of an output's own loss over
            batches, not rows, where it does not know that.
    """

    def __init__(self, model: Any, compiled: Compiled, even: bool):
        self._tracker = private.loss_tracker(model)
        self._losses = compiled.losses
        self._factors = np.array([known.tracked for known in compiled.losses])
        self._metrics = compiled.metrics
        self._even = even
        self._collect = Updates(compiled.metrics.collected)
        self._step = Updates(compiled.metrics.stepped)
        self._updated = [use.metric for use in compiled.metrics.updated]
        self._waiting: list[tuple[list[Any], list[Any], list[Any]]] = []
        self._rows_waiting = 0
        self._summed = {id(use.metric): i for i, (use, _) in enumerate(compiled.metrics.summed)}
        self._own = {id(known.tracker): i for i, known in enumerate(compiled.losses) if known.tracker is not None}
        self.reset()

    def reset(self) -> None:
        """Everything to nothing, at the beginning of an epoch."""
        self._loss = 0.0
        self._rows = 0
        self._each = np.zeros(len(self._losses))
        self._counts = 0
        self._sums = np.zeros((len(self._metrics.summed), 2))
        self._waiting.clear()
        self._rows_waiting = 0
        for metric in self._updated:
            metric.reset_state()

    @property
    def most_rows(self) -> int | None:
        """How many rows may be computed before metrics want to see them; None where none does."""
        if self._metrics.stepped:
            return 1
        return COLLECTED_ROWS if self._metrics.collected else None

    def wanted(self) -> set[int]:
        """The outputs of the model that metrics want to see."""
        return {use.output for use in self._metrics.updated}

    def add(self, steps: Steps, extra: float = 0.0, positions: int = 1) -> None:
        """The losses and summed metrics of some steps.

        Args:
            steps: of the core.
            extra: what each batch's loss is beyond the core's.
            positions: how many rows of the core one of the data is: Keras' metrics take the mean over these.
        """
        rows = steps.rows // positions
        seen = int(rows.sum())
        self._loss += float(steps.losses[:, 0] @ rows) + extra * seen
        self._rows += seen
        if self._own:
            each = steps.losses[:, 1:] * self._factors
            self._each += rows @ each if self._even else each.sum(0)
            self._counts += seen if self._even else len(rows)
        if self._summed:
            self._sums += steps.metrics.sum(0) / positions

    def show(self, batch: Batch, taken: Any, outputs: list[Any]) -> None:
        """Shows rows to the metrics that want to see them.

        Args:
            batch: where the rows were taken from.
            taken: the index of those.
            outputs: of the model, for those rows; None where nobody wants them.
        """
        y = [None if a is None else a[taken] for a in batch.y]
        weights = [None if a is None else a[taken] for a in batch.sample_weight]
        if self._metrics.stepped:
            self._step(y, outputs, weights)
        if self._metrics.collected:
            if self._waiting and _shapes(outputs) != _shapes(self._waiting[0][1]):
                self._give()
            self._waiting.append((y, outputs, weights))
            self._rows_waiting += next(len(a) for a in outputs if a is not None)
            if self._rows_waiting >= COLLECTED_ROWS:
                self._give()

    def _give(self) -> None:
        """Gives what is collected to the metrics."""
        if not self._waiting:
            return
        joined = [[_joined(parts) for parts in zip(*kind)] for kind in zip(*self._waiting)]
        self._waiting.clear()
        self._rows_waiting = 0
        self._collect(*joined)

    def logs(self) -> dict[str, Any]:
        """Keras' logs, as they are now, sorted."""
        self._give()
        logs: dict[str, Any] = {}
        for name, metric in sorted(self._metrics.names.items()):
            _put(logs, name, self._value(metric))
        return logs

    def _value(self, metric: Any) -> Any:
        if metric is self._tracker:
            return self._loss / self._rows if self._rows else 0.0
        own = self._own.get(id(metric))
        if own is not None:
            return float(self._each[own] / self._counts) if self._counts else 0.0
        place = self._summed.get(id(metric))
        if place is not None:
            return metrics.mean(metric, float(self._sums[place, 0]), float(self._sums[place, 1]))
        return metric.result()

    def write(self) -> None:
        """Sets the variables of Keras' metrics."""
        self._give()
        _set(self._tracker, self._loss, self._rows)
        for known, each in zip(self._losses, self._each):
            if known.tracker is not None:
                _set(known.tracker, float(each), self._counts)
        for (use, _), (total, count) in zip(self._metrics.summed, self._sums):
            _set(use.metric, float(total), float(count))


def _shapes(outputs: list[Any]) -> list[Any]:
    """Of a row of each."""
    return [None if a is None else a.shape[1:] for a in outputs]


def _joined(parts: tuple[Any, ...]) -> Any:
    if parts[0] is None:
        return None
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _set(mean: Any, total: float, count: float) -> None:
    write(mean.total, total)
    write(mean.count, count)


def _put(logs: dict[str, Any], name: str, value: Any) -> None:
    """Adds a value to logs, as a number of Python's where it is one number."""
    if isinstance(value, dict):
        for inner, result in sorted(value.items()):
            _put(logs, inner, result)
        return
    if not isinstance(value, float):
        value = keras.ops.convert_to_numpy(value)
        with contextlib.suppress(
            TypeError, ValueError
        ):  # NumPy says whether an array of one number is one, as in Keras
            value = float(value)
    logs[name] = value
