"""The backend `xla`: the pure-TensorFlow form of a plan as one jit-compiled function."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from fusedsplit.backends.tf import TensorFlow, execute
from fusedsplit.plan import Plan


class Xla(TensorFlow):
    """`xla`: the same, as one jit-compiled function for each plan, compiled once for each shape that XLA sees."""

    name = "xla"

    def run(self, plan: Plan, inputs: Sequence[Any], params: Sequence[Any], points: Sequence[Any] = ()) -> list[Any]:
        params = [tf.convert_to_tensor(p) for p in params]
        ranks = tuple(x.shape.rank for x in inputs)
        function = _compiled(plan, inputs[0].dtype, ranks, tuple(p.shape.rank for p in points))
        return function(list(inputs), params, list(points))


@functools.lru_cache(maxsize=256)
def _compiled(plan: Plan, dtype: tf.DType, ranks: tuple[int, ...], point_ranks: tuple[int, ...]) -> Any:
    """One trace for all batch sizes: only XLA itself compiles anew for a new shape."""
    inputs = [tf.TensorSpec([None] * (rank - 1) + [plan.values[v].width], dtype) for rank, v in zip(ranks, plan.inputs)]
    params = [tf.TensorSpec(p.shape, dtype) for p in plan.params]
    points = [tf.TensorSpec([None] * rank, tf.int32) for rank in point_ranks]
    function = tf.function(functools.partial(execute, plan), jit_compile=True, autograph=False)
    return function.get_concrete_function(inputs, params, points)


XLA = Xla()
