"""`predict` and `predict_on_batch`, natively."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from fusedsplit.loops import _keras_private as private
from fusedsplit.loops import choice, given
from fusedsplit.loops.callbacks import Watch
from fusedsplit.loops.data import Inputs, batch_size
from fusedsplit.loops.reasons import NotNative
from fusedsplit.loops.variables import read_all
from fusedsplit.native import library

# Rows of one call of the core: an interrupt or a progress bar waits no longer.
_CHUNK = 1 << 16


class Forward:
    """A model's outputs, with the weights as they are.

    Args:
        whole: the model as one region, at inference.
    """

    def __init__(self, whole: Any):
        self._whole = whole
        self.inputs = Inputs(whole)
        computation = whole.region.computation
        self._sources = computation.sources()
        self._simple = all(source.compute is None for source in self._sources)
        plan = computation.plan()
        core = library.core()
        program = core.Program64 if whole.region.dtype == "float64" else core.Program32
        self._program = program(plan.encode())
        self._outputs = computation.outputs()

    def params(self) -> list[np.ndarray]:
        """The weights, as they are."""
        kept = self._whole.region.computation.kept()
        if kept is not None and kept.are_current():
            return read_all(kept.values())
        if not self._simple:
            return [np.asarray(p) for p in self._whole.region.computation.params()]
        return _held(self._sources)

    def params_from(self, values: dict[Any, np.ndarray]) -> list[np.ndarray]:
        """The weights, where `values` are those of their keys now; the variables hold what else there is."""
        if not self._simple:
            raise NotNative("weights are computed from others")
        others = iter(_held([source for source in self._sources if source.key not in values]))
        return [values[s.key] if s.key in values else next(others) for s in self._sources]

    def __call__(self, flat: list[np.ndarray], params: list[np.ndarray]) -> list[np.ndarray]:
        """The outputs of the model on arrays that are those of its inputs, in the order of the region's outputs."""
        lead = self.inputs.lead
        leading = flat[0].shape[:lead]
        results = self._program.forward(self.inputs.rows(flat), params)[0]
        return [
            results[place].reshape(*leading, *tensor.shape[lead:])
            for place, tensor in zip(self._outputs, self._whole.region.outputs)
        ]

    def packed(self, outputs: list[np.ndarray]) -> Any:
        return self._whole.packed(outputs)


def _held(sources: Sequence[Any]) -> list[np.ndarray]:
    """What sources hold: variables, arrays, and kernels that are computed where there is LoRA."""
    held = [source.read() for source in sources]
    variables = iter(read_all([private.tf_variable(x) for x in held if isinstance(x, keras.Variable)]))
    return [next(variables) if isinstance(x, keras.Variable) else np.asarray(x) for x in held]


def _forward(model: Any) -> Forward:
    whole = choice.whole(model, training=False)
    forward: Forward = model.made_once("predict", lambda: Forward(whole))
    return forward


def predict_on_batch(model: Any, by_keras: Any, arguments: dict[str, Any]) -> Any:
    """`predict_on_batch` of a fused model; `by_keras` takes the same arguments."""

    def prepare() -> Any:
        forward = _forward(model)
        flat = forward.inputs.flat(arguments["x"])
        if not len(flat[0]):
            raise NotNative("there are no rows")
        return lambda: forward.packed(forward(flat, forward.params()))

    return choice.run(model, "predicts", prepare, lambda: by_keras(**arguments))


def predict(model: Any, by_keras: Any, arguments: dict[str, Any]) -> Any:
    """`predict` of a fused model; `by_keras` takes the same arguments."""
    return choice.run(model, "predicts", lambda: Prediction(model, arguments).run, lambda: by_keras(**arguments))


class Prediction:
    """One call of `predict`.

    Raises:
        NotNative: with the reason why the core does not do it.
    """

    def __init__(self, model: Any, arguments: dict[str, Any]):
        self._model = model
        self._arguments = arguments
        self._forward = _forward(model)
        self._steps: int | None
        _, steps = private.capped(1, arguments["steps"])
        x = arguments["x"]
        if private.are_arrays(x):
            flat = self._forward.inputs.flat(x)
            rows = len(flat[0])
            if not rows or any(len(a) != rows for a in flat):
                raise NotNative("there are no rows, or not equally many of each input")
            self._size = batch_size(arguments["batch_size"], rows, steps)
            self._steps = steps or -(-rows // self._size)
            self._flat: list[np.ndarray] | None = [a[: self._steps * self._size] for a in flat]
        else:
            taken, arguments["x"], _ = given.peek(x)
            self._forward.inputs.flat(private.unpack(taken)[0])
            self._flat = None
            self._batches = private.Batches(
                arguments["x"],
                model.steps_per_execution if model.compiled else 1,
                batch_size=arguments["batch_size"],
                steps_per_epoch=steps,
            )
            self._steps = self._batches.steps

    def run(self) -> Any:
        model, verbose = self._model, self._arguments["verbose"]
        vars(model)["stop_predicting"] = False  # not by Keras' own __setattr__, which takes longer than a small model
        if self._flat is not None and not self._arguments["callbacks"] and verbose == 0:
            return self._forward.packed(self._all(None))
        callbacks = private.callback_list(
            model, self._arguments["callbacks"], add_progbar=verbose != 0, verbose=verbose, epochs=1, steps=self._steps
        )
        callbacks.on_predict_begin()
        outputs = self._batchwise(callbacks) if self._flat is None else self._all(callbacks)
        callbacks.on_predict_end()
        return self._forward.packed(outputs)

    def _all(self, callbacks: Any) -> list[np.ndarray]:
        """Of arrays."""
        assert self._flat is not None
        rows, params = len(self._flat[0]), self._forward.params()
        each = callbacks is not None and bool(Watch(callbacks).predict)
        execution = self._model.steps_per_execution if self._model.compiled else 1
        chunk = self._size * (execution if each else max(1, _CHUNK // self._size))
        found = []
        for at in range(0, rows, chunk):
            if each:
                callbacks.on_predict_batch_begin(at // self._size)
            outputs = self._forward([a[at : at + chunk] for a in self._flat], params)
            found.append(outputs)
            if callbacks is not None:
                told = math.ceil(min(at + chunk, rows) / self._size) - 1
                if each:
                    told = private.step_told_after(at // self._size, execution)
                callbacks.on_predict_batch_end(told, {"outputs": self._forward.packed(outputs)})
            if self._model.stop_predicting:
                break
        return _joined(found)

    def _batchwise(self, callbacks: Any) -> list[np.ndarray]:
        """Of anything else."""
        params = self._forward.params()
        found = []
        for first, batches in self._batches.epoch():
            callbacks.on_predict_batch_begin(first)
            outputs = [self._forward(self._forward.inputs.flat(private.unpack(b)[0]), params) for b in batches]
            found += outputs
            told = private.step_told_after(first, len(batches))
            callbacks.on_predict_batch_end(told, {"outputs": self._forward.packed(_joined(outputs))})
            if self._model.stop_predicting:
                break
        return _joined(found)


def _joined(found: list[list[np.ndarray]]) -> list[np.ndarray]:
    return found[0] if len(found) == 1 else [np.concatenate(parts) for parts in zip(*found)]
