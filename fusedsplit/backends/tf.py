"""The pure-TensorFlow form: a plan in TensorFlow's own operations, traced into whatever graph or tape is there."""

from __future__ import annotations

import functools
import types
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from fusedsplit.backends._tf_private import CondBranchFuncGraph, context, device_scopes, graph_is_in_xla
from fusedsplit.backends.activations import activate
from fusedsplit.backends.base import CallContext
from fusedsplit.plan import LINEAR, Activation, Const, Dense, Merge, Mix, Plan, Range, Row, Step, sources

# Under XLA equal branches from this many on are one batched product: 1.2 to 1.4 times as fast at batch 32 and 512 on
# med, wide and large, even at 4096. Without XLA it loses everywhere, since both transposes are real there.
BATCHED_FROM = 2
# Without XLA a product that is read in slices is computed in slices, from this many columns on: up to 1.3 times as
# fast at batch 512, even at 4096; under XLA it loses. Thinner slices, and fewer rows (where they are known when the
# graph is traced), would pay more in dispatch: wide takes 1.2 times as long at batch 1 and 32.
SLICED_FROM = 32
SLICED_ROWS = 256

_FOLD = {"add": tf.add, "mul": tf.multiply, "max": tf.maximum, "min": tf.minimum}


def execute(plan: Plan, inputs: Sequence[Any], params: Sequence[Any], points: Sequence[Any] = ()) -> list[tf.Tensor]:
    """The plan in plain TensorFlow operations, differentiable to any order.

    Args:
        plan: a validated plan.
        inputs: tensors of shape (..., width) with equal leading dimensions.
        params: tensors of the shapes that the plan says.
        points: int32 tensors of shape () or (rows,).

    Returns:
        The plan's outputs, in order.
    """
    leading = None
    if inputs[0].shape.rank != 2:
        leading = tf.shape(inputs[0])[:-1]
        static = inputs[0].shape[:-1]
        inputs = [tf.reshape(x, [-1, plan.values[v].width]) for v, x in zip(plan.inputs, inputs)]
    outputs = _Execution(plan, inputs, params, points).run()
    if leading is None:
        return outputs
    shaped = []
    for y in outputs:
        width = y.shape[-1]
        y = tf.reshape(y, tf.concat([leading, [width]], 0))
        y.set_shape(static.concatenate([width])) if not tf.executing_eagerly() else None
        shaped.append(y)
    return shaped


@functools.lru_cache(maxsize=1024)
def _cuts(plan: Plan) -> tuple[tuple[int, ...], ...]:
    """For each value the columns at which some step starts or stops to read it."""
    cuts: list[set[int]] = [{0, value.width} for value in plan.values]
    for step in plan.steps:
        for r in sources(step):
            cuts[r.value] |= {r.start, r.stop}
    return tuple(tuple(sorted(c)) for c in cuts)


