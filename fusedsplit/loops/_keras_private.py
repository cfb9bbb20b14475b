"""Every private name of Keras that the loops need, in one place, as Keras 3.5 to 3.15 have them."""

from __future__ import annotations

import contextlib
import inspect
import types
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf
from keras.src import backend
from keras.src.losses.losses import LossFunctionWrapper
from keras.src.metrics.reduction_metrics import MeanMetricWrapper
from keras.src.trainers.compile_utils import CompileMetrics
from keras.src.trainers.data_adapters import array_data_adapter, array_slicing, data_adapter_utils
from keras.src.trainers.epoch_iterator import EpochIterator
from keras.src.trainers.trainer import Trainer

from fusedsplit.layers._keras_private import is_compiled as is_compiled
from fusedsplit.layers._keras_private import output_names as output_names
from fusedsplit.loops.reasons import NotNative

# Compiling and its state.


def assert_compiled(model: Any, method: str) -> None:
    """Raises Keras' error if a model is not compiled, and warns if layers were frozen or thawed since."""
    model._assert_compile_called(method)


def replaced_steps(model: Any) -> list[str]:
    """The steps of training that somebody set on this very object."""
    names = ("call", "compute_loss", "compute_metrics", "train_step", "test_step", "predict_step")
    return [name for name in names if name in vars(model)]


def has_strategy(model: Any) -> bool:
    """Whether a tf.distribute strategy is at work."""
    return model._distribute_strategy is not None or tf.distribute.has_strategy()


def initial_epoch(model: Any, given: int) -> int:
    """The epoch to begin with: a callback may have said so."""
    first: int = model._initial_epoch or given
    return first


def capped(epochs: int, steps: int | None) -> tuple[int, int | None]:
    """Epochs and steps under `keras.config.set_max_epochs` and `set_max_steps_per_epoch`, where Keras has them."""
    config = backend.config
    most_epochs = getattr(config, "max_epochs", lambda: None)()
    most_steps = getattr(config, "max_steps_per_epoch", lambda: None)()
    if most_epochs and most_epochs < epochs:
        raise NotNative("keras.config.max_epochs() caps the epochs")
    if most_steps and (not steps or most_steps < steps):
        raise NotNative("keras.config.max_steps_per_epoch() caps the steps")
    return epochs, steps


def should_eval(model: Any, epoch: int, validation_freq: Any) -> bool:
    wanted: bool = model._should_eval(epoch, validation_freq)
    return wanted


def tests_each_batch_by_itself() -> bool:
    """Whether `test_on_batch` forgets what metrics have seen before; in Keras 3.5 it does not."""
    return "reset_metrics" in keras.Model.test_on_batch.__code__.co_names


def in_order(model: Any, logs: dict[str, Any]) -> Any:
    """What `evaluate` returns of its logs."""
    return model._flatten_metrics_in_order(logs)


def symbolic_build(model: Any, x: Any, y: Any, sample_weight: Any, optimizer: bool) -> None:
    """Builds the losses and metrics of a compiled model, from arrays, and the optimizer, if it is wanted."""
    data = keras.tree.map_structure(_symbolic, (x, y, sample_weight))
    attributes = vars(model)
    held = attributes["optimizer"]
    try:
        if not optimizer:
            attributes["optimizer"] = None
        model._symbolic_build(data_batch=data)
    finally:
        attributes["optimizer"] = held


def _symbolic(array: Any) -> Any:
    if array is None:
        return None
    return keras.KerasTensor((None, *array.shape[1:]), keras.backend.standardize_dtype(array.dtype))


# Losses.


class LossEntry(NamedTuple):
    """A loss as it was compiled.

    Attributes:
        path: where Keras finds its predictions within the outputs.
        loss: the Loss.
        weight: of `loss_weights`, or None.
        tracker: the Mean in which Keras notes it alone, or None where there is but one.
        tracks_weighted: whether it notes it times the weight.
    """

    path: tuple[Any, ...]
    loss: Any
    weight: float | None
    tracker: Any
    tracks_weighted: bool


def loss_entries(model: Any) -> list[LossEntry]:
    """The losses of a model whose losses are built."""
    compiled = model._compile_loss
    if compiled is None:
        return []
    trackers = list(compiled.metrics)
    if hasattr(compiled, "_flat_losses"):
        found = [(path, loss, weight) for path, loss, weight, _ in compiled._flat_losses]
        weighted = False
    else:  # Keras 3.5
        if None in compiled.flat_losses:
            raise NotNative("this Keras takes the losses of outputs without one for those of others")
        single = len(compiled.flat_losses) == 1
        found = [
            (() if single else (i,), loss, weight)
            for i, (loss, weight) in enumerate(zip(compiled.flat_losses, compiled.flat_loss_weights))
        ]
        weighted = True
    trackers = trackers or [None] * len(found)
    return [LossEntry(*entry, tracker, weighted) for entry, tracker in zip(found, trackers)]


