"""`fusedsplit check`: the seeds' programs, layers of every kind, and a grid of random specs, through `fs.check`."""

from __future__ import annotations

import collections
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from keras.layers import Activation as ActivationLayer
from keras.layers import Dense, Dropout

from fusedsplit.backends import dispatch
from fusedsplit.layers import merges
from fusedsplit.layers.computation import SpecComputation
from fusedsplit.layers.dynamic_split_dense import DynamicSplitDense
from fusedsplit.layers.merge_dense import MergeDense
from fusedsplit.layers.merges import ELEMENTWISE
from fusedsplit.layers.spec import Branch, DenseSpec, Item, SplitSpec
from fusedsplit.layers.split_dense import SplitDense
from fusedsplit.plan import ACTIVATIONS, LINEAR, Activation
from fusedsplit.tools.check import check
from fusedsplit.tools.check_report import CheckReport, Row
from fusedsplit.tools.tables import table

# Sizes around the tile edges of the core, primes, and one column.
_WIDTHS = (1, 2, 3, 5, 8, 15, 16, 17, 31, 33, 47, 48, 49, 64, 100)
_ALPHAS = {"leaky_relu": 0.2, "elu": 1.0}
# `exponential` behind a product overflows on random weights, so it is checked on its own.
_RANDOM_ACTIVATIONS = tuple(name for name in (*ACTIVATIONS, "softmax") if name != "exponential")


def seed_specs() -> dict[str, SplitSpec]:
    """The two programs with a static split that the project started from, and the layers of its benchmark."""
    relu = Activation("relu")

    def dense(weights: list[tuple[int, ...]], width: int, units: int, activation: Activation) -> DenseSpec:
        weights += [(width, units), (units,)]
        return DenseSpec(units, len(weights) - 2, len(weights) - 1, activation)

    def split(width: int, units: int, slices: Sequence[tuple[int, int | None]], head: int | None = None) -> SplitSpec:
        weights: list[tuple[int, ...]] = []
        stem = dense(weights, width, units, LINEAR)
        branches, at, merged = [], 0, 0
        for size, out in slices:
            items = () if out is None else (dense(weights, size, out, relu),)
            branches.append(Branch(None, at, at + size, items))
            at, merged = at + size, merged + (out or size)
        last = () if head is None else (dense(weights, merged, head, LINEAR),)
        return SplitSpec((width,), tuple(weights), (stem,), tuple(branches), merges.Concat(), last)

    return {
        "split and concat, head": split(10, 8, [(4, None), (4, None)], 1),
        "asymmetric, a Dense each, head": split(10, 8, [(4, 4), (4, 6)], 1),
        "seed2": split(10, 8, [(4, 4), (4, 6)]),
        "med": split(128, 256, [(64, 64)] * 4),
        "wide": split(64, 512, [(32, 32)] * 16),
        "one unit each": split(1, 3, [(1, 1)] * 3),
        "17 branches": split(5, 34, [(2, 3)] * 17),
    }


def _relu(*units: int) -> list[Dense]:
    return [Dense(n, activation="relu") for n in units]


def _three(merge: Any) -> SplitDense:
    return SplitDense(Dense(17, activation="tanh"), _relu(5, 5, 5), split=[3, 8, 6], merge=merge, head=Dense(2))


def _gated(activation: str) -> SplitDense:
    return SplitDense(Dense(10), [ActivationLayer(activation), None], merge="multiply", head=Dense(3))


def _dynamic(split: Any, *parts: Any) -> DynamicSplitDense:
    return DynamicSplitDense(Dense(9, activation="tanh"), *parts, split=split, head=Dense(2))


def _positive(x: Any) -> tf.Tensor:
    return tf.reduce_sum(tf.cast(x > 0, tf.int32), axis=-1)


def _deep() -> SplitDense:
    stacks = [[*_relu(8, 5), Dense(7, activation="gelu")], [Dense(4, activation="tanh"), *_relu(9, 3)], None]
    return SplitDense([*_relu(16), Dense(12)], stacks, split=[6, 4, 2], head=[*_relu(5), Dense(2)])


def _dueling(how: str) -> MergeDense:
    return MergeDense([Dense(1), Dense(6)], merge=merges.dueling(how))


