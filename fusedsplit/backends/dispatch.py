"""Which backend runs a call, the reasons against each other one, and the one fallback warning.

Explicit choices never fall back: a backend named by a layer, by `use_backend` or by FUSEDSPLIT_BACKEND runs, or the
call raises with the reasons. A choice that comes out of a config was made elsewhere, and gives way where it cannot
run. Saving always traces the pure-TensorFlow form, so that what is saved needs no custom op.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from fusedsplit import config
from fusedsplit.backends._tf_private import EagerTensor, in_save_context
from fusedsplit.backends.base import Absent, Backend, CallContext, Computation, OnOperands, Operands
from fusedsplit.backends.tf import TF, in_branch, in_xla, traced_device
from fusedsplit.backends.xla import XLA
from fusedsplit.plan import Dense, Plan

try:
    from fusedsplit.backends.op import OP
except ModuleNotFoundError as error:  # removed together with csrc/: everything else works
    OP = Absent("op", str(error))
BACKENDS: dict[str, Backend] = {"op": OP, "xla": XLA, "tf": TF}

# Multiplications of a plan's products, on average, from which a graph leaves them to TensorFlow: chains of three Dense
# as wide as 512 ran at 0.99 to 1.2 times the speed of Keras' own in a graph at batch 32 and 512, forward and with
# gradients, those of 768 and more at 0.89 to 1.07 times (2 cores with AVX-512, TensorFlow 2.21).
WIDE_PRODUCT = 5e5

_forced: contextvars.ContextVar[str | None] = contextvars.ContextVar("fusedsplit_backend", default=None)
_warned = False


class FusedSplitWarning(UserWarning):
    """Issued once per process when "auto", or a loaded layer, cannot use the backend that it would prefer."""


class Choice(NamedTuple):
    """The backend that runs, why, for each other one what speaks against it, and which one it stands in for, if so."""

    name: str
    why: str
    reasons: dict[str, list[str]]
    instead_of: str | None = None


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


def current_context(dtype: str, inputs: Sequence[Any] = ()) -> CallContext:
    """What is known about the place of a call on `inputs`."""
    if tf.executing_eagerly():
        return _eager_context(dtype, device=_device_of(inputs))
    inside = in_xla()
    return CallContext(dtype, False, inside, in_save_context(), inside and in_branch(), _device_of_the_graph())


_eager_context = functools.lru_cache(CallContext)


@functools.cache
def _accelerators() -> tuple[str, ...]:
    """The devices that are no CPUs. Where there are none, no call asks for its device."""
    names = (_accelerator(tf.DeviceSpec.from_string(d.name)) for d in tf.config.list_logical_devices())
    return tuple(name for name in names if name is not None)


def _accelerator(spec: tf.DeviceSpec) -> str | None:
    """A device's short name; None for a CPU, and where the type is not said."""
    if spec.device_type is None or "CPU" in spec.device_type:
        return None
    return f"{spec.device_type}:{spec.device_index or 0}"


def _device_of(tensors: Sequence[Any]) -> str | None:
    """The first accelerator that one of some eager tensors is on."""
    if not _accelerators():
        return None
    found = (_accelerator(tf.DeviceSpec.from_string(getattr(x, "device", ""))) for x in tensors)
    return next((name for name in found if name is not None), None)


def _device_of_the_graph() -> str | None:
    """The accelerator that runs what is traced now: where nothing is said, TensorFlow prefers a GPU."""
    if not _accelerators():
        return None
    spec = traced_device()
    if spec.device_type is None:
        return next((name for name in _accelerators() if name.startswith("GPU")), None)
    return _accelerator(spec)


def choose(
    requested: str, plan: Plan | None, context: CallContext, unfusable: Sequence[str] = (), loaded: bool = False
) -> Choice:
    """Which backend runs.

    Args:
        requested: what the layer says; overridden by `use_backend`, then filled in from FUSEDSPLIT_BACKEND.
        plan: what is computed, or None where only "reference" can, because of `unfusable`.
        context: where the call happens.
        unfusable: why only "reference" can run it.
        loaded: whether what the layer says comes from a config, so that it gives way where it cannot run.

    Raises:
        ValueError: if an explicitly chosen backend cannot run, with the reasons.
    """
    forced = _forced.get()
    if forced is not None:
        requested, loaded = forced, False
    if requested == "auto":
        requested, loaded = config.backend() or "auto", False
    return _choose(requested, plan, context, tuple(unfusable), loaded)


