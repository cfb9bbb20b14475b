"""`fs.check` of a model: every region of it, on every backend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from fusedsplit.backends import dispatch
from fusedsplit.models import _keras_private as private
from fusedsplit.models import calls
from fusedsplit.models.fused_model import FusedModel, fuse
from fusedsplit.models.graph import Call, Graph, Tensor
from fusedsplit.models.region import Region
from fusedsplit.tools import check_predictor, check_training
from fusedsplit.tools.call_names import count, kinds
from fusedsplit.tools.check_report import CheckReport, Row, usable_backends, worst_row
from fusedsplit.tools.derivatives import Program, State, Tensors, true_moments

ANY_SIZE = 5  # of an axis that is neither rows nor known


def check(
    model: Any, inputs: Any, training: bool, batch: int, backends: Sequence[str] | None, seed: int
) -> CheckReport:
    """What `fs.check` says of a model: see there."""
    fused = model if isinstance(model, FusedModel) else fuse(model)
    rng = np.random.default_rng(seed)
    arrays = random_inputs(fused.graph, batch, rng) if inputs is None else given_inputs(fused.graph, inputs)
    state = State([fused])
    values = _values(fused.graph, arrays, training, state)
    rows: list[Row] = []
    skipped: dict[str, list[str]] = {}
    schedule = fused.schedule(training)
    predict = None
    if backends is None and not training and len(schedule.regions) == 1:
        predict, reasons = check_predictor.predict_of(fused)
        if predict is None:
            skipped[check_predictor.NAME] = reasons
    with true_moments() as notes:
        for number, region in enumerate(schedule.regions, 1):
            given = [np.asarray(values[tensor], region.dtype) for tensor in region.inputs]
            where = f"region {number}: " if len(schedule.regions) > 1 else ""
            predicts = None if predict is None else _on_outputs(fused.graph, region, predict(arrays))
            found, not_run = _check_region(region, given, backends, state, rng, where, predicts)
            rows += found
            for name, reasons in not_run.items():
                skipped.setdefault(name, []).extend(r for r in reasons if r not in skipped.get(name, ()))
    state.restore()
    if backends is None and private.is_compiled(fused):
        stepped, reasons = check_training.check(fused, arrays, depth(fused.graph.calls), rng)
        rows += stepped
        if reasons:
            skipped[check_training.NAME] = reasons
    return CheckReport(fused.name, tuple(rows), skipped, notes=(*_notes(schedule, training), *notes))


def _notes(schedule: Any, training: bool) -> tuple[str, ...]:
    when = "while training" if training else "at inference"
    if not schedule.regions:
        return (f"nothing of it is fused {when}: it runs as Keras runs it (fs.explain has the reasons)",)
    left = f"; {count(len(schedule.reasons), 'call')} left to Keras" if schedule.reasons else ""
    regions = [kinds(region.calls) for region in schedule.regions[:3]]
    more = " | ..." if len(schedule.regions) > 3 else ""
    return (f"checked {when}: {count(len(schedule.regions), 'region')}, {' | '.join(regions)}{more}{left}",)


def _check_region(
    region: Region,
    inputs: Tensors,
    backends: Sequence[str] | None,
    state: State,
    rng: np.random.Generator,
    where: str,
    predicted: Tensors | None,
) -> tuple[list[Row], dict[str, list[str]]]:
    usable, skipped = usable_backends(region.computation, backends)
    variables = variables_of(region.layers)
    unfused = Program(region.computation.call_unfused, [v.value for v in variables], state)
    with dispatch.use_backend("reference"):  # fused layers among the calls as well
        point = unfused.point(inputs, rng)
        traced = unfused.trace(point)
    changes = traced.roundoff(point.unit, depth(region.calls), rng)
    given, made = ([tensor.name for tensor in tensors] for tensors in (region.inputs, region.outputs))
    names = order_names(given, made, [v.path for v in variables], inputs)
    rows = []

    def row(name: str, order: str, found: Tensors) -> Row:
        own = traced.own_errors[order]
        allowed = [max(2 * e, c) for e, c in zip(own, changes[order])]
        tensors = [where + tensor for tensor in names[order]]
        return worst_row(name, order, found, traced.exact[order], own, allowed, tensors)

    for name in usable:
        program = unfused if name == "reference" else Program(_fused(region, name), unfused.variables, state)
        with dispatch.use_backend("reference" if name == "reference" else "auto"):
            found = program.run(point, traced.orders)
        rows += [row(name, order, found[order]) for order in traced.orders]
    if predicted is not None:
        rows.append(row(check_predictor.NAME, "value", predicted))
    if len(traced.orders) < 3:
        skipped["second order"] = [f"TensorFlow cannot differentiate {kinds(region.calls)} twice"]
    return rows, skipped


def _on_outputs(graph: Graph, region: Region, outputs: Tensors) -> Tensors:
    """The outputs of a graph in the order in which the region that is all of it gives them."""
    found = dict(zip(graph.outputs, outputs))
    return [found[tensor] for tensor in region.outputs]


def _fused(region: Region, backend: str) -> Any:
    computation = region.computation
    return lambda inputs: computation.execute(dispatch.BACKENDS[backend].run, computation.operands(inputs))


def variables_of(layers: Sequence[Any]) -> list[Any]:
    """The floating variables of layers, each once."""
    found = {id(v): v for layer in layers for v in getattr(layer, "variables", ())}
    return [v for v in found.values() if tf.as_dtype(v.dtype).is_floating]


def order_names(
    inputs: Sequence[str], outputs: Sequence[str], variables: Sequence[str], given: Tensors
) -> dict[str, list[str]]:
    """What the tensors of each order of differentiation are called."""
    floats = [name for name, x in zip(inputs, given) if tf.as_dtype(x.dtype).is_floating]
    sources = [*floats, *variables]
    return {
        "value": list(outputs),
        "gradient": [f"by {name}" for name in sources],
        "second order": [*(f"by {name}" for name in sources), *(f"by the gradient of {name}" for name in outputs)],
    }


def depth(graph_calls: Sequence[Call]) -> int:
    """How many calls stand one behind the other."""
    behind: dict[Tensor, int] = {}
    for call in graph_calls:
        longest = 1 + max((behind.get(tensor, 0) for tensor in call.inputs), default=0)
        behind.update(dict.fromkeys(call.outputs, longest))
    return max(behind.values(), default=1)


# Inputs.


def random_inputs(graph: Graph, batch: int, rng: np.random.Generator) -> Tensors:
    """Normal floats, and integers that an Embedding behind them knows.

    Raises:
        ValueError: if an input is neither.
    """
    return [_random(tensor, graph.calls, batch, rng) for tensor in graph.inputs]


def _random(tensor: Tensor, graph_calls: Sequence[Call], batch: int, rng: np.random.Generator) -> np.ndarray:
    shape = (batch, *(ANY_SIZE if size is None else size for size in tensor.shape[1:]))
    kind = tf.as_dtype(tensor.dtype)
    if kind.is_floating:
        return rng.normal(size=shape).astype(kind.as_numpy_dtype)
    if kind.is_integer or kind.is_bool:
        readers = [call.operation for call in graph_calls if tensor in call.inputs]
        bound = min((layer.input_dim for layer in readers if isinstance(layer, keras.layers.Embedding)), default=2)
        return rng.integers(0, bound, size=shape).astype(kind.as_numpy_dtype)
    raise ValueError(f"`inputs`: expected arrays, since {tensor.name!r} is of dtype {tensor.dtype}. Received: None")


def given_inputs(graph: Graph, inputs: Any) -> Tensors:
    """The arrays of a structure, in the order of the graph's inputs.

    Raises:
        ValueError: if their number or shapes are others than the graph's.
    """
    flat = keras.tree.flatten(inputs)
    expected = [tensor.shape for tensor in graph.inputs]
    arrays = [np.asarray(x, t.dtype) for x, t in zip(flat, graph.inputs)]
    fits = len(flat) == len(expected) and all(
        len(a.shape) == len(shape) and all(s in (None, size) for s, size in zip(shape[1:], a.shape[1:]))
        for a, shape in zip(arrays, expected)
    )
    if not fits:
        raise ValueError(f"`inputs`: expected arrays of shapes {expected}. Received: {[np.shape(x) for x in flat]}")
    return arrays


def _values(graph: Graph, arrays: Tensors, training: bool, state: State) -> dict[Tensor, Any]:
    """Every tensor of the graph, as Keras computes it."""
    values: dict[Tensor, Any] = dict(zip(graph.inputs, map(tf.constant, arrays)))
    with dispatch.use_backend("reference"):
        calls.run(graph.calls, values, training)
    state.restore()
    return values
