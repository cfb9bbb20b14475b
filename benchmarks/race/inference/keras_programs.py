"""The Keras layer or model of a subject, and programs made of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import fusedsplit as fs
from fusedsplit.backends.base import Operands
from fusedsplit.bench import cases, fused, models, providers
from fusedsplit.bench.architectures import ARCHITECTURES
from fusedsplit.bench.precision import keras_in
from fusedsplit.bench.program import ProviderUnavailable
from race.inference import plans
from race.inference.subjects import Subject, draw

# The ladder and its twins; every other name is an architecture's.
CASES = {name: cases.CASES[name] for name in cases.DEFAULT}


class Programs:
    """Callables on tensors, all with the subject's weights."""

    def __init__(self, subject: Subject):
        self.subject = subject
        self.case = CASES.get(subject.name)

    def _provider(self, name: str) -> Callable[..., Any]:
        return providers.make(name, self.case, self.subject.weights).call

    def model(self) -> Any:
        """The Keras model, as its users write it."""
        if self.case is not None:
            return self._provider(providers.BASELINE)
        model = ARCHITECTURES[self.subject.name].make()
        model.set_weights(self.subject.weights)
        return model

    def layer(self) -> Any:
        """What the package makes of it: a layer of the case, or the fused model."""
        if self.case is None:
            models.register()
            return fs.fuse(self.model())
        return self._provider("op")

    def keras(self) -> Callable[..., Any]:
        model = self.model()
        return lambda *xs: model(_one(xs), training=False)

    def op(self) -> Callable[..., Any]:
        reason = fused.op_status().get("reason")
        if reason:
            raise ProviderUnavailable(reason)
        layer = self.layer()
        return lambda *xs: layer(_one(xs), training=False)

    def hand(self, vocabulary: plans.Vocabulary) -> Callable[..., Any]:
        """What an expert writes: of a case as he would, of an architecture operation by operation."""
        if self.case is not None:
            return self._provider("hand")
        subject = self.subject
        params = [tf.Variable(p) for p in subject.params]

        def call(*xs: Any) -> Any:
            rows = [tf.reshape(x, (-1, x.shape[-1])) for x in xs]
            return subject.compute(vocabulary, rows, params)

        return call

    def shortest(self) -> Callable[..., Any]:
        """The op by the least that eager code can do: of a case without a layer around it."""
        if self.case is None:
            return self.op()
        call = fused.functional(self.layer(), "op", frozen=True)
        return lambda *xs: call(_one(xs))

    def einsum(self) -> Callable[..., Any]:
        if self.case is None:
            raise ProviderUnavailable("its branches are not of one shape")
        return self._provider("einsum")


def _one(xs: Sequence[Any]) -> Any:
    return xs[0] if len(xs) == 1 else list(xs)


def exact(subject: Subject) -> Callable[[Sequence[np.ndarray]], list[np.ndarray]]:
    """The Keras model in float64, as a function of rows; each output as (rows, columns)."""
    with keras_in("float64"):
        model = Programs(subject).model()

    def outputs(inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        with keras_in("float64"):
            ys = model(_one([tf.constant(x, tf.float64) for x in inputs]), training=False)
        return [y.numpy().reshape(-1, y.shape[-1]) for y in keras.tree.flatten(ys)]

    return outputs


def subject(name: str) -> Subject:
    """The case or the architecture of this name, with random weights.

    Raises:
        ProviderUnavailable: if it is not one region, so that no other framework gets it from the plan.
    """
    if name in CASES:
        case = CASES[name]
        layers = providers.dense_layers(case)
        layer = fused.split_dense_layer(case, layers, "tf")
        plan, weights = fused.plan(layer), case.weights()
        return Subject(name, weights, plan, weights, (((), case.inputs),), (0,))
    models.register()
    architecture = ARCHITECTURES[name]
    model = architecture.make()
    model.set_weights(draw(model.get_weights()))
    fused_model = fs.fuse(model)
    items = fused_model.schedule(training=False).items
    if len(items) != 1 or not hasattr(items[0], "plan"):
        raise ProviderUnavailable(f"{name} is not one region: it draws random numbers, or holds what is not row-wise")
    region = items[0]
    params = [np.asarray(p) for p in region.computation.params()]
    shapes = tuple((architecture.extra, x.shape[-1]) for x in region.inputs)
    # Run with the numbers of its outputs in place of the outputs, the computation says which is which.
    numbers = region.computation.execute(lambda plan, *_: range(len(plan.outputs)), Operands([], [], []))
    outputs = tuple(numbers[region.outputs.index(y)] for y in fused_model.graph.outputs)
    return Subject(name, model.get_weights(), region.plan, params, shapes, outputs)