@functools.lru_cache(maxsize=4096)
def _choose(
    requested: str, plan: Plan | None, context: CallContext, unfusable: tuple[str, ...], loaded: bool
) -> Choice:
    reasons = reasons_against(plan, context, unfusable)
    if context.in_save:
        name = "reference" if reasons["tf"] else "tf"
        return Choice(name, "a model that is being saved needs no custom op", reasons)
    if requested == "auto":
        return _automatic(plan, context, reasons)
    if not reasons[requested]:
        return Choice(requested, "chosen when it was saved" if loaded else "explicitly chosen", reasons)
    if not loaded:
        raise ValueError(_refusal(requested, reasons))
    instead = _choose(config.backend() or "auto", plan, context, unfusable, False)
    why = f"{requested!r}, with which it was saved, cannot run here; {instead.why}"
    return Choice(instead.name, why, reasons, instead_of=requested)


def reasons_against(plan: Plan | None, context: CallContext, unfusable: Sequence[str]) -> dict[str, list[str]]:
    """For every backend why it cannot run; empty lists where it can."""
    reasons: dict[str, list[str]] = {"reference": []}
    for name, backend in BACKENDS.items():
        reasons[name] = [*unfusable, *backend.not_supported_reasons(plan, context)]
    return {name: reasons[name] for name in config.BACKENDS}


def _automatic(plan: Plan | None, context: CallContext, reasons: dict[str, list[str]]) -> Choice:
    """The first that can run, in the order of `fusedsplit bench`.

    On 7 layers at batch 1, 32, 512 and 4096 (2 cores with AVX-512, TensorFlow 2.21) the op was the fastest of the
    three in 28 of 28 cells forward, 27 of 28 with gradients (1.04 times slower in the other) and 14 of 14 in eager
    mode. Without it, `xla` was faster than `tf` in each eager cell, since it pays one dispatch and `tf` one for each
    step; in a graph `tf` was faster with gradients in 23 of 28, since a nested jit is launched by itself and gives out
    what its backward needs. Inside a function that XLA compiles the op was faster than XLA's own code for the unfused
    program in 13 of 16 cells forward and 15 of 16 with gradients, and never slower by more than 10 %. Where products
    are wide they are all that there is to a graph, and TensorFlow's are as fast.
    """
    if plan is not None and not context.eager and _mean_product(plan) >= WIDE_PRODUCT:
        why = f"{_mean_product(plan):.1e} multiplications a product: in a graph TensorFlow's own are as fast"
        return Choice("reference", why, reasons)
    order = ("op", "xla", "tf") if context.eager else ("op", "tf", "xla")
    where = "eager" if context.eager else "graph"
    # Elsewhere than on a CPU the op is not what one would prefer.
    wanted = "op" if context.device is None else None
    for place, name in enumerate(order):
        if not reasons[name]:
            rank = ("fastest", "second", "third")[place]
            why = f"measured {rank} of {', '.join(order)} in {where} mode"
            if context.device is not None:
                why = f"the first of {', '.join(order)} that runs on {context.device}"
            return Choice(name, why, reasons, None if name == wanted else wanted)
    return Choice("reference", "only the sub-layers themselves can compute this call", reasons, wanted)


def _mean_product(plan: Plan) -> float:
    """Multiplications of a product for a row, on average."""
    return plan.flops() / 2 / max(1, sum(isinstance(step, Dense) for step in plan.steps))


def _refusal(requested: str, reasons: dict[str, list[str]]) -> str:
    lines = [f"backend {requested!r} was chosen explicitly and cannot run this call:"]
    for name in (requested, *(n for n in reasons if n != requested)):
        lines.append(f"  {name}: " + ("; ".join(reasons[name]) or "can run"))
    return "\n".join(lines)


def report(choice: Choice, who: str) -> None:
    if "dispatch" in config.verbose():
        against = "; ".join(f"not {n}: {', '.join(r)}" for n, r in choice.reasons.items() if r and n != choice.name)
        print(
            f"fusedsplit: {who} -> {choice.name} ({choice.why}){' ' + against if against else ''}",
            file=sys.stderr,
        )
    if choice.instead_of is not None:
        _warn_once(choice.name, choice.instead_of, choice.reasons[choice.instead_of])