def _nested() -> SplitDense:
    gate = SplitDense(Dense(8), [None, ActivationLayer("sigmoid")], merge="multiply")
    experts = MergeDense([*_relu(4, 4), Dense(2)], merge=merges.mixture())
    inner = SplitDense(Dense(6), [experts, None], head=Dense(3))
    return SplitDense(Dense(9), [[gate, Dense(2)], inner, None], split=[3, 4, 2], head=Dense(1))


# What makes each layer: every merge and every kind of layer, at sizes that compile quickly.
_LAYERS: dict[str, Callable[[], Any]] = {
    **{name: functools.partial(_three, name) for name in ELEMENTWISE},
    "no merge": lambda: SplitDense(Dense(7), [Dense(3), None], split=[4, 3], merge=None),
    "weighted": lambda: MergeDense([*_relu(5), Dense(3)], merge=merges.weighted([1, -0.5]), head=Dense(2)),
    "mixture": lambda: MergeDense([*_relu(5, 5), Dense(2)], merge=merges.mixture(), head=Dense(1)),
    "mixture, a gate of its own": lambda: MergeDense(
        [*_relu(5, 5), Dense(2, activation="sigmoid")], merge=merges.mixture(softmax=False)
    ),
    **{f"dueling, {how}": functools.partial(_dueling, how) for how in ("mean", "max", "naive")},
    "highway": lambda: MergeDense([*_relu(6), Dense(6, activation="sigmoid")], merge=merges.highway()),
    "GLU": lambda: _gated("sigmoid"),
    "GEGLU": lambda: _gated("gelu"),
    "SwiGLU": lambda: _gated("silu"),
    "callable merge": lambda: MergeDense(_relu(4, 4), merge=lambda ys: ys[0] * tf.sin(ys[1]), head=Dense(2)),
    "one input": lambda: MergeDense([*_relu(5), Dense(17, activation="tanh"), None], head=Dense(2)),
    "an input for each branch": lambda: MergeDense([*_relu(5), [*_relu(4), Dense(3)], None], head=Dense(2)),
    "deep branches": _deep,
    "nested": _nested,
    "one split point": lambda: _dynamic(lambda x: tf.reduce_sum(_positive(x)) % 10, Dense(3), *_relu(5)),
    "a split point for each row": lambda: _dynamic(_positive, *_relu(4, 5)),
    "a split point for each row, slices": lambda: _dynamic(_positive, None, ActivationLayer("tanh")),
    "learned split point": lambda: _dynamic("learned", *_relu(7, 5)),
}
# What differs while training: the soft mask of a learned split, and dropout.
_TRAINED: dict[str, Callable[[], Any]] = {
    "learned split point, training": lambda: _dynamic("learned", *_relu(7, 5)),
    "dropout, training": lambda: SplitDense(
        Dense(8), [[*_relu(6), Dropout(0.5, seed=1), Dense(3)], Dropout(0.2, seed=2)]
    ),
}
# XLA compiles three programs for each layer, in more than a second: by default it takes one of each kind of step.
_COMPILED = {
    "asymmetric, a Dense each, head",
    "med",
    "17 branches",
    "maximum",
    "no merge",
    "weighted",
    "mixture",
    "dueling, max",
    "highway",
    "GEGLU",
    "a split point for each row",
    "learned split point, training",
}
_WIDTH = 6
_SEVERAL = {"an input for each branch": (1, 3, 5)}


def layers(seed: int) -> Iterator[tuple[str, Any, bool]]:
    """Name, built layer, and whether to check it as it computes while training."""
    for table_, training in ((_LAYERS, False), (_TRAINED, True)):
        for name, make in table_.items():
            layer = make()
            widths = _SEVERAL.get(name)
            layer.build([(None, w) for w in widths] if widths else (None, _WIDTH))
            rng = np.random.default_rng(seed)
            for param in layer.params:
                scale = param.shape[0] ** -0.5 if len(param.shape) > 1 else 0.5
                param.assign(rng.normal(size=param.shape, scale=scale))
            yield name, layer, training


def random_specs(n: int, seed: int) -> Iterator[tuple[str, SplitSpec]]:
    """`n` specs of random sizes, depths, activations, biases and merges."""
    rng = np.random.default_rng(seed)
    for i in range(n):
        yield f"random {i}", _random_spec(rng)


