"""Which backend runs a call, the reasons against each other one, and the one fallback warning.

Explicit choices never fall back: a backend named by a layer, by `use_backend` or by FUSEDSPLIT_BACKEND runs, or the
call raises with the reasons. The one exception is saving, which always traces the pure-TensorFlow form, so that what
is saved needs no custom op.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf
from tensorflow.python.eager import context as eager_context
from tensorflow.python.framework import ops as tf_ops
from tensorflow.python.saved_model import save_context

from fusedsplit import config
from fusedsplit.backends import reference
from fusedsplit.backends.base import Absent, Backend, CallContext
from fusedsplit.backends.xla import TF, XLA, in_branch, in_xla
from fusedsplit.lower import lower
from fusedsplit.plan import Plan
from fusedsplit.spec import CallableMerge, SplitSpec

_executing_eagerly = eager_context.executing_eagerly
_EagerTensor = tf_ops.EagerTensor  # a constant made here would start the eager runtime at import
try:
    from fusedsplit.backends.op import OP
except ModuleNotFoundError:  # removed together with csrc/: everything else works
    OP = Absent("op")
BACKENDS: dict[str, Backend] = {"op": OP, "xla": XLA, "tf": TF}

_forced: contextvars.ContextVar[str | None] = contextvars.ContextVar("fusedsplit_backend", default=None)
_warned = False


class FusedSplitWarning(UserWarning):
    """Issued once per process when "auto" cannot use the backend it would prefer."""


class Choice(NamedTuple):
    """The backend that runs, why, and for each other one what speaks against it."""

    name: str
    why: str
    reasons: dict[str, list[str]]


@contextlib.contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Within this context every fused layer uses backend `name`, whatever the layer itself says.

    Functions that are traced inside keep the backend: `with fs.use_backend("tf"): f.get_concrete_function(...)` gives
    a graph without custom ops.

    Args:
        name: "op", "xla", "tf", "reference", or "auto".

    Raises:
        ValueError: if there is no such backend.
    """
    token = _forced.set(check_name(name))
    try:
        yield
    finally:
        _forced.reset(token)


def check_name(name: Any) -> str:
    """`name`, if it is that of a backend or "auto"."""
    if name not in ("auto", *config.BACKENDS):
        raise ValueError(f"`backend`: expected 'auto' or one of {config.BACKENDS}. Received: {name!r}")
    return name


def current_context(dtype: str) -> CallContext:
    """What is known about the place of a call."""
    if tf.executing_eagerly():
        return _eager_context(dtype)
    inside = in_xla()
    return CallContext(dtype, False, inside, save_context.in_save_context(), in_branch=inside and in_branch())


_eager_context = functools.lru_cache(CallContext)


def choose(requested: str, spec: SplitSpec | None, context: CallContext, unfusable: Sequence[str] = ()) -> Choice:
    """Which backend runs.

    Args:
        requested: what the layer says; overridden by `use_backend`, then filled in from FUSEDSPLIT_BACKEND.
        spec: what is computed, or None where only "reference" can, because of `unfusable`.
        context: where the call happens.
        unfusable: why only "reference" can run it.

    Raises:
        ValueError: if an explicitly chosen backend cannot run, with the reasons.
    """
    requested = _forced.get() or requested
    if requested == "auto":
        requested = config.backend() or "auto"
    return _choose(requested, spec, context, tuple(unfusable))


@functools.lru_cache(maxsize=4096)
def _choose(requested: str, spec: SplitSpec | None, context: CallContext, unfusable: tuple[str, ...]) -> Choice:
    reasons = reasons_against(spec, context, unfusable)
    if context.in_save:
        name = "reference" if reasons["tf"] else "tf"
        return Choice(name, "a model that is being saved needs no custom op", reasons)
    if requested != "auto":
        if reasons[requested]:
            raise ValueError(_refusal(requested, reasons))
        return Choice(requested, "explicitly chosen", reasons)
    return _automatic(context, reasons)


