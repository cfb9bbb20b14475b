"""The ladder: every case at every batch, in every mode, by every provider; checked first, then timed."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import fusedsplit as fs
from fusedsplit.bench import exact, fused, harness, numeric, providers
from fusedsplit.bench.cases import Case
from fusedsplit.bench.harness import Timing
from fusedsplit.bench.merge_cases import MergeCase
from fusedsplit.bench.numeric import Truth
from fusedsplit.bench.program import Program, ProviderUnavailable

MODES = ("forward", "gradients", "eager")


@dataclasses.dataclass(frozen=True)
class Cell:
    """One case at one batch in one mode: timings by provider, and what disagreed ("" where nothing did)."""

    case: str
    batch: int
    mode: str
    flops: int
    timings: Mapping[str, Timing]
    problems: Mapping[str, str]

    @property
    def ok(self) -> bool:
        return not any(self.problems.values())

    def speedup(self, provider: str, baseline: str = providers.BASELINE) -> float:
        """How many times faster than the baseline; NaN where one of them was not measured."""
        if provider not in self.timings or baseline not in self.timings:
            return float("nan")
        return self.timings[baseline].median / self.timings[provider].median

    def as_json(self) -> dict[str, Any]:
        return {
            "case": self.case,
            "batch": self.batch,
            "mode": self.mode,
            "flops": self.flops,
            "problems": {name: text for name, text in self.problems.items() if text},
            "timings": {name: timing.as_json() for name, timing in self.timings.items()},
        }


class Contest:
    """The programs of one case, traced once for all batches."""

    def __init__(self, case: Case | MergeCase, names: Sequence[str] = providers.LADDER):
        self.case: Any = case
        self.weights = case.weights()
        self.programs: dict[str, Program] = {}
        self.missing: dict[str, str] = {}
        for name in names:
            try:
                self.programs[name] = self.program(name)
            except ProviderUnavailable as error:
                self.missing[name] = str(error)
        functions = {n: providers.function(p, case) for n, p in self.programs.items()}
        self.forward = {n: f.get_concrete_function() for n, f in functions.items()}
        self.gradients = {n: providers.gradients(p, case) for n, p in self.programs.items()}
        self.eager = {n: providers.eager(p, functions[n]) for n, p in self.programs.items()}

    def program(self, name: str) -> Program:
        return providers.make(name, self.case, self.weights)

    def truth(self, x: Any, dy: np.ndarray) -> Truth:
        """The exact result."""
        return numeric.solve(self.case, self.weights, x, dy)

    def calls(self, mode: str, x: Any, dy: tf.Tensor) -> dict[str, Callable[[], object]]:
        """One call for each provider, with its arguments bound."""
        if mode == "gradients":
            return {n: functools.partial(f, x, dy) for n, f in self.gradients.items()}
        functions = {"forward": self.forward, "eager": self.eager}[mode]
        return {n: functools.partial(f, x) for n, f in functions.items()}

    def batch(self, batch: int, modes: Iterable[str] = MODES) -> tuple[Any, tf.Tensor, dict[str, str]]:
        """Input, upstream gradient, and for each provider what disagrees with the exact result ("": nothing).

        The functions of these modes are called here, so tracing and compiling are over when this returns.
        """
        functions = [{"forward": self.forward, "eager": self.eager}[mode] for mode in modes if mode != "gradients"]
        x = self.case.rows(batch)
        truth = self.truth(x, self.case.upstream(batch))
        rows, dy = tf.nest.map_structure(tf.constant, x), tf.constant(truth.upstream)
        errors = {}
        for name, program in self.programs.items():
            y, grads = self.gradients[name](rows, dy)
            trained = numeric.relative_errors(truth, providers.result(program, y, grads))
            plain = [np.asarray(f[name](rows)) for f in functions]
            outputs = [numeric.relative_errors(truth, numeric.Result(y, truth.exact.gradients))[0] for y in plain]
            trained[0] = np.max([trained[0], *outputs])  # np.max keeps a NaN
            errors[name] = trained
        baseline = errors.get(providers.BASELINE, np.zeros(1 + len(self.weights)))
        return rows, dy, {name: numeric.disagreement(e, baseline) for name, e in errors.items()}

    def measure(self, batch: int, modes: Sequence[str], **options: Any) -> Iterator[Cell]:
        """The cells of one batch; `options` are those of `harness.interleave`."""
        x, dy, problems = self.batch(batch, modes)
        for mode in modes:
            flops = self.case.gradient_flops() if mode == "gradients" else self.case.flops()
            timings = harness.interleave(self.calls(mode, x, dy), **options)
            yield Cell(self.case.name, batch, mode, flops * batch, timings, problems)


class MergeContest(Contest):
    """The programs of one merge case: the layer on a backend, and its unfused Keras model."""

    NAMES = ("lambda", "lambda-xla", "op", "op-xla")

    def __init__(self, case: MergeCase, names: Sequence[str] = NAMES):
        super().__init__(case, names)

    def program(self, name: str) -> Program:
        """`name` is that of a backend, or "lambda"; with "-xla" behind it the program is compiled from outside."""
        base = name.removesuffix("-xla")
        if base == providers.BASELINE:
            layer = self.layer("tf")
            return Program(fs.reference(layer), layer.params, jit=name != base)
        layer = self.layer(base)
        fused.require(layer, base, jit=name != base)
        return Program(layer, layer.params, jit=name != base)

    def truth(self, x: Any, dy: np.ndarray) -> Truth:
        return exact.solve(self.layer("tf"), x, dy)

    def layer(self, backend: str) -> Any:
        """The case's layer with the weights that all programs have."""
        layer = self.case.layer(backend)
        for variable, array in zip(layer.params, self.weights, strict=True):
            variable.assign(array)
        return layer


class _Nothing(keras.layers.Layer):
    def call(self, x: tf.Tensor) -> tf.Tensor:
        return x


def floors(**options: Any) -> dict[str, Timing]:
    """What a call costs in which nothing is computed: no kernel can be faster than these."""
    x, rows = tf.ones((1, 1)), tf.TensorSpec((None, 1), tf.float32)
    add = tf.function(lambda x: x + 1.0)
    concrete_add = add.get_concrete_function(rows)
    # A function compiled as a whole is run as one kernel, which saves most of the graph executor's work.
    compiled_add = tf.function(lambda x: x + 1.0, jit_compile=True).get_concrete_function(rows)
    identity = tf.function(lambda x: tf.identity(x)).get_concrete_function(rows)
    layer = _Nothing()
    return harness.interleave(
        {
            "concrete function, nothing": lambda: identity(x),
            "concrete function, one add": lambda: concrete_add(x),
            "the same, XLA": lambda: compiled_add(x),
            "tf.function, one add": lambda: add(x),
            "eager Keras layer, nothing": lambda: layer(x),
        },
        **options,
    )
