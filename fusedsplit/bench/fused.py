"""What the benchmarks ask of the package under test."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

import fusedsplit as fs
from fusedsplit.backends import dispatch, op
from fusedsplit.bench.cases import Case
from fusedsplit.bench.program import ProviderUnavailable
from fusedsplit.plan import Plan


def reasons_against(layer: Any, backend: str, jit: bool = False) -> list[str]:
    """Why `backend` cannot run a built layer in eager code or, with `jit`, inside XLA; empty where it can."""
    if backend == "auto":
        return []
    context = dispatch.current_context(layer.compute_dtype)._replace(eager=not jit, in_xla=jit)
    return dispatch.reasons_against(plan(layer), context, layer.unfusable_reasons())[backend]


def plan(layer: Any) -> Plan:
    """The plan of a built layer."""
    return layer.computation().plan()


def split_dense_layer(case: Case, layers: Sequence[Any], backend: str, jit: bool = False) -> Any:
    """The case as one SplitDense, built, owning `layers` (in weight order).

    Raises:
        ProviderUnavailable: with the backend's reasons, if it cannot run this case.
    """
    rest = iter(layers[1:])
    branches = [[next(rest) for _ in branch.units] or None for branch in case.branches]
    head = next(rest) if case.head is not None else None
    layer = fs.SplitDense(layers[0], branches, split=case.split, head=head, backend=backend)
    layer.build((None, case.inputs))
    require(layer, backend, jit)
    return layer


def functional(layer: Any, backend: str, frozen: bool = False) -> Callable[[Any], Any]:
    """The layer's computation without the layer, on its variables, or on their values now where `frozen`."""
    spec, params = layer.spec, layer.params
    if frozen:
        params = [tf.convert_to_tensor(p) for p in params]
    return lambda x: fs.split_dense(x, params, spec, backend)


def model(plain: Any, loop: str) -> Any:
    """The fused model whose `fit` runs by this loop.

    Raises:
        ProviderUnavailable: with the reasons, if it cannot.
    """
    try:
        return fs.fuse(plain, loop=loop)
    except ValueError as error:
        raise ProviderUnavailable(str(error)) from error


def require(layer: Any, backend: str, jit: bool = False) -> None:
    """Raises ProviderUnavailable, with the reasons, if `backend` cannot run a built layer, with `jit` inside XLA."""
    reasons = reasons_against(layer, backend, jit)
    if reasons:
        raise ProviderUnavailable("; ".join(reasons))


def check(case: Case) -> Any:
    """`fs.check` on the case's layer, with the case's weights: a report with `.ok`, printable."""
    layers = [keras.layers.Dense(shape.columns, activation=shape.activation) for shape in case.dense_shapes()]
    layer = split_dense_layer(case, layers, "auto")
    layer.set_weights(case.weights())
    return fs.check(layer)


def op_status() -> dict[str, Any]:
    """The op library's own account (ISA, threads, …), or {"reason": …} where it cannot be used."""
    reason = op.problem()
    return op.library_info() if reason is None else {"reason": reason}
