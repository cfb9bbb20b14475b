"""What is given to fit, evaluate and predict as arrays that the core reads."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from fusedsplit.loops.reasons import NotNative


@dataclasses.dataclass(frozen=True)
class Batch:
    """Rows, as the core reads them.

    Attributes:
        rows: how many.
        within: the sizes of the axes between those of rows and columns: of each row so many are rows of the core.
        inputs: of the plan, (rows of the core, width).
        targets: for each loss.
        weights: for each loss, or None.
        y: for each output of the model, what Keras' metrics are given; None where there is nothing.
        sample_weight: likewise.
    """

    rows: int
    within: tuple[int, ...]
    inputs: list[np.ndarray]
    targets: list[np.ndarray]
    weights: list[np.ndarray | None]
    y: list[np.ndarray | None]
    sample_weight: list[np.ndarray | None]

    @property
    def positions(self) -> int:
        """How many rows of the core one row is."""
        return math.prod(self.within)


def array(x: Any) -> np.ndarray:
    """Anything dense as an array, floats in floatx, as Keras' adapters make it.

    Raises:
        NotNative: if it is not dense, or holds no numbers.
    """
    if not isinstance(x, np.ndarray):
        if not hasattr(x, "__array__"):
            raise NotNative(f"the data holds a {type(x).__name__}, which is no dense array")
        x = np.asarray(x)
    assert isinstance(x, np.ndarray)
    if x.dtype.kind not in "fiub" or x.ndim == 0:
        raise NotNative(f"the data holds an array of {x.dtype}, of {x.ndim} axes")
    return x.astype(keras.config.floatx(), copy=False) if x.dtype.kind == "f" else x


class Inputs:
    """The inputs of a model, taken apart as a functional model does.

    Args:
        whole: the model as one region.
    """

    def __init__(self, whole: Any):
        self._names = whole.input_names
        self._kind = whole.input_kind
        self.specs = whole.specs
        self._places = whole.places
        self._dtype = whole.region.dtype
        self.lead = whole.region.lead

    def flat(self, x: Any) -> list[np.ndarray]:
        """The arrays of what is given for the model, in the order of its inputs.

        Raises:
            NotNative: if Keras has to sort it out, or to say what is wrong with it.
        """
        if self._kind == "other":
            raise NotNative("the model's inputs are a structure of structures")
        if isinstance(x, Mapping):
            x = self._by_name(x)
        elif not isinstance(x, (list, tuple)):
            x = [x]
        elif self._kind == "dict":
            raise NotNative("the model takes a dict")
        if len(x) != len(self.specs):
            raise NotNative(f"the model takes {len(self.specs)} inputs and is given {len(x)}")
        return [self._ranked(array(given), shape) for given, (_, shape) in zip(x, self.specs)]

    def _by_name(self, x: Mapping[str, Any]) -> list[Any]:
        if set(x) != set(self._names):
            raise NotNative("the inputs are given by other names than the model's")
        if self._kind == "list" and list(self._names) != sorted(self._names):
            raise NotNative("the inputs of a model that takes a list are given by name")
        return [x[name] for name in self._names]

    @staticmethod
    def _ranked(x: np.ndarray, shape: Sequence[int | None]) -> np.ndarray:
        if x.ndim == len(shape) - 1 and shape[-1] == 1:
            x = x[..., np.newaxis]
        if x.ndim != len(shape) or any(n != m for n, m in zip(x.shape[1:], shape[1:]) if m is not None):
            raise NotNative(f"an input of shape {x.shape} is given for one of {tuple(shape)}")
        return x

    def leading(self, flat: Sequence[np.ndarray]) -> tuple[int, ...]:
        """The sizes of the axes that are rows of the core."""
        shape: tuple[int, ...] = flat[self._places[0]].shape
        return shape[: self.lead]

    def rows(self, flat: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The inputs of the plan, of the same rows."""
        found = []
        leading = self.leading(flat)
        for place in self._places:
            x, (dtype, _) = flat[place], self.specs[place]
            if x.shape[: self.lead] != leading:
                raise NotNative("the inputs have different rows")
            x = x.astype(dtype, copy=False).reshape(math.prod(leading), math.prod(x.shape[self.lead :]))
            found.append(np.ascontiguousarray(x, self._dtype))
        return found


def spread(value: Any, names: Sequence[str], by_name: bool, what: str) -> list[Any]:
    """What is given for each output of a model, a list or a dict, in the order of the outputs.

    Raises:
        NotNative: if Keras has to sort it out.
    """
    if len(names) == 1:
        single = isinstance(value, (list, tuple)) and len(value) == 1
        if isinstance(value, Mapping) or (isinstance(value, (list, tuple)) and not single):
            raise NotNative(f"{what} is a structure, the model has one output")
        return list(value) if single else [value]
    if isinstance(value, Mapping):
        if set(value) != set(names) or not by_name:
            raise NotNative(f"{what} is a dict by other names than the outputs'")
        return [value[name] for name in names]
    if not isinstance(value, (list, tuple)) or len(value) != len(names):
        raise NotNative(f"{what} is not one for each output")
    return list(value)