def _warn_once(name: str, instead_of: str, reasons: Sequence[str]) -> None:
    global _warned
    if _warned:
        return
    _warned = True
    wanted = "the compiled op" if instead_of == "op" else repr(instead_of)
    warnings.warn(
        f"fusedsplit runs {name!r} instead of {wanted}, because {'; '.join(reasons)}. "
        "fs.explain(layer) lists what each backend needs. To silence this, choose a backend explicitly "
        "(backend=..., fs.use_backend or FUSEDSPLIT_BACKEND) or filter fs.FusedSplitWarning.",
        FusedSplitWarning,
        stacklevel=3,
    )


def call(
    computation: Computation,
    inputs: Sequence[Any],
    requested: str,
    unfusable: Sequence[str] = (),
    loaded: bool = False,
) -> list[Any]:
    """The outputs of a computation for what a layer was called on.

    Args:
        computation: what to compute.
        inputs: what Keras hands to a layer's `call`, flat.
        requested: the backend that the layer names.
        unfusable: what else speaks against a plan for these inputs.
        loaded: whether its config does so, see `choose`.

    Raises:
        ValueError: if an explicitly chosen backend cannot run.
    """
    unfusable = [*unfusable, *computation.unfusable_reasons(), *_input_reasons(inputs, computation.dtype)]
    plan = None if unfusable else computation.plan()
    choice = choose(requested, plan, current_context(computation.dtype, inputs), unfusable, loaded)
    report(choice, computation.name)
    if choice.name == "reference":
        return computation.call_unfused(inputs)
    operands = computation.operands([_as_dtype(x, computation.dtype) for x in inputs])
    return _given_out(computation, computation.execute(BACKENDS[choice.name].run, operands, logits=True))


def call_eagerly(computation: Computation, x: Any, params: list[Any], requested: str) -> list[Any] | None:
    """The same for one eager tensor, as `is_eager_tensor` tells, that needs nothing of what Keras does around a call.

    Keras' `Layer.__call__` takes several times as long as a small layer's op.

    Args:
        computation: what to compute; nothing speaks against running its plan.
        x: what the layer was called on.
        params: those of the computation.
        requested: the backend that the layer names.

    Returns:
        The outputs; or None, where Keras, or a report, is needed.
    """
    if x.dtype.name != computation.dtype or "_keras_mask" in vars(x):  # `hasattr` takes 1 us on a tensor
        return None
    plan = computation.plan(logits=True)
    if not runs_op_eagerly(requested, plan, x.dtype):
        return None
    return _given_out(computation, OP.run(plan, [x], params))


def is_eager_tensor(x: Any) -> bool:
    """Whether x is a tensor with a value on a CPU, and what is called on it runs at once."""
    return type(x) is EagerTensor and tf.executing_eagerly() and not (_accelerators() and _device_of([x]))


def runs_op_eagerly(requested: str, plan: Plan, dtype: tf.DType) -> bool:
    """Whether the op runs a plain eager call on a CPU; False also where a choice must be reported."""
    return _runs_op_eagerly(_forced.get() or requested, plan, dtype)


@functools.lru_cache(maxsize=4096)
def _runs_op_eagerly(requested: str, plan: Plan, dtype: tf.DType) -> bool:
    try:
        choice = choose(requested, plan, _eager_context(dtype.name))
    except (KeyError, ValueError):
        return False
    return choice.name == "op" and not config.verbose()


def _given_out(computation: Computation, outputs: list[Any]) -> list[Any]:
    """What a layer returns, given the outputs and the logits behind them."""
    count = len(outputs) - len(computation.logit_outputs)
    for output, logits in zip(computation.logit_outputs, outputs[count:]):
        # Keras' crossentropies look for the logits here, to keep the gradient of a saturated output, and its loss: so
        # they are needed without a tape too, and only from the weights of this call. As one more output they take a
        # tenth of an eager call's op (sigmoid and softmax heads, 1 to 4096 rows), in a graph nothing measurable.
        outputs[output]._keras_logits = logits
    return outputs[:count]


def run(computation: OnOperands, operands: Operands, backend: str) -> list[Any]:
    """The outputs by a backend that can run here, or without a plan."""
    if backend == "reference":
        return computation.unfused(operands)
    return computation.execute(BACKENDS[backend].run, operands)


def _input_reasons(tensors: Sequence[Any], dtype: str) -> list[str]:
    reasons = []
    for x in tensors:
        if x is None:
            reasons.append("an optional input is not given")
            continue
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
