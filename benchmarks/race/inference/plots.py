"""The race as pictures: time against batch over the floors, and GFLOP/s under the machine's ceiling."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fusedsplit.bench.harness import Timing
from fusedsplit.bench.ladder import Cell
from race import panels

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
_FLOORS = {"concrete function, nothing": "floor: a concrete function", "tf.function, one add": "floor: a tf.function"}


def _figure(
    cells: Sequence[Cell], title: str, subtitle: str, draw: Callable[[Axes, Sequence[Cell]], None], unit: str
) -> Figure:
    """A panel for each subject."""
    subjects = {name: [cell for cell in cells if cell.case == name] for name in dict.fromkeys(c.case for c in cells)}
    return panels.figure(subjects, draw, lambda cell: cell.batch, title, subtitle, unit)


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
        spread = [panels.quartiles(c.timings[name]) for c in mine]
        low, high = ([value(c, s[i]) for c, s in zip(mine, spread)] for i in (0, 1))
        ax.fill_between(batches, low, high, color=color, alpha=0.12, linewidth=0)


def _bound(ax: Axes, cells: Sequence[Cell], ceiling: float) -> list[float]:
    """Draws the microseconds that the products take at the machine's best rate, if that is known."""
    bound = [1e6 * cell.flops / ceiling for cell in cells] if ceiling else []
    if bound:
        ax.plot([cell.batch for cell in cells], bound, color="#000000", linestyle="-.", linewidth=0.9,
                label="floor: the best product")  # fmt: skip
    return bound


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
        panels.time_axis(ax, lowest)

    return _figure(cells, "Time of a call, forward (medians; bands: half of the rounds)", subtitle, panel, "us a call")


def runtimes(cells: Sequence[Cell], ceiling: float, subtitle: str) -> Figure:
    """The same of the runtimes alone, for who has a trained model and wants its answer."""

    def panel(ax: Axes, mine: Sequence[Cell]) -> None:
        _lines(ax, mine, lambda _, seconds: 1e6 * seconds, RUNTIMES)
        _bound(ax, mine, ceiling)
        panels.time_axis(ax, min(1e6 * cell.timings[n].best for cell in mine for n in RUNTIMES if n in cell.timings))

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