class _Execution:
    """One run of a plan; `pieces[v]` holds what is known of value v, by (start, stop)."""

    def __init__(self, plan: Plan, inputs: Sequence[Any], params: Sequence[Any], points: Sequence[Any]):
        self.plan = plan
        self.params = params
        self.points = points
        self.cuts = _cuts(plan)
        self.in_xla = in_xla()
        rows = inputs[0].shape[0] if inputs else None
        self.slices = not self.in_xla and (rows is None or rows >= SLICED_ROWS)
        self.pieces: list[dict[tuple[int, int], tf.Tensor]] = [{} for _ in plan.values]
        for v, x in zip(plan.inputs, inputs):
            self.write(Range(v, 0, plan.values[v].width), x)

    def run(self) -> list[tf.Tensor]:
        if self.in_xla:
            for group in _grouped(self.plan):
                if len(group) > 1:
                    self.batched(group)
                else:
                    self.step(group[0])
        else:
            for step in self.plan.steps:
                self.step(step)
        return [self.read(Range(v, 0, self.plan.values[v].width)) for v in self.plan.outputs]

    def step(self, step: Step) -> None:
        if isinstance(step, Dense):
            edges = self.edges(step.dst)
            if len(edges) > 2 and self.slices and step.dst.width >= SLICED_FROM * (len(edges) - 1):
                self.sliced(step, edges)
                return
            y = self.dense(step)
        elif isinstance(step, Merge):
            y = self.merge(step)
        elif isinstance(step, Row):
            y = self.row(step)
        else:
            y = self.mix(step)
        self.write(step.dst, y)

    def sliced(self, step: Dense, edges: Sequence[int]) -> None:
        """One product for each slice that is read later: what would be split is never joined."""
        x = self.source(step)
        sizes = [b - a for a, b in zip(edges, edges[1:])]
        kernels = tf.split(self.params[step.kernel], sizes, axis=1)
        biases = [None] * len(sizes) if step.bias is None else tf.split(self.params[step.bias], sizes)
        for start, stop, kernel, bias in zip(edges, edges[1:], kernels, biases):
            self.write(Range(step.dst.value, start, stop), _dense(x, kernel, bias, step.activation))

    def dense(self, step: Dense) -> tf.Tensor:
        bias = None if step.bias is None else self.params[step.bias]
        return _dense(self.source(step), self.params[step.kernel], bias, step.activation)

    def source(self, step: Dense) -> tf.Tensor:
        """What a product reads, the columns that do not count set to zero."""
        x = self.read(step.src)
        if step.live is not None:
            point = self.points[step.live.point]
            point = point[:, None] if point.shape.rank == 1 else point
            columns = tf.range(step.src.width, dtype=point.dtype)
            live = columns < point if step.live.side == "leading" else columns >= point
            x = tf.where(live, x, tf.zeros([], x.dtype))
        return x

    def batched(self, group: Sequence[Step]) -> None:
        """Equal branches side by side as one batched product, (group, rows, in) @ (group, in, units)."""
        steps = [step for step in group if isinstance(step, Dense)]  # all of them, as `_continues` has it
        first, last = steps[0], steps[-1]
        n, width = len(steps), first.src.width
        x = self.read(Range(first.src.value, first.src.start, last.src.stop))
        x = tf.transpose(tf.reshape(x, [-1, n, width]), [1, 0, 2])
        y = tf.linalg.matmul(x, tf.stack([self.params[s.kernel] for s in steps]))
        biases = [self.params[s.bias] for s in steps if s.bias is not None]
        if biases:
            y += tf.stack(biases)[:, None, :]
        y = activate(first.activation, y)
        y = tf.reshape(tf.transpose(y, [1, 0, 2]), [-1, n * first.dst.width])
        self.write(Range(first.dst.value, first.dst.start, last.dst.stop), y)

    def merge(self, step: Merge) -> tf.Tensor:
        terms = [self.read(r) if scale == 1 else self.read(r) * scale for r, scale in step.srcs]
        y = functools.reduce(_FOLD[step.op], terms) if terms else self.zeros(step.dst.width)
        for fold, operand in ((tf.multiply, step.gain), (tf.add, step.shift)):
            if operand is not None:
                y = fold(y, operand.value if isinstance(operand, Const) else self.params[operand])
        if y.shape[-1] != step.dst.width:
            y = tf.broadcast_to(y, [tf.shape(y)[0], step.dst.width])
        return activate(step.activation, y) if step.activation != LINEAR else y

    def zeros(self, width: int) -> tf.Tensor:
        x = self.read(Range(self.plan.inputs[0], 0, self.plan.values[self.plan.inputs[0]].width))
        return tf.zeros([tf.shape(x)[0] if x.shape[0] is None else x.shape[0], width], x.dtype)

    def row(self, step: Row) -> tf.Tensor:
        x = self.read(step.src)
        if step.op == "softmax":
            return tf.nn.softmax(x)
        if step.op == "normalize":
            # Not by tf.nn.moments, whose gradient holds the mean constant: its second derivative is another one.
            centred = x - tf.reduce_mean(x, axis=-1, keepdims=True)
            # What rounding took from the mean, which every column of a row far from zero would show: a constant.
            centred -= tf.stop_gradient(tf.reduce_mean(centred, axis=-1, keepdims=True))
            variance = tf.reduce_mean(tf.square(centred), axis=-1, keepdims=True)
            return centred * tf.math.rsqrt(variance + step.epsilon)
        return (tf.reduce_mean if step.op == "mean" else tf.reduce_max)(x, axis=-1, keepdims=True)

    def mix(self, step: Mix) -> tf.Tensor:
        gate = self.read(step.gate)
        return tf.add_n([gate[:, e : e + 1] * self.read(r) for e, r in enumerate(step.experts)])

    def read(self, r: Range) -> tf.Tensor:
        pieces = self.pieces[r.value]
        if (r.start, r.stop) not in pieces:
            for start, stop in list(pieces):
                overlaps = start < r.stop and r.start < stop
                if overlaps and (start < r.start or r.stop < stop):
                    self.split(r.value, start, stop)
        if (r.start, r.stop) not in pieces:
            parts = []
            at = r.start
            while at < r.stop:
                stop = max(b for a, b in pieces if a == at and b <= r.stop)
                parts.append(pieces[at, stop])
                at = stop
            pieces[r.start, r.stop] = tf.concat(parts, axis=-1)
        return pieces[r.start, r.stop]

    def split(self, value: int, start: int, stop: int) -> None:
        """Cuts a piece at every column where some step starts or stops to read: one split in all, made once."""
        edges = self.edges(Range(value, start, stop))
        ranges = list(zip(edges, edges[1:]))
        pieces = self.pieces[value]
        if ranges[0] in pieces:
            return
        for (a, b), part in zip(ranges, tf.split(pieces[start, stop], [b - a for a, b in ranges], axis=-1)):
            pieces[a, b] = part

    def edges(self, r: Range) -> list[int]:
        """Where a range is cut, its ends included."""
        return [r.start, *(c for c in self.cuts[r.value] if r.start < c < r.stop), r.stop]

    def write(self, r: Range, y: tf.Tensor) -> None:
        self.pieces[r.value][r.start, r.stop] = y


