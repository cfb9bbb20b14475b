"""Training runs on real data: the Lambda program and the fused forms, from equal weights on equal batches.

Epochs are interleaved (every contestant's first, then every contestant's second, …). The first one, in which
tracing and compiling happen, is trained and compared like the others, but not timed.
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

# The curve is compared at this many points an epoch, each the mean loss over a stretch of batches.
POINTS = 10
# Before rounding has had time to grow, curves agree closely or the programs differ: this is allowed at the
# first point.
FIRST = 1e-4
# Then training carries the differences on: Adam divides by the size of small gradients, and relus flip at
# their kinks. How far that goes by itself is seen in this very run, in the Lambda program in graph mode
# against the same program under XLA. A fused form may differ by ten times as much, since one such pair is a
# small sample.
RATIO = 10.0
FLOOR = 2e-3
# And no run may rest on a yardstick that has itself come apart.
CEILING = 2e-2

Region = Callable[[Any], Any]


@dataclasses.dataclass(frozen=True)
class Task:
    """A model with one region that is either a Lambda program or a fused layer."""

    name: str
    dataset: data.Dataset
    batch: int
    passes: int
    build: Callable[[str], keras.Model]

    @property
    def steps(self) -> int:
        """Batches in one pass over the training rows; an incomplete last batch is left out."""
        return len(self.dataset.x_train) // self.batch

    @property
    def epoch_steps(self) -> int:
        """An epoch here is `passes` passes, so that a small data set, too, fills a time worth measuring."""
        return self.steps * self.passes


@dataclasses.dataclass(frozen=True)
class Contestant:
    """`form` is "lambda" or a backend of SplitDense; `jit` compiles Keras' whole training step by XLA."""

    name: str
    form: str
    jit: bool = False


CONTESTANTS = (
    Contestant("lambda", "lambda"),
    Contestant("lambda-xla", "lambda", jit=True),
    Contestant("op", "op"),
    # SplitDense inside Keras' own XLA compilation of the step.
    Contestant("op-xla", "op", jit=True),
)


# Without those whose whole step XLA compiles: that takes longer than a quick run trains.
QUICK = tuple(contestant for contestant in CONTESTANTS if not contestant.jit)


@dataclasses.dataclass(frozen=True)
class Run:
    """What one contestant did: its loss curve, its timed epochs in seconds, and its loss on the test rows."""

    curve: tuple[float, ...]
    epochs: tuple[float, ...]
    test_loss: float

    @property
    def epoch(self) -> float:
        return statistics.median(self.epochs)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """All contestants of one task."""

    task: str
    rows_per_epoch: int
    batch: int
    runs: Mapping[str, Run]
    missing: Mapping[str, str]

    def differences(self, name: str) -> np.ndarray:
        """How far the points of a loss curve, and the test loss, lie from the Lambda program's, relatively."""
        base, run = self.runs["lambda"], self.runs[name]
        want, got = np.array([*base.curve, base.test_loss]), np.array([*run.curve, run.test_loss])
        return np.abs(got - want) / np.abs(want)

    def difference(self, name: str) -> float:
        """The largest of them."""
        return float(np.max(self.differences(name)))

    @property
    def tolerance(self) -> float:
        own = self.difference("lambda-xla") if "lambda-xla" in self.runs else 0.0
        return min(CEILING, max(FLOOR, RATIO * own))

    @property
    def problems(self) -> dict[str, str]:
        """Which curves do not agree, and by how much."""
        found = {}
        for name in self.runs:
            differences = self.differences(name)
            for what, value, allowed in (
                ("a first point", differences[0], FIRST),
                ("loss curves", np.max(differences), self.tolerance),
            ):
                if not value <= allowed:  # NaN does not agree.
                    found[name] = f"expected {what} within {allowed:.1e} of the Lambda program's. Received: {value:.1e}"
        return found

    def samples_per_second(self, name: str) -> float:
        return self.rows_per_epoch / self.runs[name].epoch

    def as_json(self) -> dict[str, Any]:
        runs = {
            name: {
                "loss_curve": run.curve,
                "test_loss": run.test_loss,
                "epoch_seconds": run.epochs,
                "samples_per_second": self.samples_per_second(name),
                "largest_relative_difference": self.difference(name),
            }
            for name, run in self.runs.items()
        }
        head = {"task": self.task, "batch": self.batch, "rows_per_epoch": self.rows_per_epoch}
        rest = {"tolerance": self.tolerance, "problems": self.problems, "missing": dict(self.missing)}
        return {**head, **rest, "runs": runs}


def _lambda_region(stem: Dense, sizes: Sequence[int], branches: Sequence[Dense]) -> Region:
    def region(x: Any) -> Any:
        parts = Lambda(lambda h: tf.split(h, sizes, axis=1))(stem(x))
        return concatenate([branch(part) for branch, part in zip(branches, parts)])

    return region


