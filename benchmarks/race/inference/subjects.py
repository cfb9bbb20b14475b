"""What is computed: the plan of a case or an architecture, its weights and its rows; no TensorFlow here."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from fusedsplit.plan import Plan
from race.inference import plans


@dataclasses.dataclass(frozen=True)
class Subject:
    """A trained model.

    Attributes:
        name: of the case or the architecture.
        weights: in Keras' order.
        plan: what it computes.
        params: the plan's, as arrays.
        input_shapes: for each input the axes between batch and columns, and the columns.
        outputs: for each output of the model, which of the plan's it is.
    """

    name: str
    weights: Sequence[np.ndarray]
    plan: Plan
    params: Sequence[np.ndarray]
    input_shapes: tuple[tuple[tuple[int, ...], int], ...]
    outputs: tuple[int, ...]

    def compute(self, vocabulary: plans.Vocabulary, inputs: Sequence[Any], params: Sequence[Any]) -> list[Any]:
        """The model's outputs by the plan in some framework's operations, on rows of two axes."""
        found = plans.compute(self.plan, vocabulary, inputs, params)
        return [found[i] for i in self.outputs]

    def rows(self, batch: int) -> list[np.ndarray]:
        """Random input."""
        rng = np.random.default_rng([batch, *self.name.encode()])
        return [rng.standard_normal((batch, *extra, width), "float32") for extra, width in self.input_shapes]

    def flops(self, batch: int) -> int:
        """Of the products, multiply and add counted as two."""
        return self.plan.flops() * batch * math.prod(self.input_shapes[0][0])


def draw(weights: Sequence[np.ndarray], seed: int = 0) -> list[np.ndarray]:
    """Weights as training leaves them: no vector is exactly zero or one, and a variance stays positive."""
    rng = np.random.default_rng(seed)
    return [w if w.ndim > 1 else (w + 0.1 * rng.random(w.shape)).astype(w.dtype) for w in weights]
