"""The race for a trained model's answer: every peer computes what Keras does, and losing cells are marked."""

from __future__ import annotations

import io

import numpy as np
import pytest

pytest.importorskip("rich")
pytest.importorskip("matplotlib")

import matplotlib.pyplot
from race import inference
from race.inference import contest, keras_programs, plans, plots, tables
from race.inference.numpy_peer import NumPy
from race.inference.subjects import Subject, draw
from rich.console import Console

from fusedsplit.bench.harness import Timing
from fusedsplit.bench.ladder import Cell
from fusedsplit.bench.program import ProviderUnavailable
from fusedsplit.plan import Plan, Range, Row, Value

# One split, one mixture, one LayerNormalization with an elu; BatchNormalization with sliced sigmoids and two outputs.
_SUBJECTS = ("seed2", "mmoe", "grn", "tabnet_step")
_NEEDS = {"litert": "ai_edge_litert", "onnxruntime": "onnxruntime", "openvino": "openvino", "jax": "jax"}
_NEEDS |= {"torch": "torch", "numpy": "numpy"}


@pytest.fixture(scope="module", params=_SUBJECTS)
def subject(request: pytest.FixtureRequest) -> Subject:
    return keras_programs.subject(request.param)


@pytest.mark.parametrize("name", _NEEDS)
def test_a_peer_computes_what_keras_does(subject: Subject, name: str, start) -> None:
    peer = start(*inference.PEERS[name], needs=_NEEDS[name])
    assert peer.ask("load", subject) == {}
    rows = subject.rows(5)
    exact = keras_programs.exact(subject)(rows)
    for outputs in peer.ask("prepare", rows).values():
        assert contest.error_of(outputs, exact) < 1e-5
    assert [name] == [form for form in peer.ask("names") if not form.endswith("-arrays")]


def test_the_predictor_computes_what_keras_does(subject: Subject, start) -> None:
    try:
        peer = start(*inference.PEERS["predictor"])
    except ProviderUnavailable as reason:
        pytest.skip(str(reason))
    peer.ask("load", subject)
    rows = subject.rows(5)
    exact = keras_programs.exact(subject)(rows)
    outputs = peer.ask("prepare", rows)
    assert {*outputs} == {f"{n}{s}" for n in (inference.PREDICTOR, inference.FOLDED) for s in ("", "-arrays")}
    assert all(contest.error_of(ys, exact) < 1e-5 for ys in outputs.values())


def test_the_tensorflow_forms_agree() -> None:
    from race.inference.tensorflow_peer import TensorFlow

    for name in ("seed2", "mmoe"):
        subject = keras_programs.subject(name)
        peer = TensorFlow()
        missing = peer.load(subject)
        assert "einsum" in missing  # two shapes of branches
        rows = subject.rows(3)
        outputs = peer.prepare(rows)
        exact = keras_programs.exact(subject)(rows)
        assert {"keras", "keras-xla", "hand-graph", "hand-concrete", "hand-xla"} <= set(outputs)
        assert {name: e for name, y in outputs.items() if (e := contest.error_of(y, exact)) > 1e-5} == {}


def test_what_draws_numbers_is_no_subject() -> None:
    with pytest.raises(ProviderUnavailable, match="vae is not one region"):
        keras_programs.subject("vae")


