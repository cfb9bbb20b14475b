"""One native training step of a compiled model, as one more thing that `fs.check` compares."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from fusedsplit.backends import dispatch
from fusedsplit.models import _keras_private as private
from fusedsplit.models import loops
from fusedsplit.models.fused_model import FusedModel, fuse, unfuse
from fusedsplit.tools.check_report import Row, worst_row
from fusedsplit.tools.derivatives import DRAWS, Tensors, largest_errors, unit_roundoff
from fusedsplit.tools.float64 import Traced

NAME = "training step"


def check(model: FusedModel, arrays: Tensors, depth: int, rng: np.random.Generator) -> tuple[list[Row], list[str]]:
    """Compares the loss, the weights and the optimizer's state after one step from those that the model has.

    The step of reference is the plain model's, with a copy of the optimizer, in float64. The model is left as it was.

    Args:
        model: compiled.
        arrays: its inputs.
        depth: how many calls of its graph stand one behind the other.
        rng: for the targets.

    Returns:
        The row, or none and the reasons.
    """
    if loops.MISSING:
        return [], [loops.MISSING]
    from fusedsplit.loops import why  # here: loops/ may be missing

    against = why.against(model, "fit")
    if against:
        return [], against
    whole = model.whole(training=True)
    if whole is not None and whole.region.computation.masks():
        return [], ["its Dropout draws other numbers than Keras'"]
    targets = [
        _targets(name, arrays, output, rng) for name, output in zip(_losses(model), keras.tree.flatten(model.outputs))
    ]
    with _left_alone(model):
        step = _Step(model, arrays, targets)
        try:
            found = step.natively()
        except ValueError as reason:
            return [], [" ".join(str(reason).split())]
        return [step.row(found, depth, rng)], []


class _Step:
    """A step of a model that shares the weights of the one that is checked, and has an optimizer of its own."""

    def __init__(self, model: FusedModel, arrays: Tensors, targets: Sequence[np.ndarray]):
        config = private.compiled_with(model)
        self._optimizer = _copied(model.optimizer, model.trainable_variables)
        self._fused = fuse(unfuse(model), loop="native")
        self._fused.compile(optimizer=self._optimizer, loss=config["loss"], loss_weights=config["loss_weights"])
        self._arrays, self._targets = arrays, list(targets)
        self._state = [*model.variables, *self._optimizer.variables]
        self._begin = [v.numpy() for v in self._state]

    @property
    def _inputs(self) -> Any:
        return keras.tree.pack_sequence_as(private.same_graph(self._fused)[0], self._arrays)

    @property
    def _y(self) -> Any:
        return _as_outputs(self._fused, self._targets)

    def _restore(self) -> None:
        for variable, value in zip(self._state, self._begin):
            variable.assign(value)

    def natively(self) -> Tensors:
        """The loss, and all variables after the step."""
        from fusedsplit.loops.by_hand import Trainer  # likewise

        try:
            with Trainer(self._fused) as trainer:
                loss = trainer.step(self._inputs, self._y)
            return [np.asarray(loss, np.float64), *(np.asarray(v.numpy(), np.float64) for v in self._state)]
        finally:
            self._restore()

    def row(self, found: Tensors, depth: int, rng: np.random.Generator) -> Row:
        region = self._fused.whole(training=True).region  # type: ignore[union-attr]
        given = [*self._arrays, *self._targets, np.ones(self._arrays[0].shape[: region.lead], region.dtype)]
        traced = Traced(self._by_keras(given), given, exact_gelu=True)
        own = _floats(traced.run(given))
        self._restore()
        exact = _floats(traced.run_in_float64(given))
        unit = unit_roundoff(region.dtype)

        def change(array: np.ndarray) -> np.ndarray:
            return array * (1 + unit * rng.choice((-1.0, 1.0), size=array.shape))

        draws = [_floats(traced.run_in_float64(given, change)) for _ in range(DRAWS)]
        changes = np.max([largest_errors(draw, exact) for draw in draws], axis=0)
        errors = largest_errors(own, exact)
        # As of gradients in `TracedProgram.roundoff`, and an update behind them.
        allowed = [max(2 * e, 4 * (2 * depth + 1) * c) for e, c in zip(errors, changes)]
        names = ["the loss", *(v.path for v in self._state)]
        return worst_row("native", NAME, found, exact, errors, allowed, names)

    def _by_keras(self, given: Tensors) -> Callable[[list[Any]], list[Any]]:
        """The same, by the plain model in a graph, from inputs, targets and a weight of one for each row: rounded up or
        down these tell what the sums over rows are worth where their terms cancel."""
        plain = unfuse(self._fused)
        count, optimizer, state = len(self._arrays), self._optimizer, self._state
        structure = private.same_graph(plain)[0]

        def loss(tensors: Sequence[Any]) -> Any:
            *y, ones = tensors[count:]
            with dispatch.use_backend("reference"):
                outputs = plain(keras.tree.pack_sequence_as(structure, tensors[:count]), training=True)
            targets, weights = _as_outputs(plain, y), _as_outputs(plain, [ones] * len(y))
            return plain.compute_loss(y=targets, y_pred=outputs, sample_weight=weights)

        def step(tensors: list[Any]) -> list[Any]:
            variables = plain.trainable_variables
            with tf.GradientTape() as tape:
                value = loss(tensors)
            optimizer.apply(tape.gradient(value, [v.value for v in variables]), variables)
            return [value, *(tf.identity(v.value) for v in state)]

        loss([*map(tf.constant, given)])  # which builds what is built at a first call
        self._restore()
        return step


def _as_outputs(model: Any, values: Sequence[Any]) -> Any:
    """One for each output of a model, as a model takes its targets."""
    structure = private.same_graph(model)[1]
    if isinstance(structure, dict):
        return keras.tree.pack_sequence_as(structure, list(values))
    return values[0] if len(values) == 1 else list(values)


def _floats(arrays: Tensors) -> Tensors:
    return [np.asarray(array, np.float64) for array in arrays]


@contextlib.contextmanager
def _left_alone(model: FusedModel) -> Iterator[None]:
    """Whatever happens within it, the model's variables hold what they held."""
    kept = [(v, v.numpy()) for v in model.variables]
    try:
        yield
    finally:
        for variable, value in kept:
            variable.assign(value)


