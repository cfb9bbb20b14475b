"""Training as a picture: a step of fit over its batch, program by program."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from race import panels
from race.training import NATIVE
from race.training.contest import Cell

# Okabe and Ito's colours: ours warm, Keras dark, others cool.
_STYLES: dict[str, tuple[str, str, str]] = {
    NATIVE: ("#D55E00", "-", "fs.fuse(model).fit"),
    "fused-keras": ("#E69F00", "--", 'the same, loop="keras"'),
    "keras": ("#222222", "-", "Keras fit"),
    "keras-64-jit": ("#222222", "--", "Keras fit, 64 steps a call, jit"),
    "keras-jax": ("#0072B2", "--", "Keras fit on JAX"),
    "jax-step": ("#56B4E9", "-", "JAX by hand, a step"),
    "jax-scan": ("#0072B2", "-", "JAX by hand, a scan"),
    "torch": ("#009E73", "-", "PyTorch by hand"),
}


def steps(cells: Sequence[Cell], subtitle: str) -> Figure:
    """Microseconds a step; a panel for each model."""

    def draw(ax: Axes, mine: Sequence[Cell]) -> None:
        for name, (color, line, label) in _STYLES.items():
            timed = [cell for cell in mine if name in cell.timings]
            if not timed:
                continue
            batches = [cell.batch for cell in timed]
            ax.plot(batches, [1e6 * cell.timings[name].median for cell in timed], color=color, linestyle=line,
                    marker="o", markersize=3, linewidth=2.0 if name == NATIVE else 1.3, label=label,
                    zorder=3 if name == NATIVE else 2)  # fmt: skip
            low, high = ([1e6 * panels.quartiles(cell.timings[name])[i] for cell in timed] for i in (0, 1))
            ax.fill_between(batches, low, high, color=color, alpha=0.12, linewidth=0)
        panels.time_axis(ax, min(1e6 * timing.best for cell in mine for timing in cell.timings.values()))

    models = {name: [cell for cell in cells if cell.task == name] for name in dict.fromkeys(c.task for c in cells)}
    return panels.figure(models, draw, lambda cell: cell.batch, "Training: us a step of fit", subtitle, "us a step")
