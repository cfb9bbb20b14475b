"""The race for a training step: every program trains as Keras does, and one that does not is found."""

from __future__ import annotations

import importlib
import io
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rich")
pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")

import matplotlib.pyplot
from race import training
from race.training import contest, plots, tables
from race.training.contest import Cell
from race.training.task import Flights, Iris
from race.training.trainee import EPOCH
from rich.console import Console

from fusedsplit.bench.harness import Timing
from fusedsplit.bench.program import ProviderUnavailable
from fusedsplit.loops import _keras_private as private

_STEPS = 12


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Flights:
    folder: Path = tmp_path_factory.mktemp("flights")
    rng = np.random.default_rng(0)
    for suffix, rows in (("", 400), ("_test", 300)):
        x = rng.standard_normal((rows, 11), "float32")
        np.save(folder / f"x{suffix}.npy", x)
        np.save(folder / f"y{suffix}.npy", np.tanh(x[:, :1]) + x[:, 1:2] * x[:, 2:3])
    return Flights(8, 32, folder, 400)


def _trainee(name: str):
    target = training.TRAINEES[name][0]
    module, _, kind = target.partition(":")
    return getattr(importlib.import_module(module), kind)()


def _keras(name: str, task: Flights):
    trainee = _trainee(name)
    trainee.flights(task)
    return trainee


@pytest.fixture(scope="module")
def keras_loss(task: Flights) -> float:
    return task.loss(_keras("keras", task).train(_STEPS))


def test_the_loss_is_keras_own(task: Flights) -> None:
    trainee = _keras("keras", task)
    x, y = task.test()
    assert task.loss(task.weights()) == pytest.approx(trainee.model.evaluate(x, y, verbose=0), rel=1e-5)
    assert task.loss(trainee.train(_STEPS)) < 0.999 * task.loss(task.weights())


@pytest.mark.parametrize("name", ["keras-64-jit", "fused-keras"])
def test_a_trainee_trains_as_keras_does(task: Flights, keras_loss: float, name: str) -> None:
    if name == "keras-64-jit" and private.counts_steps_past_the_end():
        pytest.skip("this Keras writes an execution's steps out one by one, and TensorFlow refuses 64")
    trainee = _keras(name, task)
    loss = task.loss(trainee.train(_STEPS))
    assert contest.disagreements({"keras": keras_loss, name: loss}) == {}
    assert trainee.units[EPOCH] == task.steps == 12
    trainee.calls[EPOCH]()


@pytest.mark.parametrize("name", ["keras-jax", "jax-step", "jax-scan", "torch"])
def test_so_does_another_framework(task: Flights, keras_loss: float, name: str, start) -> None:
    trainee = start(*training.TRAINEES[name], needs="torch" if name == "torch" else "jax")
    trainee.ask("flights", task)
    loss = task.loss(trainee.ask("train", _STEPS))
    assert contest.disagreements({"keras": keras_loss, name: loss}) == {}
    assert trainee.ask("sample", EPOCH, 1) > 0


def test_what_is_not_built_is_a_reason(task: Flights) -> None:
    try:
        _keras("fused-native", task)
    except ProviderUnavailable as reason:
        assert "loop" in str(reason)


def test_calls_and_iris(task: Flights) -> None:
    trainee = _keras("keras", task)
    assert len(trainee.names()) == 6
    for name in trainee.names()[1:]:
        trainee.calls[name]()
    trainee.iris(Iris())
    assert len(trainee.names()) == 3 and trainee.first_epoch() > 0
    mlp = _trainee("scikit-learn")
    mlp.iris(Iris())
    mlp.calls[EPOCH]()
    with pytest.raises(ProviderUnavailable, match="cannot express"):
        mlp.flights(task)


def test_a_loss_that_differs_is_found() -> None:
    losses = {"keras": 0.9, "jax-scan": 0.9001, "torch": 0.95, "fused-native": float("nan")}
    assert list(contest.disagreements(losses)) == ["torch", "fused-native"]
    assert contest.disagreements({"torch": 0.9}) == {}


def _timing(us: float) -> Timing:
    return Timing(tuple(us * 1e-6 * factor for factor in (0.9, 1.0, 1.1)), 1)


def test_the_table_says_who_wins() -> None:
    timings = {"keras": _timing(500), "fused-native": _timing(4), "jax-scan": _timing(10)}
    cell = Cell("F(8)", "a step of fit", 32, timings, {"keras": 1.0, "torch": 2.0})
    assert cell.ratio("fused-native", "keras") == pytest.approx(125) and np.isnan(cell.ratio("torch", "keras"))
    console = Console(file=io.StringIO(), width=170)
    console.print(tables.table([cell], "steps"))
    text = console.file.getvalue()
    for word in ("F(8), 32", "500 ±10%", "4.0 ±10%", "125.00x", "2.50x", "wrong"):
        assert word in text
    assert cell.as_json()["timings"]["keras"]["median_us"] == pytest.approx(500)


def test_every_trainee_is_explained() -> None:
    assert list(training.WHAT) == list(training.TRAINEES)


def test_the_picture() -> None:
    timings = {"keras": _timing(500), "fused-native": _timing(2)}
    cells = [Cell(f"F({units})", "a step of fit", batch, timings) for units in (8, 64) for batch in (512, 32)]
    figure = plots.steps(cells, "a machine")
    assert [ax.get_title() for ax in figure.axes if ax.get_visible()] == ["F(8)", "F(64)"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["fs.fuse(model).fit", "Keras fit"]
    assert list(figure.axes[0].lines[0].get_ydata()) == pytest.approx([2, 2])
    matplotlib.pyplot.close(figure)
