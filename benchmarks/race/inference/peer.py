"""What a peer is: it binds its programs to rows.

Every program is called in the cheapest way its interface has: its input lies in its own kind of tensor, its output is
left where it puts it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from race.contestant import Contestant
from race.inference.subjects import Subject


class Bound(NamedTuple):
    """A program with its input: a call that returns when its work is done, and its result as NumPy arrays."""

    call: Callable[[], Any]
    arrays: Callable[[Any], Sequence[np.ndarray]]


class Peer(Contestant):
    """Base class; a subclass says how its programs are bound."""

    subject: Subject

    def load(self, subject: Subject) -> dict[str, str]:
        """Gets ready for a subject; returns the forms that cannot compute it, with the reasons."""
        self.subject, self.calls = subject, {}
        return {}

    def bind(self, inputs: Sequence[np.ndarray]) -> dict[str, Bound]:
        """The programs by name, for these rows."""
        raise NotImplementedError

    def prepare(self, inputs: Sequence[np.ndarray]) -> dict[str, list[np.ndarray]]:
        """Binds the programs, calls each once, and gives their outputs, each as (rows, columns)."""
        self.calls = {}  # What is no longer needed goes first.
        bound = self.bind(inputs)
        self.calls = {name: program.call for name, program in bound.items()}
        outputs = {}
        for name, program in bound.items():
            found = [np.asarray(y) for y in program.arrays(program.call())]
            outputs[name] = [np.array(y.reshape(-1, y.shape[-1])) for y in found]
        return outputs


def on_rows(inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Leading axes joined, as a plan sees its inputs."""
    return [np.ascontiguousarray(x.reshape(-1, x.shape[-1])) for x in inputs]