def keys(structure: Mapping[str, Any]) -> list[str]:
    """The keys of outputs that are a dict, in the order in which Keras flattens them.

    Raises:
        NotNative: if it is more than a plain dict of tensors.
    """
    if type(structure) is not dict or not all(isinstance(key, str) for key in structure):
        raise NotNative("its outputs are no plain dict")
    if not all(isinstance(tensor, keras.KerasTensor) for tensor in structure.values()):
        raise NotNative("its outputs are a structure of structures")
    flat: list[str] = keras.tree.flatten({key: key for key in structure})
    return flat


def by_key(value: Any, names: Sequence[str], given: set[str], what: str) -> list[Any]:
    """What is given for each output of a model that gives a dict, in the order of the outputs.

    Args:
        value: a dict; the one output of a dict may have its array alone.
        names: the keys of the outputs, in their order.
        given: those of them that have something, the same at each call; None stands for the others.
        what: its name in messages.

    Raises:
        NotNative: if Keras has to sort it out.
    """
    if len(names) == 1 and not isinstance(value, (Mapping, list, tuple)):
        return [value]
    if type(value) is not dict:
        raise NotNative(f"{what} is a {type(value).__name__}, the model gives a dict")
    if set(value) != given:
        raise NotNative(f"{what} is a dict by other names than the outputs'")
    return [value.get(name) for name in names]


def batch_size(given: Any, rows: int, steps: int | None) -> int:
    """Rows of a batch of arrays: as given, or 32, or what makes so many steps.

    Raises:
        NotNative: if it is no number of rows, of which Keras makes what it makes.
    """
    if given is None:
        return -(-rows // steps) if steps else 32
    if isinstance(given, bool) or not isinstance(given, (int, np.integer)) or given < 1:
        raise NotNative(f"batch_size is {given!r}")
    return int(given)


def target(y: np.ndarray, within: tuple[int, ...], width: int, dtype: str) -> np.ndarray:
    """What an output is to be, (rows of the core, width) in the plan's dtype.

    Raises:
        NotNative: if it has another shape than the output.
    """
    if y.ndim == 1 and width == 1:
        y = y[:, np.newaxis]
    if y.shape[1:] != (*within, width):
        raise NotNative(f"a target of shape {y.shape} is given for an output of {(*within, width)}")
    return np.ascontiguousarray(y.reshape(-1, width), dtype)


def classes(y: np.ndarray, within: tuple[int, ...], width: int, dtype: str) -> np.ndarray:
    """The class that an output is to say, as integers."""
    if y.shape[1:] not in (within, (*within, 1)):
        raise NotNative(f"a target of shape {y.shape} is given for a loss that takes classes")
    if y.dtype.kind == "f":
        y = y.astype(dtype).astype(np.int64)
    if y.dtype not in (np.int32, np.int64):
        y = y.astype(np.int64)
    return np.ascontiguousarray(y.reshape(-1))


def weight(sample_weight: Any, within: tuple[int, ...], dtype: str, spread_out: bool) -> np.ndarray:
    """A weight for each row of the core.

    Args:
        sample_weight: of as many axes as those have; where there is but one of rows, another of one column may follow.
        within: the sizes of the other axes.
        dtype: of the plan.
        spread_out: whether an axis of one stands for all along it.

    Raises:
        NotNative: if it has another shape, of which Keras makes something else, or an error.
    """
    given = array(sample_weight)
    if not within and given.shape[1:] == (1,):
        given = given[:, 0]
    allowed = [(n, 1) if spread_out else (n,) for n in within]
    if given.ndim != 1 + len(within) or any(n not in sizes for n, sizes in zip(given.shape[1:], allowed)):
        raise NotNative(f"sample weights of shape {given.shape}")
    return np.ascontiguousarray(np.broadcast_to(given, (len(given), *within)).reshape(-1), dtype)


def class_weights(y: Any, class_weight: Mapping[int, float]) -> np.ndarray:
    """The weight of each row by its class; a class that is not named weighs 1.

    As Keras does it, which takes a microsecond a row.
    """
    given = array(y)
    if given.ndim > 1:
        given = np.argmax(given, -1) if given.shape[-1] != 1 else np.squeeze(given, -1)
    if given.ndim != 1:
        raise NotNative("class weights of targets of more than two axes")
    present, place = np.unique(np.round(given).astype(np.int32), return_inverse=True)
    of_present = np.array([class_weight.get(int(c), 1.0) for c in present], keras.config.floatx())
    return of_present[place.reshape(-1)]
