"""What a run prints: tables of checks, training runs, the ladder and the merges, losing cells like winning ones."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fusedsplit.bench import conditions as conditions_module
from fusedsplit.bench import training
from fusedsplit.bench.harness import Timing, geometric_mean
from fusedsplit.bench.ladder import Cell
from fusedsplit.bench.providers import BASELINE, FUSED, OP, PLAIN
from fusedsplit.bench.training import Outcome

# Below that, a cell counts as lost: three percent are this harness' own noise.
_LOST, _WON = 0.97, 1.03
_MODES = {
    "forward": "forward, concrete function",
    "gradients": "forward + gradients of all weights, concrete function",
    "eager": "eager call",
    "fit": "fit, an epoch of 16 steps",
}
# Heading of a table, and what its speed-ups are over.
_SECTIONS = {
    "cells": ("", "Lambda program", BASELINE),
    "merges": ("merges, ", "unfused Keras model", BASELINE),
    "models": ("models, ", "plain Keras model", PLAIN),
}


@dataclasses.dataclass
class Results:
    """Everything that one run measured and checked."""

    conditions: dict[str, Any]
    floors: Mapping[str, Timing] = dataclasses.field(default_factory=dict)
    checks: dict[str, tuple[bool, str]] = dataclasses.field(default_factory=dict)
    training: list[Outcome] = dataclasses.field(default_factory=list)
    cells: list[Cell] = dataclasses.field(default_factory=list)
    merges: list[Cell] = dataclasses.field(default_factory=list)
    models: list[Cell] = dataclasses.field(default_factory=list)
    missing: dict[str, str] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0

    @property
    def all_cells(self) -> list[Cell]:
        return [*self.cells, *self.merges, *self.models]

    @property
    def problems(self) -> list[str]:
        """Every check that did not hold."""
        found = [f"check of {name}: {text}" for name, (ok, text) in self.checks.items() if not ok]
        found += [
            f"{o.task} at batch {o.batch}, {name}: {text}" for o in self.training for name, text in o.problems.items()
        ]
        for cell in self.all_cells:
            for name, text in cell.problems.items():
                if text:
                    found.append(f"{cell.case} at batch {cell.batch}, {name}: {text}")
        return list(dict.fromkeys(found))  # A cell's problems stand at each of its modes.

    @property
    def ok(self) -> bool:
        return not self.problems

    def as_json(self) -> dict[str, Any]:
        return {
            "ok": self.ok,
            "problems": self.problems,
            "seconds": self.seconds,
            "conditions": self.conditions,
            "floors": {name: timing.as_json() for name, timing in self.floors.items()},
            "checks": {name: {"ok": ok, "report": text} for name, (ok, text) in self.checks.items()},
            "missing": self.missing,
            "training": [outcome.as_json() for outcome in self.training],
            "ladder": [cell.as_json() for cell in self.cells],
            "merges": [cell.as_json() for cell in self.merges],
            "models": [cell.as_json() for cell in self.models],
        }

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(self.as_json(), indent=1) + "\n")


def microseconds(seconds: float) -> str:
    """Three significant digits, at most one decimal."""
    us = seconds * 1e6
    return f"{us:.1f}" if us < 100 else f"{us:,.0f}"


def ratio_text(ratio: float) -> Text:
    """A speed-up; red where it is a loss, green where it is a gain."""
    if math.isnan(ratio):
        return Text("-", style="dim")
    style = "red" if ratio < _LOST else "green" if ratio > _WON else ""
    return Text(f"{ratio:.2f}x", style=style)


def floors_table(floors: Mapping[str, Timing]) -> Table:
    table = Table(title="Floors: calls that compute nothing (us)")
    for name in ("call", "median", "min", "max"):
        table.add_column(name, justify="left" if name == "call" else "right")
    for name, t in floors.items():
        table.add_row(name, microseconds(t.median), microseconds(t.best), microseconds(t.worst))
    return table


def training_table(outcomes: Sequence[Outcome]) -> Table:
    table = Table(
        title="fit on real data: same initial weights; curves compared on the same batches, then timed shuffled"
    )
    table.add_column("model")
    table.add_column("batch", justify="right")
    table.add_column("program")
    for name in ("us/step", "(best-worst)", "samples/s", "speed-up", "first epoch s", "test loss", "curve differs by"):
        table.add_column(name, justify="right")
    for outcome in outcomes:
        for name, run in outcome.runs.items():
            base = name == training.BASELINE
            scale = outcome.step(name) / run.epoch
            spread = f"{microseconds(scale * min(run.epochs))}-{microseconds(scale * max(run.epochs))}"
            differs = Text("-" if base else f"{outcome.difference(name):.1e}")
            differs.stylize("red" if name in outcome.problems else "")
            table.add_row(
                outcome.task, str(outcome.batch), name, microseconds(outcome.step(name)), spread,
                f"{outcome.samples_per_second(name):,.0f}", ratio_text(outcome.speedup(name)),
                f"{run.first:.2f}", f"{run.test_loss:.6g}", differs,
            )  # fmt: skip
        table.add_section()
    return table


def provider_names(cells: Sequence[Cell]) -> list[str]:
    """Every provider with a timing, in the order of their first appearance."""
    return list(dict.fromkeys(name for cell in cells for name in cell.timings))


def ladder_table(cells: Sequence[Cell], mode: str, section: str = "cells") -> Table:
    """Times of every provider, then the speed-ups of the fused forms over the Lambda program."""
    cells = [cell for cell in cells if cell.mode == mode]
    names = provider_names(cells)
    ours = [name for name in names if name in FUSED]
    chosen = [name for name in ours if name in OP or section == "models"] or ours[-1:]
    what, base, baseline = _SECTIONS[section]
    table = Table(title=f"{what}{_MODES[mode]}: median us; speed-up over the {base} run likewise")
    table.add_column("case")
    table.add_column("batch", justify="right")
    for name in names:
        table.add_column(name, justify="right")
    for name in ours:
        table.add_column(f"{name} /\n{baseline}", justify="right")
    if ours:
        table.add_column(f"best {chosen[0]} /\nbest unfused", justify="right")
        table.add_column(f"best {chosen[0]}\nGFLOP/s", justify="right")
    for i, cell in enumerate(cells):
        times = [microseconds(cell.timings[n].median) if n in cell.timings else "-" for n in names]
        row: list[str | Text] = [cell.case, str(cell.batch), *times]
        row += [ratio_text(cell.speedup(n, baseline)) for n in ours]
        if ours:
            row += [ratio_text(versus_best(cell, chosen)), _rate(cell, chosen)]
        table.add_row(*row, end_section=i + 1 == len(cells) or cells[i + 1].case != cell.case)
    if ours:
        means = [geometric_mean(cell.speedup(n, baseline) for cell in cells if n in cell.timings) for n in ours]
        ratios = [versus_best(cell, chosen) for cell in cells]
        best = geometric_mean(ratio for ratio in ratios if not math.isnan(ratio))
        table.add_row("geometric mean", "", *("" for _ in names), *map(ratio_text, means), ratio_text(best), "")
    return table


def versus_best(cell: Cell, chosen: Sequence[str]) -> float:
    """The speed-up of the fastest of some fused forms over the fastest unfused program of this cell."""
    unfused = [t.median for name, t in cell.timings.items() if name not in FUSED]
    fused = [cell.timings[name].median for name in chosen if name in cell.timings]
    return min(unfused) / min(fused) if unfused and fused else math.nan


def _rate(cell: Cell, chosen: Sequence[str]) -> str:
    times = [cell.timings[name].median for name in chosen if name in cell.timings]
    if not times:
        return "-"
    rate = cell.flops / min(times) / 1e9
    return f"{rate:.0f}" if rate >= 10 else f"{rate:.2g}"


def show(results: Results, console: Console) -> None:
    """Prints the whole report."""
    console.rule("fusedsplit bench")
    console.print(conditions_module.title(results.conditions))
    for text in conditions_module.warnings(results.conditions):
        console.print(f"Note: {text}", style="yellow", markup=False)
    for name, text in results.missing.items():
        console.print(f"Not measured: {name}: {text}", style="yellow", markup=False)
    if results.training:
        console.print(training_table(results.training))
    if results.floors:
        console.print(floors_table(results.floors))
    for section in _SECTIONS:
        cells = getattr(results, section)
        for mode in _MODES:
            if any(cell.mode == mode for cell in cells):
                console.print(ladder_table(cells, mode, section))
    _show_checks(results, console)


def _show_checks(results: Results, console: Console) -> None:
    held = sum(ok for ok, _ in results.checks.values())
    cells = results.all_cells
    followed = sum(not outcome.problems for outcome in results.training)
    console.print(
        f"Checks: {held} of {len(results.checks)} layers equal to their reference; "
        f"outputs and gradients agree in {sum(cell.ok for cell in cells)} of {len(cells)} cells; "
        f"loss curves agree in {followed} of {len(results.training)} training runs."
    )
    for text in results.problems:
        console.print(text, style="red", markup=False)
    console.print("Every check held." if results.ok else "FAILED", style="bold green" if results.ok else "bold red")
