"""`fit`, natively: Keras' loop around the core's steps."""

from __future__ import annotations

from typing import Any

from fusedsplit.loops import _keras_private as private
from fusedsplit.loops import choice, given
from fusedsplit.loops.callbacks import Watch
from fusedsplit.loops.compiled import Compiled
from fusedsplit.loops.evaluate import Evaluation
from fusedsplit.loops.reasons import NotNative
from fusedsplit.loops.sources import Execution
from fusedsplit.loops.totals import Totals
from fusedsplit.loops.training import Training


def fit(model: Any, by_keras: Any, arguments: dict[str, Any]) -> Any:
    """`fit` of a fused model; `by_keras` takes the same arguments."""

    def prepare() -> Any:
        private.assert_compiled(model, "fit")
        return Fit(model, arguments).run

    return choice.run(model, "fits", prepare, lambda: by_keras(**arguments))


def trained(model: Any, x: Any, y: Any, sample_weight: Any) -> tuple[Compiled, Training]:
    """A compiled model read for training, and its trainer: made once, with the first data.

    Raises:
        NotNative: with the reason why the core does not train it.
    """
    whole = choice.whole(model, training=True)

    def make() -> tuple[Compiled, Training]:
        compiled = Compiled(model, whole, x, y, sample_weight)
        return compiled, Training(model, compiled)

    compiled, training = model.made_once("fit", make)
    training.check()
    return compiled, training


class Fit:
    """One call of `fit`.

    Args:
        model: compiled.
        arguments: all of those of `fit`; a generator of which a batch had to be looked at is replaced there.

    Raises:
        NotNative: with the reason why the core does not do it.
    """

    def __init__(self, model: Any, arguments: dict[str, Any]):
        self._model = model
        self._arguments = arguments
        self._epochs, steps = private.capped(arguments["epochs"], arguments["steps_per_epoch"])
        x, y, weights, validation = self._data()
        even = False
        if private.are_arrays((x, y, weights)):
            first = x, y, weights
        else:
            taken, x, even = given.peek(x)
            arguments["x"] = x
            first = private.unpack(taken)
        self._compiled, self._training = trained(model, *first)
        if first[0] is not x:
            self._compiled.batch(*first)
        if arguments["class_weight"] is not None and self._compiled.inputs.lead > 1:
            raise NotNative("class weights of outputs of more than two axes")
        self._source = given.source(
            self._compiled.batch,
            x,
            y,
            weights,
            size=arguments["batch_size"],
            steps=steps,
            execution=model.steps_per_execution,
            epochs=self._epochs - arguments["initial_epoch"],
            trains=True,
            shuffle=arguments["shuffle"],
            class_weight=arguments["class_weight"],
            even=even,
        )
        self._totals = Totals(model, self._compiled, self._source.even)
        self._evaluation = None if validation is None else self._evaluated(*validation)

    def _data(self) -> tuple[Any, Any, Any, Any]:
        """x, y and weights to train with, and those to validate with, or None."""
        arguments = self._arguments
        data = arguments["x"], arguments["y"], arguments["sample_weight"]
        validation = arguments["validation_data"]
        if arguments["validation_split"] and validation is None:
            data, validation = private.split(data, arguments["validation_split"])
        return (*data, None if validation is None else private.unpack(validation))

    def _evaluated(self, x: Any, y: Any, sample_weight: Any) -> Evaluation:
        arguments = self._arguments
        passed = {
            "x": x,
            "y": y,
            "sample_weight": sample_weight,
            "batch_size": arguments["validation_batch_size"] or arguments["batch_size"],
            "steps": arguments["validation_steps"],
        }
        try:
            return Evaluation(self._model, passed, self._epochs - arguments["initial_epoch"])
        finally:
            if passed["x"] is not x:
                arguments["validation_data"] = passed["x"]

    def run(self) -> Any:
        """Trains; returns the History."""
        model, arguments = self._model, self._arguments
        verbose = arguments["verbose"]
        callbacks = private.callback_list(
            model,
            arguments["callbacks"],
            add_history=True,
            add_progbar=verbose != 0,
            verbose=verbose,
            epochs=self._epochs,
            steps=self._source.steps,
        )
        self._callbacks, self._watch = callbacks, Watch(callbacks)
        vars(model)["stop_training"] = False
        self._written = True  # the variables hold what the trainer does
        self._seen = self._totals  # what the metrics' variables are to hold
        callbacks.on_train_begin()
        self._training.read()
        logs = None
        try:
            for epoch in range(private.initial_epoch(model, arguments["initial_epoch"]), self._epochs):
                logs = self._epoch(epoch)
                if model.stop_training:
                    break
        finally:
            self._write()
        if self._epochs > 0:
            model.optimizer.finalize_variable_values(model.trainable_weights)
        callbacks.on_train_end(logs=logs)
        return model.history

    def _epoch(self, epoch: int) -> dict[str, Any]:
        totals, callbacks = self._totals, self._callbacks
        totals.reset()
        self._seen = totals
        callbacks.on_epoch_begin(epoch)
        if self._watch.state:
            self._training.read()
        for execution in self._source.epoch(whole=not self._watch.train):
            if self._watch.train:
                self._execution_watched(execution)
            else:
                self._execution(execution)
            if self._model.stop_training:
                break
        logs = totals.logs()
        validates = self._evaluation is not None and private.should_eval(
            self._model, epoch, self._arguments["validation_freq"]
        )
        if self._watch.state:
            self._write()
        if validates:
            logs.update({f"val_{name}": value for name, value in self._validate().items()})
        callbacks.on_epoch_end(epoch, logs)
        return logs

    def _validate(self) -> dict[str, Any]:
        assert self._evaluation is not None
        if not self._watch.state:
            values = dict(zip(self._training.keys, self._training.trainer.params))
            if self._evaluation.takes(values):
                logs = self._evaluation.run(self._callbacks, values)
                self._seen = self._evaluation.totals
                return logs
            self._write()
        return self._evaluation.run(self._callbacks)

    def _execution(self, execution: Execution) -> None:
        """Steps that nobody watches but a progress bar."""
        step = execution.first
        for piece in execution.pieces:
            while piece.rows:
                self._written = False
                done = self._training.run(piece, self._totals)
                piece, step = piece.after(done), step + done
                if self._watch.bar:
                    self._callbacks.on_train_batch_end(step - 1, self._totals.logs())

    def _execution_watched(self, execution: Execution) -> None:
        """Steps between two looks of callbacks."""
        sees = self._watch.train == "state"
        self._callbacks.on_train_batch_begin(execution.first)
        if sees:
            self._training.read()
        for piece in execution.pieces:
            while piece.rows:
                self._written = False
                piece = piece.after(self._training.run(piece, self._totals))
        if sees:
            self._write()
        told = private.step_told_after(execution.first, self._model.steps_per_execution)
        self._callbacks.on_train_batch_end(told, self._totals.logs())

    def _write(self) -> None:
        """Gives Keras' variables what the trainer and the totals hold."""
        if not self._written:
            self._training.write()
            self._seen.write()
            self._written = True
