"""Training runs: the fused forms follow the Lambda program, and a curve that does not is found."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest

pytest.importorskip("pandas")
pytest.importorskip("sklearn")

from fusedsplit.bench import data, training
from fusedsplit.bench.training import Outcome, Run


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    digits = data.digits()
    small = digits._replace(x_train=digits.x_train[:640], y_train=digits.y_train[:640])
    task = training.Task("small", small, 32, 1, lambda form: training.digits_model(16, form))
    *epochs, outcome = training.train(task, timed_epochs=1)
    assert epochs == [None] * (2 * len(outcome.runs)) and outcome is not None
    return outcome


def test_loss_curves_agree(outcome: Outcome) -> None:
    assert set(outcome.runs) | set(outcome.missing) == {c.name for c in training.CONTESTANTS}
    assert {"lambda", "lambda-xla"} <= set(outcome.runs)
    assert not outcome.problems
    for run in outcome.runs.values():
        assert len(run.curve) == 2 * training.POINTS and len(run.epochs) == 1
        assert run.curve[-1] < run.curve[0]
    assert outcome.rows_per_epoch == 640


def test_a_curve_that_differs_is_found(outcome: Outcome) -> None:
    run = outcome.runs["lambda-xla"]
    for curve, what in (
        ((1.001 * run.curve[0], *run.curve[1:]), "first point"),
        ((*run.curve[:-1], np.nan), "curves"),
    ):
        wrong = dataclasses.replace(outcome, runs={**outcome.runs, "lambda-xla": dataclasses.replace(run, curve=curve)})
        assert what in wrong.problems["lambda-xla"]


def test_the_tolerance_has_a_ceiling() -> None:
    runs = {"lambda": Run((1.0,), (1.0,), 1.0), "lambda-xla": Run((1.0,), (1.0,), 1.5)}
    outcome = Outcome("x", 1, 1, runs, {})
    assert outcome.tolerance == training.CEILING and "lambda-xla" in outcome.problems


@pytest.mark.parametrize("build", [training.flights_model, training.digits_model])
def test_the_programs_exchange_weights(build) -> None:
    keras.utils.set_random_seed(0)
    model, fused = build(8, "lambda"), build(8, "tf")
    assert not any(isinstance(layer, keras.layers.Lambda) for layer in fused.layers)
    fused.set_weights(model.get_weights())
    x = np.random.default_rng(0).standard_normal((5, model.input_shape[-1])).astype("float32")
    for a, b in zip(keras.tree.flatten(model(x)), keras.tree.flatten(fused(x))):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
