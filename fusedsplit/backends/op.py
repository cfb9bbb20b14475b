"""The compiled op: a whole plan as one TensorFlow op on the CPU.

How gradients are made here:

- The forward op can save what backward would otherwise compute again. A call that nobody differentiates saves
  nothing: in eager mode the tape is asked, and in a graph the gradient function, when it is built, switches
  `save` on in the forward node. Where that comes too late, the saved tensor is empty and backward recomputes.
- The saved values are one uint8 tensor. It is no trainable type, so TensorFlow makes no zeros for it.
- The backward op's own gradient is the pure-TensorFlow form of the plan, so every higher order works.
"""

from __future__ import annotations

import functools
import struct
import weakref
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from fusedsplit.backends import _tf_private, op_in_xla
from fusedsplit.backends._tf_private import (
    FallbackException,
    FuncGraph,
    could_possibly_record,
    fast_path_execute,
    pack_jvps,
    raise_from_not_ok_status,
    record_operation,
    set_attribute,
    should_record_backprop,
    stop_recording,
)
from fusedsplit.backends.base import Backend, CallContext
from fusedsplit.backends.tf import execute, in_xla
from fusedsplit.native import library
from fusedsplit.plan import Plan

INFER = "FusedsplitInfer"
FORWARD = "FusedsplitForward"
BACKWARD = "FusedsplitBackward"
DTYPES = ("float32", "float64")


class _Loaded:
    """The op library in this process, or the reason why it is not."""

    def __init__(self) -> None:
        self.wrappers: Any = None
        self.library: library.OpLibrary | None = None
        self.reason: str | None = None
        path = library.op_path()
        self.reason = library.settings_problem() or library.file_problem(path)
        if self.reason is not None:
            return
        try:
            # TensorFlow must be the first to load it, since the ops register themselves then.
            self.wrappers = tf.load_op_library(str(path))
            self.library = library.OpLibrary(path)
        except (tf.errors.OpError, library.NativeError) as error:
            self.reason = f"the op library cannot be used: {error}"
            return
        # TensorFlow's own setting, where there is one, binds the op as well.
        limit = tf.config.threading.get_intra_op_parallelism_threads()
        if 0 < limit < self.library.info()["threads"]:
            self.library.set_threads(limit)


@functools.cache
def _loaded() -> _Loaded:
    return _Loaded()


def problem() -> str | None:
    """Why the op cannot be used in this process; None where it can."""
    return _loaded().reason


@functools.cache
def xla_problem() -> str | None:
    """Why a program that XLA compiles cannot call the op; None where it can."""
    lost = _tf_private.reasons(_tf_private.IN_XLA)
    if lost:
        return "; ".join(lost)
    reason = library_info()["xla"]
    if reason:
        return f"XLA cannot compile a custom op, and {reason}"
    if tf.config.list_logical_devices("GPU"):
        return "XLA compiles for the GPU here, and the op runs on the CPU"
    return None


def library_info() -> dict[str, Any]:
    """What the loaded library says of itself; empty where it cannot be used."""
    library = _loaded().library
    return {} if library is None else library.info()


class Op:
    """The backend `op`."""

    name = "op"

    def not_supported_reasons(self, plan: Plan | None, context: CallContext) -> list[str]:
        del plan  # every step of a plan is built
        reasons = []
        broken = problem()
        if broken is not None:
            reasons.append(broken)
        if not context.in_xla:  # else see `xla_problem`
            reasons += _tf_private.reasons(_tf_private.EAGER if context.eager else _tf_private.GRAPH)
        if context.dtype not in DTYPES:
            reasons.append(f"it is built for float32 and float64 only, not for {context.dtype}")
        if context.device is not None:
            reasons.append(f"the inputs are on {context.device}, and it runs on the CPU")
        in_xla_problem = xla_problem() if context.in_xla and broken is None else None
        if in_xla_problem is not None:
            reasons.append(in_xla_problem)
        if context.in_xla and context.in_branch:
            reasons.append(
                "in a conditional XLA gives what a branch keeps for gradients a size that no foreign call takes"
            )
        if context.in_save:
            reasons.append("a saved model must run where fusedsplit is not installed")
        return reasons

    def run(self, plan: Plan, inputs: Sequence[Any], params: Sequence[Any], points: Sequence[Any] = ()) -> list[Any]:
        call = _call(plan)
        if not tf.executing_eagerly():
            if in_xla():
                return op_in_xla.forward(plan, inputs, params, points)[:-1]
            return call.in_graph(inputs, params, points)
        if could_possibly_record():
            return call.recorded(inputs, params, points)
        return call.infer(inputs, params, points)


OP: Backend = Op()


def pack_plan(code: Sequence[int]) -> bytes:
    """An encoded plan as the ops take it."""
    return struct.pack(f"<{len(code)}q", *code)


@functools.lru_cache(maxsize=256)
def _unpack_plan(code: bytes) -> Plan:
    return _decode_plan(struct.unpack(f"<{len(code) // 8}q", code))


@functools.lru_cache(maxsize=256)
def _decode_plan(code: tuple[int, ...]) -> Plan:
    return Plan.decode(code)


