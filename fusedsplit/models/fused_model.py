"""`fs.fuse`: a whole Keras model runs as fused regions, and stays the same model."""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from typing import Any

import keras

from fusedsplit.backends import dispatch
from fusedsplit.backends._tf_private import in_save_context
from fusedsplit.models import _keras_private as private
from fusedsplit.models import eager, graph, loops, regions, whole
from fusedsplit.models.graph import Graph
from fusedsplit.models.operations import register
from fusedsplit.models.region import Region
from fusedsplit.models.regions import Schedule
from fusedsplit.models.whole import Whole

# The fused model that is running, the innermost one, and its schedule.
_running: contextvars.ContextVar[tuple[Any, Schedule] | None] = contextvars.ContextVar("fusedsplit_run", default=None)


@keras.saving.register_keras_serializable(package="fusedsplit", name="FusedModel")
class FusedModel(keras.Model):
    """A functional model whose graph runs as fused regions: the same layers, variables, names and files.

    Made by `fs.fuse`. Whatever of the graph is in no region runs as Keras runs it.

    Attributes:
        backend: as in `SplitDense`, for every region.
        loop: who runs `fit`, `evaluate` and `predict`: "auto", "native" or "keras".
    """

    # By these very names, or Keras takes it for no functional model, and its config for one without a graph.
    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.backend = "auto"
        self.loop = "auto"

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "backend":
            dispatch.check_name(value)
        elif name == "loop":
            loops.check_name(value)
        elif name == "history" and vars(self).get(name) is value:  # as it is set after each epoch
            return
        super().__setattr__(name, value)

    def made_once(self, key: Any, make: Callable[[], Any]) -> Any:
        """What was made for `key` since the model was last compiled, or else is made now."""
        return private.made_once(self, key, make)

    @property
    def regions(self) -> list[Region]:
        """What runs fused at inference: objects with `layers` and `plan`."""
        return self.schedule(training=False).regions

    @property
    def graph(self) -> Graph:
        """The model's graph as it was read, nested models inlined."""
        return self.made_once("graph", lambda: graph.read(self))

    def schedule(self, training: bool = False) -> Schedule:
        """How the graph runs, at inference or while training: regions, and what is left to Keras, with the reason.

        It is made when it is first needed, and again after `compile`.
        """
        return self.made_once(training, lambda: regions.schedule(self.graph, training))

    def whole(self, training: bool = False) -> Whole | None:
        """The model as one region, at inference or while training; None where it is more than that."""
        return self.made_once(("whole", training), lambda: whole.read(self, training))

    def why_not_whole(self, training: bool = False) -> list[str]:
        """What stands against that."""
        if self.whole(training) is not None:
            return []
        return whole.why_not(self, training)

    # Keras' loops, natively where that can be.

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: Any = None,
        epochs: Any = 1,
        verbose: Any = "auto",
        callbacks: Any = None,
        validation_split: Any = 0.0,
        validation_data: Any = None,
        shuffle: Any = True,
        class_weight: Any = None,
        sample_weight: Any = None,
        initial_epoch: Any = 0,
        steps_per_epoch: Any = None,
        validation_steps: Any = None,
        validation_batch_size: Any = None,
        validation_freq: Any = 1,
    ) -> Any:
        arguments = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        return loops.run("fit", self, super().fit, arguments)

    def evaluate(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: Any = None,
        verbose: Any = "auto",
        sample_weight: Any = None,
        steps: Any = None,
        callbacks: Any = None,
        return_dict: Any = False,
        **kwargs: Any,
    ) -> Any:
        arguments = {name: value for name, value in locals().items() if name not in ("self", "__class__", "kwargs")}
        if kwargs:  # as Keras' own fit calls it
            return super().evaluate(**arguments, **kwargs)
        return loops.run("evaluate", self, super().evaluate, arguments)

    def test_on_batch(self, x: Any, y: Any = None, sample_weight: Any = None, return_dict: Any = False) -> Any:
        arguments = {"x": x, "y": y, "sample_weight": sample_weight, "return_dict": return_dict}
        return loops.run("test_on_batch", self, super().test_on_batch, arguments)

    def predict(
        self, x: Any, batch_size: Any = None, verbose: Any = "auto", steps: Any = None, callbacks: Any = None
    ) -> Any:
        arguments = {"x": x, "batch_size": batch_size, "verbose": verbose, "steps": steps, "callbacks": callbacks}
        return loops.run("predict", self, super().predict, arguments)

    def predict_on_batch(self, x: Any) -> Any:
        return loops.run("predict_on_batch", self, super().predict_on_batch, {"x": x})

    # Calling.

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if getattr(self.call, "__func__", None) is _call:  # and not another one of a subclass, or of this very model
            outputs = eager.call(self, args, kwargs)
            if outputs is not None:
                return outputs
        return super().__call__(*args, **kwargs)

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None, **kwargs: Any) -> Any:
        fused = not kwargs and self._runs_fused(training)
        token = _running.set((self, self.schedule(bool(training))) if fused else None)
        try:
            return super().call(inputs, training=training, mask=mask, **kwargs)
        finally:
            _running.reset(token)

    def _runs_fused(self, training: bool | None) -> bool:
        """Whether a call runs by its schedule: not while saving, which must need no fusedsplit to run, nor where the
        graph itself says `training=True` for one of its calls and the caller says nothing."""
        return not in_save_context() and (training is not None or not self.graph.bakes_training)

    def _run_through_graph(self, inputs: Any, operation_fn: Any = lambda op: op, call_fn: Any = None) -> Any:
        running = _running.get()
        if running is None or running[0] is not self or call_fn is not None:
            return super()._run_through_graph(inputs, operation_fn, call_fn)
        values = dict(zip(self.graph.inputs, keras.tree.flatten(inputs)))
        for item in running[1].items:
            if isinstance(item, Region):
                results = item.call([values[tensor] for tensor in item.inputs], self.backend)
            else:
                args, kwargs = item.arguments(values)
                results = keras.tree.flatten(operation_fn(item.operation)(*args, **kwargs))
            values.update(zip(item.outputs, results))
        return keras.tree.pack_sequence_as(private.same_graph(self)[1], [values[t] for t in self.graph.outputs])

    def __repr__(self) -> str:
        return f"<FusedModel name={self.name}, built={self.built}>"


