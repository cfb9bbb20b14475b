"""`fs.check(a, against=b)`: two models or layers of equal weights, compared as backends are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from fusedsplit.backends import dispatch
from fusedsplit.models import _keras_private as private
from fusedsplit.models import graph
from fusedsplit.models.graph import Graph
from fusedsplit.tools import check_model
from fusedsplit.tools.check_report import CheckReport, Row, worst_row
from fusedsplit.tools.derivatives import Program, State, Tensors, TracedProgram, true_moments

FLOAT64 = "both in float64"


def check(
    layer: Any,
    against: Any,
    inputs: Any,
    training: bool,
    batch: int,
    backends: Sequence[str] | None,
    seed: int,
) -> CheckReport:
    """What `fs.check` says of two models or layers: see there."""
    subject, other = _Subject("layer", layer), _Subject("against", against)
    rng = np.random.default_rng(seed)
    arrays = _arrays(subject, other, inputs, batch, rng)
    weights, others = _paired_weights(subject, other)
    before, state, its_state = State([layer, against]), State([layer]), State([against])
    its_state.draw_as(state)
    program = Program(subject.function(inputs, training), weights, state)
    its_program = Program(other.function(inputs, training), others, its_state)
    with true_moments() as notes:
        rows, orders = _compare(program, its_program, arrays, backends or ["auto"], seed, other.depth)
    before.restore()
    skipped = {} if len(orders) == 3 else {"second order": ["TensorFlow cannot differentiate one of them twice"]}
    title = f"{layer.name} against {against.name}"
    return CheckReport(title, tuple(rows), skipped, "the other one", tuple(notes))


def _compare(
    program: Program, other: Program, arrays: Tensors, backends: Sequence[str], seed: int, depth: int
) -> tuple[list[Row], list[str]]:
    """The rows, and the orders that both can be differentiated to."""
    with dispatch.use_backend("reference"):
        outputs = program.outputs(arrays)
        _check_outputs(outputs, other.outputs(arrays))
        point, its_point = (p.point(arrays, np.random.default_rng(seed)) for p in (program, other))
        traced, its_traced = program.trace(point), other.trace(its_point)
    roundoff = its_traced.roundoff(max(point.unit, its_point.unit), depth, np.random.default_rng(seed))
    orders = [order for order in traced.orders if order in its_traced.orders]
    variables = [v.name.partition(":")[0] for v in program.variables]
    inputs = [f"input {i}" for i in range(len(arrays))]
    names = check_model.order_names(inputs, [f"output {i}" for i in range(len(outputs))], variables, arrays)
    rows = [_weights_row(program.variables, other.variables, variables)]
    rows += [_row(FLOAT64, order, traced.exact, its_traced, roundoff, names, proven=True) for order in orders]
    for name in backends:
        with dispatch.use_backend(dispatch.check_name(name)):
            found = program.run(point, orders)
        rows += [_row(name, order, found, its_traced, roundoff, names) for order in orders]
    return rows, orders


def _row(
    backend: str,
    order: str,
    found: dict[str, Tensors],
    other: TracedProgram,
    roundoff: dict[str, list[float]],
    names: dict[str, list[str]],
    proven: bool = False,
) -> Row:
    """`proven`: where rounding in another dtype than float64 is no excuse."""
    own = other.own_errors[order]
    allowed = [c if proven else max(2 * e, c) for e, c in zip(own, roundoff[order])]
    return worst_row(backend, order, found[order], other.exact[order], own, allowed, names[order])


class _Subject:
    """One of the two: a model or a layer, how it is called, and what is known of its inputs."""

    def __init__(self, argument: str, layer: Any):
        if not isinstance(layer, keras.layers.Layer):
            raise TypeError(f"`{argument}`: expected a Keras model or layer. Received: {layer!r}")
        if not layer.built:
            raise ValueError(f"`{argument}`: expected a built model or layer. Received: {layer.name!r}, not built")
        self.layer = layer
        self.weights = [v for v in layer.weights if tf.as_dtype(v.dtype).is_floating]
        functional = private.functional_of(layer) if isinstance(layer, keras.Model) else None
        self.graph: Graph | None = None if functional is None else graph.read(functional)

    @property
    def shapes(self) -> list[tuple[Any, ...]] | None:
        """Of its inputs, where they are known."""
        if self.graph is not None:
            return [tensor.shape for tensor in self.graph.inputs]
        shapes = getattr(self.layer, "input_shapes", None)
        return None if shapes is None else list(shapes)

    @property
    def depth(self) -> int:
        """How many calls stand one behind the other, or how many matrices there are, which is at least as many."""
        if self.graph is not None:
            return check_model.depth(self.graph.calls)
        return max(1, sum(len(v.shape) > 1 for v in self.weights))

    def random_inputs(self, batch: int, rng: np.random.Generator) -> Tensors | None:
        if self.graph is not None:
            return check_model.random_inputs(self.graph, batch, rng)
        if self.shapes is None:
            return None
        dtype = self.layer.compute_dtype
        return [
            rng.normal(size=(batch, *(check_model.ANY_SIZE if n is None else n for n in shape[1:]))).astype(dtype)
            for shape in self.shapes
        ]

    def function(self, given: Any, training: bool) -> Callable[[list[Any]], list[Any]]:
        """What it gives for a flat list of tensors, flat; `given` is the structure of inputs of the user's, if any."""
        call = private.with_training(self.layer, training)
        structure = self._structure(given)
        return lambda tensors: keras.tree.flatten(call(keras.tree.pack_sequence_as(structure, tensors)))

    def _structure(self, given: Any) -> Any:
        if self.graph is not None:
            return private.same_graph(self.layer)[0]
        if self.shapes is None:
            return given
        return [0] * len(self.shapes) if self.layer.takes_list else 0


