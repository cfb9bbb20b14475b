"""A function's value, its gradient, and the gradient of that: what backends and models are compared in."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import tensorflow as tf

from fusedsplit.tools.check_report import ORDERS
from fusedsplit.tools.float64 import Traced, in_tf_nn, is_float

Tensors = list[np.ndarray]
DRAWS = 8


def derivatives(
    function: Callable[[], Sequence[Any]],
    sources: Sequence[Any],
    upstream: Sequence[Any],
    directions: Sequence[Any],
    orders: Sequence[str] = ORDERS,
) -> dict[str, list[Any]]:
    """The value, the gradient along `upstream`, and the gradient of <gradient, directions>.

    Args:
        function: gives tensors, from `sources`.
        sources: tensors and variables.
        upstream: one for each output that is a float.
        directions: one for each source.
        orders: which of them.
    """
    second = "second order" in orders
    with tf.GradientTape() as outer:
        outer.watch([*sources, *upstream] if second else [])
        with tf.GradientTape() as inner:
            inner.watch(sources)
            y = list(function())
            floats = [t for t in y if t.dtype.is_floating]
        first = _gradient(inner, floats, sources, upstream)
        along = _sum(tf.reduce_sum(g * d) for g, d in zip(first, directions)) if second else None
    found = {"value": y, "gradient": first}
    if second:
        found["second order"] = _gradient(outer, along, [*sources, *upstream], None)
    return found


def _gradient(tape: tf.GradientTape, target: Any, sources: Sequence[Any], upstream: Any) -> list[Any]:
    gradients = tape.gradient(target, sources, output_gradients=upstream, unconnected_gradients="zero")
    return [tf.convert_to_tensor(g) for g in gradients]  # those of an embedding are IndexedSlices


def _sum(scalars: Iterable[tf.Tensor]) -> tf.Tensor:
    """In the finest of their dtypes."""
    scalars = list(scalars)
    finest = max((x.dtype for x in scalars), key=lambda kind: kind.size)
    return tf.add_n([tf.cast(x, finest) for x in scalars])


@contextlib.contextmanager
def true_moments() -> Iterator[list[str]]:
    """Within it `tf.nn.moments` has its true second derivative; gives what to say of that, where it is used.

    TensorFlow's holds the mean constant within the variance: right for the gradient, but not for the gradient of that.
    Not for several threads at once.
    """
    notes: list[str] = []

    def moments(x: Any, axes: Any, shift: Any = None, keepdims: bool = False, name: Any = None) -> tuple[Any, Any]:
        notes[:] = [
            "second order: by the true derivatives of a normalization; in those that Keras has, tf.nn.moments takes "
            "the mean for constant"
        ]
        mean = tf.reduce_mean(x, axes, keepdims=True)
        variance = tf.reduce_mean(tf.square(x - mean), axes, keepdims=keepdims)
        return (mean if keepdims else tf.squeeze(mean, axes)), variance

    with in_tf_nn("moments", moments):
        yield notes


class State:
    """What calls of layers change: the state of random generators, moving averages."""

    def __init__(self, layers: Iterable[Any]):
        variables = {id(v): v for layer in layers for v in getattr(layer, "variables", ()) if not v.trainable}
        self._values = [(v.value, tf.identity(v.value)) for v in variables.values()]

    def restore(self) -> None:
        for variable, value in self._values:
            variable.assign(value)

    def draw_as(self, other: State) -> None:
        """Takes over the state of the other's random generators, one by one, so that both draw the same numbers."""
        mine, its = ([v for v, _ in s._values if not v.dtype.is_floating] for s in (self, other))
        if [v.shape for v in mine] == [v.shape for v in its]:
            drawn = iter(value for variable, value in other._values if not variable.dtype.is_floating)
            self._values = [(v, value if v.dtype.is_floating else next(drawn)) for v, value in self._values]


@dataclasses.dataclass(frozen=True)
class Point:
    """Where a program is differentiated: its inputs, upstream gradients, and a direction for each source."""

    inputs: Tensors
    upstream: Tensors
    directions: Tensors

    @property
    def arrays(self) -> Tensors:
        return [*self.inputs, *self.upstream, *self.directions]

    @property
    def unit(self) -> float:
        """The unit roundoff of the coarsest dtype in it."""
        kinds = {a.dtype for a in self.arrays if is_float(a)}
        return max(map(unit_roundoff, kinds))