def _copied(optimizer: Any, variables: Sequence[Any]) -> Any:
    """An optimizer of the same settings and state, of its own variables."""
    copy = type(optimizer).from_config(optimizer.get_config())
    for name, value in vars(optimizer).items():
        if name.startswith("_exclude_from_weight_decay"):  # which its config does not have
            setattr(copy, name, value)
    copy.build(variables)
    for mine, its in zip(copy.variables, optimizer.variables):
        mine.assign(its)
    return copy


# Targets that a loss makes sense of.


def _losses(model: FusedModel) -> list[str]:
    """The name of the loss of each output; "" where there is none."""
    given, outputs = model.loss, keras.tree.flatten(model.outputs)
    if isinstance(given, dict):
        structure = private.same_graph(model)[1]
        names = private.output_names(model)
        if isinstance(structure, dict):
            names = keras.tree.flatten({name: name for name in structure})
        given = [given.get(name) for name in names]
    given = list(given) if isinstance(given, (list, tuple)) else [given] * len(outputs)
    found = []
    for loss, output in zip(given, outputs):
        if loss in ("crossentropy", "ce"):
            loss = "binary_crossentropy" if output.shape[-1] == 1 else "sparse_categorical_crossentropy"
        loss = keras.losses.get(loss) if loss is not None else ""
        found.append(str(getattr(loss, "name", None) or getattr(loss, "__name__", "")))
    return found


def _targets(loss: str, arrays: Tensors, output: Any, rng: np.random.Generator) -> np.ndarray:
    """Random ones of a loss, for as many rows as the inputs have."""
    rows, width = len(arrays[0]), output.shape[-1]
    shape = (rows, *(1 if size is None else size for size in output.shape[1:]))
    values: np.ndarray = rng.normal(size=shape).astype(output.dtype)
    if loss == "sparse_categorical_crossentropy":
        return rng.integers(0, width, size=shape[:-1])
    if loss in ("categorical_crossentropy", "categorical_hinge"):
        values = np.eye(width, dtype=output.dtype)[rng.integers(0, width, size=shape[:-1])]
    elif "hinge" in loss:
        values = np.sign(values)
    elif "binary" in loss:
        values = (values > 0).astype(output.dtype)
    elif loss in ("poisson", "mean_squared_logarithmic_error", "kl_divergence"):
        values = np.abs(values)
    return values
