"""`fs.check`: every backend against a float64 reference, in value, gradient and second-order gradient."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from fusedsplit.backends import dispatch
from fusedsplit.backends.base import Operands
from fusedsplit.layers.computation import LayerComputation, SpecComputation
from fusedsplit.layers.spec import SplitSpec
from fusedsplit.tools import check_against, check_model, check_predictor
from fusedsplit.tools.check_report import ORDERS, CheckReport, usable_backends, worst_row
from fusedsplit.tools.derivatives import derivatives, largest_errors, unit_roundoff
from fusedsplit.tools.float64 import true_gelu

Tensors = list[np.ndarray]


def check(
    layer: Any,
    inputs: Any = None,
    *,
    against: Any = None,
    training: bool = False,
    batch: int = 37,
    backends: Sequence[str] | None = None,
    seed: int = 0,
) -> CheckReport:
    """Compares every backend with the unfused computation in float64; or two models, or layers, of equal weights.

    An element of a layer passes if its error is at most `max(2 e, 2 u n m)`, where e is the largest error that the
    unfused Keras computation itself makes in the layer's dtype, u the unit roundoff of that dtype, n the number of
    products in a chain, and m the magnitude of the element: the same computation on absolute values, `|x||W| + |b|`.

    Where backends are not named, the values of the `Predictor` are checked too, at inference, its weights folded.

    Of a model every region is checked, with the inputs that it has within the model, and the gradients of its inputs
    and variables. There is no plan in the reference: it is the graph of TensorFlow operations that the Keras layers
    themselves trace, every float in it a double. In the place of `u n m` stands n times the largest change of the
    tensor when each input and weight is changed by one u, up or down.

    Of a compiled model one native training step is compared too, where the core trains it and backends are not named:
    its loss, and the weights and optimizer state behind it, with those of Keras' own step from the same state, on
    random targets. The model and its optimizer are left as they were.

    With `against`, `layer` is compared with another model or layer that should compute the same from equal weights:
    both in float64, and what `layer` gives in its own dtype with what the other one gives in float64.

    Example:

    >>> import fusedsplit as fs
    >>> from keras.layers import Dense
    >>> layer = fs.SplitDense(Dense(8), [Dense(4, activation="relu"), Dense(6, activation="relu")])
    >>> layer.build((None, 10))
    >>> fs.check(layer).ok
    True
    >>> fs.check(layer, against=fs.reference(layer)).ok
    True

    Args:
        layer: a built fused layer; a `SplitSpec`, checked with random weights and split points; or a Keras model, fused
            or not: then what `fs.fuse` would make of it is checked.
        inputs: an array or a structure of them; random normal ones by default.
        against: a Keras model or layer to compare with.
        training: whether to check what is computed while training: dropout with the masks of one draw, a learned split
            with its soft mask.
        batch: the number of rows of random inputs.
        backends: names of backends; every one by default, those that cannot run being listed as skipped. With
            `against`, "auto" by default.
        seed: of the random inputs and upstream gradients.

    Returns:
        A `CheckReport`: `.ok`, `.rows`, printable.

    Raises:
        TypeError: if `layer` is nothing that can be checked, or `backends` one name.
        ValueError: if the layer is not built or can only run its sub-layers, the model's graph cannot be seen, the two
            models have other inputs, outputs or weights, a named backend cannot run, or `batch` is below one.
    """
    if isinstance(backends, str):
        raise TypeError(f"expected a sequence of backends' names. Received: {backends!r}")
    if inputs is None and batch < 1:
        raise ValueError(f"expected a batch of one row or more. Received: {batch!r}")
    if against is not None:
        return check_against.check(layer, against, inputs, training, batch, backends, seed)
    if isinstance(layer, keras.Model):
        return check_model.check(layer, inputs, training, batch, backends, seed)
    if not isinstance(layer, SplitSpec) and not hasattr(layer, "computation"):
        raise TypeError(f"expected a fused layer, a SplitSpec or a Keras model. Received: {layer!r}")
    return _check_layer(layer, inputs, training, batch, backends, seed)


def _check_layer(
    layer: Any, inputs: Any, training: bool, batch: int, backends: Sequence[str] | None, seed: int
) -> CheckReport:
    is_spec = isinstance(layer, SplitSpec)
    computation: SpecComputation = SpecComputation(layer, "float32") if is_spec else layer.computation(training)
    spec, dtype = computation.spec, computation.dtype
    rng = np.random.default_rng(seed)
    if inputs is None:
        widths = spec.inputs if is_spec else [shape[-1] for shape in layer.input_shapes]
        inputs = [rng.normal(size=(batch, width)) for width in widths]
    inputs = [np.asarray(x, dtype) for x in (inputs if isinstance(inputs, (list, tuple)) else [inputs])]
    if isinstance(computation, LayerComputation):
        operands = _operands(computation, inputs)
    else:
        operands = _random_operands(spec, inputs, rng)
    case = _Case(operands, spec.output_widths, rng)
    usable, skipped = usable_backends(computation, backends)
    with true_gelu():
        exact = case.run(computation.unfused, "float64")
    unfused = case.run(computation.unfused, dtype)
    magnitude = case.run(computation.magnitude, "float64", absolute=True)
    roundoff = 2 * unit_roundoff(dtype) * computation.depth
    rows = []
    for name in usable:
        found = case.run(functools.partial(dispatch.run, computation, backend=name), dtype)
        for order in ORDERS:
            own = largest_errors(unfused[order], exact[order])
            allowed = [np.maximum(2 * e, roundoff * m) for e, m in zip(own, magnitude[order])]
            rows.append(worst_row(name, order, found[order], exact[order], own, allowed))
    if backends is None and not is_spec and not training:
        predict, reasons = check_predictor.predict_of(layer)
        if predict is None:
            skipped[check_predictor.NAME] = reasons
        else:
            own = largest_errors(unfused["value"], exact["value"])
            allowed = [np.maximum(2 * e, roundoff * m) for e, m in zip(own, magnitude["value"])]
            found_values = predict(case.inputs)
            rows.append(worst_row(check_predictor.NAME, "value", found_values, exact["value"], own, allowed))
    return CheckReport(getattr(layer, "name", "spec"), tuple(rows), skipped)


def _random_operands(spec: SplitSpec, inputs: Tensors, rng: np.random.Generator) -> Operands:
    """A spec on random weights, with a random split point for each row."""
    dtype, rows = inputs[0].dtype, inputs[0].shape[:-1]
    params = [rng.normal(size=s, scale=s[0] ** -0.5 if len(s) > 1 else 0.5).astype(dtype) for s in spec.params]
    widest = max(branch.stop - branch.start for branch in spec.branches)
    points = [rng.integers(0, widest + 1, size=rows).ravel() for _ in range(spec.points)]
    return Operands(inputs, params, [tf.constant(p, tf.int32) for p in points])


def _operands(computation: LayerComputation, inputs: Tensors) -> Operands:
    """What a layer is computed from when it is called on these inputs, as arrays."""
    call = computation.operands([tf.constant(x) for x in inputs])
    inputs, params = ([np.asarray(tf.convert_to_tensor(t)) for t in ts] for ts in (call.inputs, call.params))
    return Operands(inputs, params, call.points)


class _Case:
    """Fixed inputs, weights and upstream gradients, on which any implementation can be run."""

    def __init__(self, operands: Operands, widths: Sequence[int], rng: np.random.Generator):
        self.inputs: Tensors = operands.inputs
        self.params: Tensors = operands.params
        self.points = operands.points
        rows, dtype = self.inputs[0].shape[:-1], self.inputs[0].dtype
        self.upstream = [rng.normal(size=(*rows, width)).astype(dtype) for width in widths]
        self.directions = [rng.normal(size=t.shape).astype(dtype) for t in (*self.inputs, *self.params)]

    def run(self, function: Callable[[Operands], list[Any]], dtype: str, absolute: bool = False) -> dict[str, Tensors]:
        """The value, the gradient along `upstream`, and the gradient of <gradient, directions>, as float64 arrays."""

        def tensors(arrays: Tensors) -> list[tf.Tensor]:
            return [tf.constant(np.abs(a) if absolute else a, dtype) for a in arrays]

        x, p, dy, v = map(tensors, (self.inputs, self.params, self.upstream, self.directions))
        found = derivatives(lambda: function(Operands(x, p, self.points)), [*x, *p], dy, v)
        return {order: [np.asarray(t, np.float64) for t in ts] for order, ts in found.items()}