def _dense(x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor | None, activation: Activation) -> tf.Tensor:
    y = tf.linalg.matmul(x, kernel)
    return activate(activation, y if bias is None else tf.nn.bias_add(y, bias))


def in_xla() -> bool:
    """Whether what is traced now will be compiled by XLA."""
    if tf.executing_eagerly():
        return False
    return graph_is_in_xla(tf.compat.v1.get_default_graph())


def traced_device() -> tf.DeviceSpec:
    """Where what is traced now will run, as far as `tf.device` says so.

    The body of a function does not inherit the device of its call, but is placed there.
    """
    node = types.SimpleNamespace(device="", name="", type="")
    graph = tf.compat.v1.get_default_graph() if device_scopes is not None else None
    while graph is not None:
        for scope in device_scopes(graph).peek_objs():  # from the innermost on
            if scope.function is None:  # tf.device(None): nothing further out counts
                return tf.DeviceSpec.from_string(node.device)
            node.device = scope.string_merge(node)
        graph = getattr(graph, "outer_graph", None)
    eager = context().device_name if context is not None else None
    outermost = tf.DeviceSpec.from_string(eager or "")
    return outermost.make_merged_spec(tf.DeviceSpec.from_string(node.device))


def in_branch() -> bool:
    """Whether XLA will compile what is traced now as a branch of a conditional, or as called from one.

    A branch that calls a function which is compiled by itself is none of XLA's: Keras' `steps_per_execution` is one.
    While such a function is traced, its caller is marked as XLA's, so the answer is what stands outside of a branch.
    """
    graph = tf.compat.v1.get_default_graph()
    while graph is not None:
        outer = getattr(graph, "outer_graph", None)
        branch = outer is not None and isinstance(graph, CondBranchFuncGraph)
        if branch and graph_is_in_xla(outer):
            return True
        graph = outer
    return False


@functools.lru_cache(maxsize=1024)
def _grouped(plan: Plan) -> tuple[tuple[Step, ...], ...]:
    """The steps in order, those that are computed as one batched product together."""
    groups: list[list[Step]] = []
    for step in plan.steps:
        if groups and _continues(groups[-1], step):
            groups[-1].append(step)
        else:
            groups.append([step])
    return tuple(
        tuple(part) for group in groups for part in ([group] if len(group) >= BATCHED_FROM else [[s] for s in group])
    )


def _continues(group: Sequence[Step], step: Step) -> bool:
    """Whether `step` is one more branch beside `group`: same sizes, adjacent columns read and written."""
    last = group[-1]
    if not (isinstance(last, Dense) and isinstance(step, Dense)) or last.live is not None or step.live is not None:
        return False
    return (
        step.src == Range(last.src.value, last.src.stop, last.src.stop + last.src.width)
        and step.dst == Range(last.dst.value, last.dst.stop, last.dst.stop + last.dst.width)
        and step.activation == last.activation
        and (step.bias is None) == (last.bias is None)
    )


class TensorFlow:
    """`tf`: the plan traced into whatever graph or tape is there."""

    name = "tf"

    def not_supported_reasons(self, plan: Plan | None, context: CallContext) -> list[str]:
        return [] if tf.as_dtype(context.dtype).is_floating else [f"dtype {context.dtype} is not a floating one"]

    def run(self, plan: Plan, inputs: Sequence[Any], params: Sequence[Any], points: Sequence[Any] = ()) -> list[Any]:
        params = [tf.convert_to_tensor(p) for p in params]
        return execute(plan, inputs, params, points)


TF = TensorFlow()
