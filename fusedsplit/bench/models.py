"""Whole Keras models, plain against fused: eager, graph, XLA, with gradients, and `fit`; checked first, then timed."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import fusedsplit as fs
from fusedsplit.bench import architectures, harness
from fusedsplit.bench.architectures import ARCHITECTURES
from fusedsplit.bench.ladder import Cell
from fusedsplit.bench.precision import keras_in
from fusedsplit.bench.providers import MODEL, PLAIN
from fusedsplit.models import operations

MODES = ("forward", "gradients", "eager", "fit")
BATCHES = (1, 32, 512)
# What `make bench` measures: a mixture of experts, residual gates, and a deep stack.
DEFAULT = ("mmoe", "grn", "nbeats")
# Batches of `make bench`, and of the program.
BENCH_BATCHES = (32, 512)
_NAMES = (PLAIN, f"{PLAIN}-xla", MODEL, f"{MODEL}-xla")
# A result may err by four times what the plain model errs in its worse form, or by some units in the last place of the
# largest number.
_RATIO, _FLOOR = 4.0, 1e-5
_STEPS = 16


def register() -> None:
    """Teaches `fs.fuse` the architectures' own layers."""

    @operations.register(architectures.Scale)
    def scale(layer: Any, program: Any, x: Any) -> Any:
        return program.scale_by(x, program.weight(layer, "weight"))


class ModelContest:
    """A model and its fused twin, which share their weights, traced once for all batches."""

    def __init__(self, name: str):
        self.name = name
        self.architecture = ARCHITECTURES[name]
        self.model = self.architecture.make()
        register()
        self.fused = fs.fuse(self.model)
        self.flops = sum(region.plan.flops() for region in self.fused.regions)
        models = {PLAIN: self.model, MODEL: self.fused}
        self.forward, self.gradients = {}, {}
        for contestant in _NAMES:
            model, jit = models[contestant.removesuffix("-xla")], contestant.endswith("-xla")
            self.forward[contestant] = self._function(model, jit)
            self.gradients[contestant] = self._gradients(model, jit)
        self.eager = {n: functools.partial(m, training=False) for n, m in models.items()}

    def _spec(self) -> tf.TensorSpec:
        return tf.TensorSpec([None, *self.architecture.extra, self.model.inputs[0].shape[-1]], tf.float32)

    def _function(self, model: Any, jit: bool) -> Any:
        function = tf.function(lambda x: keras.tree.flatten(model(x, training=False)), autograph=False, jit_compile=jit)
        return function.get_concrete_function(self._spec())

    def _gradients(self, model: Any, jit: bool) -> Any:
        weights = [w.value for w in self.model.trainable_weights]

        def both(x: tf.Tensor, dys: Sequence[tf.Tensor]) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
            with tf.GradientTape() as tape:
                ys = keras.tree.flatten(model(x, training=False))
            return ys, tape.gradient(ys, weights, output_gradients=dys, unconnected_gradients="zero")

        return tf.function(both, autograph=False, jit_compile=jit)

    def rows(self, batch: int) -> np.ndarray:
        shape = (batch, *self.architecture.extra, self.model.inputs[0].shape[-1])
        return np.random.default_rng(batch).standard_normal(shape, "float32")

    def measure(self, batch: int, modes: Sequence[str] = MODES, **options: Any) -> Iterator[Cell]:
        """The cells of one batch; `options` are those of `harness.interleave`."""
        x = tf.constant(self.rows(batch))
        dys = [tf.constant(np.random.default_rng(i).standard_normal(y.shape, "float32")) for i, y in self._outputs(x)]
        problems = self._problems(x, dys)
        flops = self.flops * int(np.prod(x.shape[:-1]))
        for mode in modes:
            timings = harness.interleave(self._calls(mode, x, dys), **options)
            yield Cell(self.name, batch, mode, flops * (3 if mode in ("gradients", "fit") else 1), timings, problems)

    def _outputs(self, x: tf.Tensor) -> Iterator[tuple[int, tf.Tensor]]:
        return enumerate(self.forward[PLAIN](x))

    def _calls(self, mode: str, x: tf.Tensor, dys: Sequence[tf.Tensor]) -> dict[str, Callable[[], object]]:
        if mode == "gradients":
            return {n: functools.partial(f, x, dys) for n, f in self.gradients.items()}
        if mode == "fit":
            return {PLAIN: self._fit(self.model, x), MODEL: self._fit(self.fused, x)}
        functions = self.eager if mode == "eager" else self.forward
        return {n: functools.partial(f, x) for n, f in functions.items()}

    def _fit(self, model: Any, x: tf.Tensor) -> Callable[[], object]:
        """An epoch of sixteen steps; both contestants move the same weights, whose values cost nothing."""
        batch = x.shape[0]
        rows = np.tile(x.numpy(), (_STEPS, *[1] * (len(x.shape) - 1)))
        targets = [np.zeros((len(rows), *y.shape[1:]), "float32") for _, y in self._outputs(x)]
        model.compile("sgd", "mse" if len(targets) == 1 else ["mse"] * len(targets))
        y = targets[0] if len(targets) == 1 else targets
        return lambda: model.fit(rows, y, batch_size=batch, epochs=1, verbose=0, shuffle=False)

    def _problems(self, x: tf.Tensor, dys: Sequence[tf.Tensor]) -> dict[str, str]:
        """For each contestant what disagrees with the plain model in float64 ("": nothing)."""
        errors = {}
        for contestant, f in self.gradients.items():
            errors[contestant] = _errors(_flat(f(x, dys)), self._truth(x, dys, contestant.endswith("-xla")))
        own = np.maximum(errors[PLAIN], errors[f"{PLAIN}-xla"])
        problems = {}
        for contestant, found in errors.items():
            allowed = np.maximum(_RATIO * own, _FLOOR)
            worst = int(np.argmax(found / allowed))
            bad = not np.all(found <= allowed)
            problems[contestant] = f"tensor {worst} errs by {found[worst]:.1e} of {allowed[worst]:.1e}" if bad else ""
        return problems

    def _truth(self, x: tf.Tensor, dys: Sequence[tf.Tensor], jit: bool) -> list[np.ndarray]:
        """Outputs and gradients in float64; of a model that draws numbers (others under XLA) the plain one's own."""
        if self.name == "vae":
            return _flat(self.gradients[f"{PLAIN}-xla" if jit else PLAIN](x, dys))
        with keras_in("float64"):
            exact = self.architecture.make()
        exact.set_weights(self.model.get_weights())
        weights = [w.value for w in exact.trainable_weights]
        with tf.GradientTape() as tape:
            ys = keras.tree.flatten(exact(tf.cast(x, tf.float64), training=False))
        upstream = [tf.cast(dy, tf.float64) for dy in dys]
        return _flat((ys, tape.gradient(ys, weights, output_gradients=upstream, unconnected_gradients="zero")))


def _flat(result: Any) -> list[np.ndarray]:
    return [np.asarray(t, np.float64) for t in keras.tree.flatten(result)]


def _errors(found: Sequence[np.ndarray], truth: Sequence[np.ndarray]) -> np.ndarray:
    """For each tensor the largest error, as a share of its largest element."""
    return np.array([np.max(np.abs(f - t)) / max(np.max(np.abs(t)), 1e-30) for f, t in zip(found, truth, strict=True)])
