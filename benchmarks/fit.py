"""What a step of training costs: Keras' `fit`, the package's, and the best of JAX, PyTorch and scikit-learn.

    python benchmarks/fit.py [--units 8 64 256] [--batches 32 128 512] [--peers NAME ...] [--rounds 5] [--rows N]

F(U) on the flights: `Dense(U)` linear -> two halves -> `Dense(U/2, relu)`, `Dense(3U/4, relu)` -> concat -> `Dense(1)`;
mse, Adam, NumPy arrays. Then what else is waited for: a row's prediction, all flights', iris. Each program runs in a
process of its own with the same number of threads, and trains from the same weights; whose loss after some hundred
steps is not Keras' is not timed. What is not installed is skipped with a line. The exit code says only whether all
losses agreed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the package that this program lies beside

from race import panels, program, versions
from race.field import Field
from race.training import TRAINEES, WHAT, contest, plots, tables
from race.training.task import Flights, write_flights
from rich.console import Console

from fusedsplit.bench import conditions

SECTIONS = ("steps", "calls", "iris")
# Of the calls other than fit's, where the model is least and where it is largest; and who makes them.
_CALLS_BATCH = 32
_PACKAGES = ("tensorflow", "keras", "jax", "torch", "scikit-learn", "numpy")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", type=int, nargs="+", default=[8, 64, 256])
    parser.add_argument("--batches", type=int, nargs="+", default=[32, 128, 512])
    names = ", ".join(TRAINEES)
    parser.add_argument("--peers", nargs="+", choices=TRAINEES, default=list(TRAINEES), metavar="NAME", help=names)
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, help="train on so many rows (default: all 294,612)")
    parser.add_argument("--threads", type=int, default=2, help="of every program (default: 2)")
    parser.add_argument("--patience", type=float, default=180.0, help="seconds that an epoch may take")
    parser.add_argument("--out", type=Path, default=Path("bench-out"), help="where the JSON file and the picture go")
    return parser.parse_args()


class Run:
    """What has been measured so far."""

    def __init__(self, field: Field, console: Console, args: argparse.Namespace):
        self.field, self.console, self.args = field, console, args
        self.cells: list[contest.Cell] = []

    def _show(self, cells: list[contest.Cell], title: str) -> None:
        self.cells += cells
        if cells:
            self.console.print(tables.table(cells, title))

    def steps(self, folder: Path, rows: int) -> None:
        cells = []
        for units in self.args.units:
            for batch in self.args.batches:
                cells.append(contest.flights(self.field, Flights(units, batch, folder, rows), self.args.rounds))
                self.console.print(f"F({units}), batch {batch}: measured", style="dim")
        self._show(cells, f"A step of fit on {rows:,} flights: us, median ± the farthest round")

    def calls(self, folder: Path, rows: int) -> None:
        cells: list[contest.Cell] = []
        for units in dict.fromkeys((min(self.args.units), max(self.args.units))):
            task = Flights(units, _CALLS_BATCH, folder, rows)
            cells += contest.calls(self.field, task, self.args.rounds)
        self._show(cells, "What else is waited for: us, median ± the farthest round")

    def iris(self) -> None:
        cells = list(contest.iris(self.field, self.args.rounds))
        self._show(cells, "Iris, 150 rows in batches of 32: us an epoch, median ± the farthest round")

    def write(self) -> None:
        self.args.out.mkdir(parents=True, exist_ok=True)
        data = {
            "conditions": conditions.collect(),
            "threads": self.field.threads,
            "versions": versions(_PACKAGES),
            "programs": WHAT,
            "missing": self.field.missing,
            "cells": [cell.as_json() for cell in self.cells],
        }
        path = self.args.out / "fit.json"
        path.write_text(json.dumps(data, indent=1) + "\n")
        written = [path]
        steps = [cell for cell in self.cells if cell.batch]
        if steps:
            subtitle = f"{conditions.collect()['cpu']}, {self.field.threads} threads for all, float32, medians"
            written.append(self.args.out / "fit.png")
            panels.save(plots.steps(steps, subtitle), written[-1])
        self.console.print(f"Written: {', '.join(map(str, written))}")


def main() -> int:
    args = _arguments()
    console = program.begin()
    for name in args.peers:
        console.print(f"{name:<14} {WHAT[name]}", markup=False, highlight=False)
    field = program.contestants(console, args.peers, TRAINEES, args.threads, args.patience)
    run = Run(field, console, args)
    with tempfile.TemporaryDirectory() as folder:
        try:
            rows = write_flights(Path(folder), args.rows)
            if "steps" in args.sections:
                run.steps(Path(folder), rows)
            if "calls" in args.sections:
                run.calls(Path(folder), rows)
            if "iris" in args.sections:
                run.iris()
        finally:
            field.close()
    run.write()
    return program.end(
        console, (f"{c.task} {c.batch}, {name}: {text}" for c in run.cells for name, text in c.problems.items())
    )


if __name__ == "__main__":
    sys.exit(main())
