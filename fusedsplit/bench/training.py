"""`fit` on real data: Keras' fit of the Lambda program, and of the same model fused, in Keras' loop and in our own.

Every contestant trains one epoch on equal batches from equal weights, tracing and compiling included: that is the time
to the first trained epoch, and its loss curve is compared. Then epochs are timed, interleaved, as a user runs them:
NumPy arrays, shuffled.
"""

from __future__ import annotations

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.layers import Dense, Lambda, concatenate

from fusedsplit.bench import data, fused
from fusedsplit.bench.program import ProviderUnavailable

# The curve is compared at this many points, each the mean loss over a stretch of batches.
POINTS = 10
# Before rounding has had time to grow, curves agree closely or the programs differ: this is allowed at the
# first point.
FIRST = 1e-4
# Then training carries the differences on: Adam divides by the size of small gradients, and relus flip at
# their kinks.
TOLERANCE = 1e-2
# An epoch here is no longer than that, which a step's time does not depend on.
_MOST_ROWS, _MOST_STEPS = 131_072, 1024
BASELINE = "lambda"


@dataclasses.dataclass(frozen=True)
class Task:
    """A model, not compiled, and what it learns; `passes` is how often a call of `fit` goes over the rows."""

    name: str
    dataset: data.Dataset
    batch: int
    build: Callable[[], keras.Model]
    loss: str
    metrics: tuple[str, ...] = ()
    passes: int = 1

    @property
    def steps(self) -> int:
        """Batches in one pass; an incomplete last batch is left out."""
        return min(len(self.dataset.x_train), _MOST_ROWS, _MOST_STEPS * self.batch) // self.batch


@dataclasses.dataclass(frozen=True)
class Contestant:
    """`loop` is who runs `fit` of the fused model; None: the model is not fused."""

    name: str
    loop: str | None


CONTESTANTS = (
    Contestant(BASELINE, None),
    Contestant("fused-keras", "keras"),
    Contestant("fused-native", "native"),
)


@dataclasses.dataclass(frozen=True)
class Run:
    """What one contestant did.

    Attributes:
        curve: its losses in the first epoch.
        test_loss: and its loss on the test rows after it.
        first: how long the first epoch took, in seconds, from a compiled model on.
        epochs: how long each of the others took.
    """

    curve: tuple[float, ...]
    test_loss: float
    first: float
    epochs: tuple[float, ...]

    @property
    def epoch(self) -> float:
        return statistics.median(self.epochs)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """All contestants of one task; an epoch is `steps` steps."""

    task: str
    batch: int
    steps: int
    runs: Mapping[str, Run]
    missing: Mapping[str, str]

    def differences(self, name: str) -> np.ndarray:
        """How far the points of a loss curve, and the test loss, lie from the Lambda program's, relatively."""
        base, run = self.runs[BASELINE], self.runs[name]
        want, got = np.array([*base.curve, base.test_loss]), np.array([*run.curve, run.test_loss])
        return np.abs(got - want) / np.abs(want)

    def difference(self, name: str) -> float:
        """The largest of them."""
        return float(np.max(self.differences(name)))

    @property
    def problems(self) -> dict[str, str]:
        """Which curves do not agree, and by how much."""
        found = {}
        for name in self.runs:
            differences = self.differences(name)
            for what, value, allowed in (
                ("a first point", differences[0], FIRST),
                ("loss curves", np.max(differences), TOLERANCE),
            ):
                if not value <= allowed:  # NaN does not agree.
                    found[name] = f"expected {what} within {allowed:.1e} of the Lambda program's. Received: {value:.1e}"
        return found

    def speedup(self, name: str) -> float:
        return self.runs[BASELINE].epoch / self.runs[name].epoch

    def step(self, name: str) -> float:
        """Seconds of a step."""
        return self.runs[name].epoch / self.steps

    def samples_per_second(self, name: str) -> float:
        return self.batch / self.step(name)

    def as_json(self) -> dict[str, Any]:
        runs = {
            name: {
                "loss_curve": run.curve,
                "test_loss": run.test_loss,
                "first_epoch_seconds": run.first,
                "epoch_seconds": run.epochs,
                "step_us": self.step(name) * 1e6,
                "samples_per_second": self.samples_per_second(name),
                "largest_relative_difference": self.difference(name),
            }
            for name, run in self.runs.items()
        }
        head = {"task": self.task, "batch": self.batch, "steps_per_epoch": self.steps}
        return {**head, "problems": self.problems, "missing": dict(self.missing), "runs": runs}


