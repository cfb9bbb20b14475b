"""`fs.check`: every backend against a float64 reference, in value, gradient and second-order gradient."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from fusedsplit.backends import dispatch
from fusedsplit.backends.base import Operands
from fusedsplit.layers.computation import LayerComputation, SpecComputation
from fusedsplit.layers.spec import SplitSpec
from fusedsplit.tools.tables import table

ORDERS = ("value", "gradient", "second order")
Tensors = list[np.ndarray]


@dataclasses.dataclass(frozen=True)
class Row:
    """The worst element of one backend in one order of differentiation.

    `error` is the largest absolute error against float64; `ratio` the largest error relative to what is allowed at
    that element, so that the check holds where it is at most 1.
    """

    backend: str
    order: str
    error: float
    unfused_error: float
    ratio: float

    @property
    def ok(self) -> bool:
        return self.ratio <= 1.0


@dataclasses.dataclass(frozen=True)
class CheckReport:
    """What `check` found; prints as a table."""

    name: str
    rows: tuple[Row, ...]
    skipped: dict[str, list[str]]

    @property
    def ok(self) -> bool:
        """Whether every backend that can run held every bound."""
        return bool(self.rows) and all(row.ok for row in self.rows)

    def __str__(self) -> str:
        header = ("backend", "order", "largest error", "unfused Keras' own", "of allowed", "")
        rows = [
            (
                r.backend,
                r.order,
                f"{r.error:.2e}",
                f"{r.unfused_error:.2e}",
                f"{r.ratio:.2f}",
                "ok" if r.ok else "FAILED",
            )
            for r in self.rows
        ]
        lines = [f"{self.name}: {'ok' if self.ok else 'FAILED'}", table(header, rows)]
        lines += [f"{name}: skipped, {'; '.join(reasons)}" for name, reasons in self.skipped.items()]
        return "\n".join(lines)


def check(
    layer: Any,
    inputs: Any = None,
    *,
    training: bool = False,
    batch: int = 37,
    backends: Sequence[str] | None = None,
    seed: int = 0,
) -> CheckReport:
    """Compares every backend with the unfused computation in float64.

    An element passes if its error is at most `max(2 e, 2 u n m)`, where e is the largest error that the unfused Keras
    computation itself makes in the layer's dtype, u the unit roundoff of that dtype, n the number of products in a
    chain, and m the magnitude of the element: the same computation on absolute values, `|x||W| + |b|`.

    Example:

    >>> import fusedsplit as fs
    >>> from keras.layers import Dense
    >>> layer = fs.SplitDense(Dense(8), [Dense(4, activation="relu"), Dense(6, activation="relu")])
    >>> layer.build((None, 10))
    >>> fs.check(layer).ok
    True

    Args:
        layer: a built fused layer; or a `SplitSpec`, checked with random weights and split points.
        inputs: an array or a list of them; random normal ones by default.
        training: whether to check what a layer computes while training: dropout with the masks of one draw, a learned
            split with its soft mask.
        batch: the number of rows of random inputs.
        backends: names of backends; every one by default, those that cannot run being listed as skipped.
        seed: of the random inputs and upstream gradients.

    Returns:
        A `CheckReport`: `.ok`, `.rows`, printable.

    Raises:
        ValueError: if the layer is not built or can only run its sub-layers, or a named backend cannot run.
    """
    is_spec = isinstance(layer, SplitSpec)
    computation: SpecComputation = SpecComputation(layer, "float32") if is_spec else layer.computation(training)
    spec, dtype = computation.spec, computation.dtype
    rng = np.random.default_rng(seed)
    if inputs is None:
        widths = spec.inputs if is_spec else [shape[-1] for shape in layer.input_shapes]
        inputs = [rng.normal(size=(batch, width)) for width in widths]
    inputs = [np.asarray(x, dtype) for x in (inputs if isinstance(inputs, (list, tuple)) else [inputs])]
    if isinstance(computation, LayerComputation):
        operands = _operands(computation, inputs)
    else:
        operands = _random_operands(spec, inputs, rng)
    case = _Case(operands, spec.output_widths, rng)
    usable, skipped = _usable(computation, backends)
    exact = case.run(computation.unfused, "float64")
    unfused = case.run(computation.unfused, dtype)
    magnitude = case.run(computation.magnitude, "float64", absolute=True)
    unit = float(np.finfo(tf.as_dtype(dtype).as_numpy_dtype).eps) / 2
    roundoff = 2 * unit * computation.depth
    rows = []
    for name in usable:
        found = case.run(functools.partial(dispatch.run, computation, backend=name), dtype)
        for order in ORDERS:
            rows.append(_row(name, order, found[order], exact[order], unfused[order], magnitude[order], roundoff))
    return CheckReport(getattr(layer, "name", "spec"), tuple(rows), skipped)


def _random_operands(spec: SplitSpec, inputs: Tensors, rng: np.random.Generator) -> Operands:
    """A spec on random weights, with a random split point for each row."""
    dtype, rows = inputs[0].dtype, inputs[0].shape[:-1]
    params = [rng.normal(size=s, scale=s[0] ** -0.5 if len(s) > 1 else 0.5).astype(dtype) for s in spec.params]
    widest = max(branch.stop - branch.start for branch in spec.branches)
    points = [rng.integers(0, widest + 1, size=rows).ravel() for _ in range(spec.points)]
    return Operands(inputs, params, [tf.constant(p, tf.int32) for p in points])


def _operands(computation: LayerComputation, inputs: Tensors) -> Operands:
    """What a layer is computed from when it is called on these inputs, as arrays."""
    call = computation.operands([tf.constant(x) for x in inputs])
    inputs, params = ([np.asarray(tf.convert_to_tensor(t)) for t in ts] for ts in (call.inputs, call.params))
    return Operands(inputs, params, call.points)


def _usable(computation: SpecComputation, backends: Sequence[str] | None) -> tuple[list[str], dict[str, list[str]]]:
    context = dispatch.current_context(computation.dtype)
    against = dispatch.reasons_against(computation.plan(), context, ())
    if backends is None:
        return [n for n in against if not against[n]], {n: r for n, r in against.items() if r}
    for name in backends:
        if against[dispatch.check_name(name)]:
            raise ValueError(f"expected backends that can run. Received: {name!r}, but {'; '.join(against[name])}")
    return list(backends), {}


class _Case:
    """Fixed inputs, weights and upstream gradients, on which any implementation can be run."""

    def __init__(self, operands: Operands, widths: Sequence[int], rng: np.random.Generator):
        self.inputs: Tensors = operands.inputs
        self.params: Tensors = operands.params
        self.points = operands.points
        rows, dtype = self.inputs[0].shape[:-1], self.inputs[0].dtype
        self.upstream = [rng.normal(size=(*rows, width)).astype(dtype) for width in widths]
        self.directions = [rng.normal(size=t.shape).astype(dtype) for t in (*self.inputs, *self.params)]

    def run(self, function: Callable[[Operands], list[Any]], dtype: str, absolute: bool = False) -> dict[str, Tensors]:
        """The value, the gradient along `upstream`, and the gradient of <gradient, directions>, as float64 arrays."""

        def tensors(arrays: Tensors) -> list[tf.Tensor]:
            return [tf.constant(np.abs(a) if absolute else a, dtype) for a in arrays]

        x, p, dy, v = map(tensors, (self.inputs, self.params, self.upstream, self.directions))
        with tf.GradientTape() as outer:
            outer.watch([*x, *p, *dy])
            with tf.GradientTape() as inner:
                inner.watch([*x, *p])
                y = function(Operands(x, p, self.points))
            first = inner.gradient(y, [*x, *p], output_gradients=dy, unconnected_gradients="zero")
            along = tf.add_n([tf.reduce_sum(g * d) for g, d in zip(first, v)])
        second = outer.gradient(along, [*x, *p, *dy], unconnected_gradients="zero")
        found = dict(zip(ORDERS, (y, first, second)))
        return {order: [np.asarray(t, np.float64) for t in ts] for order, ts in found.items()}


def _row(
    name: str,
    order: str,
    found: Tensors,
    exact: Tensors,
    unfused: Tensors,
    magnitude: Tensors,
    roundoff: float,
) -> Row:
    error = unfused_error = ratio = 0.0
    for f, e, u, m in zip(found, exact, unfused, magnitude):
        if not f.size:
            continue
        own = float(np.max(np.abs(u - e)))
        errors = np.abs(f - e)
        allowed = np.maximum(2 * own, roundoff * m)
        worst = np.max(np.divide(errors, allowed, out=np.where(errors > 0, np.inf, 0.0), where=allowed > 0))
        if not np.isfinite(f).all():
            worst = np.inf
        error, unfused_error = max(error, float(errors.max())), max(unfused_error, own)
        ratio = max(ratio, float(worst))
    return Row(name, order, error, unfused_error, ratio)
