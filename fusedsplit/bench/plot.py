"""The run as one picture: speed-ups over the Lambda program by case and batch, and the training runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

from fusedsplit.bench import conditions as conditions_module
from fusedsplit.bench import training
from fusedsplit.bench.ladder import Cell
from fusedsplit.bench.providers import BASELINE
from fusedsplit.bench.report import Results, provider_names
from fusedsplit.bench.training import Outcome

# Okabe and Ito's palette, which is told apart with any colour vision: unfused programs cool, fused ones warm.
_STYLES: dict[str, tuple[str, str]] = {
    "lambda": ("#222222", "-"),
    "lambda-xla": ("#56B4E9", "--"),
    "hand": ("#0072B2", ":"),
    "hand-xla": ("#0072B2", "--"),
    "tf": ("#E69F00", "-"),
    "xla": ("#009E73", "-"),
    "op": ("#D55E00", "-"),
    "op-xla": ("#CC79A7", "-"),
    "fused-keras": ("#E69F00", "-"),
    "fused-native": ("#D55E00", "-"),
}
_LABELS = {
    "lambda": "Lambda program (= 1)",
    "lambda-xla": "Lambda program, XLA",
    "hand": "hand-written TensorFlow",
    "hand-xla": "hand-written TensorFlow, XLA",
    "tf": "SplitDense tf",
    "xla": "SplitDense xla",
    "op": "SplitDense op",
    "op-xla": "SplitDense op inside XLA",
}
_FITS = {
    "lambda": "Keras' fit of the Lambda program",
    "fused-keras": 'fs.fuse(model, loop="keras")',
    "fused-native": 'fs.fuse(model, loop="native")',
}
_ROWS = {
    "forward": "forward",
    "gradients": "forward + gradients",
    "eager": "eager call",
}
_TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200)


def _style(name: str) -> dict[str, Any]:
    color, line = _STYLES.get(name, ("#999999", "-."))
    return {"color": color, "linestyle": line, "label": _LABELS.get(name, name)}


def _speedup_axis(axis: Any) -> None:
    axis.set_major_locator(matplotlib.ticker.FixedLocator(_TICKS))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}x"))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def _panel(ax: Axes, cells: Sequence[Cell], names: Sequence[str]) -> None:
    """One case in one mode: a line for each provider over the batch."""
    batches = [cell.batch for cell in cells]
    places = range(len(batches))
    for name in names:
        median = [cell.speedup(name) for cell in cells]
        line = ax.plot(places, median, marker="o", markersize=3.5, linewidth=1.6, **_style(name))[0]
        if name == BASELINE:
            line.set(linewidth=1.2, marker="", zorder=1)
            continue
        low, high = zip(*(_spread(cell, name) for cell in cells))
        ax.fill_between(places, low, high, color=line.get_color(), alpha=0.12, linewidth=0)
    ax.set_yscale("log")
    ax.set_xticks(list(places), [str(b) for b in batches])
    ax.grid(True, axis="y", color="#dddddd", linewidth=0.6)
    ax.set_xlim(-0.3, len(batches) - 0.7)


def _spread(cell: Cell, name: str) -> tuple[float, float]:
    """The speed-up round by round, without the extremes: what ran in one round belongs together."""
    if name not in cell.timings or BASELINE not in cell.timings:
        return math.nan, math.nan
    pairs = zip(cell.timings[BASELINE].samples, cell.timings[name].samples)
    ratios = sorted(base / own for base, own in pairs)
    cut = 1 if len(ratios) > 4 else 0
    return ratios[cut], ratios[-1 - cut]


def _bars(
    ax: Axes, outcomes: Sequence[Outcome], height: Callable[[Outcome, str], float], text: Callable[..., str]
) -> None:
    """A group of bars for each training task, a bar for each contestant, and what it says above it."""
    names = list(dict.fromkeys(name for outcome in outcomes for name in outcome.runs))
    width = 0.84 / len(names)
    for i, name in enumerate(names):
        places = [at + (i - (len(names) - 1) / 2) * width for at, o in enumerate(outcomes) if name in o.runs]
        mine = [outcome for outcome in outcomes if name in outcome.runs]
        heights = [height(outcome, name) for outcome in mine]
        ax.bar(places, heights, 0.92 * width, color=_STYLES[name][0], label=_FITS[name])
        for place, value, outcome in zip(places, heights, mine):
            ax.annotate(
                text(outcome, name), (place, value), (0, 2), textcoords="offset points", ha="center", fontsize=6.3
            )
    ax.set_xticks(range(len(outcomes)), [f"{o.task}\n{o.batch}" for o in outcomes])
    ax.set_xlabel("model and batch", fontsize=9)
    ax.tick_params(labelsize=8)
    ax.spines[["top", "right"]].set_visible(False)


def _training_panels(left: Axes, right: Axes, outcomes: Sequence[Outcome]) -> None:
    """Speed-up of a step of `fit`, with its time; and the time to the first trained epoch."""

    def said(outcome: Outcome, name: str) -> str:
        us = 1e6 * outcome.step(name)
        time = f"{us:,.0f}" if us >= 100 else f"{us:.1f}"
        return f"{time} us" if name == training.BASELINE else f"{outcome.speedup(name):.3g}x\n{time} us"

    _bars(left, outcomes, Outcome.speedup, said)
    left.axhline(1, color="#222222", linewidth=1, zorder=0)
    left.set_yscale("log")
    highest = max(outcome.speedup(name) for outcome in outcomes for name in outcome.runs)
    left.set_ylim(0.5, 9 * highest)  # Room for the figures on the bars, and the legend above them.
    _speedup_axis(left.yaxis)
    left.set_ylabel("fit, a step\nspeed-up", fontsize=9)
    left.legend(fontsize=8.5, ncols=3, loc="upper center", frameon=False)
    _bars(right, outcomes, lambda o, name: o.runs[name].first, lambda o, name: f"{o.runs[name].first:.2g}")
    right.set_ylabel("seconds to the first\ntrained epoch", fontsize=9)


def _ladder_panels(figure: Any, grid: Any, cells: Sequence[Cell], modes: Sequence[str]) -> list[Any]:
    """A row for each mode, a column for each case, and no panel where a case was not measured in a mode.

    Returns the legend's handles.
    """
    cases = list(dict.fromkeys(cell.case for cell in cells))
    names = provider_names(cells)
    handles: dict[str, Any] = {}
    highest: dict[str, Axes] = {}
    lowest: dict[str, Axes] = {}
    for row, mode in enumerate(modes):
        first = None
        for column, case in enumerate(cases):
            mine = sorted((c for c in cells if c.case == case and c.mode == mode), key=lambda c: c.batch)
            if not mine:
                continue
            ax = figure.add_subplot(grid[row, column], sharey=first)
            _panel(ax, mine, names)
            _speedup_axis(ax.yaxis)
            handles |= {line.get_label(): line for line in ax.lines}
            ax.spines[["top", "right"]].set_visible(False)
            ax.tick_params(labelsize=8, labelleft=first is None)
            highest.setdefault(case, ax)
            lowest[case] = ax
            if first is None:
                first = ax
                ax.set_ylabel(f"{_ROWS[mode]}\nspeed-up", fontsize=9)
    for case in cases:
        highest[case].set_title(case, fontsize=10, fontweight="bold")
        lowest[case].set_xlabel("batch", fontsize=9)
    return list(handles.values())


def save(results: Results, path: Path) -> None:
    """Writes the picture as a PNG file."""
    figure = draw(results)
    figure.savefig(path)
    plt.close(figure)


def draw(results: Results) -> Figure:
    """The picture."""
    modes = [mode for mode in _ROWS if any(cell.mode == mode for cell in results.cells)]
    columns = max(1, len({cell.case for cell in results.cells}))
    heights = [3.0] * bool(results.training) + [2.5] * len(modes)
    size = (max(11.0, 2.3 * columns + 1.2), sum(heights) + 2.0)
    figure = plt.figure(figsize=size, dpi=130)
    top, bottom = 1 - 0.85 / size[1], 0.85 / size[1]
    outer = figure.add_gridspec(
        len(heights), columns, height_ratios=heights, hspace=0.4, wspace=0.1, top=top, bottom=bottom
    )
    outer.update(left=0.9 / size[0], right=1 - 0.2 / size[0])
    if modes:
        grid = outer[-len(modes) :, :].subgridspec(len(modes), columns, hspace=0.4, wspace=0.1)
        handles = _ladder_panels(figure, grid, results.cells, modes)
        figure.legend(
            handles=handles, ncols=len(handles), fontsize=8.5, frameon=False,
            loc="lower center", bbox_to_anchor=(0.5, 0.08 / size[1]),
        )  # fmt: skip
    if results.training:
        both = outer[0, :].subgridspec(1, 2, width_ratios=(5, 2), wspace=0.13)
        _training_panels(figure.add_subplot(both[0]), figure.add_subplot(both[1]), results.training)
    title = "Speed-up over the Dense + Lambda(tf.split) + Dense + concatenate program (medians; bands: rounds)"
    figure.suptitle(title, fontsize=12.5, fontweight="bold", y=1 - 0.14 / size[1], va="top")
    line = conditions_module.title(results.conditions)
    figure.text(0.5, 1 - 0.48 / size[1], line, ha="center", va="top", fontsize=8.5, color="#444444")
    return figure
