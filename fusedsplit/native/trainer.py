"""Training steps in the core: a plan's weights and its optimizer's state in native memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from fusedsplit.native import library
from fusedsplit.native.recipe import Recipe
from fusedsplit.plan import Plan

_DTYPES = {"float32": "Trainer32", "float64": "Trainer64"}


class Steps(NamedTuple):
    """What steps were.

    Attributes:
        done: how many; weights, slots and iterations are those after that many.
        rows: int64 (done,), the rows of each.
        losses: float64 (done, 1 + losses): the total (weighted losses and regularizers), then each loss by itself,
            reduced but not multiplied by its weight.
        metrics: float64 (done, metrics, 2): the sum of values, the sum of weights.
    """

    done: int
    rows: np.ndarray
    losses: np.ndarray
    metrics: np.ndarray


class Trainer:
    """A plan's weights, optimizer state and scratch in native memory, and steps that run on them.

    Bits depend on shapes, data and seeds alone: not on threads, nor on how steps are cut into calls. Nothing of a
    caller's arrays is kept. A second thread waits for the one that runs.

    Args:
        plan: what is trained.
        recipe: losses, optimizer, metrics, and what is trained of it.
        dtype: "float32" or "float64": of weights, inputs and all that is computed.

    Raises:
        ValueError: if the recipe does not fit the plan, or asks for what is not built.

    Example:

    >>> plan = fs.SplitDense(Dense(8), [Dense(4), Dense(4)], head=Dense(1)).spec.plan  # doctest: +SKIP
    >>> trainer = Trainer(plan, Recipe((Loss("mean_squared_error", 0),), Optimizer("adam")))  # doctest: +SKIP
    >>> trainer.set_params(weights)  # doctest: +SKIP
    >>> trainer.run([x], [y], [None], None, 32, np.full(100, 1e-3)).losses[:, 0]  # doctest: +SKIP
    """

    def __init__(self, plan: Plan, recipe: Recipe, dtype: str = "float32"):
        if dtype not in _DTYPES:
            raise ValueError(f"dtype: expected 'float32' or 'float64'. Received: {dtype!r}")
        self.plan = plan
        self.recipe = recipe
        self.dtype = dtype
        self._native = getattr(library.core(), _DTYPES[dtype])(plan.encode(), recipe)

    @property
    def params(self) -> list[np.ndarray]:
        """Copies of the weights, in the plan's order."""
        params: list[np.ndarray] = self._native.params()
        return params

    def set_params(self, arrays: Sequence[np.ndarray]) -> None:
        """Copies weights in; their shapes are checked before any is."""
        self._native.set_params(list(arrays))

    @property
    def slots(self) -> dict[str, list[np.ndarray | None]]:
        """Copies of the optimizer's slots, by Keras' names: lists over the params, None for those not trained."""
        slots: dict[str, list[np.ndarray | None]] = self._native.slots()
        return slots

    def set_slots(self, slots: Mapping[str, Sequence[np.ndarray | None]]) -> None:
        """Copies slots in; those that are not named, or None, stay as they are."""
        self._native.set_slots(dict(slots))

    @property
    def scalars(self) -> dict[str, float]:
        """What the optimizer keeps besides: "u_product" of nadam."""
        optimizer = self.recipe.optimizer
        return {"u_product": self._native.u_product} if optimizer is not None and optimizer.name == "nadam" else {}

    def set_scalars(self, scalars: Mapping[str, float]) -> None:
        for name, value in scalars.items():
            if name not in self.scalars:
                raise ValueError(f"scalars: expected one of {sorted(self.scalars)}. Received: {name!r}")
            self._native.u_product = float(value)

    @property
    def iterations(self) -> int:
        """How many steps there were, those included that only accumulated."""
        count: int = self._native.iterations
        return count

    @iterations.setter
    def iterations(self, count: int) -> None:
        self._native.iterations = int(count)

    def run(
        self,
        inputs: Sequence[np.ndarray],
        targets: Sequence[np.ndarray],
        weights: Sequence[np.ndarray | None],
        order: np.ndarray | None,
        batch: int,
        rates: np.ndarray | None,
        *,
        points: Sequence[np.ndarray] = (),
        seconds: float | None = None,
        outputs: Sequence[np.ndarray | None] | None = None,
        first_row: int = 0,
    ) -> Steps:
        """Runs a step for every `batch` rows of the order; the last may have fewer.

        Args:
            inputs: (samples, width) arrays of the trainer's dtype, C-contiguous, in the plan's order without those that
                are drawn.
            targets: for each loss (samples, width) of the dtype, or for a sparse one int32 or int64 of (samples,) or
                (samples, 1).
            weights: for each loss (samples,) of the dtype, or None.
            order: int64 (rows,): the samples as they are taken. None takes all as they lie.
            batch: rows of a step.
            rates: float64, the learning rate of each step; not read without an optimizer.
            points: int32 (samples,) or (), of data-dependent splits.
            seconds: the run ends with the first step that ends later. None runs all.
            outputs: for each output of the plan (rows, width), or None: filled with what the weights before each update
                give, row `first_row + k` for `order[k]`.
            first_row: see outputs.

        Returns:
            Steps: those that were done.

        Raises:
            ValueError: on a shape, an index or a label out of range, named; nothing has changed then.
            TypeError: on another dtype or layout.
        """
        rows, losses, metrics = self._native.run(
            list(inputs),
            list(targets),
            list(weights),
            order,
            batch,
            rates,
            list(points),
            seconds,
            None if outputs is None else list(outputs),
            first_row,
        )
        return Steps(len(rows), rows, losses, metrics)
