"""What a user gives as data, looked at before anything is done with it."""

from __future__ import annotations

import itertools
import math
import types
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from fusedsplit.loops import _keras_private as private
from fusedsplit.loops import data
from fusedsplit.loops.data import Batch
from fusedsplit.loops.reasons import NotNative
from fusedsplit.loops.sources import ArraySource, StreamSource

# Reads x, y and sample weights as rows.
Read = Callable[[Any, Any, Any], Batch]


def restored(first: Any, others: Any) -> Iterator[Any]:
    """A generator that gives what was taken from another one again."""
    yield from itertools.chain([first], others)


def peek(x: Any) -> tuple[Any, Any, bool]:
    """A first batch of anything that is no arrays; the same again, with nothing taken; whether all batches are known to
    have equally many rows.

    Raises:
        NotNative: if looking would take something away.
    """
    if isinstance(x, types.GeneratorType):
        for first in x:
            return first, restored(first, x), False
        raise NotNative("the generator gives nothing")
    if isinstance(x, tf.data.Dataset):
        specs = keras.tree.flatten(x.element_spec)
        if not all(isinstance(s, tf.TensorSpec) and s.shape.rank and None not in s.shape[1:] for s in specs):
            raise NotNative("the dataset does not say which shape its batches have")
        zeros = keras.tree.map_structure(lambda s: np.zeros((1, *s.shape[1:]), s.dtype.as_numpy_dtype), x.element_spec)
        return zeros, x, all(s.shape[0] is not None for s in specs)
    if isinstance(x, keras.utils.PyDataset):
        return x[0], x, False
    raise NotNative(f"the data is a {type(x).__name__}")


def source(
    read: Read,
    x: Any,
    y: Any,
    sample_weight: Any,
    *,
    size: int | None,
    steps: int | None,
    execution: int,
    epochs: int = 1,
    trains: bool = False,
    shuffle: Any = False,
    class_weight: Any = None,
    even: bool = False,
) -> ArraySource | StreamSource:
    """Where the rows of each epoch come from.

    Args:
        epochs: how often it is gone through, at most.
        trains: whether an optimizer counts its steps.

    Raises:
        NotNative: if Keras has to sort the data out, or to say what is wrong with it.
    """
    minds_the_end = private.counts_steps_past_the_end()
    if private.are_arrays((x, y, sample_weight)):
        if class_weight is not None:
            if sample_weight is not None or keras.tree.is_nested(y):
                raise NotNative("class weights beside sample weights, or of several outputs")
            sample_weight = data.class_weights(y, class_weight)
        arrays = ArraySource(read(x, y, sample_weight), size, steps, shuffle, execution)
        if minds_the_end:
            _check_end(arrays.batches, steps, execution, epochs)
        return arrays
    arguments = {"y": y, "sample_weight": sample_weight, "batch_size": size, "shuffle": shuffle}
    if minds_the_end and (trains or execution > 1):  # else nothing is changed by a step that finds no data
        _check_end(_length(x), steps, execution, epochs)
    batches = private.Batches(x, execution, steps_per_epoch=steps, class_weight=class_weight, **arguments)
    return StreamSource(batches, read, even)


def _length(x: Any) -> float | None:
    """How many batches something has that is no arrays; None where nobody knows."""
    if isinstance(x, tf.data.Dataset):
        cardinality = int(x.cardinality())
        return {tf.data.INFINITE_CARDINALITY: math.inf, tf.data.UNKNOWN_CARDINALITY: None}.get(cardinality, cardinality)
    if isinstance(x, keras.utils.PyDataset):
        return math.inf if x.num_batches is None else x.num_batches
    return None


def _check_end(batches: float | None, steps: int | None, execution: int, epochs: int) -> None:
    """Raises where a step would find no data.

    Raises:
        NotNative: if so many batches do not last.
    """
    if batches is None:
        raise NotNative("this Keras counts a step that finds no data, and nobody knows where this data ends")
    taken = -(-(steps or batches) // execution) * execution * (epochs if steps else 1)
    if taken > batches:
        raise NotNative("this Keras counts a step that finds no data, and loses the others of its execution")
