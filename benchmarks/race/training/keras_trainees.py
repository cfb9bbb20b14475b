"""Keras: the Lambda program, the same fused, and Keras on JAX."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras.layers import Concatenate, Dense, Lambda

from fusedsplit.bench.program import ProviderUnavailable
from race.training.task import EPSILON, RATE, Flights, Iris
from race.training.trainee import EPOCH, Trainee

_IRIS_EPOCHS = 20  # of a call of fit, so that what it costs once is shared out as it is in practice
_PREDICTED_AT_ONCE = 4096
# All cells of one model are trained on the same rows: its weights change, and what a step costs does not.


class _KerasFit(Trainee):
    """Any Keras model's `fit` on NumPy arrays."""

    def configure(self, threads: int) -> None:
        super().configure(threads)
        keras.utils.set_random_seed(0)

    # What the subclasses say.

    compiled: dict[str, Any] = {}

    def halves(self) -> Callable[[Any], Any]:
        """A layer or function that splits a tensor's columns in two."""
        return functools.partial(keras.ops.split, indices_or_sections=2, axis=-1)

    def finish(self, model: Any) -> Any:
        """The model that is trained."""
        return model

    # The tasks.

    def flights(self, task: Flights) -> None:
        self.task = task
        self.x, self.y = task.data()
        self.model = self.flights_model()
        self.calls, self.units = {EPOCH: self._epoch}, {EPOCH: task.steps}
        self.calls |= self._other_calls()

    def flights_model(self) -> Any:
        half = self.task.units // 2
        inputs = keras.Input((self.x.shape[1],))
        left, right = self.halves()(Dense(self.task.units)(inputs))
        parts = [Dense(half, "relu")(left), Dense(3 * self.task.units // 4, "relu")(right)]
        model = keras.Model(inputs, Dense(1)(Concatenate()(parts)))
        model.set_weights(self.task.weights())
        model.compile(keras.optimizers.Adam(RATE, epsilon=EPSILON), "mse", **self.compiled)
        return self.finish(model)

    def _epoch(self) -> None:
        self.model.fit(self.x, self.y, batch_size=self.task.batch, verbose=0)

    def _other_calls(self) -> dict[str, Callable[[], object]]:
        """What else is waited for. Rows and batches of these do not depend on the task's batch."""
        one, few = self.x[:1], (self.x[:32], self.y[:32])
        whole = {"batch_size": _PREDICTED_AT_ONCE, "verbose": 0}
        return {
            "predict(one row)": lambda: self.model.predict(one, verbose=0),
            "predict_on_batch(one row)": lambda: self.model.predict_on_batch(one),
            "train_on_batch(32 rows)": lambda: self.model.train_on_batch(*few),
            "predict(all rows)": lambda: self.model.predict(self.x, **whole),
            "evaluate(all rows)": lambda: self.model.evaluate(self.x, self.y, **whole),
        }

    def train(self, steps: int) -> list[np.ndarray]:
        rows = steps * self.task.batch
        self.model.fit(self.x[:rows], self.y[:rows], batch_size=self.task.batch, shuffle=False, verbose=0)
        return self.model.get_weights()

    def iris(self, task: Iris) -> None:
        self.x, self.y = task.data()
        fit = {"batch_size": task.batch, "epochs": _IRIS_EPOCHS, "verbose": 0}
        plain, accurate = self._iris_model(), self._iris_model(metrics=["accuracy"])
        validated = {**fit, "validation_data": (self.x, self.y)}
        self.calls = {
            EPOCH: lambda: plain.fit(self.x, self.y, **fit),
            "with validation": lambda: plain.fit(self.x, self.y, **validated),
            "with accuracy": lambda: accurate.fit(self.x, self.y, **fit),
        }
        self.units = dict.fromkeys(self.calls, _IRIS_EPOCHS)
        self._first = lambda model: model.fit(self.x, self.y, batch_size=task.batch, verbose=0)

    def _iris_model(self, **settings: Any) -> Any:
        model = keras.Sequential([keras.Input((4,)), Dense(16, "relu"), Dense(3, "softmax")])
        model.compile("adam", "sparse_categorical_crossentropy", **settings, **self.compiled)
        return self.finish(model)

    def first_epoch(self) -> float:
        model = self._iris_model()
        start = time.perf_counter()
        self._first(model)
        return time.perf_counter() - start


class _TensorFlowFit(_KerasFit):
    def configure(self, threads: int) -> None:
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
        tf.get_logger().setLevel("ERROR")
        super().configure(threads)

    def halves(self) -> Callable[[Any], Any]:
        import tensorflow as tf

        return Lambda(lambda h: tf.split(h, 2, axis=-1))


class LambdaFit(_TensorFlowFit):
    """What the seeds are."""


class PackedFit(_TensorFlowFit):
    """What Keras' documentation advises for small steps."""

    compiled = {"steps_per_execution": 64, "jit_compile": True}


class FusedFit(_TensorFlowFit):
    """The fused model in Keras' own loop."""

    loop = "keras"

    def finish(self, model: Any) -> Any:
        import fusedsplit as fs

        try:
            return fs.fuse(model, loop=self.loop)
        except (TypeError, ValueError) as error:
            raise ProviderUnavailable(str(error)) from error


class NativeFit(FusedFit):
    """The fused model in the package's loop."""

    loop = "native"

    def _other_calls(self) -> dict[str, Callable[[], object]]:
        import fusedsplit as fs

        calls = super()._other_calls()
        if hasattr(fs, "Trainer"):
            trainer = fs.Trainer(self.flights_model())
            few = self.x[:32], self.y[:32]
            calls["Trainer.step(32 rows)"] = lambda: trainer.step(*few)
        return calls


class JaxFit(_KerasFit):
    """Keras on JAX: no Lambda of TensorFlow's there, but `keras.ops.split`."""
