"""The race as tables: every form of a subject at every batch, and us against the best peer, cell by cell."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from fusedsplit.bench import report
from fusedsplit.bench.harness import Timing, geometric_mean
from fusedsplit.bench.ladder import Cell
from race.inference import FOLDED, OURS, PREDICTOR

# Three percent are the harness' own noise.
LOST = 0.97


def number(seconds: float) -> str:
    """Microseconds, three digits or so."""
    us = seconds * 1e6
    return f"{us:.2f}" if us < 10 else f"{us:.1f}" if us < 100 else f"{us:,.0f}"


def with_spread(timing: Timing) -> str:
    """The median, and the least and the greatest round."""
    return f"{number(timing.median)} ({number(timing.best)}-{number(timing.worst)})"


def is_ours(form: str) -> bool:
    return form.removesuffix("-arrays") in OURS


def best(cell: Cell, forms: Iterable[str]) -> str | None:
    """The fastest of some forms that were timed."""
    found = [form for form in forms if form in cell.timings]
    return min(found, key=lambda form: cell.timings[form].median) if found else None


def best_peer(cell: Cell) -> str | None:
    return best(cell, (form for form in cell.timings if not is_ours(form)))


def ahead(cell: Cell, form: str | None) -> float:
    """How many times faster than the best peer a form is; NaN where one of them was not timed."""
    peer = best_peer(cell)
    if peer is None or form not in cell.timings:
        return math.nan
    return cell.timings[peer].median / cell.timings[form].median


def best_op(cell: Cell) -> str | None:
    return best(cell, (form for form in OURS if form.startswith("op-")))


def subject_table(cells: Sequence[Cell]) -> Table:
    """All cells of one subject: a line for each form, the fastest of a batch in bold."""
    table = Table(title=f"{cells[0].case}: us a call, median (least-greatest); ours in green, the fastest marked *")
    table.add_column("form")
    for cell in cells:
        table.add_column(f"batch {cell.batch}", justify="right")
    fastest = [best(cell, cell.timings) for cell in cells]
    for form in dict.fromkeys(form for cell in cells for form in cell.problems):
        row = [Text(form, style="green" if is_ours(form) else "")]
        for cell, first in zip(cells, fastest):
            row.append(_entry(cell, form, form == first))
        table.add_row(*row)
    return table


def _entry(cell: Cell, form: str, first: bool) -> Text:
    if form in cell.timings:
        return Text(with_spread(cell.timings[form]) + (" *" if first else "  "), style="bold" if first else "")
    return Text("wrong  " if cell.problems.get(form) else "-  ", style="red" if cell.problems.get(form) else "dim")


def summary_table(cells: Sequence[Cell]) -> Table:
    """Ours beside the best peer; a cell is lost where that one is faster than the Predictor as it is."""
    table = Table(title="Ours and the best peer: us a call, and how many times faster ours is (below 1x: slower)")
    for name in ("case", "batch", "Predictor", "folded", "best op", "best peer", "(least-greatest)", "which"):
        table.add_column(name, justify="left" if name in ("case", "which") else "right")
    for name in ("Predictor\nahead", "folded\nahead", "best op\nahead", ""):
        table.add_column(name, justify="right")
    for i, cell in enumerate(cells):
        peer, op = best_peer(cell), best_op(cell)
        row: list[Any] = [cell.case, str(cell.batch)]
        row += [number(cell.timings[f].median) if f in cell.timings else "-" for f in (PREDICTOR, FOLDED, op, peer)]
        spread = cell.timings[peer] if peer else None
        row += [f"{number(spread.best)}-{number(spread.worst)}" if spread else "-", peer or "-"]
        row += [report.ratio_text(ahead(cell, form)) for form in (PREDICTOR, FOLDED, op)]
        row.append(Text("lost", style="red") if is_lost(cell) else "")
        last = i + 1 == len(cells) or cells[i + 1].case != cell.case
        table.add_row(*row, end_section=last)
    means = [_mean(cells, form) for form in (PREDICTOR, FOLDED)]
    means.append(geometric_mean(r for r in (ahead(cell, best_op(cell)) for cell in cells) if not math.isnan(r)))
    table.add_row("geometric mean", *[""] * 7, *map(report.ratio_text, means), f"{sum(map(is_lost, cells))} lost")
    return table


def is_lost(cell: Cell) -> bool:
    """Whether the best peer is faster than the Predictor; where there is none, than the best form of the op."""
    ratio = ahead(cell, PREDICTOR if PREDICTOR in cell.timings else best_op(cell))
    return ratio < LOST


def _mean(cells: Sequence[Cell], form: str) -> float:
    return geometric_mean(r for r in (ahead(cell, form) for cell in cells) if not math.isnan(r))


def together_table(found: dict[tuple[str, int], dict[str, dict[str, Timing]]], callers: int) -> Table:
    """One predictor for many threads."""
    table = Table(title=f"{callers} threads calling one Predictor: us a call, beside one thread making as many calls")
    for name in ("case", "batch", "form", "one after the other", f"by {callers} threads", "times as fast"):
        table.add_column(name, justify="left" if name in ("case", "form") else "right")
    for (case, batch), forms in found.items():
        for form, by in forms.items():
            alone, together = by["alone"], by["together"]
            ratio = report.ratio_text(alone.median / together.median)
            table.add_row(case, str(batch), form, with_spread(alone), with_spread(together), ratio)
    return table


def floors_table(floors: dict[str, Timing], ceiling: float) -> Table:
    table = report.floors_table(floors)
    table.caption = f"The best product of two matrices here: {ceiling / 1e9:.0f} GFLOP/s"
    return table
