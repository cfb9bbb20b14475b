"""What a provider makes of a case."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


class ProviderUnavailable(RuntimeError):
    """A provider that cannot compute a case on this machine; the message is the reason."""


def _as_they_are(gradients: Sequence[np.ndarray]) -> list[np.ndarray]:
    return list(gradients)


@dataclasses.dataclass(frozen=True)
class Program:
    """A callable on tensors, its variables, and how gradients of these are put into weight order."""

    call: Callable[[Any], Any]
    variables: Sequence[Any]
    to_weight_order: Callable[[Sequence[np.ndarray]], list[np.ndarray]] = _as_they_are
    jit: bool = False
