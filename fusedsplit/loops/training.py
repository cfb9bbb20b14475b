"""A model's weights and optimizer state in native memory, and the variables of Keras that they stand for."""

from __future__ import annotations

import collections
from typing import Any

import keras
import numpy as np

from fusedsplit.loops import _keras_private as private
from fusedsplit.loops import losses, optimizers
from fusedsplit.loops.compiled import Compiled
from fusedsplit.loops.data import Batch
from fusedsplit.loops.reasons import NotNative
from fusedsplit.loops.sources import Piece
from fusedsplit.loops.totals import Totals
from fusedsplit.loops.variables import read, read_all, write
from fusedsplit.native.recipe import Dropout, Recipe
from fusedsplit.native.trainer import Steps, Trainer
from fusedsplit.plan import Plan

# A call of the core ends after so long, so that an interrupt or a progress bar need not wait.
SECONDS = 0.1
# Rows of the core that are told apart in one call, where a row of the data is several.
_MOST_PLACES = 1 << 20


class Core:
    """A native trainer and where the outputs of the model stand among its own.

    Args:
        plan: of the region, with logits.
        recipe: for it.
        outputs: for each output of the model, its place among the plan's.
        dtype: that it computes in.

    Raises:
        NotNative: if the core does not build that.
    """

    def __init__(self, plan: Plan, recipe: Recipe, outputs: list[int], dtype: str):
        try:
            self.trainer = Trainer(plan, recipe, dtype)
        except ValueError as reason:
            raise NotNative(str(reason)) from reason
        self._widths = [plan.values[value].width for value in plan.outputs]
        self._outputs = outputs
        self._dtype = dtype

    def run(
        self, piece: Piece, rates: np.ndarray, totals: Totals, seconds: float | None = None, extra: float = 0.0
    ) -> int:
        """Runs steps of a piece, and notes what they give; returns how many were done."""
        batch, most = piece.batch, totals.most_rows
        if batch.within and piece.order is not None:
            most = min(most or _MOST_PLACES, max(1, _MOST_PLACES // batch.positions))
        steps = piece.steps if most is None else min(piece.steps, max(1, most // piece.size))
        if steps < piece.steps:
            order = np.arange(piece.rows) if piece.order is None else piece.order
            piece = piece._replace(order=order[: steps * piece.size])
        wanted = totals.wanted()
        positions = batch.positions
        outputs = self._buffers(wanted, piece.rows * positions) if wanted else None
        done: Steps = self.trainer.run(
            batch.inputs,
            batch.targets,
            batch.weights,
            _rows_of_core(piece.order, batch),
            piece.size * positions,
            rates,
            seconds=seconds,
            outputs=outputs,
        )
        totals.add(done, extra, positions)
        if outputs is not None and done.done:
            rows = int(done.rows.sum()) // positions
            taken = slice(0, rows) if piece.order is None else piece.order[:rows]
            given = [outputs[at] if i in wanted else None for i, at in enumerate(self._outputs)]
            shape = (rows, *batch.within, -1)
            totals.show(batch, taken, [None if a is None else a[: rows * positions].reshape(shape) for a in given])
        return done.done

    def _buffers(self, wanted: set[int], rows: int) -> list[np.ndarray | None]:
        places = {self._outputs[i] for i in wanted}
        return [np.empty((rows, w), self._dtype) if at in places else None for at, w in enumerate(self._widths)]


def _rows_of_core(order: np.ndarray | None, batch: Batch) -> np.ndarray | None:
    """The rows of the core that those of a batch are, taken in some order."""
    if order is None or not batch.within:
        return order
    positions = batch.positions
    places = order[:, np.newaxis] * positions + np.arange(positions)
    return np.ascontiguousarray(places.reshape(-1), np.int64)


class Training:
    """A compiled model's native trainer.

    Args:
        model: compiled and built.
        compiled: the same, read.

    Raises:
        NotNative: if the core does not train it.
    """

    def __init__(self, model: Any, compiled: Compiled):
        region = compiled.whole.region
        self.optimizer = model.optimizer
        if self.optimizer is None:
            raise NotNative("there is no optimizer")
        described = optimizers.described(self.optimizer)
        self.variables = _variables(region.computation.sources(), model.trainable_variables)
        trained = [v is not None and v.trainable for v in self.variables]
        if not any(trained):
            raise NotNative("nothing of it is trainable")
        self._index = [
            private.index_of(self.optimizer, v) if train else None for v, train in zip(self.variables, trained)
        ]
        for v, train in zip(self.variables, trained):
            if train and v.constraint is not None:
                raise NotNative(f"{v.path!r} has a constraint")
        if described.use_ema and len(private.trained_by(self.optimizer)) != sum(trained):
            raise NotNative("the optimizer averages variables of another model too")
        self._masks = [layer for layer, _ in region.computation.masks()]
        plan, recipe, outputs = compiled.on_plan(
            optimizer=described,
            trainable=tuple(trained),
            decayed=tuple(train and private.decays(self.optimizer, v) for v, train in zip(self.variables, trained)),
            regularizers=tuple(losses.regularizer(v) if train else None for v, train in zip(self.variables, trained)),
            dropouts=_dropouts(self._masks, len(region.inputs)),
        )
        self._sources = region.computation.sources()
        self._computation = region.computation
        self.core = Core(plan, recipe, outputs, region.dtype)
        self._slots = list(self.core.trainer.slots)  # their names
        self.rates = optimizers.Rates(self.optimizer)
        self._drawn = 0

    @property
    def keys(self) -> list[Any]:
        """What tells the params of the plan apart, in its order."""
        return [source.key for source in self._sources]

    @property
    def trainer(self) -> Trainer:
        return self.core.trainer

    def check(self) -> None:
        """Raises unless the model has the weights that it had.

        Raises:
            NotNative: if a layer was given others.
        """
        if any(v is not None and source.read() is not v for source, v in zip(self._sources, self.variables)):
            raise NotNative("a layer was given other weights since the model was compiled")

    def run(self, piece: Piece, totals: Totals, seconds: float | None = SECONDS) -> int:
        """Runs steps of a piece; returns how many were done."""
        rates = self.rates.of(self.trainer.iterations, piece.steps)
        return self.core.run(piece, rates, totals, seconds)

    def read(self) -> None:
        """Takes over what the variables hold."""
        trainer = self.trainer
        constant = None if all(v is not None for v in self.variables) else self._computation.params()
        slots = self._slot_variables()
        wanted = [v for v in self.variables if v is not None]
        wanted += [held[i] for held in slots.values() for i in self._index if i is not None]
        values = iter(read_all([private.tf_variable(v) for v in wanted]))
        trainer.set_params(
            [np.asarray(constant[i]) if v is None else next(values) for i, v in enumerate(self.variables)]  # type: ignore[index]
        )
        trainer.set_slots({name: [None if i is None else next(values) for i in self._index] for name in slots})
        trainer.set_scalars(
            {name: float(read(private.scalar_variable(self.optimizer, name))) for name in trainer.scalars}
        )
        trainer.iterations = int(read(private.iterations(self.optimizer)))
        self._drawn = trainer.iterations
        self.rates.refresh()

    def write(self) -> None:
        """Gives the variables what the trainer holds."""
        trainer = self.trainer
        for variable, index, value in zip(self.variables, self._index, trainer.params):
            if index is not None:
                write(variable, value)
        slots = trainer.slots
        for name, held in self._slot_variables().items():
            for index, slot in zip(self._index, slots[name]):
                if index is not None:
                    write(held[index], slot)
        for name, scalar in trainer.scalars.items():
            write(private.scalar_variable(self.optimizer, name), scalar)
        write(private.iterations(self.optimizer), trainer.iterations)
        for layer, uses in collections.Counter(self._masks).items():  # as far as Keras' draws would have got
            state = private.seed_state(layer)
            write(state, read(state) + np.array([0, uses * (trainer.iterations - self._drawn)], np.uint32))
        self._drawn = trainer.iterations

    def _slot_variables(self) -> dict[str, list[Any]]:
        return {name: private.slot_variables(self.optimizer, name) for name in self._slots}


def _variables(sources: list[Any], trainable: list[Any]) -> list[Any]:
    """For each param of a plan the variable that it is; None where it is a constant, or computed from such.

    Raises:
        NotNative: if a trainable variable is not simply a param.
    """
    needed = {id(v): v for v in trainable}
    found = []
    for source in sources:
        held = source.read()
        if source.compute is None and hasattr(held, "trainable"):
            needed.pop(id(held), None)
            found.append(held)
            continue
        parts = held if isinstance(held, tuple) else (held,)
        for part in parts:
            if getattr(part, "trainable", False):
                raise NotNative(f"{part.path!r} is trained through something that is computed from it")
        found.append(None)
    if needed:
        raise NotNative(f"{next(iter(needed.values())).path!r} has no part in its outputs")
    return found


def _dropouts(layers: list[Any], inputs: int) -> tuple[Dropout, ...]:
    found = []
    for i, layer in enumerate(layers):
        if type(layer) is not keras.layers.Dropout:
            raise NotNative(f"the {type(layer).__name__} {layer.name!r} draws its own numbers")
        high, low = (int(word) for word in read(private.seed_state(layer)))
        found.append(Dropout(inputs + i, float(layer.rate), ((high << 32 | low) + i) & (1 << 63) - 1))
    return tuple(found)
