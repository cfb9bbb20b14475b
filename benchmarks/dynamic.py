"""A dynamic split's work follows its point: left's product runs over p columns, right's over units - p.

    python benchmarks/dynamic.py [--batch 4096]

One DynamicSplitDense of two branches of very different width, so that the work depends on where the point is, beside
the masked Lambda program, whose work does not.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from keras.layers import Dense
from rich.console import Console
from rich.table import Table

import fusedsplit as fs
from fusedsplit.bench import conditions, harness

INPUTS, STEM, LEFT, RIGHT = 64, 512, 512, 64
POINTS = (0, 64, 128, 256, 384, 448, 512)


def contestants(point: int, batch: int) -> dict[str, object]:
    """The unfused program and the op, forward and with gradients, for one point."""
    layer = fs.DynamicSplitDense(
        Dense(STEM), Dense(LEFT, activation="relu"), Dense(RIGHT, activation="relu"), split=lambda x: tf.constant(point)
    )
    layer.build((None, INPUTS))
    x = tf.constant(np.random.default_rng(point).standard_normal((batch, INPUTS), "float32"))
    variables, calls = layer.trainable_variables, {}
    for name, program in (("masked", fs.reference(layer)), ("op", layer)):

        def gradients(x, program=program):
            with tf.GradientTape() as tape:
                y = program(x)
            return y, tape.gradient(y, [v.value for v in variables], output_gradients=y)

        with fs.use_backend("op"):
            forward = tf.function(program, autograph=False).get_concrete_function(tf.TensorSpec([batch, INPUTS]))
            both = tf.function(gradients, autograph=False).get_concrete_function(tf.TensorSpec([batch, INPUTS]))
        calls |= {f"{name} forward": lambda f=forward: f(x), f"{name} gradients": lambda f=both: f(x)}
    np.testing.assert_allclose(calls["masked forward"](), calls["op forward"](), rtol=1e-3, atol=1e-4)
    return calls


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=4096)
    batch = parser.parse_args().batch
    console = Console()
    console.print(conditions.title(conditions.collect()))
    table = Table(
        title=f"Dense({STEM}) on {INPUTS} columns, left Dense({LEFT}), right Dense({RIGHT}), batch {batch}; us"
    )
    for column in ("point", "MFLOP forward", "masked", "op", "", "masked, gradients", "op, gradients", ""):
        table.add_column(column, justify="right")
    for point in POINTS:
        times = {n: 1e6 * t.median for n, t in harness.interleave(contestants(point, batch)).items()}
        flops = 2 * batch * (INPUTS * STEM + point * LEFT + (STEM - point) * RIGHT)
        row = [str(point), f"{flops / 1e6:.0f}"]
        for mode in ("forward", "gradients"):
            masked, op = times[f"masked {mode}"], times[f"op {mode}"]
            row += [f"{masked:.0f}", f"{op:.0f}", f"{masked / op:.2f}x"]
        table.add_row(*row)
    console.print(table)


if __name__ == "__main__":
    main()
