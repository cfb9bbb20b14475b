"""Steps in order that are rewritten one by one, and which of them read or write some columns.

Neither a rewriting nor a question goes through all steps, so that a plan of thousands of them is rewritten in a time
in proportion.
"""

from __future__ import annotations

import bisect
from collections import defaultdict
from collections.abc import Iterable, Sequence

from fusedsplit.plan.steps import Range, Step, sources

# Where a step stands: behind those of smaller places. What takes the place of one step has places within it.
Place = tuple[int, ...]


class Steps:
    """Steps by their places."""

    def __init__(self, steps: Iterable[Step]):
        self._steps: dict[Place, Step] = {}
        self._reads, self._writes = _Columns(), _Columns()
        for i, step in enumerate(steps):
            self._add((i,), step)

    def __len__(self) -> int:
        return len(self._steps)

    def in_order(self) -> list[tuple[Place, Step]]:
        return sorted(self._steps.items(), key=lambda item: item[0])

    def at(self, place: Place) -> Step | None:
        """The step that stands there, if it still does."""
        return self._steps.get(place)

    def readers(self, r: Range) -> list[tuple[Place, Step]]:
        """The steps that read any column of a range, in order."""
        return [(place, self._steps[place]) for place in self._reads.over(r)]

    def writers(self, r: Range) -> list[tuple[Place, Step]]:
        """The steps that write any column of a range, in order."""
        return [(place, self._steps[place]) for place in self._writes.over(r)]

    def replace(self, place: Place, new: Sequence[Step]) -> None:
        """Puts any number of steps where one stands."""
        old = self._steps.pop(place)
        for r in set(sources(old)):
            self._reads.remove(r, place)
        self._writes.remove(old.dst, place)
        for i, step in enumerate(new):
            self._add(place if len(new) == 1 else (*place, i), step)

    def _add(self, place: Place, step: Step) -> None:
        self._steps[place] = step
        for r in set(sources(step)):
            self._reads.add(r, place)
        self._writes.add(step.dst, place)


class _Columns:
    """Ranges with places, found by the columns that they share with a range."""

    def __init__(self) -> None:
        # By value, then by the bits of the width: ranges of about one width, in order. Those that begin by no more than
        # that width before a range, or in it, are the ones that it may meet.
        self._found: dict[int, dict[int, list[tuple[int, int, Place]]]] = defaultdict(lambda: defaultdict(list))

    def add(self, r: Range, place: Place) -> None:
        bisect.insort(self._found[r.value][r.width.bit_length()], (r.start, r.stop, place))

    def remove(self, r: Range, place: Place) -> None:
        alike = self._found[r.value][r.width.bit_length()]
        del alike[bisect.bisect_left(alike, (r.start, r.stop, place))]

    def over(self, r: Range) -> list[Place]:
        found: set[Place] = set()
        for bits, alike in self._found[r.value].items():
            first = bisect.bisect_right(alike, (r.start - (1 << bits),))
            last = bisect.bisect_left(alike, (r.stop,))
            found.update(place for _, stop, place in alike[first:last] if stop > r.start)
        return sorted(found)
