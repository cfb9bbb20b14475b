"""`evaluate` and `test_on_batch`, natively."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from fusedsplit.loops import _keras_private as private
from fusedsplit.loops import choice, data, given
from fusedsplit.loops.callbacks import Watch
from fusedsplit.loops.compiled import Compiled
from fusedsplit.loops.reasons import NotNative
from fusedsplit.loops.sources import ArraySource, StreamSource
from fusedsplit.loops.totals import Totals
from fusedsplit.loops.training import SECONDS, Core

_NO_RATES = np.zeros(0)


class Evaluation:
    """A compiled model's losses and metrics on data.

    Args:
        model: compiled.
        arguments: `x`, `y`, `sample_weight`, `batch_size` and `steps` of `evaluate`; a generator of which a batch was
            looked at is replaced there.
        times: how often it is run, at most.

    Raises:
        NotNative: with the reason why the core does not do it.
    """

    def __init__(self, model: Any, arguments: dict[str, Any], times: int = 1):
        whole = choice.whole(model, training=False)
        _, steps = private.capped(1, arguments["steps"])
        x, y, weights = arguments["x"], arguments["y"], arguments["sample_weight"]
        even = False
        if private.are_arrays((x, y, weights)):
            first = x, y, weights
        else:
            taken, arguments["x"], even = given.peek(x)
            first = private.unpack(taken)
        self._model = model
        self._compiled, self._core = model.made_once("evaluate", lambda: _made(model, whole, *first))
        self._sources = whole.region.computation.sources()
        self._regularized = any(v.regularizer is not None for v in model.trainable_variables)
        read = self._compiled.batch
        if first[0] is not x:
            read(*first)
        self.source: ArraySource | StreamSource = given.source(
            read,
            arguments["x"],
            y,
            weights,
            size=arguments["batch_size"],
            steps=steps,
            execution=model.steps_per_execution,
            epochs=times,
            even=even,
        )
        self.totals = Totals(model, self._compiled, self.source.even)

    def takes(self, values: dict[Any, np.ndarray]) -> bool:
        """Whether it can run with these weights, by the keys of their sources, and nothing of the model."""
        return not self._regularized and all(s.compute is None and s.key in values for s in self._sources)

    def run(self, callbacks: Any, values: dict[Any, np.ndarray] | None = None) -> dict[str, Any]:
        """The logs.

        Args:
            callbacks: a list of Keras', or None.
            values: weights that it `takes`; nobody sees the metrics' variables then, and they are not set. None for the
                model's as they are.
        """
        model, totals = self._model, self.totals
        watch = Watch(callbacks)
        vars(model)["stop_evaluating"] = False
        if not private.counts_steps_past_the_end():
            self.source.restart()
        if callbacks is not None:
            callbacks.on_test_begin()
        extra = 0.0
        if values is not None:
            self._core.trainer.set_params([values[source.key] for source in self._sources])
        else:
            self._core.trainer.set_params([np.asarray(p) for p in self._compiled.whole.region.computation.params()])
            extra = _additional(model) if self._regularized else 0.0
        totals.reset()
        for first, pieces in self.source.epoch(whole=not watch.test):
            if watch.test:
                callbacks.on_test_batch_begin(first)
            step = first
            for piece in pieces:
                while piece.rows:
                    done = self._core.run(piece, _NO_RATES, totals, SECONDS, extra)
                    piece, step = piece.after(done), step + done
                    if watch.bar and not watch.test:
                        callbacks.on_test_batch_end(step - 1, totals.logs())
            if watch.test:
                if watch.test == "state":
                    totals.write()
                told = private.step_told_after(first, model.steps_per_execution)
                callbacks.on_test_batch_end(told, totals.logs())
            if model.stop_evaluating:
                break
        if values is None:
            totals.write()
        logs = totals.logs()
        if callbacks is not None:
            callbacks.on_test_end(logs)
        return logs


def _made(model: Any, whole: Any, x: Any, y: Any, sample_weight: Any) -> tuple[Compiled, Core]:
    compiled = Compiled(model, whole, x, y, sample_weight)
    return compiled, Core(*compiled.on_plan(), whole.region.dtype)


def _additional(model: Any) -> float:
    """What regularizers add to the loss of every batch."""
    return sum(float(loss) for loss in model.losses)


def evaluate(model: Any, by_keras: Any, arguments: dict[str, Any]) -> Any:
    """`evaluate` of a fused model; `by_keras` takes the same arguments."""

    def prepare() -> Any:
        private.assert_compiled(model, "evaluate")
        evaluation = Evaluation(model, arguments)

        def run() -> Any:
            verbose, callbacks = arguments["verbose"], arguments["callbacks"]
            listed = None
            if callbacks or verbose != 0:
                listed = private.callback_list(
                    model, callbacks, add_progbar=verbose != 0, verbose=verbose, epochs=1, steps=evaluation.source.steps
                )
            logs = evaluation.run(listed)
            return logs if arguments["return_dict"] else private.in_order(model, logs)

        return run

    return choice.run(model, "evaluates", prepare, lambda: by_keras(**arguments))


def test_on_batch(model: Any, by_keras: Any, arguments: dict[str, Any]) -> Any:
    """`test_on_batch` of a fused model; `by_keras` takes the same arguments."""

    def prepare() -> Any:
        private.assert_compiled(model, "test_on_batch")
        if not private.tests_each_batch_by_itself():
            raise NotNative("this Keras' test_on_batch goes on where the last one ended")
        passed = {name: arguments[name] for name in ("x", "y", "sample_weight")}
        if not private.are_arrays(tuple(passed.values())):
            raise NotNative("the batch is no arrays")
        rows = len(data.array(keras.tree.flatten(arguments["x"])[0]))
        evaluation = Evaluation(model, {**passed, "batch_size": rows, "steps": None})

        def run() -> Any:
            logs = evaluation.run(None)
            return logs if arguments["return_dict"] else private.in_order(model, logs)

        return run

    return choice.run(model, "tests", prepare, lambda: by_keras(**arguments))