def flights_model(width: int, form: str) -> keras.Model:
    """The seeds' asymmetric model, its three widths scaled from 8, 4 and 6."""
    features = len(data.flights().features)
    sizes = [width // 2, width // 2]
    stem, left, right = Dense(width), Dense(width // 2, "relu"), Dense(3 * width // 4, "relu")
    inputs = keras.Input((features,))
    if form == "lambda":
        outputs = Dense(1)(_lambda_region(stem, sizes, [left, right])(inputs))
    else:
        outputs = fused.region(stem, [left, right], split=sizes, head=Dense(1), backend=form)(inputs)
    return keras.Model(inputs, outputs)


LATENT = 8


def digits_model(width: int, form: str) -> keras.Model:
    """An autoencoder whose code is drawn as in a VAE, with noise that is a fixed function of the input.

    The encoder is the fused region: one hidden layer, split in two, a Dense to the mean and one to the
    log-variance. Two models that sample at random could not be compared step by step, hence the noise.
    """
    stem, mean, spread = Dense(width, "relu"), Dense(LATENT), Dense(LATENT)
    sizes = [width // 2, width // 2]
    inputs = keras.Input((64,))
    if form == "lambda":
        code = _lambda_region(stem, sizes, [mean, spread])(inputs)
    else:
        code = fused.region(stem, [mean, spread], split=sizes, head=None, backend=form)(inputs)
    mu, log_variance = code[:, :LATENT], code[:, LATENT:]
    directions = np.random.default_rng(5).standard_normal((64, LATENT)).astype("float32")
    noise = keras.ops.sin(20.0 * keras.ops.matmul(inputs, directions))
    z = mu + keras.ops.exp(0.5 * log_variance) * noise
    image = Dense(64, "sigmoid", name="image")(Dense(width, "relu")(z))
    return keras.Model(inputs, {"image": image, "code": code})


def _divergence(_: Any, code: Any) -> Any:
    """Kullback-Leibler divergence of the code from a standard normal, per image."""
    mu, log_variance = code[:, :LATENT], code[:, LATENT:]
    return -0.5 * keras.ops.sum(1 + log_variance - mu**2 - keras.ops.exp(log_variance), axis=-1)


def _compile(model: keras.Model, jit: bool) -> None:
    loss: Any = "mse"
    weights = None
    if len(model.outputs) > 1:
        loss, weights = {"image": "binary_crossentropy", "code": _divergence}, {"image": 64.0, "code": 1.0}
    model.compile(keras.optimizers.Adam(1e-3), loss, loss_weights=weights, jit_compile=jit)


def _targets(model: keras.Model, y: np.ndarray) -> Any:
    if len(model.outputs) == 1:
        return y
    return {"image": y, "code": np.zeros((*y.shape[:-1], 2 * LATENT), "float32")}


class _Trainee:
    """One contestant's model, its batches, and what has been seen of it so far."""

    def __init__(self, task: Task, contestant: Contestant, weights: list[np.ndarray] | None):
        self.task = task
        self.model = task.build(contestant.form)
        if weights is not None:
            self.model.set_weights(weights)
        _compile(self.model, contestant.jit)
        rows = task.steps * task.batch
        # Batches are laid out once: what is timed is the training step, not the slicing of its input.
        x, y = (a[:rows].reshape(task.steps, task.batch, -1) for a in task.dataset[:2])
        batches = tf.data.Dataset.from_tensor_slices((x, _targets(self.model, y)))
        self.batches = batches.repeat().prefetch(2)
        self.curve: list[float] = []
        self.epochs: list[float] = []

    def epoch(self) -> None:
        steps = max(1, self.task.epoch_steps // POINTS)
        start = time.perf_counter()
        history = self.model.fit(self.batches, epochs=POINTS, steps_per_epoch=steps, shuffle=False, verbose=0)
        self.epochs.append(time.perf_counter() - start)
        self.curve += history.history["loss"]

    def finish(self) -> Run:
        """The loss on the test rows is taken eagerly: `evaluate` would compile one more function for one call."""
        x, y = self.task.dataset.x_test, _targets(self.model, self.task.dataset.y_test)
        loss = self.model.compute_loss(x=x, y=y, y_pred=self.model(x, training=False), training=False)
        return Run(tuple(self.curve), tuple(self.epochs[1:]), float(loss))


def train(task: Task, timed_epochs: int, contestants: Sequence[Contestant] = CONTESTANTS) -> Iterator[Outcome | None]:
    """Trains the contestants; yields None after each epoch of each, and the outcome at last."""
    trainees: dict[str, _Trainee] = {}
    missing = {}
    weights = None
    keras.utils.set_random_seed(1)
    for contestant in contestants:
        try:
            if contestant.form != "lambda":
                fused.require_backend(contestant.form, contestant.jit)
        except ProviderUnavailable as error:
            missing[contestant.name] = str(error)
            continue
        trainees[contestant.name] = _Trainee(task, contestant, weights)
        weights = weights or trainees[contestant.name].model.get_weights()
    for _ in range(1 + timed_epochs):
        for trainee in trainees.values():
            trainee.epoch()
            yield None
    rows = task.batch * POINTS * max(1, task.epoch_steps // POINTS)
    yield Outcome(task.name, rows, task.batch, {n: t.finish() for n, t in trainees.items()}, missing)


def tasks(quick: bool) -> list[Task]:
    """The runs, smallest first."""
    flights = data.flights()
    if quick:
        flights = flights._replace(x_train=flights.x_train[:65536], y_train=flights.y_train[:65536])
    result = [
        Task(f"flights {width}", flights, 512, 1, functools.partial(flights_model, width))
        for width in ((64,) if quick else (8, 256))
    ]
    passes = 10 if quick else 20
    result.append(Task("digits VAE 128", data.digits(), 128, passes, lambda form: digits_model(128, form)))
    return result
