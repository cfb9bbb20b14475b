"""What a step costs, program by program; us against Keras and against JAX."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from fusedsplit.bench import report
from fusedsplit.bench.harness import Timing, geometric_mean
from race.training import BASELINE, NATIVE, SCAN, WHAT
from race.training.contest import Cell

_FUSED = "fused-keras"


def duration(timing: Timing) -> str:
    """The median in microseconds or milliseconds, and how far the rounds lie from it."""
    us = 1e6 * timing.median
    spread = max(timing.worst - timing.median, timing.median - timing.best) / timing.median
    text = f"{us / 1e3:.1f} ms" if us >= 1e4 else f"{us:,.0f}" if us >= 100 else f"{us:.1f}"
    return f"{text} ±{100 * spread:.0f}%"


def table(cells: Sequence[Cell], title: str) -> Table:
    """A line for each cell, a column for each program, and how many times faster ours is than Keras and JAX."""
    result = Table(title=title)
    names = [name for name in WHAT if any(name in cell.timings or name in cell.losses for cell in cells)]
    ours = NATIVE if any(NATIVE in cell.timings for cell in cells) else _FUSED
    result.add_column("what")
    for name in names:
        result.add_column(name, justify="right")
    against = [base for base in (BASELINE, SCAN) if base in names and ours in names]
    for base in against:
        result.add_column(f"{ours}\nover {base}", justify="right")
    for cell in cells:
        row: list[str | Text] = [f"{cell.task}, {cell.batch}" if cell.batch else f"{cell.task}: {cell.what}"]
        row += [_entry(cell, name) for name in names]
        row += [report.ratio_text(cell.ratio(ours, base)) for base in against]
        result.add_row(*row)
    if len(cells) > 1 and against:
        means = [geometric_mean(r for r in (c.ratio(ours, b) for c in cells) if not math.isnan(r)) for b in against]
        result.add_row("geometric mean", *[""] * len(names), *map(report.ratio_text, means))
    return result


def _entry(cell: Cell, name: str) -> Text:
    if name in cell.timings:
        return Text(duration(cell.timings[name]))
    wrong = name in cell.problems
    return Text("wrong" if wrong else "-", style="red" if wrong else "dim")