def reasons_against(spec: SplitSpec | None, context: CallContext, unfusable: Sequence[str]) -> dict[str, list[str]]:
    """For every backend why it cannot run; empty lists where it can."""
    plan = None if spec is None else plan_of(spec)
    reasons: dict[str, list[str]] = {"reference": []}
    for name, backend in BACKENDS.items():
        reasons[name] = [*unfusable, *backend.not_supported_reasons(plan, context)]
    return {name: reasons[name] for name in config.BACKENDS}


def _automatic(context: CallContext, reasons: dict[str, list[str]]) -> Choice:
    """The first that can run, in the order of `fusedsplit bench`.

    On 7 layers at batch 1, 32, 512 and 4096 (2 cores with AVX-512, TensorFlow 2.21) the op was the fastest of the
    three in 28 of 28 cells forward, 27 of 28 with gradients (1.04 times slower in the other) and 14 of 14 in eager
    mode. Without it, `xla` was faster than `tf` in each eager cell, since it pays one dispatch and `tf` one for each
    step; in a graph `tf` was faster with gradients in 23 of 28, since a nested jit is launched by itself and gives out
    what its backward needs. Inside a function that XLA compiles the op was faster than XLA's own code for the unfused
    program in 13 of 16 cells forward and 15 of 16 with gradients, and never slower by more than 10 %.
    """
    order = ("op", "xla", "tf") if context.eager else ("op", "tf", "xla")
    where = "eager" if context.eager else "graph"
    for place, name in enumerate(order):
        if not reasons[name]:
            rank = ("fastest", "second", "third")[place]
            return Choice(name, f"measured {rank} of {', '.join(order)} in {where} mode", reasons)
    return Choice("reference", "only the sub-layers themselves can compute this call", reasons)


def _refusal(requested: str, reasons: dict[str, list[str]]) -> str:
    lines = [f"backend {requested!r} was chosen explicitly and cannot run this call:"]
    for name in (requested, *(n for n in reasons if n != requested)):
        lines.append(f"  {name}: " + ("; ".join(reasons[name]) or "can run"))
    return "\n".join(lines)


def _report(choice: Choice, context: CallContext, who: str, requested: str) -> None:
    if "dispatch" in config.verbose():
        against = "; ".join(f"not {n}: {', '.join(r)}" for n, r in choice.reasons.items() if r and n != choice.name)
        print(
            f"fusedsplit: {who} -> {choice.name} ({choice.why}){' ' + against if against else ''}",
            file=sys.stderr,
        )
    automatic = requested == "auto" and _forced.get() in (None, "auto")
    if automatic and choice.reasons["op"] and choice.name != "op" and not context.in_save:
        _warn_once(choice)


def _warn_once(choice: Choice) -> None:
    global _warned
    if _warned:
        return
    _warned = True
    warnings.warn(
        f"fusedsplit runs {choice.name!r} instead of the compiled op, because {'; '.join(choice.reasons['op'])}. "
        "fs.explain(layer) lists what each backend needs. To silence this, choose a backend explicitly "
        "(backend=..., fs.use_backend or FUSEDSPLIT_BACKEND) or filter fs.FusedSplitWarning.",
        FusedSplitWarning,
        stacklevel=3,
    )


class Prepared(NamedTuple):
    """Everything that a call is computed from."""

    spec: SplitSpec
    inputs: list[Any]
    params: list[Any]
    points: list[Any]


def call_layer(layer: Any, inputs: Any, training: bool | None) -> Any:
    """Runs a built layer on what it was called on."""
    tensors = keras.tree.flatten(inputs)
    unfusable = layer.unfusable_reasons() + _input_reasons(tensors, layer.compute_dtype)
    spec = None if unfusable else layer.spec_for(training)
    context = current_context(layer.compute_dtype)
    choice = choose(layer.backend, spec, context, unfusable)
    _report(choice, context, layer.name, layer.backend)
    if choice.name == "reference" or spec is None:
        return reference.call(layer, inputs, training)
    call = layer.prepare([_as_dtype(x, layer.compute_dtype) for x in tensors], training)
    outputs = run(call.spec, call.inputs, call.params, call.points, choice.name, logits=True)
    return _given_out(call.spec, outputs)


