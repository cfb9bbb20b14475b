"""A picture of panels side by side over one axis of batches, with one legend."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

from fusedsplit.bench.harness import Timing

_COLUMNS = 4
_Cell = TypeVar("_Cell")


def figure(
    panels: Mapping[str, Sequence[_Cell]],
    draw: Callable[[Axes, Sequence[_Cell]], None],
    batch: Callable[[_Cell], int],
    title: str,
    subtitle: str,
    unit: str,
) -> Figure:
    """A panel for each name, whose cells `draw` gets in the order of their batches, and one legend."""
    columns = min(_COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    size = (3.1 * max(columns, 3) + 0.8, 2.7 * rows + 1.75)
    result, axes = plt.subplots(rows, columns, figsize=size, dpi=130, squeeze=False)
    handles: dict[str, Any] = {}
    for i, (name, cells) in enumerate(panels.items()):
        ax = axes[i // columns][i % columns]
        mine = sorted(cells, key=batch)
        draw(ax, mine)
        ax.set_title(name, fontsize=10, fontweight="bold")
        _batch_axis(ax, [batch(cell) for cell in mine])
        handles |= {line.get_label(): line for line in ax.lines if not str(line.get_label()).startswith("_")}
        if i % columns == 0:
            ax.set_ylabel(unit, fontsize=9)
    for i in range(len(panels), rows * columns):
        axes[i // columns][i % columns].set_visible(False)
    # (A suptitle would take room from the panels twice.)
    result.text(0.5, 1 - 0.12 / size[1], title, ha="center", va="top", fontsize=12.5, fontweight="bold")
    result.text(0.5, 1 - 0.42 / size[1], subtitle, ha="center", va="top", fontsize=8.5, color="#444444")
    result.legend(
        list(handles.values()), list(handles), ncols=min(7, len(handles)), fontsize=8.5, frameon=False,
        loc="upper center", bbox_to_anchor=(0.5, 1 - 0.58 / size[1]),
    )  # fmt: skip
    result.tight_layout(rect=(0, 0, 1, 1 - 1.15 / size[1]))
    return result


def _batch_axis(ax: Axes, batches: Sequence[int]) -> None:
    ax.set_xscale("log", base=2)
    ax.set_xticks(batches, [str(b) for b in batches])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel("batch", fontsize=9)
    ax.tick_params(labelsize=8)
    ax.grid(True, which="major", color="#e2e2e2", linewidth=0.6)
    ax.spines[["top", "right"]].set_visible(False)


def time_axis(ax: Axes, lowest: float) -> None:
    ax.set_yscale("log")
    ax.set_ylim(bottom=0.6 * lowest)
    ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())


def quartiles(timing: Timing) -> tuple[float, float]:
    """The middle half of the rounds."""
    ordered = sorted(timing.samples)
    cut = len(ordered) // 4
    return ordered[cut], ordered[-1 - cut]


def save(picture: Figure, path: Path) -> None:
    picture.savefig(path)
    plt.close(picture)
