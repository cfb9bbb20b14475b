"""The predictor of a layer or a model, as one more thing that `fs.check` compares."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

try:
    from fusedsplit.native import structure
    from fusedsplit.native.library import NativeError
    from fusedsplit.native.predictor import Predictor
except ModuleNotFoundError as error:  # native/ was removed
    _MISSING = str(error)
else:
    _MISSING = ""

NAME = "predictor"

Predict = Callable[[Sequence[np.ndarray]], list[np.ndarray]]


def predict_of(source: Any) -> tuple[Predict | None, list[str]]:
    """What computes all outputs from all inputs, weights folded, both flat as Keras has them; or None, and why not."""
    if _MISSING:
        return None, [_MISSING]
    try:
        predictor = Predictor(source)
    except (ValueError, NativeError) as error:
        return None, [" ".join(str(error).split())]

    # Keras orders a dict by its keys, a predictor as the dict is.
    takes = structure.pack(predictor.inputs, itertools.count())

    def predict(inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        outputs = predictor(keras.tree.pack_sequence_as(takes, list(inputs)))
        return [np.asarray(y, np.float64) for y in keras.tree.flatten(outputs)]

    return predict, []