class _Call:
    """What is fixed for a plan: its encoding and its widths."""

    __slots__ = ("code", "infers", "n_outputs", "widths", "wrappers")

    # What FusedsplitInfer takes: so many inputs and params, and no points.
    infers: tuple[int, int, int] | None

    def __init__(self, plan: Plan):
        if problem() is not None:
            raise library.NativeError(problem())
        self.wrappers = _loaded().wrappers
        self.code = pack_plan(plan.encode())
        self.widths = [plan.values[i].width for i in plan.outputs]
        self.n_outputs = len(self.widths)
        self.infers = (len(plan.inputs), len(plan.params), 0) if self.n_outputs == 1 else None

    def infer(self, inputs, params, points) -> list[Any]:
        """The outputs, by the shortest way into the runtime."""
        if (len(inputs), len(params), len(points)) != self.infers:
            return self.eager(inputs, params, points, save=False)[0]
        return [_fast_execute(INFER, ([*inputs, *params],), ("plan", self.code))]

    def eager(self, inputs, params, points, save: bool) -> tuple[list[Any], Any]:
        """(outputs, saved)."""
        attributes = ("n_outputs", self.n_outputs, "plan", self.code, "save", save)
        return _fast_execute(FORWARD, (inputs, params, points), attributes)

    def in_graph(self, inputs, params, points) -> list[Any]:
        leading = tf.TensorShape(inputs[0].shape)[:-1]
        outputs, saved = self.wrappers.fusedsplit_forward(
            inputs=list(inputs),
            params=list(params),
            points=list(points),
            n_outputs=self.n_outputs,
            plan=self.code,
            save=False,
        )
        for output, width in zip(outputs, self.widths):
            output.set_shape(leading.concatenate(width))
        saved.set_shape([None])
        return list(outputs)

    def recorded(self, inputs, params, points) -> list[Any]:
        """Runs under a tape or a forward accumulator, recording only what differentiates."""
        inputs = [tf.convert_to_tensor(x) for x in inputs]
        params = [tf.convert_to_tensor(p) for p in params]
        sources = [*inputs, *params]
        # A tangent may flow from any of them: which ones is known to the accumulators alone.
        if pack_jvps(sources)[1]:
            wanted = [1] * len(sources)
        else:
            wanted = [int(should_record_backprop((source,))) for source in sources]
        if not any(wanted):
            return self.infer(inputs, params, points)
        with stop_recording():
            outputs, saved = self.eager(inputs, params, points, save=True)

        def backward(*output_grads):
            grads = _backward(self.code, inputs, params, points, outputs, saved, output_grads, wanted)
            return [grad if want else None for grad, want in zip(grads, wanted)]

        record_operation(FORWARD, outputs, sources, backward)
        return outputs


_calls: dict[int, _Call] = {}


def _call(plan: Plan) -> _Call:
    # By identity: hashing a plan takes longer than running a small one.
    call = _calls.get(id(plan))
    if call is None:
        call = _calls[id(plan)] = _Call(plan)
        weakref.finalize(plan, _calls.pop, id(plan), None)
    return call


def _fast_execute(op_name: str, lists: Sequence[Sequence[Any]], attributes: tuple[Any, ...]) -> Any:
    context = _tf_private.context()
    try:
        try:
            return fast_path_execute(context, op_name, None, *lists, *attributes)
        except FallbackException:
            # TensorFlow up to 2.17 does not read variables (nor anything does arrays) in a list here.
            lists = [[tf.convert_to_tensor(x) for x in xs] for xs in lists]
            return fast_path_execute(context, op_name, None, *lists, *attributes)
    except Exception as error:
        if hasattr(error, "code") and hasattr(error, "message"):
            raise_from_not_ok_status(error, op_name)
        raise


def _filled(output_grads: Sequence[Any], outputs: Sequence[Any]) -> list[tf.Tensor]:
    """Gradients as tensors: zeros for none, and sparse ones made dense."""
    return [
        tf.zeros_like(output) if grad is None else tf.convert_to_tensor(grad)
        for grad, output in zip(output_grads, outputs)
    ]


def _backward(code, inputs, params, points, outputs, saved, output_grads, wanted) -> list[Any]:
    """Gradients of inputs and params, in eager mode or in a graph; an unwanted one is an empty tensor."""
    output_grads = _filled(output_grads, outputs)
    input_grads, param_grads = _loaded().wrappers.fusedsplit_backward(
        inputs=inputs,
        params=params,
        points=list(points),
        outputs=outputs,
        saved=saved,
        output_grads=output_grads,
        plan=code,
        wanted=wanted,
    )
    grads = [*input_grads, *param_grads]
    if not tf.executing_eagerly():
        for grad, source, want in zip(grads, [*inputs, *params], wanted):
            grad.set_shape(source.shape if want else [0])
    return grads


def _plan_of(op: Any) -> Plan:
    """The plan of a node, be it the op or a call from XLA, or of a tape's stand-in for one."""
    if _is_in_xla(op):
        return _decode_plan(tuple(op_in_xla.attribute(op, "plan")))
    return _unpack_plan(op.get_attr("plan"))


