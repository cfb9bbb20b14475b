"""TensorFlow: Keras' own program, hand-written TensorFlow, an einsum, and the package's op; by every way of a call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from fusedsplit.backends import op as custom_op
from fusedsplit.bench import ceilings, harness, ladder
from fusedsplit.bench.harness import Timing
from fusedsplit.bench.program import ProviderUnavailable
from fusedsplit.plan import Activation
from race.inference import plans
from race.inference.keras_programs import Programs
from race.inference.peer import Bound, Peer
from race.inference.subjects import Subject

_BINARY = {"add": tf.add, "mul": tf.multiply, "max": tf.maximum, "min": tf.minimum}


class Vocabulary(plans.Vocabulary):
    def param(self, array: np.ndarray) -> Any:
        return tf.constant(array)

    def dense(self, x: Any, kernel: Any, bias: Any, activation: Activation) -> Any:
        y = tf.matmul(x, kernel)
        return self.activate(activation, y if bias is None else tf.nn.bias_add(y, bias))

    def combine(self, op: str, a: Any, b: Any) -> Any:
        return _BINARY[op](a, b)

    def split(self, x: Any, sizes: Sequence[int]) -> Sequence[Any]:
        return tf.split(x, list(sizes), axis=1)

    def columns(self, x: Any, start: int, stop: int) -> Any:
        return x[:, start:stop]

    def concat(self, parts: Sequence[Any]) -> Any:
        return tf.concat(parts, axis=1)

    def row(self, op: str, x: Any, epsilon: float) -> Any:
        if op == "softmax":
            return tf.nn.softmax(x)
        if op != "normalize":
            return {"mean": tf.reduce_mean, "max": tf.reduce_max}[op](x, axis=1, keepdims=True)
        mean = tf.reduce_mean(x, axis=1, keepdims=True)
        variance = tf.reduce_mean(tf.math.squared_difference(x, mean), axis=1, keepdims=True)
        return (x - mean) * tf.math.rsqrt(variance + epsilon)

    def relu(self, x: Any) -> Any:
        return tf.nn.relu(x)

    def sigmoid(self, x: Any) -> Any:
        return tf.sigmoid(x)

    def tanh(self, x: Any) -> Any:
        return tf.tanh(x)

    def silu(self, x: Any) -> Any:
        return x * tf.sigmoid(x)

    def elu(self, x: Any, alpha: float) -> Any:
        y = tf.nn.elu(x)
        return y if alpha == 1 else tf.where(x > 0, y, alpha * y)


class TensorFlow(Peer):
    """Each program as a `tf.function`, as its concrete function, and compiled by XLA."""

    def configure(self, threads: int) -> None:
        super().configure(threads)
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
        tf.get_logger().setLevel("ERROR")

    def load(self, subject: Subject) -> dict[str, str]:
        missing = super().load(subject)
        programs = Programs(subject)
        self.functions: dict[str, Callable[..., Any]] = {}
        for name, make in (
            ("keras", programs.keras),
            ("hand", lambda: programs.hand(Vocabulary())),
            ("einsum", programs.einsum),
            ("op", programs.op),
        ):
            try:
                self._add(name, make())
            except ProviderUnavailable as error:
                missing[name] = str(error)
        if "op" not in missing:
            self.functions["op-eager"] = programs.shortest()
            in_xla = custom_op.xla_problem()
            if in_xla is not None:
                missing["op-xla"] = in_xla
        return missing

    def _add(self, name: str, program: Callable[..., Any]) -> None:
        specs = [tf.TensorSpec([None, *extra, width], tf.float32) for extra, width in self.subject.input_shapes]

        def run(*xs: Any) -> Any:
            return keras.tree.flatten(program(*xs))

        plain = tf.function(run, autograph=False, input_signature=specs)
        compiled = tf.function(run, autograph=False, input_signature=specs, jit_compile=True)
        if name == "keras":  # The yardstick goes by the shorter name.
            self.functions |= {"keras": plain.get_concrete_function(), "keras-xla": compiled.get_concrete_function()}
            return
        self.functions[f"{name}-graph"] = plain
        self.functions[f"{name}-concrete"] = plain.get_concrete_function()
        if name != "op" or custom_op.xla_problem() is None:
            self.functions[f"{name}-xla"] = compiled.get_concrete_function()

    def bind(self, inputs: Sequence[np.ndarray]) -> dict[str, Bound]:
        xs = [tf.constant(x) for x in inputs]

        def bound(function: Callable[..., Any]) -> Bound:
            return Bound(lambda: function(*xs), lambda ys: [y.numpy() for y in keras.tree.flatten(ys)])

        return {name: bound(function) for name, function in self.functions.items()}

    # What the figures are held against.

    def floors(self) -> dict[str, Timing]:
        return ladder.floors()

    def ceiling(self) -> float:
        """Floating-point operations a second that a product reaches here at best."""
        timings = harness.interleave(ceilings.products())
        return max(ceilings.rates(timings, ceilings.fma_rate()).values())
