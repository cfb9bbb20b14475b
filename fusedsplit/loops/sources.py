"""Where the rows of an epoch come from: arrays, taken by index, or batches that Keras' adapters give."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import keras
import numpy as np

from fusedsplit.loops import _keras_private as private
from fusedsplit.loops.data import Batch, batch_size


class Piece(NamedTuple):
    """Rows for one call of the core.

    Attributes:
        batch: where they lie.
        order: which of them, in order; None for all as they lie.
        size: rows of a step.
    """

    batch: Batch
    order: np.ndarray | None
    size: int

    @property
    def rows(self) -> int:
        return self.batch.rows if self.order is None else len(self.order)

    @property
    def steps(self) -> int:
        return -(-self.rows // self.size)

    def after(self, steps: int) -> Piece:
        """What is left when so many steps are done."""
        at = steps * self.size
        order = np.arange(at, self.rows) if self.order is None else self.order[at:]
        return self._replace(order=order)


class Execution(NamedTuple):
    """Steps between two looks at callbacks: the number of the first, and their rows."""

    first: int
    pieces: list[Piece]


class ArraySource:
    """Arrays, in batches.

    An epoch of `steps_per_epoch` goes on where the last one ended, within the same order of all rows, as in Keras.

    Args:
        batch: all rows.
        size: rows of a batch; None for 32, or what makes `steps_per_epoch` batches.
        steps_per_epoch: as in `fit`; None for all rows.
        shuffle: as in `fit`.
        execution: how many steps `compile` says are taken at a time.

    Attributes:
        batches: how many all rows are.
    """

    def __init__(
        self, batch: Batch, size: int | None, steps_per_epoch: int | None, shuffle: Any = False, execution: int = 1
    ):
        self._batch = batch
        self._size = batch_size(size, batch.rows, steps_per_epoch)
        self.batches = -(-batch.rows // self._size)
        self._steps_per_epoch = steps_per_epoch
        self._shuffle = shuffle
        self._execution = execution
        self._random = np.random.Generator(np.random.SFC64(np.random.randint(1 << 31))) if shuffle else None
        self._order: np.ndarray | None = None
        self._at: int | None = None

    @property
    def steps(self) -> int:
        """Of an epoch."""
        return self._steps_per_epoch or self.batches

    @property
    def even(self) -> bool:
        return self._batch.rows % self._size == 0

    def _begin_pass(self) -> None:
        self._at = 0
        if not self._shuffle:
            return
        assert self._random is not None
        if self._shuffle == "batch":  # within each batch, as Keras does
            full = self._batch.rows // self._size * self._size
            rows = np.arange(self._batch.rows)
            rows[:full] = self._random.permuted(rows[:full].reshape(-1, self._size), axis=1).reshape(-1)
            self._random.shuffle(rows[full:])
            self._order = rows
        else:
            self._order = self._random.permutation(self._batch.rows)

    def epoch(self, whole: bool) -> Iterator[Execution]:
        """The executions of an epoch; one for all of it, if it may be `whole`."""
        if self._at is None or self._steps_per_epoch is None:
            self._begin_pass()
        assert self._at is not None
        wanted = -(-self.steps // self._execution) * self._execution
        most = min(wanted, self.batches - self._at)
        each = most if whole else self._execution
        for first in range(0, most, each or 1):
            taken = min(each, most - first)
            begin = self._at
            self._at += taken
            yield Execution(first, [self._piece(begin, taken)])
        if most < wanted and self._steps_per_epoch and most < self._steps_per_epoch:
            warnings.warn(
                "Your input ran out of data; interrupting training. Make sure that your dataset or generator can "
                "generate at least `steps_per_epoch * epochs` batches. You may need to use the `.repeat()` function "
                "when building your dataset.",
                stacklevel=2,
            )
        if self._at >= self.batches:
            self._at = None

    def _piece(self, batch: int, batches: int) -> Piece:
        begin, end = batch * self._size, min((batch + batches) * self._size, self._batch.rows)
        if self._order is not None:
            return Piece(self._batch, self._order[begin:end], self._size)
        if begin == 0 and end == self._batch.rows:
            return Piece(self._batch, None, self._size)
        return Piece(self._batch, np.arange(begin, end), self._size)

    def restart(self) -> None:
        """From the beginning again, as `evaluate` does."""
        self._at = None


class StreamSource:
    """Anything else that Keras takes, a batch at a time, through its own adapters.

    A batch of no rows, such as a PyDataset of one batch too many gives, is no step.

    Args:
        batches: of Keras' adapters.
        read: x, y and sample weights -> a batch as the core reads it.
        even: whether all batches are known to have equally many rows.
    """

    def __init__(self, batches: private.Batches, read: Callable[[Any, Any, Any], Batch], even: bool):
        self._batches = batches
        self._read = read
        self.even = even

    @property
    def steps(self) -> int | None:
        return self._batches.steps

    def epoch(self, whole: bool) -> Iterator[Execution]:
        for first, batches in self._batches.epoch():
            read = (private.unpack(batch) for batch in batches)
            found = [self._read(x, y, sample_weight) for x, y, sample_weight in read if _has_rows(x)]
            yield Execution(first, [Piece(batch, None, batch.rows) for batch in found])

    def restart(self) -> None:
        self._batches.restart()


def _has_rows(x: Any) -> bool:
    return all(part.shape[0] != 0 for part in keras.tree.flatten(x) if len(part.shape))
