"""The explanation of a model as text, for people: short, however large the model."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from fusedsplit.tools.call_names import count, kinds, paths
from fusedsplit.tools.tables import table

if TYPE_CHECKING:
    from fusedsplit.tools.explain_model import FusedRegion, Left, Mode, ModelExplanation

WIDTH = 120
MOST_LINES = 12  # of a table


def show(explanation: ModelExplanation) -> str:
    """Everything, each paragraph with what it is about in front."""
    modes = [explanation.inference, explanation.training]
    paragraphs = [_head(explanation)]
    if _same(*modes):
        paragraphs.append(_mode(modes[0], "at inference and while training"))
    else:
        paragraphs += [_mode(modes[0], "at inference"), _mode(modes[1], "while training")]
    regions = [found for mode in modes for found in mode.regions]
    if regions:
        paragraphs.append("backends\n" + _indented(_backends(regions)))
    paragraphs.append("loops\n" + _grouped(explanation.loops))
    nothing = "none: a call raises" if explanation.regions else "none: nothing of it is fused"
    text = nothing if explanation.gain is None else str(explanation.gain)
    paragraphs.append("expected gain\n" + "\n".join(_wrapped(line) for line in text.splitlines()))
    notes = [*explanation.notes, *_mask_notes(regions)]
    if notes:
        paragraphs.append("notes\n" + "\n".join(map(_wrapped, notes)))
    return "\n\n".join(paragraphs)


def _head(explanation: ModelExplanation) -> str:
    inference, training = explanation.inference, explanation.training
    total = len(inference.fused_calls) + len(inference.left_calls)
    name = f"{explanation.name}: {count(total, 'call')}"
    if not inference.regions and not training.regions:
        reason = "it runs as Keras runs it" if explanation.is_fused else "fs.fuse would leave it as it is"
        return f"{name}, nothing to fuse: {reason}"
    runs = "runs" if explanation.is_fused else "fs.fuse would run"
    shares = [
        f"{len(mode.fused_calls)} of them in {count(len(mode.regions), 'region')} {when}"
        for mode, when in ((inference, "at inference"), (training, "while training"))
    ]
    return f"{name}; {runs} {', '.join(shares)}; backend={explanation.backend!r}"


def _same(a: Mode, b: Mode) -> bool:
    """Whether the tables of both would say the same."""
    return [_row(r) for r in a.regions] == [_row(r) for r in b.regions] and [
        (left.reason, left.calls) for left in a.left
    ] == [(left.reason, left.calls) for left in b.left]


def _mode(mode: Mode, when: str) -> str:
    parts = [f"{when}: fused"]
    if mode.regions:
        parts.append(_indented(_regions(mode.regions)))
    else:
        parts[0] += ": nothing"
    if mode.left:
        parts += [f"{when}: left to Keras", _indented(_left(mode.left))]
    return "\n".join(parts)


def _regions(regions: Sequence[FusedRegion]) -> str:
    """A line for each kind of region, since deep models repeat themselves."""
    alike: dict[tuple[Any, ...], list[int]] = {}
    for number, region in enumerate(regions, 1):
        alike.setdefault(_row(region)[1:], []).append(number)
    rows = [(_numbers(numbers), paths(regions[numbers[0] - 1].region.calls, 2), *row) for row, numbers in alike.items()]
    header = ("region", "calls", "which are", "products", "steps", "flops a row", "rows")
    text = table(header, rows[:MOST_LINES])
    return text + _more(len(rows) - MOST_LINES, "kind of region", "`.regions` has them")


def _row(found: FusedRegion) -> tuple[Any, ...]:
    rows = "batch" if found.rows == 1 else f"batch and {count(found.rows - 1, 'axis').replace('axiss', 'axes')}"
    kind = kinds(found.region.calls, 3)
    return paths(found.region.calls), kind, found.products, found.steps, f"{found.flops:,}", rows


def _numbers(numbers: Sequence[int]) -> str:
    """1, or "1 to 4", or "1, 3, ... 9", and how many where that is not plain."""
    if len(numbers) == 1:
        return str(numbers[0])
    if numbers[-1] - numbers[0] == len(numbers) - 1:
        return f"{numbers[0]} to {numbers[-1]}"
    if len(numbers) <= 3:
        return ", ".join(map(str, numbers))
    return f"{numbers[0]}, {numbers[1]}, ... {numbers[-1]} ({len(numbers)})"


def _left(left: Sequence[Left]) -> str:
    ordered = sorted(left, key=lambda one: -len(one.calls))
    rows = [(len(one.calls), kinds(one.calls, 3), paths(one.calls, 2), one.reason) for one in ordered]
    text = table(("calls", "which are", "named", "why"), rows[:MOST_LINES])
    return text + _more(len(rows) - MOST_LINES, "reason", "`.left` has them")


def _more(n: int, what: str, where: str) -> str:
    return f"\n... and {count(n, what)} more; {where}" if n > 0 else ""


def _backends(regions: Sequence[FusedRegion]) -> str:
    """A line for each choice in each situation, with the regions that it holds for where it is not all of them."""
    found: dict[tuple[str, str], list[FusedRegion]] = {}
    for one in regions:
        for situation, choice in one.choices.items():
            found.setdefault((situation, choice), []).append(one)
    rows = []
    for (situation, choice), ones in found.items():
        for_some = (
            "" if len(ones) == len(regions) else f"{len(ones)} of {len(regions)}: {paths(ones[0].region.calls, 2)}"
        )
        rows.append((situation, choice, for_some))
    columns = 3 if any(row[2] for row in rows) else 2
    return table(("where", "runs", "for regions")[:columns], [row[:columns] for row in rows])


def _grouped(loops: dict[str, str]) -> str:
    by_text: dict[str, list[str]] = {}
    for name, text in loops.items():
        by_text.setdefault(text, []).append(name)
    return "\n".join(_wrapped(f"{', '.join(names)}: {text}") for text, names in by_text.items())


def _mask_notes(regions: Iterable[FusedRegion]) -> list[str]:
    givers = list(dict.fromkeys(call for found in regions for call in found.masked))
    if not givers:
        return []
    return [f"a region whose inputs carry a Keras mask runs unfused in that call; masks may come from {paths(givers)}"]


def _indented(text: str) -> str:
    return textwrap.indent(text, "  ")


def _wrapped(text: str) -> str:
    return textwrap.fill(text, WIDTH, initial_indent="  ", subsequent_indent="    ")
