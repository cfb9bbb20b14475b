"""Every merge, the gated units, MMoE and dynamic splits: the fused layer against its unfused Keras version.

    python benchmarks/merges.py [--batches 512 4096] [--only NAME ...] [--backends op tf]

Each line is one layer at one batch size, forward or with the gradients of all weights (upstream gradients given), as a
concrete function: the fused layer, the unfused model in a graph and jit-compiled, and how many times as fast the fused
one is as the better of the two. Outputs are compared before anything is timed. Losing lines are printed like winning
ones; the exit code says only whether all outputs agreed.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from keras.layers import Activation, Dense

import fusedsplit as fs
from fusedsplit.bench import conditions
from fusedsplit.bench.harness import geometric_mean, interleave
from fusedsplit.text import table

# Name -> the width of its input, and what makes the layer. Sizes as on the ladder's med, or as in public models.
LAYERS: dict[str, tuple[int, Callable[[], fs.SplitDense]]] = {}
for _merge in ("concat", "add", "subtract", "multiply", "average", "maximum", "minimum"):
    LAYERS[_merge] = (
        128,
        lambda merge=_merge: fs.SplitDense(
            Dense(256), [Dense(64, activation="relu") for _ in range(4)], merge=merge, head=Dense(16)
        ),
    )
LAYERS |= {
    "weighted": (
        128,
        lambda: fs.MergeDense(
            [Dense(64, activation="relu"), Dense(64, activation="relu")],
            merge=fs.merges.weighted([1, 2]),
            head=Dense(16),
        ),
    ),
    "MMoE": (  # 3 experts of (256, 128) and a tower of 64, as DeepCTR has them
        128,
        lambda: fs.MergeDense(
            [*([Dense(256, activation="relu"), Dense(128, activation="relu")] for _ in range(3)), Dense(3)],
            merge=fs.merges.mixture(),
            head=[Dense(64, activation="relu"), Dense(1)],
        ),
    ),
    "multi-gate experts": (  # 8 experts of 4 units, as in the census example
        64,
        lambda: fs.MergeDense(
            [*(Dense(4, activation="relu") for _ in range(8)), Dense(8)], merge=fs.merges.mixture(), head=Dense(1)
        ),
    ),
    "dueling": (
        64,
        lambda: fs.SplitDense(
            Dense(128, activation="relu"),
            [[Dense(32, activation="relu"), Dense(1)], [Dense(32, activation="relu"), Dense(18)]],
            merge=fs.merges.dueling(),
        ),
    ),
    "highway": (
        64,
        lambda: fs.MergeDense(
            [Dense(64, activation="relu"), Dense(64, activation="sigmoid")], merge=fs.merges.highway()
        ),
    ),
    "GLU": (64, lambda: fs.SplitDense(Dense(128), [None, Activation("sigmoid")], merge="multiply")),
    "GEGLU": (128, lambda: fs.SplitDense(Dense(512), [Activation("gelu"), None], merge="multiply", head=Dense(128))),
    "SwiGLU": (128, lambda: fs.SplitDense(Dense(512), [Activation("silu"), None], merge="multiply", head=Dense(128))),
    "VAE heads": (400, lambda: fs.MergeDense([Dense(20), Dense(20)], merge="concat")),
    "mixture density": (
        64,
        lambda: fs.SplitDense(
            Dense(96, activation="tanh"),
            [Dense(5, activation="softmax"), Dense(5), Dense(5, activation="softplus")],
        ),
    ),
    "dynamic, one point": (128, lambda: _dynamic(lambda x: tf.constant(77))),
    "dynamic, a point per row": (128, lambda: _dynamic(lambda x: tf.reduce_sum(tf.cast(x > 0, tf.int32), -1))),
}


def _dynamic(split: Callable) -> fs.DynamicSplitDense:
    return fs.DynamicSplitDense(Dense(256), Dense(128, activation="relu"), Dense(128, activation="relu"), split=split)


def _functions(call: Callable, weights: list, batch: int, width: int, dy: tf.Tensor, jit: bool):
    """Forward, and forward with the gradients of all weights, as concrete functions."""
    spec = tf.TensorSpec([batch, width])

    def gradients(x):
        with tf.GradientTape() as tape:
            y = call(x)
        return y, tape.gradient(y, weights, output_gradients=dy)

    forward = tf.function(lambda x: call(x), jit_compile=jit, autograph=False).get_concrete_function(spec)
    return forward, tf.function(gradients, jit_compile=jit, autograph=False).get_concrete_function(spec)


def _agree(found, expected) -> bool:
    pairs = zip(keras.tree.flatten(found), keras.tree.flatten(expected), strict=True)
    return all(np.allclose(a, b, rtol=1e-3, atol=1e-4 * (1 + np.abs(b).max())) for a, b in pairs)


def measure(name: str, batch: int, backends: list[str], rounds: int) -> list[tuple]:
    """The lines of one layer at one batch size."""
    width, make = LAYERS[name]
    layer = make()
    layer.build((None, width))
    reference, weights = fs.reference(layer), [w.value for w in layer.trainable_variables]
    rng = np.random.default_rng(0)
    x = tf.constant(rng.normal(size=(batch, width)).astype("float32"))
    dy = tf.constant(rng.normal(size=layer.compute_output_shape(x.shape)).astype("float32"))
    pairs = {
        "graph": _functions(reference, weights, batch, width, dy, False),
        "XLA": _functions(reference, weights, batch, width, dy, True),
    }
    for backend in backends:
        with fs.use_backend(backend):
            pairs[backend] = _functions(layer, weights, batch, width, dy, False)
    lines = []
    for place, mode in enumerate(("forward", "gradients")):
        calls = {key: (lambda f=pair[place]: f(x)) for key, pair in pairs.items()}
        agreed = all(_agree(calls[b](), calls["graph"]()) for b in backends)
        timings = {key: t.median * 1e6 for key, t in interleave(calls, rounds=rounds).items()}
        best = min(timings["graph"], timings["XLA"])
        times = [f"{timings[key]:.0f}" for key in pairs]
        ratios = [best / timings[b] for b in backends]
        lines.append((name, batch, mode, *times, *(f"{r:.2f}x" for r in ratios), "" if agreed else "DIFFERS", ratios))
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=[512, 4096])
    parser.add_argument("--only", nargs="+", choices=LAYERS, default=list(LAYERS), metavar="NAME")
    parser.add_argument("--backends", nargs="+", default=["op"])
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    warnings.simplefilter("ignore", fs.FusedSplitWarning)
    print(conditions.title(conditions.collect()))
    lines = []
    for name in args.only:
        for batch in args.batches:
            lines += measure(name, batch, args.backends, args.rounds)
    times = ("unfused graph, us", "unfused XLA, us", *(f"{b}, us" for b in args.backends))
    header = ("layer", "batch", "", *times, *(f"{b} / best unfused" for b in args.backends), "")
    print(table(header, [line[:-1] for line in lines]))
    for i, backend in enumerate(args.backends):
        for mode in ("forward", "gradients"):
            mean = geometric_mean(line[-1][i] for line in lines if line[2] == mode)
            print(f"{backend}, {mode}: geometric mean {mean:.2f}x the best unfused")
    return int(any(line[-2] for line in lines))


if __name__ == "__main__":
    sys.exit(main())
