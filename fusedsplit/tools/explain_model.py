"""`fs.explain` of a model: what of it runs fused and what does not, where, and who runs fit, evaluate and predict."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import keras

from fusedsplit.backends import dispatch
from fusedsplit.backends.base import CallContext
from fusedsplit.models import calls, loops
from fusedsplit.models.fused_model import FusedModel, fuse
from fusedsplit.models.graph import Call, Graph, Tensor
from fusedsplit.models.region import Region
from fusedsplit.plan import Dense, Plan
from fusedsplit.tools import gain, model_text
from fusedsplit.tools.call_names import paths
from fusedsplit.tools.gain import Gain

RAISES = "raises"


@dataclasses.dataclass(frozen=True)
class FusedRegion:
    """A region, in numbers.

    Attributes:
        region: what runs as one plan: `calls`, `layers`, `plan`, `inputs`, `outputs`.
        choices: situation -> the backend that runs there and why, or that a call would raise.
        products: the matrix products of its plan.
        steps: all steps of its plan.
        flops: multiplications and additions of its products, for one row.
        rows: how many leading axes of its tensors are rows.
        masked: calls in front of it that give a Keras mask, with which it runs unfused.
    """

    region: Region
    choices: dict[str, str]
    products: int
    steps: int
    flops: int
    rows: int
    masked: tuple[Call, ...]


@dataclasses.dataclass(frozen=True)
class Left:
    """Calls that run as Keras runs them, for one reason."""

    reason: str
    calls: tuple[Call, ...]


@dataclasses.dataclass(frozen=True)
class Mode:
    """How the graph runs at inference, or while training.

    Attributes:
        training: which of the two.
        regions: what runs fused.
        left: everything else, by reason.
    """

    training: bool
    regions: tuple[FusedRegion, ...]
    left: tuple[Left, ...]

    @property
    def fused_calls(self) -> list[Call]:
        return [call for found in self.regions for call in found.region.calls]

    @property
    def left_calls(self) -> list[Call]:
        return [call for left in self.left for call in left.calls]


@dataclasses.dataclass(frozen=True)
class ModelExplanation:
    """What of a model is fused, or would be; prints as tables.

    Attributes:
        name: of the model.
        is_fused: whether it is a FusedModel; of a plain one this is what `fs.fuse` would make of it.
        backend: that the model names.
        inference: how its graph runs at inference.
        training: how it runs while training.
        loops: who runs `fit`, `evaluate` and `predict`, and every reason that is known without data.
        notes: what else there is to know.
    """

    name: str
    is_fused: bool
    backend: str
    inference: Mode
    training: Mode
    loops: dict[str, str]
    notes: tuple[str, ...]
    _fused: Any = dataclasses.field(repr=False)

    @property
    def regions(self) -> list[Region]:
        """What runs fused at inference."""
        return [found.region for found in self.inference.regions]

    @property
    def left(self) -> dict[str, list[str]]:
        """Why something is left to Keras at inference -> the names of the calls."""
        return {left.reason: [call.path for call in left.calls] for left in self.inference.left}

    @functools.cached_property
    def gain(self) -> Gain | None:
        """What fusing may bring, None where nothing can run fused: the model is traced when it is first asked for."""
        runs = not any(found.choices["graph"].startswith(RAISES) for found in self.inference.regions)
        return gain.expected(self._fused, self.regions) if self.regions and runs else None

    def __str__(self) -> str:
        return model_text.show(self)


def explain(model: Any) -> ModelExplanation:
    """What `fs.explain` says of a model: see there."""
    fused = model if isinstance(model, FusedModel) else fuse(model)
    return ModelExplanation(
        name=fused.name,
        is_fused=isinstance(model, FusedModel),
        backend=fused.backend,
        inference=_mode(fused, training=False),
        training=_mode(fused, training=True),
        loops=loops.who(fused),
        notes=_notes(fused.graph),
        _fused=fused,
    )


def _mode(fused: FusedModel, training: bool) -> Mode:
    schedule = fused.schedule(training)
    inside = {call for region in schedule.regions for call in region.calls}
    by_reason: dict[str, list[Call]] = {}
    for call in fused.graph.calls:
        if call not in inside:
            by_reason.setdefault(schedule.reasons[call], []).append(call)
    masking = _behind_masks(fused.graph)
    regions = [_region(region, fused.backend, masking) for region in schedule.regions]
    return Mode(training, tuple(regions), tuple(Left(reason, tuple(found)) for reason, found in by_reason.items()))


def _region(region: Region, backend: str, masking: dict[Tensor, set[Call]]) -> FusedRegion:
    plan = region.computation.plan()
    products = sum(isinstance(step, Dense) for step in plan.steps)
    masked = _givers(region, masking)
    return FusedRegion(
        region, _choices(region, plan, backend), products, len(plan.steps), plan.flops(), region.lead, masked
    )


def _choices(region: Region, plan: Plan, backend: str) -> dict[str, str]:
    """Which backend runs a region, in each situation."""
    dtype, unfusable = region.dtype, region.computation.unfusable_reasons()
    situations = {
        "eager": CallContext(dtype),
        "graph": CallContext(dtype, eager=False),
        "inside XLA": CallContext(dtype, eager=False, in_xla=True),
    }
    choices = {}
    for situation, context in situations.items():
        try:
            choice = dispatch.choose(backend, None if unfusable else plan, context, unfusable)
        except ValueError:
            choices[situation] = f"{RAISES}: backend={backend!r} cannot run there"
            continue
        why = "; ".join(unfusable) if choice.name == "reference" and unfusable else choice.why
        choices[situation] = f"{choice.name} ({why})"
    return choices | {"saving, export": "Keras' own operations: what is saved needs no custom op"}


def _behind_masks(graph: Graph) -> dict[Tensor, set[Call]]:
    """For each tensor the calls that it comes from whose layers give a Keras mask."""
    behind: dict[Tensor, set[Call]] = {}
    for call in graph.calls:
        found = set().union(*(behind.get(tensor, set()) for tensor in call.inputs))
        found |= {call} if _gives_mask(call.operation) else set()
        behind.update(dict.fromkeys(call.outputs, found))
    return behind


def _givers(region: Region, behind: dict[Tensor, set[Call]]) -> tuple[Call, ...]:
    """The calls whose masks a region may get, where it does not just pass them on."""
    masks = {tensor: behind[tensor] for tensor in region.inputs if behind.get(tensor)}
    if calls.passed_masks(region.calls, masks) is not None:
        return ()
    return tuple(dict.fromkeys(giver for givers in masks.values() for giver in givers))


def _gives_mask(operation: Any) -> bool:
    if isinstance(operation, keras.layers.Embedding):
        return bool(operation.mask_zero)
    return isinstance(operation, keras.layers.Masking)


def _notes(graph: Graph) -> tuple[str, ...]:
    bakes = [call for call in graph.calls if call.bakes_training]
    if not bakes:
        return ()
    return (
        f"the graph itself says training=True for {paths(bakes)}: a call that says nothing of `training` "
        "runs as Keras runs it",
    )