def split_model(inputs: int, width: int, head: Dense) -> keras.Model:
    """The seeds' asymmetric model, its three widths scaled from 8, 4 and 6."""
    half = width // 2
    x = keras.Input((inputs,))
    left, right = Lambda(lambda h: tf.split(h, 2, axis=1))(Dense(width)(x))
    parts = [Dense(half, "relu")(left), Dense(3 * width // 4, "relu")(right)]
    return keras.Model(x, head(concatenate(parts)))


def flights_model(width: int) -> keras.Model:
    """F(width): a flight's delay."""
    return split_model(len(data.flights().features), width, Dense(1))


def digits_model(width: int) -> keras.Model:
    """Which digit it is."""
    return split_model(64, width, Dense(10, "softmax"))


class _Trainee:
    """One contestant's model, and what has been seen of it so far."""

    def __init__(self, task: Task, contestant: Contestant, weights: list[np.ndarray] | None):
        self.task, self.loop = task, contestant.loop
        rows = task.steps * task.batch
        self.x, self.y = task.dataset.x_train[:rows], task.dataset.y_train[:rows]
        model = task.build()
        if weights is not None:
            model.set_weights(weights)
        model.compile(keras.optimizers.Adam(1e-3), task.loss, metrics=list(task.metrics))
        self.model = model if self.loop is None else fused.model(model, self.loop)
        self.weights = self.model.get_weights()
        self.epochs: list[float] = []

    def _fit(self, **settings: Any) -> tuple[float, list[float]]:
        start = time.perf_counter()
        try:
            history = self.model.fit(self.x, self.y, batch_size=self.task.batch, verbose=0, **settings)
        except ValueError as error:
            if self.loop != "native":
                raise
            raise ProviderUnavailable(str(error)) from error  # the reasons against a native loop
        return time.perf_counter() - start, history.history["loss"]

    def first(self) -> None:
        """One pass is cut to stretches, several are one each. The test loss is taken eagerly: `evaluate` would
        compile one more function for one call."""
        stretch = {"epochs": POINTS, "steps_per_epoch": self.task.steps // POINTS}
        settings = {"epochs": self.task.passes} if self.task.passes > 1 else stretch
        self.seconds, self.curve = self._fit(shuffle=False, **settings)
        x, y = self.task.dataset.x_test, self.task.dataset.y_test
        loss = self.model.compute_loss(x=x, y=y, y_pred=self.model(x, training=False), training=False)
        self.test_loss = float(loss)

    def epoch(self) -> None:
        self.epochs.append(self._fit(epochs=self.task.passes)[0])

    def finish(self) -> Run:
        return Run(tuple(self.curve), self.test_loss, self.seconds, tuple(self.epochs))


def train(task: Task, timed_epochs: int, contestants: Sequence[Contestant] = CONTESTANTS) -> Iterator[Outcome | None]:
    """Trains the contestants; yields None after each epoch of each, and the outcome at last."""
    trainees: dict[str, _Trainee] = {}
    missing = {}
    weights = None
    keras.utils.set_random_seed(1)
    for contestant in contestants:
        try:
            trainee = _Trainee(task, contestant, weights)
            trainee.first()
        except ProviderUnavailable as error:
            missing[contestant.name] = str(error)
            continue
        weights = trainee.weights
        trainees[contestant.name] = trainee
        yield None
    for _ in range(timed_epochs):
        for trainee in trainees.values():
            trainee.epoch()
            yield None
    runs = {name: trainee.finish() for name, trainee in trainees.items()}
    yield Outcome(task.name, task.batch, task.steps * task.passes, runs, missing)


def tasks(quick: bool) -> list[Task]:
    """The runs, smallest first."""
    flights, digits = data.flights(), data.digits()
    sizes = [(64, 512)] if quick else [(width, batch) for width in (8, 64, 256) for batch in (32, 512)]
    return [
        *(Task(f"F({w})", flights, batch, functools.partial(flights_model, w), "mse") for w, batch in sizes),
        Task(
            "digits", digits, 32, functools.partial(digits_model, 64), "sparse_categorical_crossentropy",
            metrics=("accuracy",), passes=10,
        ),
    ]  # fmt: skip
