"""What of a graph is fused: maximal convex sets of row-wise calls, cut out once for inference and once for training.

A set is convex where no path leaves it and comes back: only then can it run as one. Two calls may be in one region if
they have the same rows, so each call is first given a number of leading axes that are rows (its *lead*), which is that
of the calls it reads from where it can be.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Union

from fusedsplit.models import calls
from fusedsplit.models.graph import Call, Graph, Tensor
from fusedsplit.models.region import Region, lower, row_shape
from fusedsplit.models.rows import NotRowWise
from fusedsplit.plan import Dense, Plan, PlanError


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How a graph runs: regions, and the calls that are left to Keras, in order.

    Attributes:
        items: regions and calls.
        reasons: for each call that is in no region, why.
    """

    items: tuple[Union[Region, Call], ...]
    reasons: dict[Call, str]

    @property
    def regions(self) -> list[Region]:
        return [item for item in self.items if isinstance(item, Region)]


def schedule(graph: Graph, training: bool, gains_only: bool = True) -> Schedule:
    """The regions of a graph, at inference or while training; with `gains_only` those that gain by being fused."""
    leads, reasons = _leads(graph, training)
    sets = _grow(graph, leads)
    position = {call: i for i, call in enumerate(graph.calls)}
    regions = []
    for members in sets:
        ordered = sorted(members, key=position.__getitem__)
        try:
            region = _region(graph, ordered, leads[ordered[0]], training)
            reason = _not_worth_it(region.plan) if gains_only else None
        except (NotRowWise, PlanError) as why:  # beyond the bounds of a plan, for one
            reason = str(why)
        if reason is None:
            regions.append(region)
        else:
            reasons.update(dict.fromkeys(ordered, reason))
    return Schedule(_in_order(graph, regions), reasons)


def _not_worth_it(plan: Plan) -> str | None:
    """Why a plan would gain nothing; None where it does."""
    products = sum(isinstance(step, Dense) for step in plan.steps)
    if products == 0:
        return "nothing to gain: there is no product in it"
    if len(plan.steps) == 1:
        return "nothing to gain: it is one Dense"
    return None


# Leads.


def _leads(graph: Graph, training: bool) -> tuple[dict[Call, int], dict[Call, str]]:
    """The lead of every call that is row-wise, and why each other one is not."""
    leads: dict[Call, int] = {}
    reasons: dict[Call, str] = {}
    made_by: dict[Tensor, Call] = {}
    for call in graph.calls:
        standing = calls.standing_reasons(call)
        if standing:
            reasons[call] = "; ".join(standing)
        else:
            producers = [made_by[tensor] for tensor in call.inputs if tensor in made_by]
            known = sorted({leads[producer] for producer in producers if producer in leads})
            widest = min((len(tensor.shape) for tensor in call.inputs), default=1) - 1
            lead, reason = _lead(call, [*known, *range(max(widest, 1), 0, -1)], training)
            if lead is None:
                reasons[call] = reason
            else:
                leads[call] = lead
        made_by.update(dict.fromkeys(call.outputs, call))
    return leads, reasons


def _lead(call: Call, candidates: Iterable[int], training: bool) -> tuple[int | None, str]:
    """The first number of leading axes with which a call is row-wise, or None and why not even with the batch alone."""
    reason = ""
    for lead in dict.fromkeys(candidates):
        try:
            rows = {tensor.shape[1:lead] for tensor in (*call.inputs, *call.outputs)}
            if len(rows) > 1:
                raise NotRowWise("its inputs and outputs have different rows")
            lower([call], list(dict.fromkeys(call.inputs)), lead, training, call.outputs[0].dtype)
        except NotRowWise as why:
            reason = str(why).removeprefix(f"{call}: ")
        else:
            return lead, ""
    return None, reason


# Convex sets. Sets of calls are integers here: bit i is call i of the graph.


class _Reach:
    """For each call, those that come before it and those that come after it."""

    def __init__(self, graph: Graph):
        made_by = {tensor: i for i, call in enumerate(graph.calls) for tensor in call.outputs}
        n = len(graph.calls)
        self.before = [0] * n
        self.after = [0] * n
        for i, call in enumerate(graph.calls):
            for tensor in call.inputs:
                j = made_by.get(tensor)
                if j is not None:
                    self.before[i] |= self.before[j] | 1 << j
        for i in range(n):
            for j in _bits(self.before[i]):
                self.after[j] |= 1 << i

    def is_convex(self, members: int) -> bool:
        before = after = 0
        for i in _bits(members):
            before |= self.before[i]
            after |= self.after[i]
        return not before & after & ~members


def _bits(members: int) -> Iterable[int]:
    while members:
        low = members & -members
        yield low.bit_length() - 1
        members ^= low


def _grow(graph: Graph, leads: dict[Call, int]) -> list[list[Call]]:
    """Convex sets of row-wise calls with the same rows: along the edges first, then side by side at one input."""
    reach = _Reach(graph)
    made_by = {tensor: i for i, call in enumerate(graph.calls) for tensor in call.outputs}
    home: dict[int, int] = {}

    def kind(call: Call) -> tuple[int, str, tuple[int | None, ...]]:
        return leads[call], call.outputs[0].dtype, call.outputs[0].shape[1 : leads[call]]

    def join(a: int, b: int) -> None:
        """Makes the sets of two calls one, if that is convex."""
        if home[a] != home[b] and kind(graph.calls[a]) == kind(graph.calls[b]):
            both = home[a] | home[b]
            if reach.is_convex(both):
                home.update(dict.fromkeys(_bits(both), both))

    readers: dict[Tensor, list[int]] = {}
    for i, call in enumerate(graph.calls):
        if call in leads:
            home[i] = 1 << i
            for tensor in call.inputs:
                readers.setdefault(tensor, []).append(i)
                if made_by.get(tensor) in home:
                    join(i, made_by[tensor])
    before = None
    while before != home:  # what could not be joined before may be now
        before = dict(home)
        for i in home:
            for tensor in graph.calls[i].inputs:
                if made_by.get(tensor) in home:
                    join(i, made_by[tensor])
        for side_by_side in readers.values():
            for a, b in zip(side_by_side, side_by_side[1:]):
                join(a, b)
    return [[graph.calls[i] for i in _bits(members)] for members in dict.fromkeys(home.values())]


def _region(graph: Graph, members: Sequence[Call], lead: int, training: bool) -> Region:
    inside = set(members)
    made = {tensor for call in members for tensor in call.outputs}
    inputs = list(dict.fromkeys(tensor for call in members for tensor in call.inputs if tensor not in made))
    read = {tensor for call in graph.calls if call not in inside for tensor in call.inputs} | set(graph.outputs)
    outputs = [tensor for call in members for tensor in call.outputs if tensor in read]
    for tensor in outputs:
        row_shape(tensor, lead)
    return Region(tuple(members), tuple(inputs), tuple(outputs), lead, training, members[0].outputs[0].dtype)


def _in_order(graph: Graph, regions: Sequence[Region]) -> tuple[Union[Region, Call], ...]:
    """Regions and the calls outside, each as soon as what it reads is there."""
    owner: dict[Call, Union[Region, Call]] = {call: call for call in graph.calls}
    owner.update({call: region for region in regions for call in region.calls})
    waiting = list(dict.fromkeys(owner[call] for call in graph.calls))
    there = set(graph.inputs)
    items: list[Union[Region, Call]] = []
    while waiting:
        ready = next(item for item in waiting if there.issuperset(item.inputs))
        waiting.remove(ready)
        items.append(ready)
        there.update(ready.outputs)
    return tuple(items)