_call = FusedModel.call


@keras.saving.register_keras_serializable(package="fusedsplit", name="FusedSequential")
class _FusedSequential(FusedModel):
    """What was a Sequential."""


# Keras' files of weights name a model within another one by its class: these are to be read by the plain model, and
# the plain model's by them. (TensorBoard draws the graph of a model of these names only.)
FusedModel.__name__ = "Functional"
_FusedSequential.__name__ = "Sequential"


def fuse(model: Any, *, backend: str = "auto", loop: str = "auto") -> FusedModel:
    """The same model, run as fused regions.

    The layers, variables, names, graph and files are those of `model`, which itself stays as it is; what changes is how
    it runs. A compiled model comes compiled, with the same optimizer object.

    Example:

    >>> import keras, tensorflow as tf, fusedsplit as fs
    >>> from keras.layers import Concatenate, Dense, Input, Lambda
    >>> x = Input((10,))
    >>> a, b = Lambda(lambda t: tf.split(t, 2, axis=-1))(Dense(8)(x))
    >>> y = Dense(1)(Concatenate()([Dense(4, activation="relu")(a), Dense(6, activation="relu")(b)]))
    >>> fused = fs.fuse(keras.Model(x, y))
    >>> len(fused.regions), len(fused.regions[0].plan.steps)
    (1, 4)

    Args:
        model: a functional or built Sequential Keras 3 model.
        backend: as in `SplitDense`, for every region.
        loop: who runs `fit`, `evaluate` and `predict`. "auto": the core, without TensorFlow, where the whole graph is
            one region and all that `compile` and the call name is built natively; else Keras. "native": the core, or
            an error with the reasons. "keras": always Keras.

    Returns:
        A `FusedModel`.

    Raises:
        TypeError: if `model` is no Keras 3 model.
        ValueError: if its graph cannot be seen, or does not say all that it computes; the message says what can be
            done.
    """
    dispatch.check_name(backend)
    loops.check_name(loop)
    private.check_readable(model)
    kind = _FusedSequential if isinstance(model, (keras.Sequential, _FusedSequential)) else FusedModel
    with private.strategy_scope(model):
        fused = kind(*private.same_graph(model), name=model.name)
        fused.backend = backend
        fused.loop = loop
        private.carry_over(model, fused)
    return fused


fuse.register = register  # type: ignore[attr-defined]


def unfuse(model: Any) -> keras.Model:
    """The plain Keras model over the same layers again.

    Args:
        model: a `FusedModel`.

    Returns:
        A functional `keras.Model`; compiled, with the same optimizer object, if `model` is.

    Raises:
        TypeError: if `model` is no FusedModel.
    """
    if not isinstance(model, FusedModel):
        raise TypeError(f"expected a fusedsplit.FusedModel. Received: {model!r}")
    with private.strategy_scope(model):
        plain = keras.Model(*private.same_graph(model), name=model.name)
        private.carry_over(model, plain)
    return plain
