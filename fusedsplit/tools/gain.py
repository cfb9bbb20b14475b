"""What fusing a model may bring: what is counted in the model, and rules from measurements, with their conditions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from fusedsplit.backends import dispatch
from fusedsplit.models import _keras_private as private
from fusedsplit.models import calls
from fusedsplit.models.graph import Call
from fusedsplit.models.region import Region

# Costs of an eager call, in calls of a Keras layer (which take as long as 2e6 multiplications and additions):
# an operation of `keras.ops`; what Keras does around a model that is more than one region; a region; each weight that
# it reads; a BatchNormalization, whose gain and shift are computed for each call. Fitted to chains of 2, 8 and 32
# Dense and to the models of bench/architectures.py at batch 1 and 32 (2 cores with AVX-512, TensorFlow 2.21, Keras
# 3.15). Measured again on a quiet machine (13 models), the gain was 0.5 to 1.05 times what they say, but for tabm at
# batch 1 (1.8) and grn_vsn (0.3 and 0.6), which has 244 weights.
OPERATION, AROUND, REGION, WEIGHT, BATCH_NORMALIZATION, FLOPS = 0.5, 0.4, 0.1, 0.012, 0.2, 1 / 2e6
# Without a kernel of their own, or removed before a graph runs.
_NOT_RUN = {"Const", "Placeholder", "Identity", "IdentityN", "NoOp", "ReadVariableOp", "StopGradient"}


@dataclasses.dataclass(frozen=True)
class Gain:
    """What to expect at inference.

    Attributes:
        eager: how many times as fast an eager call of the model is at small batches, as measured rules say.
        operations: how many TensorFlow operations a graph of the model has, unfused and fused.
    """

    eager: float
    operations: tuple[int, int]

    def __str__(self) -> str:
        unfused, fused = self.operations
        return "\n".join(
            (
                f"eager, batch 1 to 32: {_times((1 + self.eager) / 2)} to {_times(self.eager)} times as fast, by the "
                "number of calls, weights and products",
                f"in a graph (fit, predict, tf.function): {unfused} TensorFlow operations become {fused}; measured on "
                "a dozen models with the op: 1 to 2.5 times as fast at batch 32, 0.5 to 2 at 512: measure yours",
            )
        )


def _times(x: float) -> str:
    return f"{x:.1f}" if x < 10 else f"{x:.0f}"


def expected(fused: Any, regions: Sequence[Region]) -> Gain:
    """What to expect of a FusedModel that runs these regions at inference."""
    before, after = _eager_costs(fused.graph.calls, regions)
    structure, _ = private.same_graph(fused)

    def unfused(tensors: list[Any]) -> list[Any]:
        values = dict(zip(fused.graph.inputs, tensors))
        calls.run(fused.graph.calls, values, False)
        return [values[tensor] for tensor in fused.graph.outputs]

    def as_fused(tensors: list[Any]) -> list[Any]:
        return list(keras.tree.flatten(fused(keras.tree.pack_sequence_as(structure, tensors), training=False)))

    signature = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in fused.graph.inputs]
    with dispatch.use_backend("reference"):  # fused layers of the model as well
        operations = _operations(unfused, signature)
    return Gain(before / after, (operations, _operations(as_fused, signature)))


def _eager_costs(graph_calls: Sequence[Call], regions: Sequence[Region]) -> tuple[float, float]:
    """What an eager call of a model costs at small batches, unfused and fused."""
    inside = {call for region in regions for call in region.calls}
    costs = {call: 1.0 if call.is_layer else OPERATION for call in graph_calls}
    left = sum(cost for call, cost in costs.items() if call not in inside)
    products = FLOPS * sum(region.plan.flops() for region in regions)
    weights = sum(len(region.plan.params) for region in regions)
    computed = sum(isinstance(call.operation, keras.layers.BatchNormalization) for call in inside)
    fused = REGION * len(regions) + WEIGHT * weights + BATCH_NORMALIZATION * computed
    around = AROUND if left or len(regions) > 1 else 0.0
    return sum(costs.values()) + products, left + around + fused + products


def _operations(function: Callable[[list[Any]], list[Any]], signature: Sequence[tf.TensorSpec]) -> int:
    """How many operations a function launches, those of functions that it calls counted once."""
    graph = tf.function(function, autograph=False).get_concrete_function(list(signature)).graph.as_graph_def()
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    return sum(node.op not in _NOT_RUN for node in nodes)
