"""Calls of a graph in few words."""

from __future__ import annotations

import collections
import re
from collections.abc import Sequence

from fusedsplit.models.graph import Call

MOST = 4


def kinds(calls: Sequence[Call], most: int = MOST) -> str:
    """How many there are of each kind, the most frequent first: "12 Dense, 4 Multiply"."""
    counted = collections.Counter(kind(call) for call in calls).most_common()
    rest = sum(n for _, n in counted[most:])
    return ", ".join([f"{n} {name}" for name, n in counted[:most]] + ([f"{rest} others"] if rest else []))


def kind(call: Call) -> str:
    """The class of a layer, or the name of an operation of `keras.ops`."""
    name = type(call.operation).__name__
    return name if call.is_layer else f"ops.{re.sub(r'(?<!^)(?=[A-Z])', '_', name).lower()}"


def paths(calls: Sequence[Call], most: int = MOST) -> str:
    """Their names, the first ones and the last one where there are many: "dense, dense_1, ... dense_9"."""
    names = list(dict.fromkeys(call.path for call in calls))
    if len(names) <= most:
        return ", ".join(names)
    return f"{', '.join(names[: most - 1])}, ... {names[-1]}"


def count(n: int, what: str) -> str:
    """ "1 region", "2 regions"."""
    return f"{n} {what}{'' if n == 1 else 's'}"
