"""What a `Predictor` is made from: the plan of a layer or of a whole model, and its weights as they are now."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from fusedsplit.layers.dynamic import LearnedSplit
from fusedsplit.layers.fused_layer import FusedLayer
from fusedsplit.models import _keras_private as private
from fusedsplit.models import regions
from fusedsplit.models.fused_model import FusedModel, fuse
from fusedsplit.models.graph import Tensor
from fusedsplit.models.region import Region
from fusedsplit.native.file_format import Content
from fusedsplit.native.structure import Leaf, Node, Structure
from fusedsplit.plan import Plan

_DTYPES = ("float32", "float64")


def freeze(source: Any) -> Content:
    """A built fused layer, or a model, at inference: its plan, its weights, and what it takes and gives.

    Raises:
        TypeError: if it is neither.
        ValueError: if not all of it is one plan, with the reasons.
    """
    if isinstance(source, keras.Model):
        return _freeze_model(source if isinstance(source, FusedModel) else fuse(source))
    if isinstance(source, FusedLayer):
        return _freeze_layer(source)
    raise TypeError(f"expected a built fused layer or a Keras model. Received: {source!r}")


def _freeze_layer(layer: FusedLayer) -> Content:
    computation = layer.computation()
    reasons = computation.unfusable_reasons()
    if not reasons and not computation.is_one_plan:
        reasons = ["its merge is a function of its own, which is no part of a plan"]
    points: list[int] = []
    if not reasons and computation.spec.points:
        splitter = getattr(layer, "splitter", None)
        if isinstance(splitter, LearnedSplit) and splitter.gate is None:
            points = [int(layer.points(np.zeros((1, layer.input_shapes[0][-1]), layer.compute_dtype)))]
        else:
            reasons = ["it splits where a function of the data says, which is no part of a plan"]
    if reasons:
        raise ValueError(f"expected a layer that is one plan. Received: {layer.name!r}, but {'; '.join(reasons)}")
    plan = computation.plan()
    inputs = [Leaf(i, (plan.values[v].width,)) for i, v in enumerate(plan.inputs)]
    outputs = [Leaf(i, (plan.values[v].width,)) for i, v in enumerate(plan.outputs)]
    return _content(
        plan,
        computation.params(),
        points,
        Node("list", tuple(inputs)) if layer.takes_list else inputs[0],
        Node("list", tuple(outputs)) if layer.merge_function is None else outputs[0],
        computation.dtype,
    )


def _freeze_model(model: FusedModel) -> Content:
    region = _whole(model)
    computation = region.computation
    graph = model.graph
    plan = computation.plan()
    # An input that nothing reads has no place in the plan.
    read = {tensor: i for i, tensor in enumerate(region.inputs)}
    given = dict(zip(region.outputs, computation.output_places))
    lead = region.lead
    inputs = [Leaf(read.get(tensor, -1), _row(tensor, lead)) for tensor in graph.inputs]
    outputs = [Leaf(given[tensor], _row(tensor, lead)) for tensor in graph.outputs]
    takes, gives = (
        _structure(struct, found) for struct, found in zip(private.same_graph(model), (inputs, outputs), strict=True)
    )
    if isinstance(takes, Node) and takes.kind != "dict" and len(takes.items) == 1:
        takes = takes.items[0]  # Keras takes the array alone
    return _content(plan, computation.params(), [], takes, gives, region.dtype)


def _whole(model: FusedModel) -> Region:
    """The region that the whole model is.

    Raises:
        ValueError: if it is none, with the reasons.
    """
    schedule = regions.schedule(model.graph, training=False, gains_only=False)
    by_reason: dict[str, list[str]] = {}
    for call, reason in schedule.reasons.items():
        by_reason.setdefault(reason, []).append(call.path)
    reasons = [f"{', '.join(paths)}: {reason}" for reason, paths in by_reason.items()]
    if len(schedule.regions) > 1:
        reasons.append(f"it runs as {len(schedule.regions)} regions: {', '.join(map(repr, schedule.regions))}")
    if not reasons:
        if not schedule.regions:
            reasons = ["it computes nothing"]
        else:
            given = schedule.regions[0].outputs
            reasons = [f"its output {t.name} is one of its inputs" for t in model.graph.outputs if t not in given]
            reasons += schedule.regions[0].computation.unfusable_reasons()
    if reasons:
        raise ValueError(
            f"expected a model all of which runs as one region. Received: {model.name!r} (see fs.explain):\n"
            + "\n".join(f"  {reason}" for reason in reasons)
        )
    return schedule.regions[0]


def _row(tensor: Tensor, lead: int) -> tuple[int, ...]:
    row = tensor.shape[lead:]
    if not row or None in row:
        raise ValueError(f"expected rows of known sizes. Received: {tensor.name} of shape {tensor.shape}")
    return row  # type: ignore[return-value]


def _structure(struct: Any, found: Sequence[Leaf]) -> Structure:
    """A structure of Keras' with these leaves, in the order in which Keras has them."""
    numbered = keras.tree.pack_sequence_as(struct, list(range(len(found))))

    def convert(part: Any) -> Structure:
        if isinstance(part, int):
            return found[part]
        if isinstance(part, dict):
            return Node("dict", tuple(map(convert, part.values())), tuple(map(str, part)))
        return Node("list" if isinstance(part, list) else "tuple", tuple(map(convert, part)))

    return convert(numbered)


def _content(
    plan: Plan, params: Sequence[Any], points: Sequence[int], inputs: Structure, outputs: Structure, dtype: str
) -> Content:
    if dtype not in _DTYPES:
        raise ValueError(f"expected a model that computes in float32 or float64. Received: {dtype}")
    arrays = [np.array(tf.convert_to_tensor(p), dtype) for p in params]
    return Content(plan, arrays, list(points), inputs, outputs, [], [], np.dtype(dtype))
