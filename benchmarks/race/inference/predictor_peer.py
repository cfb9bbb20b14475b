"""The package's Predictor, weights as they are or folded; its output in a given array, or in a new one."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

import fusedsplit as fs
from fusedsplit.bench.program import ProviderUnavailable
from race.inference import FOLDED, PREDICTOR
from race.inference.keras_programs import Programs
from race.inference.peer import Bound, Peer
from race.inference.subjects import Subject


class PredictorPeer(Peer):
    def __init__(self) -> None:
        super().__init__()
        if not hasattr(fs, "Predictor"):
            raise ProviderUnavailable("this version of fusedsplit has none")

    def load(self, subject: Subject) -> dict[str, str]:
        missing = super().load(subject)
        layer = Programs(subject).layer()
        self.predictors: dict[str, Any] = {}
        for name, fold in ((PREDICTOR, False), (FOLDED, True)):
            self.predictors[name] = fs.Predictor(layer, fold=fold, threads=self.threads)
        return missing

    def bind(self, inputs: Sequence[np.ndarray]) -> dict[str, Bound]:
        x = inputs[0] if len(inputs) == 1 else list(inputs)
        bound = {}
        for name, predictor in self.predictors.items():
            bound[name] = _into_given(predictor, x)
            bound[f"{name}-arrays"] = Bound(functools.partial(predictor.predict, x), _arrays)
        return bound


def _into_given(predictor: Any, x: Any) -> Bound:
    out = predictor.predict(x)
    return Bound(lambda: predictor.predict(x, out=out), _arrays)


def _arrays(y: Any) -> Sequence[np.ndarray]:
    return list(y) if isinstance(y, (list, tuple)) else [y]