def _random_spec(rng: np.random.Generator) -> SplitSpec:
    weights: list[tuple[int, ...]] = []

    def width() -> int:
        return int(rng.choice(_WIDTHS))

    def activation() -> Activation:
        name = str(rng.choice(_RANDOM_ACTIVATIONS))
        return Activation(name, _ALPHAS.get(name, 0.0))

    def stack(at: int, depth: int, last: int | None = None) -> tuple[Item, ...]:
        items: list[Item] = []
        for i in range(depth):
            units = last if last is not None and i == depth - 1 else width()
            kernel = len(weights)
            weights.append((at, units))
            bias = None
            if rng.random() < 0.8:
                bias = len(weights)
                weights.append((units,))
            items.append(DenseSpec(units, kernel, bias, activation()))
            at = units
        return tuple(items)

    in_width = width()
    stem = stack(in_width, int(rng.integers(1, 3)))
    units = stem[-1].units  # type: ignore[union-attr]
    n = int(rng.integers(1, min(units, 6) + 1))
    cuts = [0, *sorted(rng.choice(np.arange(1, units), n - 1, replace=False).tolist()), units] if n > 1 else [0, units]
    merge = str(rng.choice(("concat", "concat", *ELEMENTWISE)))
    same = None if merge == "concat" else width()
    branches = []
    for start, stop in zip(cuts, cuts[1:]):
        depth = int(rng.integers(0 if same is None else 1, 3))
        branches.append(Branch(None, start, stop, stack(stop - start, depth, same)))
    merged = sum(b.width for b in branches) if same is None else same
    how = merges.Concat() if merge == "concat" else merges.Elementwise(merge)
    head = stack(merged, int(rng.integers(0, 2)))
    return SplitSpec((in_width,), tuple(weights), stem, tuple(branches), how, head)


def _subjects(n_random: int, seed: int) -> Iterator[tuple[str, Any, bool]]:
    """Name, built layer or spec, and whether to check it as it computes while training."""
    for name, spec in seed_specs().items():
        yield name, spec, False
    yield from layers(seed)
    for name, spec in random_specs(n_random, seed):
        yield name, spec, False


def _without_xla(subject: Any, training: bool) -> list[str]:
    """The other backends that can run a layer or spec."""
    is_spec = isinstance(subject, SplitSpec)
    computation = SpecComputation(subject, "float32") if is_spec else subject.computation(training)
    against = dispatch.reasons_against(computation.plan(), dispatch.current_context("float32"), ())
    return [name for name, reasons in against.items() if not reasons and name != "xla"]


def run(n_random: int, seed: int, backends: Sequence[str] | None) -> int:
    """Checks everything, prints the worst of each backend and order, and every failure; 0 if there is none."""
    worst: dict[tuple[str, str], tuple[Row, str]] = {}
    checked: collections.Counter[str] = collections.Counter()
    failed: list[tuple[str, CheckReport]] = []
    skipped: dict[str, list[str]] = {}
    count = 0
    for name, subject, training in _subjects(n_random, seed):
        chosen = backends if backends or name in _COMPILED else _without_xla(subject, training)
        report = check(subject, training=training, backends=chosen, seed=seed)
        count += 1
        checked.update({row.backend for row in report.rows})
        skipped |= report.skipped
        if not report.ok:
            failed.append((name, report))
        for row in report.rows:
            key = (row.backend, row.order)
            if key not in worst or row.ratio > worst[key][0].ratio:
                worst[key] = (row, name)
    for name, report in failed:
        print(f"{name}: {report}\n")
    _print_worst(worst)
    for name, reasons in skipped.items():
        print(f"{name}: skipped, {'; '.join(reasons)}")
    if backends is None and checked["xla"]:
        print(f"xla: {checked['xla']} of them, since it compiles each; --backends xla checks it on all")
    print(f"{count} layers and specs checked, {len(failed)} failed")
    return 1 if failed else 0


def _print_worst(worst: Mapping[tuple[str, str], tuple[Row, str]]) -> None:
    header = ("backend", "order", "worst of allowed", "its error", "unfused Keras' own", "on")
    rows = [
        (*key, f"{row.ratio:.2f}", f"{row.error:.2e}", f"{row.unfused_error:.2e}", name)
        for key, (row, name) in worst.items()
    ]
    print(table(header, rows))