def _is_in_xla(op: Any) -> bool:
    return op.type not in (FORWARD, BACKWARD)


def _split(items: Sequence[Any], *counts: int) -> list[list[Any]]:
    """Cuts `items` into parts of so many each."""
    parts, at = [], 0
    for count in counts:
        parts.append(list(items[at : at + count]))
        at += count
    return parts


def _save_in_forward(op: Any, plan: Plan) -> None:
    """Makes the forward node save what backward reads. `op` may be a tape's stand-in, its tensors are not."""
    node = getattr(op.outputs[0], "op", None)
    # A plain graph may have run in a session already, which forbids changing nodes: backward recomputes.
    if node is None or not isinstance(node.graph, FuncGraph) or set_attribute is None:
        return
    if node.type == op_in_xla.NODE and _is_in_xla(op):
        loaded = _loaded().library
        assert loaded is not None  # or there would be no such node
        op_in_xla.save(node, plan, loaded.saved_bytes(plan.encode(), op.outputs[0].dtype.name))
    elif node.type == FORWARD and not node.get_attr("save"):
        set_attribute(node, "save", tf.compat.v1.AttrValue(b=True))


@tf.RegisterGradient(FORWARD)
@tf.RegisterGradient(op_in_xla.FORWARD)
def _forward_gradient(op: Any, *grads: Any) -> list[Any]:
    plan = _plan_of(op)
    _save_in_forward(op, plan)
    inputs, params, points = _split(op.inputs, len(plan.inputs), len(plan.params), plan.points)
    outputs, (saved,) = _split(op.outputs, len(plan.outputs), 1)
    skipped = getattr(op, "skip_input_indices", None) or ()
    wanted = [int(i not in skipped) for i in range(len(inputs) + len(params))]
    if _is_in_xla(op):
        output_grads = _filled(grads[:-1], outputs)
        result = op_in_xla.backward(plan, [*op.inputs, *outputs, saved, *output_grads], wanted)
    else:
        result = _backward(op.get_attr("plan"), inputs, params, points, outputs, saved, grads[:-1], wanted)
    return [grad if want else None for grad, want in zip(result, wanted)] + [None] * len(points)


@tf.RegisterGradient(BACKWARD)
@tf.RegisterGradient(op_in_xla.BACKWARD)
def _backward_gradient(op: Any, *grads: Any) -> list[Any]:
    """The gradient of a gradient, by TensorFlow's own rules on the pure-TensorFlow form of the plan.

    The outputs and the saved values are functions of the inputs and the params: the derivative goes there.
    """
    plan = _plan_of(op)
    n_outputs = len(plan.outputs)
    counts = (len(plan.inputs), len(plan.params), plan.points, n_outputs, 1, n_outputs)
    inputs, params, points, outputs, saved, output_grads = _split(op.inputs, *counts)
    all_wanted = op_in_xla.attribute(op, "wanted") if _is_in_xla(op) else op.get_attr("wanted")
    wanted = [i for i, want in enumerate(all_wanted) if want and grads[i] is not None]
    weights = [tf.convert_to_tensor(grads[i]) for i in wanted]
    if tf.executing_eagerly():
        ranks = tuple(point.shape.rank for point in points)
        seconds = _second_order_function(plan, tuple(wanted), ranks)(inputs, params, points, output_grads, weights)
    else:
        seconds = _second_order(plan, wanted, inputs, params, points, output_grads, weights)
    of_sources, of_grads = seconds[: -len(output_grads)], seconds[-len(output_grads) :]
    return [*of_sources, *[None] * (len(points) + len(outputs) + len(saved)), *of_grads]


@functools.lru_cache(maxsize=256)
def _second_order_function(plan: Plan, wanted: tuple[int, ...], point_ranks: tuple[int, ...]) -> Any:
    del point_ranks  # a function that is traced anew for another rank forgets all ranks
    call = functools.partial(_second_order, plan, wanted)
    return tf.function(call, autograph=False, reduce_retracing=True)


def _second_order(plan, wanted, inputs, params, points, output_grads, weights) -> list[Any]:
    """In a graph: gradients of weights * (the wanted first gradients) by inputs, params and output gradients.

    By `tf.gradients`, since a tape records nothing while recording is stopped, as it is in forward mode. On
    copies of the tensors: how they depend on one another outside is not asked here.
    """
    inputs, params, output_grads = ([tf.identity(x) for x in xs] for xs in (inputs, params, output_grads))
    sources = [*inputs, *params]
    results = execute(plan, inputs, params, points)
    firsts = tf.gradients(results, [sources[i] for i in wanted], grad_ys=output_grads)
    pairs = [(first, weight) for first, weight in zip(firsts, weights) if first is not None]
    if not pairs:
        return [None] * (len(sources) + len(output_grads))
    targets = [tf.convert_to_tensor(first) for first, _ in pairs]
    return tf.gradients(targets, [*sources, *output_grads], grad_ys=[weight for _, weight in pairs])
