"""`fusedsplit check`: the seeds' programs and a grid of random specs, each through `fs.check`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from fusedsplit import merges
from fusedsplit.check import CheckReport, Row, check
from fusedsplit.merges import ELEMENTWISE
from fusedsplit.plan import ACTIVATIONS, LINEAR, Activation
from fusedsplit.spec import Branch, DenseSpec, Item, SplitSpec
from fusedsplit.text import table

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
        return SplitSpec((width,), tuple(weights), (stem,), tuple(branches), merges.get("concat"), last)

    return {
        "split and concat, head": split(10, 8, [(4, None), (4, None)], 1),
        "asymmetric, a Dense each, head": split(10, 8, [(4, 4), (4, 6)], 1),
        "seed2": split(10, 8, [(4, 4), (4, 6)]),
        "med": split(128, 256, [(64, 64)] * 4),
        "wide": split(64, 512, [(32, 32)] * 16),
        "one unit each": split(1, 3, [(1, 1)] * 3),
        "17 branches": split(5, 34, [(2, 3)] * 17),
    }


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
    head = stack(merged, int(rng.integers(0, 2)))
    return SplitSpec((in_width,), tuple(weights), stem, tuple(branches), merges.get(merge), head)


def run(n_random: int, seed: int, backends: Sequence[str] | None) -> int:
    """Checks everything, prints the worst of each backend and order, and every failure; 0 if there is none."""
    worst: dict[tuple[str, str], tuple[Row, str]] = {}
    failed: list[tuple[str, CheckReport]] = []
    skipped: dict[str, list[str]] = {}
    count = 0
    for name, spec in [*seed_specs().items(), *random_specs(n_random, seed)]:
        report = check(spec, backends=backends, seed=seed)
        count += 1
        skipped |= report.skipped
        if not report.ok:
            failed.append((name, report))
        for row in report.rows:
            key = (row.backend, row.order)
            if key not in worst or row.ratio > worst[key][0].ratio:
                worst[key] = (row, name)
    for name, report in failed:
        print(f"{name}: {report}\n")
    header = ("backend", "order", "worst of allowed", "its error", "unfused Keras' own", "on")
    rows = [
        (*key, f"{row.ratio:.2f}", f"{row.error:.2e}", f"{row.unfused_error:.2e}", name)
        for key, (row, name) in worst.items()
    ]
    print(table(header, rows))
    for name, reasons in skipped.items():
        print(f"{name}: skipped, {'; '.join(reasons)}")
    print(f"{count} specs checked, {len(failed)} failed")
    return 1 if failed else 0