def _arrays(subject: _Subject, other: _Subject, inputs: Any, batch: int, rng: np.random.Generator) -> Tensors:
    """The inputs of both, flat.

    Raises:
        ValueError: if the two have other inputs, or these are not those that are given, or none is known.
    """
    known = [s for s in (subject, other) if s.shapes is not None]
    expected = [shape[1:] for shape in known[0].shapes] if known else None  # type: ignore[union-attr]
    for s in known[1:]:
        if [shape[1:] for shape in s.shapes] != expected:  # type: ignore[union-attr]
            raise ValueError(
                f"`against`: expected inputs of shapes {subject.shapes}, as {subject.layer.name!r} has them. "
                f"Received: {other.layer.name!r} with inputs of shapes {other.shapes}"
            )
    if inputs is not None:
        if known and known[0].graph is not None:
            return check_model.given_inputs(known[0].graph, inputs)
        return [np.asarray(x) for x in keras.tree.flatten(inputs)]
    if not known:
        raise ValueError(
            f"`inputs`: expected arrays, since neither {subject.layer.name!r} nor {other.layer.name!r} says what it "
            "takes. Received: None"
        )
    return known[0].random_inputs(batch, rng)  # type: ignore[return-value]


def _paired_weights(subject: _Subject, other: _Subject) -> tuple[list[Any], list[Any]]:
    """The variables of both, tf.Variables: the same ones, or those in the same places of `weights`.

    Raises:
        ValueError: if their number or shapes differ.
    """
    mine, its = subject.weights, other.weights
    if {id(v) for v in mine} == {id(v) for v in its}:
        return [v.value for v in mine], [v.value for v in mine]
    for i, (a, b) in enumerate(zip(mine, its)):
        if tuple(a.shape) != tuple(b.shape):
            raise ValueError(
                f"`against`: expected weights of the same shapes, in the same order. Received: weight {i} is "
                f"{a.path!r} of shape {tuple(a.shape)}, and {b.path!r} of shape {tuple(b.shape)} in "
                f"{other.layer.name!r}"
            )
    if len(mine) != len(its):
        raise ValueError(
            f"`against`: expected as many weights as {subject.layer.name!r} has, {len(mine)}. "
            f"Received: {other.layer.name!r} with {len(its)}"
        )
    return [v.value for v in mine], [v.value for v in its]


def _check_outputs(outputs: Tensors, others: Tensors) -> None:
    shapes, others_shapes = ([y.shape for y in ys] for ys in (outputs, others))
    if shapes != others_shapes:
        raise ValueError(f"`against`: expected outputs of shapes {shapes}. Received: outputs of shapes {others_shapes}")


def _weights_row(weights: Sequence[Any], others: Sequence[Any], names: Sequence[str]) -> Row:
    """Whether they are equal, where need be rounded to the other's dtype."""
    kinds = [min(a.dtype, b.dtype, key=lambda kind: kind.size) for a, b in zip(weights, others)]
    mine, its = (
        [np.asarray(tf.cast(v, kind)).astype(np.float64) for v, kind in zip(vs, kinds)] for vs in (weights, others)
    )
    return worst_row("weights", "value", mine, its, [], [0.0] * len(mine), names)
