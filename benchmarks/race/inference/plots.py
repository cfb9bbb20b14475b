"""The race as pictures: time against batch over the floors, and GFLOP/s under the machine's ceiling."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

from fusedsplit.bench.harness import Timing
from fusedsplit.bench.ladder import Cell

# Okabe and Ito's colours: ours warm and solid, the runtimes cool, the frameworks dashed or grey.
_STYLES: dict[str, tuple[str, str, str]] = {
    "predictor": ("#D55E00", "-", "Predictor"),
    "predictor-fold": ("#E69F00", "-", "Predictor, folded"),
    "op-eager": ("#CC79A7", "-", "op, eager"),
    "op-concrete": ("#CC79A7", "--", "op in a graph"),
    "litert": ("#0072B2", "-", "LiteRT"),
    "onnxruntime": ("#56B4E9", "-", "ONNX Runtime"),
    "openvino": ("#009E73", "-", "OpenVINO"),
    "jax": ("#0072B2", "--", "JAX jit"),
    "torch": ("#777777", "--", "PyTorch"),
    "torch-compiled": ("#777777", ":", "PyTorch compiled"),
    "numpy": ("#AAAAAA", "-", "NumPy"),
    "keras": ("#222222", "-", "Keras in a graph"),
    "hand-xla": ("#222222", "--", "hand-written TF, XLA"),
}
# Those of them whom a user of a trained model chooses among.
RUNTIMES = ("predictor", "predictor-fold", "litert", "onnxruntime", "openvino", "keras")
_COLUMNS = 4
_FLOORS = {"concrete function, nothing": "floor: a concrete function", "tf.function, one add": "floor: a tf.function"}


def _figure(
    cells: Sequence[Cell], title: str, subtitle: str, panel: Callable[[Axes, Sequence[Cell]], None], unit: str
) -> Figure:
    """A panel for each subject, and one legend."""
    names = list(dict.fromkeys(cell.case for cell in cells))
    columns = min(_COLUMNS, len(names))
    rows = math.ceil(len(names) / columns)
    size = (3.1 * max(columns, 3) + 0.8, 2.7 * rows + 1.75)
    figure, axes = plt.subplots(rows, columns, figsize=size, dpi=130, squeeze=False)
    handles: dict[str, Any] = {}
    for i, name in enumerate(names):
        ax = axes[i // columns][i % columns]
        mine = sorted((cell for cell in cells if cell.case == name), key=lambda cell: cell.batch)
        panel(ax, mine)
        ax.set_title(name, fontsize=10, fontweight="bold")
        _batch_axis(ax, [cell.batch for cell in mine])
        handles |= {line.get_label(): line for line in ax.lines if not str(line.get_label()).startswith("_")}
        if i % columns == 0:
            ax.set_ylabel(unit, fontsize=9)
    for i in range(len(names), rows * columns):
        axes[i // columns][i % columns].set_visible(False)
    # (A suptitle would take room from the panels twice.)
    figure.text(0.5, 1 - 0.12 / size[1], title, ha="center", va="top", fontsize=12.5, fontweight="bold")
    figure.text(0.5, 1 - 0.42 / size[1], subtitle, ha="center", va="top", fontsize=8.5, color="#444444")
    figure.legend(
        list(handles.values()), list(handles), ncols=min(7, len(handles)), fontsize=8.5, frameon=False,
        loc="upper center", bbox_to_anchor=(0.5, 1 - 0.58 / size[1]),
    )  # fmt: skip
    figure.tight_layout(rect=(0, 0, 1, 1 - 1.15 / size[1]))
    return figure


def _batch_axis(ax: Axes, batches: Sequence[int]) -> None:
    ax.set_xscale("log", base=2)
    ax.set_xticks(batches, [str(b) for b in batches])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel("batch", fontsize=9)
    ax.tick_params(labelsize=8)
    ax.grid(True, which="major", color="#e2e2e2", linewidth=0.6)
    ax.spines[["top", "right"]].set_visible(False)


def _lines(
    ax: Axes, cells: Sequence[Cell], value: Callable[[Cell, float], float], names: Iterable[str] = tuple(_STYLES)
) -> None:
    """A line for each of the forms, with the rounds' spread around it."""
    for name in names:
        color, line, label = _STYLES[name]
        mine = [cell for cell in cells if name in cell.timings]
        if not mine:
            continue
        batches = [cell.batch for cell in mine]
        style = {"color": color, "linestyle": line, "linewidth": 2.0 if name.startswith("predictor") else 1.3}
        ax.plot(batches, [value(c, c.timings[name].median) for c in mine], marker="o", markersize=3, label=label,
                zorder=3 if name.startswith(("predictor", "op")) else 2, **style)  # fmt: skip
        spread = [_quartiles(c.timings[name]) for c in mine]
        low, high = ([value(c, s[i]) for c, s in zip(mine, spread)] for i in (0, 1))
        ax.fill_between(batches, low, high, color=color, alpha=0.12, linewidth=0)


