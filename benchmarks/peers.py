"""A trained model's answer by every runtime there is for it: outputs checked first, then interleaved rounds.

    python benchmarks/peers.py [--only NAME ...] [--batches 1 32 512 4096] [--peers NAME ...] [--rounds 7]

The ladder, its twins whose stem is a relu, and real architectures; by the package's Predictor and op, LiteRT, ONNX
Runtime, OpenVINO, JAX, PyTorch, NumPy, Keras, hand-written TensorFlow and an einsum. Each peer runs in a process of its
own, all with the same number of threads, each in the cheapest way of a call that its interface has. What is not
installed is skipped with a line. Losing cells are printed like winning ones; the exit code says only whether every
output was right.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the package that this program lies beside

from race import panels, program, versions
from race.field import Field
from race.inference import PEERS, keras_programs, plots, tables
from race.inference.contest import Contest
from rich.console import Console

from fusedsplit.bench import cases, conditions
from fusedsplit.bench.architectures import ARCHITECTURES
from fusedsplit.bench.harness import Timing
from fusedsplit.bench.ladder import Cell
from fusedsplit.bench.program import ProviderUnavailable

# An architecture's answer to thousands of rows takes seconds.
_ARCHITECTURE_BATCHES = tuple(b for b in cases.BATCHES if b <= 512)
_PACKAGES = ("ai-edge-litert", "onnxruntime", "openvino", "jax", "torch", "numpy", "tensorflow", "keras")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [*keras_programs.CASES, *ARCHITECTURES]
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--batches", type=int, nargs="+", help="default: 1 32 512 4096; of architectures up to 512")
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS), metavar="NAME", help=", ".join(PEERS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2, help="of every peer (default: 2)")
    parser.add_argument(
        "--callers", type=int, default=8, help="threads that call one Predictor at once (0: not measured)"
    )
    parser.add_argument("--patience", type=float, default=60.0, help="seconds that a peer may take to get ready")
    parser.add_argument("--out", type=Path, default=Path("bench-out"), help="where the JSON and PNG files go")
    return parser.parse_args()


class Race:
    """One run: what has been measured so far."""

    def __init__(self, field: Field, console: Console, callers: int):
        self.field, self.console, self.callers = field, console, callers
        self.cells: list[Cell] = []
        self.together: dict[tuple[str, int], dict[str, dict[str, Timing]]] = {}
        self.floors: dict[str, Timing] = {}
        self.ceiling = 0.0

    def run(self, names: Sequence[str], batches: Sequence[int] | None, rounds: int) -> None:
        tensorflow = self.field.peers.get("tensorflow")
        if tensorflow is not None:
            self.floors = tensorflow.ask("floors")
        for name in names:
            try:
                contest = Contest(self.field, keras_programs.subject(name))
            except ProviderUnavailable as error:
                self.field.miss(name, error)
                continue
            default = cases.BATCHES if name in keras_programs.CASES else _ARCHITECTURE_BATCHES
            mine = []
            for batch in batches or default:
                mine.append(contest.measure(batch, rounds))
                if self.callers and "predictor" in contest.loaded:
                    found = contest.loaded["predictor"].ask("together", self.callers, rounds)
                    self.together[name, batch] = found
                self.console.print(f"{name}, batch {batch}: measured", style="dim")
            self.cells += mine
            self.console.print(tables.subject_table(mine))
            if tensorflow is not None:  # A machine has no one rate: the best of the whole run counts.
                self.ceiling = max(self.ceiling, self.field.peers["tensorflow"].ask("ceiling"))

    def as_json(self) -> dict[str, Any]:
        return {
            "conditions": conditions.collect(),
            "threads": self.field.threads,
            "versions": versions(_PACKAGES),
            "floors": {name: timing.as_json() for name, timing in self.floors.items()},
            "ceiling_gflops": self.ceiling / 1e9,
            "missing": self.field.missing,
            "lost": [f"{cell.case} {cell.batch}" for cell in self.cells if tables.is_lost(cell)],
            "callers": self.callers,
            "together": {
                f"{name} {batch}": {form: {how: t.as_json() for how, t in by.items()} for form, by in forms.items()}
                for (name, batch), forms in self.together.items()
            },
            "cells": [cell.as_json() for cell in self.cells],
        }

    def write(self, out: Path) -> None:
        """The JSON file and the pictures: all forms, and the runtimes alone on the ladder."""
        out.mkdir(parents=True, exist_ok=True)
        data = self.as_json()
        (out / "peers.json").write_text(json.dumps(data, indent=1) + "\n")
        subtitle = f"{data['conditions']['cpu']}, {self.field.threads} threads for all, float32; " + ", ".join(
            f"{name} {version}" for name, version in data["versions"].items()
        )
        panels.save(plots.times(self.cells, self.floors, self.ceiling, subtitle), out / "peers_time.png")
        panels.save(plots.rates(self.cells, self.ceiling, subtitle), out / "peers_rate.png")
        ladder = [cell for cell in self.cells if cell.case in cases.LADDER]
        if ladder:
            cpu = f"{data['conditions']['cpu']}, {self.field.threads} threads for all, float32, medians"
            panels.save(plots.runtimes(ladder, self.ceiling, cpu), out / "predictor.png")
        self.console.print(f"Written into {out}: peers.json and the pictures")


def main() -> int:
    args = _arguments()
    console = program.begin()
    field = program.contestants(console, args.peers, PEERS, args.threads, args.patience)
    race = Race(field, console, args.callers)
    try:
        race.run(args.only, args.batches, args.rounds)
    finally:
        field.close()
    if race.cells:
        console.print(tables.floors_table(race.floors, race.ceiling))
        console.print(tables.summary_table(race.cells))
        if race.together:
            console.print(tables.together_table(race.together, args.callers))
        race.write(args.out)
    return program.end(
        console,
        (f"{c.case} {c.batch}, {name}: {text}" for c in race.cells for name, text in c.problems.items() if text),
    )


if __name__ == "__main__":
    sys.exit(main())