def check_named(model: Any, y: Any, names: set[str]) -> None:
    """Raises where Keras 3.5 would take targets or predictions out of dicts, which it then misses.

    Raises:
        NotNative: if so.
    """
    if takes_targets_by_name(model):
        return
    for given in (y, model._compile_loss._user_loss if model._compile_loss is not None else None):
        if isinstance(given, dict) and set(given) != names:
            raise NotNative("this Keras takes only losses and targets of all outputs of a dict")


def keys_of_targets(model: Any, names: set[str]) -> set[str]:
    """The keys of the targets that the built losses of a model, which gives a dict, take."""
    if not takes_targets_by_name(model):
        return names
    built = model._compile_loss._y_true_build_structure
    return set(built) if isinstance(built, dict) else set()


def takes_targets_by_name(model: Any) -> bool:
    """Whether a dict of targets is taken apart by the outputs' names, where those are a list."""
    return hasattr(model._compile_loss, "_flat_losses")


def compile_loss_dtype(model: Any) -> str:
    dtype: str = model._compile_loss.dtype
    return dtype


def loss_function(loss: Any) -> tuple[Any, dict[str, Any]] | None:
    """The function that a Loss calls, and with what; None where it computes in another way."""
    if not isinstance(loss, LossFunctionWrapper):
        return None
    kind = type(loss)
    if kind.call is not LossFunctionWrapper.call or kind.__call__ is not LossFunctionWrapper.__call__:
        return None
    return loss.fn, dict(loss._fn_kwargs)


def wrapped(function: Any) -> Any:
    """A function as the Loss that `compile` makes of it."""
    return LossFunctionWrapper(function, name=getattr(function, "__name__", "loss"))


def rounds_regularizers() -> bool:
    """Whether factors of regularizers become float32 before a variable's dtype; in Keras 3.5 they do not, and L1 stays
    float32."""
    return "cast" in keras.regularizers.L1L2.__call__.__code__.co_names


# Metrics.


def metric_entries(model: Any, keys: Sequence[str] | None) -> list[tuple[Any, int, bool]]:
    """(metric, output, whether it is weighted) of a model whose metrics are built; `keys` are those of outputs that are
    a dict, which metrics may take in another order.

    Raises:
        NotNative: if they take them by names that the outputs do not have.
    """
    compiled = model._compile_metrics
    if compiled is None:
        return []
    places: Sequence[int] = range(len(compiled._flat_metrics))
    if keys is not None:
        taken = getattr(compiled, "_resolved_output_names", compiled.output_names) or keys
        if sorted(taken) != sorted(keys):
            raise NotNative("this Keras' metrics go by the names of layers, which are not those of the outputs")
        places = [keys.index(name) for name in taken]
    found = []
    for lists, weighted in ((compiled._flat_metrics, False), (compiled._flat_weighted_metrics, True)):
        for output, metrics in zip(places, lists):
            found += [(metric, output, weighted) for metric in (metrics.metrics if metrics else ())]
    return found


def is_of_a_function(metric: Any) -> bool:
    """Whether a metric is the mean of what a function gives, a batch at a time."""
    return type(metric) is MeanMetricWrapper


def foreign_metrics(model: Any) -> list[Any]:
    """The metrics of a model that it was not compiled with."""
    own = {id(m) for m in (model._loss_tracker, model._compile_metrics)}
    own |= {id(m) for m in (model._compile_loss.metrics if model._compile_loss is not None else ())}
    return [m for m in model.metrics if id(m) not in own]


def loss_tracker(model: Any) -> Any:
    return model._loss_tracker


def log_names(model: Any) -> dict[str, Any]:
    """The keys of a model's logs, and the metric that gives the value of each: found by Keras' own code."""

    def stand_in(metric: Any) -> Any:
        if not isinstance(metric, CompileMetrics):
            return types.SimpleNamespace(name=metric.name, result=lambda: metric)
        apart = types.SimpleNamespace(
            built=metric.built,
            _flat_metrics=[_named(m) for m in metric._flat_metrics],
            _flat_weighted_metrics=[_named(m) for m in metric._flat_weighted_metrics],
        )
        return types.SimpleNamespace(name=metric.name, result=lambda: CompileMetrics.result(apart))

    apart = types.SimpleNamespace(metrics=[stand_in(m) for m in model.metrics], _pythonify_logs=lambda logs: logs)
    names: dict[str, Any] = Trainer.get_metrics_result(apart)
    return names


def _named(metrics: Any) -> Any:
    """A list of metrics, each of which gives itself as its result."""
    if metrics is None:
        return None
    inner = [types.SimpleNamespace(name=m.name, result=lambda m=m: m) for m in metrics.metrics]
    return types.SimpleNamespace(metrics=inner, output_name=metrics.output_name)


# Optimizers.

