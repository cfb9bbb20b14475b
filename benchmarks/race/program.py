"""How a program that holds a race begins and ends."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rich.console import Console

from fusedsplit.bench import conditions
from race.field import Field, Target

_WIDTH = 170  # where no terminal says how wide it is


def begin() -> Console:
    """Where the program prints; says first under what conditions it measures."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH)
    found = conditions.collect()
    console.print(conditions.title(found))
    for text in conditions.warnings(found):
        console.print(f"Note: {text}", style="yellow", markup=False)
    return console


def contestants(
    console: Console, names: Sequence[str], targets: Mapping[str, Target], threads: int, patience: float
) -> Field:
    """The processes of those that are named; who takes no part is printed with the reason."""
    say = lambda text: console.print(text, style="yellow", markup=False)  # noqa: E731
    return Field({name: targets[name] for name in names}, threads, patience, say)


def end(console: Console, problems: Iterable[str]) -> int:
    """Prints what was wrong; the exit code says whether anything was."""
    found = list(problems)
    for text in found:
        console.print(text, style="red", markup=False)
    return int(bool(found))
