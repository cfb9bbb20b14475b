"""What a trainee is: it trains from given weights, and its calls are timed."""

from __future__ import annotations

import numpy as np

from fusedsplit.bench.program import ProviderUnavailable
from race.contestant import Contestant
from race.training.task import Flights, Iris

EPOCH = "an epoch"


class Trainee(Contestant):
    """Base class. `flights` and `iris` fill `calls`."""

    def flights(self, task: Flights) -> None:
        """Gets ready to train F(U): `calls` has EPOCH, whose unit is a step."""
        raise ProviderUnavailable("it cannot express this model")

    def iris(self, task: Iris) -> None:
        """Gets ready for iris: `calls` has epochs in several settings."""
        raise ProviderUnavailable("not written for it")

    def train(self, steps: int) -> list[np.ndarray]:
        """The weights, in weight order, after so many steps from the task's own on its first batches in order."""
        raise NotImplementedError

    def first_epoch(self) -> float:
        """Seconds of the first epoch after compile, tracing and all."""
        raise ProviderUnavailable("it has no such moment")