def call_layer_eagerly(layer: Any, x: Any) -> Any:
    """The same for a tensor in eager mode that needs nothing of what Keras does around a call, or None.

    Keras' `Layer.__call__` takes several times as long as a small layer's op.
    """
    if type(x) is not _EagerTensor or not _executing_eagerly() or hasattr(x, "_keras_mask"):
        return None
    if not layer.takes_tensor(x.shape) or x.dtype.name != layer.compute_dtype or layer.unfusable_reasons():
        return None
    spec = layer.spec
    plan = _eager_op_plan(_forced.get() or layer.backend, spec, x.dtype, spec.has_logits)
    return None if plan is None else _given_out(spec, OP.run(plan, [x], layer.params))


@functools.lru_cache(maxsize=4096)
def _eager_op_plan(requested: str, spec: SplitSpec, dtype: tf.DType, logits: bool) -> Plan | None:
    """What the op runs for a plain eager call, or None where another backend does, or a choice must be reported."""
    try:
        choice = choose(requested, spec, _eager_context(dtype.name))
    except (KeyError, ValueError):
        return None
    if choice.name != "op" or isinstance(spec.merge, CallableMerge) or config.verbose():
        return None
    return lower(spec, logits)


def _given_out(spec: SplitSpec, outputs: list[Any]) -> Any:
    """What a layer returns, given the outputs of `run`."""
    if spec.merge is None:
        return outputs
    if spec.has_logits and len(outputs) > 1:
        # Keras' crossentropies look for the logits here, to keep the gradient of a saturated output.
        outputs[0]._keras_logits = outputs[1]
    return outputs[0]


def plan_of(spec: SplitSpec) -> Plan:
    """The (first) plan of a spec."""
    return lower(spec.stages()[0][0])


def run(
    spec: SplitSpec,
    inputs: Sequence[Any],
    params: Sequence[Any],
    points: Sequence[Any] = (),
    backend: str = "tf",
    logits: bool = False,
) -> list[Any]:
    """A spec on tensors that fit it, by a backend that can run it.

    Args:
        spec: what to compute.
        inputs: tensors as `spec.inputs` says.
        params: tensors as `spec.params` says.
        points: int32 tensors as `spec.points` says.
        backend: the name of one that can run here.
        logits: whether to give out the logits too, where the spec has them.

    Returns:
        The outputs, and behind them the logits.
    """
    if backend == "reference":
        return reference.compute(spec, inputs, params, points)
    executor = BACKENDS[backend]
    if not isinstance(spec.merge, CallableMerge):
        return executor.run(lower(spec, logits), inputs, params, points)
    (branches, places), *head = spec.stages()
    merged = spec.merge.function(executor.run(lower(branches), inputs, [params[i] for i in places], points))
    for stage, places in head:
        return executor.run(lower(stage, logits), [merged], [params[i] for i in places])
    return [merged]


def ones_like_rows(x: Any, width: int) -> tf.Tensor:
    """Ones of the leading dimensions of x, with `width` columns."""
    shape = x.shape[:-1] if x.shape.is_fully_defined() else tf.shape(x)[:-1]
    return tf.ones(tf.concat([shape, [width]], 0), x.dtype)


def as_rows(points: tf.Tensor) -> tf.Tensor:
    """Points of x's leading dimensions as one for each row of the flattened x; a single one stays as it is."""
    return tf.reshape(points, [-1]) if points.shape.rank else points


def _input_reasons(tensors: Sequence[Any], dtype: str) -> list[str]:
    reasons = []
    for x in tensors:
        if isinstance(x, (tf.SparseTensor, tf.RaggedTensor)):
            reasons.append(f"an input is a {type(x).__name__}")
            continue
        kind = tf.as_dtype(x.dtype)
        if kind.is_floating and kind.name != dtype:
            reasons.append(f"an input is {kind.name}, the layer computes in {dtype} (autocast is off)")
    return reasons