class _Counting(plans.Vocabulary):
    """Rows as lists of column names; each operation is noted."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def split(self, x, sizes):
        self.done.append(f"split {sizes}")
        ends = np.cumsum(sizes)
        return [x[end - size : end] for end, size in zip(ends, sizes)]

    def columns(self, x, start, stop):
        self.done.append(f"columns {start}:{stop}")
        return x[start:stop]

    def concat(self, parts):
        self.done.append(f"concat of {len(parts)}")
        return sum(parts, [])

    def row(self, op, x, epsilon):
        return x


def _plan(reads: list[tuple[int, int]]) -> Plan:
    """Rows over ranges of an input of six columns, one behind the other in the output."""
    width = sum(stop - start for start, stop in reads)
    steps, at = [], 0
    for start, stop in reads:
        steps.append(Row("softmax", Range(0, start, stop), Range(1, at, at + stop - start)))
        at += stop - start
    return Plan((Value(6, "input"), Value(width, "output")), (), tuple(steps)).validate()


@pytest.mark.parametrize(
    ("reads", "operations"),
    [
        ([(0, 6)], []),
        ([(0, 2), (2, 6)], ["split [2, 4]", "concat of 2"]),
        ([(0, 3), (2, 6)], ["columns 0:3", "columns 2:6", "concat of 2"]),  # they overlap: no split
        ([(1, 2), (0, 6)], ["columns 1:2", "concat of 2"]),
    ],
)
def test_a_plan_takes_as_few_operations_as_its_ranges_need(reads, operations) -> None:
    vocabulary = _Counting()
    columns = list("abcdef")
    (output,) = plans.compute(_plan(reads), vocabulary, [columns], [])
    assert output == [c for start, stop in reads for c in columns[start:stop]]
    assert vocabulary.done == operations


def test_an_activation_that_is_not_written_is_a_reason() -> None:
    from fusedsplit.plan import Activation

    with pytest.raises(ProviderUnavailable, match="softsign is not written"):
        plans.Vocabulary().activate(Activation("softsign"), None)


def test_weights_are_those_of_a_trained_model() -> None:
    kernel, gamma, variance = draw([np.zeros((2, 2), "float32"), np.ones(3, "float32"), np.ones(3, "float32")])
    assert not kernel.any() and (gamma != 1).all() and (variance > 0).all() and gamma.dtype == np.float32


def test_errors_and_disagreements() -> None:
    truth = [np.array([[1.0, 2.0]]), np.array([[4.0]])]
    assert contest.error_of([truth[0], np.array([[4.4]])], truth) == pytest.approx(0.1)
    assert contest.error_of([truth[0]], truth) == float("inf")
    found = contest.disagreements({"keras": 1e-5, "a": 3e-5, "b": 5e-5, "c": float("nan"), "d": float("inf")})
    assert [name for name, text in found.items() if text] == ["b", "c", "d"]
    assert "at most 1.0e-05" in contest.disagreements({"a": 2e-5})["a"]  # without Keras the floor counts


def _timing(us: float) -> Timing:
    return Timing(tuple(us * 1e-6 * factor for factor in (0.9, 1.0, 1.1)), 5)


def _cell(batch: int, **us: float) -> Cell:
    timings = {name.replace("_", "-"): _timing(value) for name, value in us.items()}
    problems = {**dict.fromkeys(timings, ""), "jax": "expected … Received: …"}
    return Cell("med", batch, "forward", 10**6, timings, problems)


def _text(table) -> str:
    console = Console(file=io.StringIO(), width=170)
    console.print(table)
    return console.file.getvalue()


def test_losing_cells_are_marked() -> None:
    won = _cell(1, predictor=1, predictor_arrays=0.5, litert=2, op_eager=7)
    lost = _cell(32, predictor=8, predictor_fold=3, litert=4, op_eager=9)
    assert tables.best_peer(won) == "litert" and tables.ahead(won, "predictor") == pytest.approx(2)
    assert not tables.is_lost(won) and tables.is_lost(lost)
    assert tables.is_lost(_cell(1, litert=2, op_eager=7)) and not tables.is_lost(_cell(1, litert=9, op_eager=7))
    text = _text(tables.summary_table([won, lost]))
    assert "2.00x" in text and "0.50x" in text and "1.33x" in text and "lost" in text and "1 lost" in text
    text = _text(tables.subject_table([won, lost]))
    assert "2.00 (1.80-2.20)" in text and "0.50 (0.45-0.55) *" in text and "wrong" in text


def test_pictures() -> None:
    cells = [_cell(batch, predictor=batch, litert=2 * batch, keras=100) for batch in (1, 32)]
    floors = {"tf.function, one add": _timing(80)}
    for figure in (plots.times(cells, floors, 5e11, "a machine"), plots.rates(cells, 5e11, "a machine")):
        labels = [text.get_text() for text in figure.legends[0].get_texts()]
        assert labels[:3] == ["Predictor", "LiteRT", "Keras in a graph"] and any("best product" in t for t in labels)
        matplotlib.pyplot.close(figure)


def test_numpy_is_timed_like_all_others() -> None:
    peer = NumPy()
    peer.load(keras_programs.subject("seed2"))
    peer.prepare(peer.subject.rows(4))
    repetitions = peer.repetitions("numpy", 1e-4)
    assert repetitions >= 1 and 0 < peer.sample("numpy", repetitions) < 1
