"""The pure `xla` form's gradients in a graph, three ways, beside the Lambda program and XLA's own of everything.

    python benchmarks/xla_gradients.py [--cases med wide large] [--batches 32 512 4096]

nested      as the backend is: TensorFlow differentiates the nested jit, and every intermediate becomes an output
vjp         `tf.custom_gradient` around two jitted functions: forward, and a vjp that computes forward again in its own
unbatched   the same with each branch a product of its own, in both directions
whole       what the Lambda program takes where all of it is in one jit
"""

from __future__ import annotations

import argparse
import functools
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.table import Table

from fusedsplit.backends import tf as pure
from fusedsplit.bench import conditions, harness, providers
from fusedsplit.bench.cases import CASES
from fusedsplit.bench.harness import geometric_mean


def contestants(case, batch):
    """The gradient functions by name, on one input."""
    weights = case.weights()
    lambda_ = providers.make("lambda", case, weights)
    nested = providers.make("xla", case, weights)
    plan = nested.call.computation().plan()
    x, dy = tf.constant(case.rows(batch)), tf.constant(case.upstream(batch))
    functions = {
        "lambda": providers.gradients(lambda_, case),
        "nested": providers.gradients(nested, case),
        "whole": providers.gradients(providers.make("lambda-xla", case, weights), case),
    }
    for name, batched_from in (("vjp", 2), ("vjp unbatched", 1 << 30)):
        functions[name] = with_vjp(plan, nested.variables, batched_from)
    for name, f in functions.items():
        found, expected = f(x, dy), functions["lambda"](x, dy)
        for a, b in zip(tf.nest.flatten(found), tf.nest.flatten(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3 * float(tf.reduce_max(tf.abs(b))), err_msg=name)
    return {name: functools.partial(f, x, dy) for name, f in functions.items()}


def with_vjp(plan, variables, batched_from):
    """Forward and a vjp that recomputes, each jitted, behind one custom gradient."""

    def execute(x, params):
        before, pure.BATCHED_FROM = pure.BATCHED_FROM, batched_from
        pure._grouped.cache_clear()
        try:
            return pure.execute(plan, [x], params)[0]
        finally:
            pure.BATCHED_FROM = before
            pure._grouped.cache_clear()

    forward = tf.function(execute, jit_compile=True, autograph=False)

    @tf.function(jit_compile=True, autograph=False)
    def vjp(x, params, dy):
        with tf.GradientTape() as tape:
            tape.watch(params)
            y = execute(x, params)
        return tape.gradient(y, params, output_gradients=dy)

    @tf.custom_gradient
    def call(x, *params):
        return forward(x, list(params)), lambda dy: (None, *vjp(x, list(params), dy))

    def run(x, dy):
        with tf.GradientTape() as tape:
            y = call(x, *(tf.convert_to_tensor(v) for v in variables))
        return y, tape.gradient(y, variables, output_gradients=dy)

    return tf.function(run, autograph=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=["med", "wide", "large"], metavar="NAME")
    parser.add_argument("--batches", type=int, nargs="+", default=[32, 512, 4096])
    args = parser.parse_args()
    console = Console()
    console.print(conditions.title(conditions.collect()))
    table = Table(title="forward + gradients in a graph, median us; in brackets the speed-up over the Lambda program")
    names = ("lambda", "nested", "vjp", "vjp unbatched", "whole")
    for column in ("case", "batch", *names):
        table.add_column(column, justify="left" if column == "case" else "right")
    ratios: dict[str, list[float]] = {name: [] for name in names}
    for name in args.cases:
        for batch in args.batches:
            timings = harness.interleave(contestants(CASES[name], batch))
            base = timings["lambda"].median
            for contestant in names:
                ratios[contestant].append(base / timings[contestant].median)
            cells = (f"{1e6 * timings[n].median:,.0f} ({base / timings[n].median:.2f})" for n in names)
            table.add_row(name, str(batch), *cells)
    table.add_row("geometric mean", "", *(f"{geometric_mean(r):.2f}" for r in ratios.values()))
    console.print(table)


if __name__ == "__main__":
    main()