# The name that the native trainer has for a slot -> how optimizers call theirs.
_SLOTS = {"moving_average": ("_model_variables_moving_average",)}


def slot_variables(optimizer: Any, name: str) -> list[Any]:
    """The variables that an optimizer has under a name, in the order of those that it trains."""
    for attribute in _SLOTS.get(name, (f"_{name}", name)):
        if hasattr(optimizer, attribute):
            found: list[Any] = getattr(optimizer, attribute)
            return found
    raise NotNative(f"{type(optimizer).__name__} has no {name!r} here")


def scalar_variable(optimizer: Any, name: str) -> Any:
    return getattr(optimizer, f"_{name}")


def iterations(optimizer: Any) -> Any:
    return optimizer._iterations


def trained_by(optimizer: Any) -> list[Any]:
    """The variables that an optimizer was built with."""
    variables: list[Any] = optimizer._trainable_variables
    return variables


def index_of(optimizer: Any, variable: Any) -> int:
    try:
        index: int = optimizer._get_variable_index(variable)
    except KeyError:
        raise NotNative(f"the optimizer was not built with the variable {variable.path!r}") from None
    return index


def decays(optimizer: Any, variable: Any) -> bool:
    """Whether weight decay applies to a variable."""
    applies: bool = optimizer._use_weight_decay(tf_variable(variable))
    return applies


def own_learning_rate(optimizer: Any) -> Any:
    """The variable, schedule or function that an optimizer takes its learning rate from."""
    return optimizer._learning_rate


def tf_variable(variable: Any) -> Any:
    """The tf.Variable of a variable of Keras, whatever scope is open."""
    return variable._value


def seed_state(layer: Any) -> Any:
    """The variable that a Dropout layer draws from."""
    return layer.seed_generator.state


# Data.


def are_arrays(data: Any) -> bool:
    """Whether Keras takes all of this for arrays (tensors, data frames, sparse ones too)."""
    arrays: bool = array_data_adapter.can_convert_arrays(data)
    return arrays


def split(data: Any, validation_split: float) -> tuple[Any, Any]:
    """The first and the last part of arrays."""
    parts: tuple[Any, Any] = array_slicing.train_validation_split(data, validation_split=validation_split)
    return parts


def check_cardinality(data: Any) -> None:
    data_adapter_utils.check_data_cardinality(data)


def unpack(data: Any) -> tuple[Any, Any, Any]:
    parts: tuple[Any, Any, Any] = data_adapter_utils.unpack_x_y_sample_weight(data)
    return parts


def counts_steps_past_the_end() -> bool:
    """Whether a step that finds no data counts as an iteration and takes the others of its execution with it, and a
    validation of some steps goes on where the last one ended: all so before Keras 3.7."""
    return not hasattr(EpochIterator, "reset")


class Batches:
    """Batches of anything that Keras takes, as NumPy arrays, through its own adapters.

    Args:
        steps_per_execution: how many are taken at a time.
        others: as in `EpochIterator`.
    """

    def __init__(self, x: Any, steps_per_execution: int, **arguments: Any):
        self._iterator = EpochIterator(x=x, steps_per_execution=steps_per_execution, **arguments)
        self._reset()

    def _reset(self) -> None:
        if hasattr(self._iterator, "reset"):
            self._iterator.reset()

    @property
    def steps(self) -> int | None:
        steps: int | None = self._iterator.num_batches
        return steps

    def epoch(self) -> Iterator[tuple[int, Sequence[Any]]]:
        """(first step, batches) for each execution."""
        iterator = self._iterator
        with getattr(iterator, "catch_stop_iteration", contextlib.nullcontext)():
            for step, *_, batches in iterator.enumerate_epoch():
                yield step, batches

    def restart(self) -> None:
        """From the beginning again, as `evaluate` does."""
        self._reset()


# Callbacks.


def callback_list(model: Any, callbacks: Any, **arguments: Any) -> Any:
    if isinstance(callbacks, keras.callbacks.CallbackList):
        return callbacks
    return keras.callbacks.CallbackList(callbacks, model=model, **arguments)


def step_told_after(first: int, steps: int) -> int:
    """The step that hooks after an execution of so many are told: its last; before Keras 3.12 its first."""
    return first + steps - 1 if "end_step" in inspect.unwrap(keras.Model.fit).__code__.co_varnames else first


def is_default(method: Any) -> bool:
    """Whether a callback's method is the one that does nothing; Keras 3.5 does not mark these."""
    function = getattr(method, "__func__", method)
    own = getattr(keras.callbacks.Callback, getattr(function, "__name__", ""), None)
    return getattr(method, "_is_default", False) or function is own


def writes_by_epoch(board: Any) -> bool:
    """Whether a TensorBoard has nothing to do around a batch, but for drawing the graph of Keras' own step."""
    return board.update_freq == "epoch" and not board.write_steps_per_second and not board._should_trace