class Program:
    """A function from input tensors to a list of tensors that reads variables, and can be differentiated in both.

    Args:
        function: the function.
        variables: what it is differentiated in besides its float inputs, tf.Variables.
        state: what it changes: restored before each run.
    """

    def __init__(self, function: Callable[[list[Any]], Sequence[Any]], variables: Sequence[Any], state: State):
        self._function = function
        self.variables = list(variables)
        self._state = state

    def outputs(self, inputs: Tensors) -> Tensors:
        self._state.restore()
        return [np.asarray(y) for y in self._function([tf.constant(x) for x in inputs])]

    def point(self, inputs: Tensors, rng: np.random.Generator) -> Point:
        """Random upstream gradients and directions."""
        outputs = [y for y in self.outputs(inputs) if is_float(y)]
        sources = [*filter(is_float, inputs), *(np.asarray(v) for v in self.variables)]
        upstream, directions = (
            [rng.normal(size=a.shape).astype(a.dtype) for a in arrays] for arrays in (outputs, sources)
        )
        return Point(inputs, upstream, directions)

    def run(self, point: Point, orders: Sequence[str]) -> dict[str, Tensors]:
        """Everything, in eager mode, as float64 arrays."""
        self._state.restore()
        tensors = ([tf.constant(a) for a in arrays] for arrays in (point.inputs, point.upstream, point.directions))
        inputs, upstream, directions = tensors
        found = self._at(inputs, upstream, directions, orders)
        return {order: [np.asarray(t).astype(np.float64) for t in ts] for order, ts in found.items()}

    def trace(self, point: Point) -> TracedProgram:
        """It as one graph; without the second order where TensorFlow cannot differentiate so far."""
        for orders in (ORDERS, ORDERS[:2]):
            try:
                return TracedProgram(self, point, orders)
            except LookupError:  # an operation without a gradient
                if orders != ORDERS:
                    raise
        raise AssertionError

    def _at(
        self, inputs: Sequence[Any], upstream: Sequence[Any], directions: Sequence[Any], orders: Sequence[str]
    ) -> Any:
        sources = [*(x for x in inputs if x.dtype.is_floating), *self.variables]
        return derivatives(lambda: self._function(list(inputs)), sources, upstream, directions, orders)


class TracedProgram:
    """A program as one graph, gradients included: in its own dtype, in float64, and how sensitive it is.

    Attributes:
        orders: of differentiation.
        exact: order -> tensors in float64.
        own_errors: order -> for each tensor the largest error that the program makes itself, in its own dtype.
    """

    def __init__(self, program: Program, point: Point, orders: Sequence[str]):
        self._point = point
        self.orders = tuple(orders)
        lengths: dict[str, int] = {}

        def function(tensors: list[Any]) -> list[Any]:
            n, m = len(point.inputs), len(point.inputs) + len(point.upstream)
            found = program._at(tensors[:n], tensors[n:m], tensors[m:], orders)
            lengths.update((order, len(ts)) for order, ts in found.items())
            return [t for ts in found.values() for t in ts]

        traced = Traced(function, point.arrays, exact_gelu=True)
        self._traced, self._lengths = traced, lengths
        program._state.restore()
        own = self._by_order(traced.run(point.arrays))
        program._state.restore()
        self.exact = self._by_order(traced.run_in_float64(point.arrays))
        self.own_errors = {order: largest_errors(own[order], self.exact[order]) for order in orders}

    def roundoff(self, unit: float, depth: int, rng: np.random.Generator) -> dict[str, list[float]]:
        """For each tensor the error that rounding explains: 4 n times the largest change of the tensor when every
        number that it is computed from is rounded up or down, by one `unit`.

        n counts what is computed one behind the other, each with a few roundings: `depth` for the values, twice that
        for gradients, which go there and back, three times for those of the second order.
        """

        def change(array: np.ndarray) -> np.ndarray:
            return array * (1 + unit * rng.choice((-1.0, 1.0), size=array.shape))

        draws = [self._by_order(self._traced.run_in_float64(self._point.arrays, change)) for _ in range(DRAWS)]
        largest = {
            order: np.max([largest_errors(draw[order], self.exact[order]) for draw in draws], axis=0)
            for order in self.orders
        }
        return {order: (4 * depth * (1 + ORDERS.index(order)) * c).tolist() for order, c in largest.items()}

    def _by_order(self, arrays: Tensors) -> dict[str, Tensors]:
        rest = iter(arrays)
        return {
            order: [np.asarray(next(rest), np.float64) for _ in range(self._lengths[order])] for order in self.orders
        }


def unit_roundoff(dtype: Any) -> float:
    """Of a floating dtype, bfloat16 among them."""
    return float(ml_dtypes.finfo(tf.as_dtype(dtype).as_numpy_dtype).eps) / 2  # type: ignore[no-untyped-call]


def largest_errors(found: Sequence[np.ndarray], exact: Sequence[np.ndarray]) -> list[float]:
    """The largest absolute difference in each tensor."""
    return [float(np.max(np.abs(f - e), initial=0.0)) for f, e in zip(found, exact)]
