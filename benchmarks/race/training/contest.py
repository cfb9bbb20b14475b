"""A task trained by every program: final losses compared first, then interleaved rounds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from fusedsplit.bench.harness import Timing
from fusedsplit.bench.program import ProviderUnavailable
from race.field import Field, Form
from race.training import BASELINE, TRAINEES
from race.training.task import Flights, Iris
from race.training.trainee import EPOCH

# Steps that are compared, and how far the test loss may then be from Keras'.
CHECKED_STEPS, TOLERANCE = 256, 1e-3
# A sample of a call that is not an epoch lasts at least this long.
_MIN_SAMPLE = 20e-3


@dataclasses.dataclass(frozen=True)
class Cell:
    """One thing that is waited for.

    Attributes:
        task: its name.
        what: is done with it.
        batch: rows of a step, of a step of fit; else 0.
        timings: by trainee, seconds a unit.
        losses: by trainee, on the test rows after the checked steps.
    """

    task: str
    what: str
    batch: int
    timings: Mapping[str, Timing]
    losses: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def problems(self) -> dict[str, str]:
        return disagreements(self.losses)

    def ratio(self, name: str, base: str) -> float:
        """How many times faster `name` is than `base`; NaN where one of them was not timed."""
        if name not in self.timings or base not in self.timings:
            return float("nan")
        return self.timings[base].median / self.timings[name].median

    def as_json(self) -> dict[str, Any]:
        head = {"task": self.task, "what": self.what, "batch": self.batch, "losses": dict(self.losses)}
        timings = {name: timing.as_json() for name, timing in self.timings.items()}
        return {**head, "problems": self.problems, "timings": timings}


def disagreements(losses: Mapping[str, float]) -> dict[str, str]:
    """Whose final loss is not that of Keras' fit, and by how much; those that agree are not in it."""
    base = losses.get(BASELINE)
    if base is None:
        return {}
    found = {}
    for name, loss in losses.items():
        difference = abs(loss - base) / abs(base)
        if not difference <= TOLERANCE:  # NaN does not agree.
            found[name] = f"expected a test loss within {TOLERANCE:.0e} of Keras'. Received: {difference:.1e}"
    return found


def _ready(field: Field, method: str, task: Any, where: str) -> list[str]:
    """Those that have loaded the task."""
    names = []
    field.revive()
    for name, peer in field.peers.items():
        try:
            peer.ask(method, task)
            names.append(name)
        except ProviderUnavailable as error:
            field.miss(f"{where}, {name}", error)
    return [name for name in TRAINEES if name in names]


def flights(field: Field, task: Flights, rounds: int) -> Cell:
    """A step of F(U): those whose final loss is Keras' are timed."""
    where = f"{task.name} {task.batch}"
    losses = {}
    steps = min(CHECKED_STEPS, task.steps)
    for name in _ready(field, "flights", task, task.name):
        try:
            losses[name] = task.loss(field.peers[name].ask("train", steps))
        except ProviderUnavailable as error:
            field.miss(f"{where}, {name}", error)
    right = [name for name in losses if name not in disagreements(losses)]
    timings = field.race({name: Form(field.peers[name], EPOCH, once=True) for name in right}, where, rounds)
    return Cell(task.name, "a step of fit", task.batch, timings, losses)


def calls(field: Field, task: Flights, rounds: int) -> Iterator[Cell]:
    """What else is waited for with F(U)."""
    ready = {name: field.peers[name] for name in _ready(field, "flights", task, task.name)}
    yield from _cells(field, task.name, ready, rounds, lambda what: what != EPOCH)


def iris(field: Field, rounds: int) -> Iterator[Cell]:
    """Epochs of iris, and its first one after compile."""
    task = Iris()
    ready = {name: field.peers[name] for name in _ready(field, "iris", task, task.name)}
    yield from _cells(field, task.name, ready, rounds, lambda what: True)
    firsts: dict[str, Timing] = {}
    for name, peer in ready.items():
        try:
            firsts[name] = Timing(tuple(peer.ask("first_epoch") for _ in range(3)), 1)
        except ProviderUnavailable:
            continue
    yield Cell(task.name, "first epoch after compile", 0, firsts)


def _cells(
    field: Field, task: str, peers: Mapping[str, Any], rounds: int, wanted: Callable[[str], bool]
) -> Iterator[Cell]:
    """A cell for each call that somebody has."""
    offered = {name: peer.ask("names") for name, peer in peers.items()}
    for what in filter(wanted, dict.fromkeys(call for names in offered.values() for call in names)):
        forms = {name: Form(peers[name], what) for name in peers if what in offered[name]}
        yield Cell(task, what, 0, field.race(forms, f"{task}, {what}", rounds, _MIN_SAMPLE))