def _as_dtype(x: Any, dtype: str) -> tf.Tensor:
    x = tf.convert_to_tensor(x)
    return x if x.dtype == dtype else tf.cast(x, dtype)


def split_dense(
    inputs: Any, params: Sequence[Any], spec: SplitSpec, backend: str = "auto", *, points: Sequence[Any] = ()
) -> Any:
    """The functional form: what a layer computes, on plain tensors, with the least overhead.

    Example:

    >>> import numpy as np, fusedsplit as fs
    >>> from keras.layers import Dense
    >>> layer = fs.SplitDense(Dense(8), [Dense(4), Dense(6)])
    >>> x = np.ones((32, 10), "float32")
    >>> y = layer(x)
    >>> bool(np.allclose(fs.split_dense(x, layer.params, layer.spec), y))
    True

    Args:
        inputs: a tensor of shape (..., width), or a list of them where the spec has several inputs.
        params: the weights in the order of `spec.params`; `layer.params`, for one.
        spec: a `SplitSpec`; `layer.spec`, for one.
        backend: as in `SplitDense`.
        points: int32 tensors, scalars or one number for each row, where the spec splits by the data.

    Returns:
        The output tensor, or a list of them where `spec.merge` is None.

    Raises:
        ValueError: if a shape or the number of inputs or params is not what the spec says, or an explicitly chosen
            backend cannot run.
    """
    if type(inputs) is _EagerTensor and not points and _executing_eagerly():
        outputs = _split_dense_eagerly(inputs, params, spec, backend)
        if outputs is not None:
            return outputs if spec.merge is None else outputs[0]
    tensors = [tf.convert_to_tensor(x) for x in (inputs if isinstance(inputs, (list, tuple)) else [inputs])]
    dtype = tensors[0].dtype.name
    weights = [tf.convert_to_tensor(p) for p in params]
    points = [as_rows(tf.cast(point, tf.int32)) for point in points]
    _check_operands(tensors, weights, points, spec)
    context = current_context(dtype)
    choice = choose(check_name(backend), spec, context)
    _report(choice, context, "split_dense", backend)
    outputs = run(spec, tensors, weights, points, choice.name)
    return outputs if spec.merge is None else outputs[0]


def _split_dense_eagerly(x: Any, params: Sequence[Any], spec: SplitSpec, backend: str) -> list[Any] | None:
    """The op at once, which checks every shape itself; None where it cannot run or where something does not fit."""
    plan = _eager_op_plan(_forced.get() or backend, spec, x.dtype, False)
    if plan is None:
        return None
    try:
        return OP.run(plan, [x], params)
    except (tf.errors.InvalidArgumentError, TypeError, ValueError):
        return None


def _check_operands(
    inputs: Sequence[tf.Tensor], params: Sequence[tf.Tensor], points: Sequence[tf.Tensor], spec: SplitSpec
) -> None:
    if len(points) != spec.points:
        raise ValueError(f"`points`: expected {spec.points} tensors. Received: {len(points)}")
    if len(inputs) != len(spec.inputs):
        raise ValueError(f"`inputs`: expected {len(spec.inputs)} tensors. Received: {len(inputs)}")
    if len(params) != len(spec.params):
        raise ValueError(f"`params`: expected {len(spec.params)} tensors. Received: {len(params)}")
    for i, (x, width) in enumerate(zip(inputs, spec.inputs)):
        if x.shape.rank is None or x.shape.rank < 2 or x.shape[-1] != width:
            raise ValueError(f"`inputs[{i}]`: expected shape (..., {width}) of rank 2 or more. Received: {x.shape}")
    for i, (p, shape) in enumerate(zip(params, spec.params)):
        if p.shape != shape:
            raise ValueError(f"`params[{i}]`: expected shape {shape}. Received: {p.shape}")
    dtypes = {x.dtype.name for x in (*inputs, *params)}
    if len(dtypes) > 1:
        raise ValueError(f"expected inputs and params of one dtype. Received: {sorted(dtypes)}")
