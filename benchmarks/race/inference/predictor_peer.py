"""The package's Predictor, weights as they are or folded; its output in a given array, or in a new one."""

from __future__ import annotations

import concurrent.futures
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import fusedsplit as fs
from fusedsplit.bench import harness
from fusedsplit.bench.harness import Timing
from fusedsplit.bench.program import ProviderUnavailable
from race.inference import FOLDED, PREDICTOR
from race.inference.keras_programs import Programs
from race.inference.peer import Bound, Peer
from race.inference.subjects import Subject

_SECONDS = 20e-3  # of the calls that threads share, far above what sharing them out takes


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
        self.inputs = x = inputs[0] if len(inputs) == 1 else list(inputs)
        bound = {}
        for name, predictor in self.predictors.items():
            bound[name] = _into_given(predictor, x)
            bound[f"{name}-arrays"] = Bound(functools.partial(predictor.predict, x), _arrays)
        return bound

    def together(self, callers: int, rounds: int) -> dict[str, dict[str, Timing]]:
        """Each predictor on the rows that it is bound to, for many threads: seconds a call.

        "alone" is one thread that makes all calls one after the other, "together" so many threads with equal shares.
        Both write into the same arrays, one of each caller.
        """
        found = {}
        with concurrent.futures.ThreadPoolExecutor(callers) as pool:
            for name, predictor in self.predictors.items():
                calls = [_into_given(predictor, self.inputs).call for _ in range(callers)]
                each = math.ceil(_SECONDS / harness.sample(calls[0], 10) / callers)
                ways = {
                    "alone": functools.partial(_in_turn, calls, each),
                    "together": functools.partial(_share, pool, calls, each),
                }
                timings = harness.interleave(ways, rounds=rounds)
                found[name] = {
                    way: Timing(tuple(s / (each * callers) for s in t.samples), t.repetitions * each * callers)
                    for way, t in timings.items()
                }
        return found


def _share(pool: concurrent.futures.Executor, calls: Sequence[Callable[[], object]], each: int) -> None:
    for done in [pool.submit(_repeat, call, each) for call in calls]:
        done.result()


def _in_turn(calls: Sequence[Callable[[], object]], each: int) -> None:
    for _ in range(each):
        for call in calls:
            call()


def _repeat(call: Callable[[], object], count: int) -> None:
    for _ in range(count):
        call()


def _into_given(predictor: Any, x: Any) -> Bound:
    out = predictor.predict(x)
    return Bound(lambda: predictor.predict(x, out=out), _arrays)


def _arrays(y: Any) -> Sequence[np.ndarray]:
    return list(y) if isinstance(y, (list, tuple)) else [y]
