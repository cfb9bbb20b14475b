"""Training runs: the fused model follows the Lambda program, and a curve that does not is found."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest

pytest.importorskip("pandas")
pytest.importorskip("sklearn")

import fusedsplit as fs
from fusedsplit.bench import data, training
from fusedsplit.bench.training import Outcome, Run

_LOSS = "sparse_categorical_crossentropy"


@pytest.fixture(scope="module", params=[1, training.POINTS])
def outcome(request: pytest.FixtureRequest) -> Outcome:
    digits = data.digits()
    small = digits._replace(x_train=digits.x_train[:650], y_train=digits.y_train[:650])
    build = functools.partial(training.digits_model, 16)
    task = training.Task("small", small, 32, build, _LOSS, ("accuracy",), passes=request.param)
    *epochs, outcome = training.train(task, timed_epochs=2)
    assert epochs == [None] * (3 * len(outcome.runs)) and outcome is not None
    assert outcome.steps == 20 * request.param
    return outcome


def test_loss_curves_agree(outcome: Outcome) -> None:
    assert set(outcome.runs) | set(outcome.missing) == {c.name for c in training.CONTESTANTS}
    assert {"lambda", "fused-keras"} <= set(outcome.runs)
    assert not outcome.problems
    for name, run in outcome.runs.items():
        assert len(run.curve) == training.POINTS and len(run.epochs) == 2 and run.first > 0
        assert run.curve[-1] < run.curve[0]
        assert outcome.samples_per_second(name) == pytest.approx(32 * outcome.steps / run.epoch)


def test_a_curve_that_differs_is_found(outcome: Outcome) -> None:
    run = outcome.runs["fused-keras"]
    for curve, what in (
        ((1.001 * run.curve[0], *run.curve[1:]), "first point"),
        ((*run.curve[:-1], np.nan), "curves"),
    ):
        runs = {**outcome.runs, "fused-keras": dataclasses.replace(run, curve=curve)}
        wrong = dataclasses.replace(outcome, runs=runs)
        assert what in wrong.problems["fused-keras"]


def test_a_test_loss_that_differs_is_found() -> None:
    runs = {"lambda": Run((1.0,), 1.0, 1.0, (1.0,)), "fused-native": Run((1.0,), 1.5, 0.1, (0.25,))}
    outcome = Outcome("x", 32, 100, runs, {})
    assert "loss curves" in outcome.problems["fused-native"]
    assert outcome.speedup("fused-native") == 4 and outcome.step("fused-native") == 0.0025


def test_an_epoch_is_bounded() -> None:
    flights = data.Dataset(np.zeros((300_000, 2)), np.zeros((300_000, 1)), np.zeros(0), np.zeros(0), ())
    steps = {batch: training.Task("x", flights, batch, training.digits_model, "mse").steps for batch in (32, 512)}
    assert steps == {32: 1024, 512: 256}


@pytest.mark.parametrize("build", [training.flights_model, training.digits_model])
def test_the_models_are_one_region(build) -> None:
    assert [len(fs.fuse(build(8)).schedule(training).items) for training in (False, True)] == [1, 1]