def _bound(ax: Axes, cells: Sequence[Cell], ceiling: float) -> list[float]:
    """Draws the microseconds that the products take at the machine's best rate, if that is known."""
    bound = [1e6 * cell.flops / ceiling for cell in cells] if ceiling else []
    if bound:
        ax.plot([cell.batch for cell in cells], bound, color="#000000", linestyle="-.", linewidth=0.9,
                label="floor: the best product")  # fmt: skip
    return bound


def _time_axis(ax: Axes, lowest: float) -> None:
    ax.set_yscale("log")
    ax.set_ylim(bottom=0.6 * lowest)
    ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())


def _quartiles(timing: Timing) -> tuple[float, float]:
    """The middle half of the rounds."""
    ordered = sorted(timing.samples)
    cut = len(ordered) // 4
    return ordered[cut], ordered[-1 - cut]


def times(cells: Sequence[Cell], floors: Mapping[str, Timing], ceiling: float, subtitle: str) -> Figure:
    """Microseconds a call over the batch, and what no program can be faster than."""

    def panel(ax: Axes, mine: Sequence[Cell]) -> None:
        _lines(ax, mine, lambda _, seconds: 1e6 * seconds)
        bound = _bound(ax, mine, ceiling)
        lowest = min([*(1e6 * t.median for cell in mine for t in cell.timings.values()), *bound[-1:]])
        for i, (name, label) in enumerate(_FLOORS.items()):
            if name in floors:
                ax.axhline(1e6 * floors[name].median, color="#b08030", linestyle=":", linewidth=0.9 + 0.5 * i,
                           label=label, zorder=1)  # fmt: skip
        _time_axis(ax, lowest)

    return _figure(cells, "Time of a call, forward (medians; bands: half of the rounds)", subtitle, panel, "us a call")


def runtimes(cells: Sequence[Cell], ceiling: float, subtitle: str) -> Figure:
    """The same of the runtimes alone, for who has a trained model and wants its answer."""

    def panel(ax: Axes, mine: Sequence[Cell]) -> None:
        _lines(ax, mine, lambda _, seconds: 1e6 * seconds, RUNTIMES)
        _bound(ax, mine, ceiling)
        _time_axis(ax, min(1e6 * cell.timings[n].best for cell in mine for n in RUNTIMES if n in cell.timings))

    return _figure(cells, "A trained model's answer: us a call over the rows of a call", subtitle, panel, "us a call")


def rates(cells: Sequence[Cell], ceiling: float, subtitle: str) -> Figure:
    """Floating-point operations of the unfolded products a second, over the batch."""

    def panel(ax: Axes, mine: Sequence[Cell]) -> None:
        _lines(ax, mine, lambda cell, seconds: cell.flops / seconds / 1e9)
        ax.axhline(ceiling / 1e9, color="#000000", linestyle="-.", linewidth=0.9, label="the machine's best product")
        top = max(cell.flops / t.median / 1e9 for cell in mine for t in cell.timings.values())
        ax.set_ylim(0, 1.08 * max(top, ceiling / 1e9))

    title = "GFLOP/s of the unfolded products (folding does less work for the same answer, and may pass the ceiling)"
    return _figure(cells, title, subtitle, panel, "GFLOP/s")


def save(figure: Figure, path: Path) -> None:
    figure.savefig(path)
    plt.close(figure)
