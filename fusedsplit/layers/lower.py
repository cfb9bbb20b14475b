"""Spec -> Plan."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from fusedsplit.layers.merges import NamedMerge
from fusedsplit.layers.spec import Branch, DenseSpec, Gain, Item, Mask, SplitSpec, items_width
from fusedsplit.plan import LINEAR, Live, Param, Plan, PlanBuilder, Range


@functools.lru_cache(maxsize=1024)
def lower(spec: SplitSpec, logits: bool = False) -> Plan:
    """The plan of a spec that is one plan.

    Args:
        spec: what is computed.
        logits: where `spec.has_logits`, also give out what goes into the last activation, as a second output.
    """
    return _Lowering(spec).lowered(logits and spec.has_logits)


class _Lowering(PlanBuilder):
    """Builds the steps, each value's place being decided by who consumes it: `dst` travels down, results up."""

    def __init__(self, spec: SplitSpec):
        super().__init__()
        self.spec = spec
        self.params = list(map(Param, spec.params))
        self.points = spec.points
        self.sources = [self.input(width) for width in spec.inputs]

    def lowered(self, logits: bool) -> Plan:
        spec, sources = self.spec, self.sources
        outputs = [self.output(width) for width in spec.output_widths]
        if spec.merge is None:
            for branch, src, dst in zip(spec.branches, self.branch_sources(spec, sources), outputs):
                self.branch(src, branch, dst)
        elif logits:
            self.head_with_logits(self.merged(spec, sources, None), outputs[0])
        else:
            self.block(spec, sources, outputs[0])
        return self.plan()

    def block(self, spec: SplitSpec, sources: Sequence[Range], dst: Range) -> None:
        """A whole spec, stem to head, into `dst`."""
        if spec.head:
            self.items(self.merged(spec, sources, None), spec.head, dst)
        else:
            self.merged(spec, sources, dst)

    def branch_sources(self, spec: SplitSpec, sources: Sequence[Range]) -> list[Range]:
        """What each branch reads. Applies the stem."""
        stem = self.result(sources[0], spec.stem) if spec.stem else None

        def part(branch: Branch) -> Range:
            base = stem if branch.source is None else sources[branch.source]
            assert base is not None
            return Range(base.value, base.start + branch.start, base.start + branch.stop)

        return [part(branch) for branch in spec.branches]

    def merged(self, spec: SplitSpec, sources: Sequence[Range], dst: Range | None) -> Range:
        """The merged value: written into `dst`, or into a new hidden value, or where it already stands."""
        branch_sources = self.branch_sources(spec, sources)
        assert isinstance(spec.merge, NamedMerge)
        into = dst or Range(-1, 0, spec.merged_width)
        places = spec.merge.places(into, [branch.width for branch in spec.branches])
        if dst is None and None not in places:
            whole = self.joined(spec, branch_sources)
            if whole is not None:
                return whole
        if dst is None:
            dst = self.hidden(spec.merged_width)
            places = spec.merge.places(dst, [branch.width for branch in spec.branches])
        parts = [self.branch(src, b, place) for src, b, place in zip(branch_sources, spec.branches, places)]
        spec.merge.lower(self, parts, sources[0], dst)
        return dst

    @staticmethod
    def joined(spec: SplitSpec, sources: list[Range]) -> Range | None:
        """The one range that identity branches on adjacent slices already form, if they do."""
        if any(branch.items for branch in spec.branches):
            return None
        for left, right in zip(sources, sources[1:]):
            if left.value != right.value or left.stop != right.start:
                return None
        return Range(sources[0].value, sources[0].start, sources[-1].stop)

    def head_with_logits(self, src: Range, dst: Range) -> None:
        *others, last = self.spec.head
        assert isinstance(last, DenseSpec)
        logits = self.output(dst.width)
        self.items(src, (*others, last._replace(activation=LINEAR)), logits)
        self.activate(logits, last.activation, dst)

    def branch(self, src: Range, branch: Branch, dst: Range | None) -> Range:
        if dst is None:
            return self.result(src, branch.items, branch.live)
        self.items(src, branch.items, dst, branch.live)
        return dst

    def result(self, src: Range, items: tuple[Item, ...], live: Live | None = None) -> Range:
        """Applies `items` into a new hidden value; where there are none, `src` itself is the result."""
        if not items:
            return src
        dst = self.hidden(items_width(src.width, items))
        self.items(src, items, dst, live)
        return dst

    def items(self, src: Range, items: tuple[Item, ...], dst: Range, live: Live | None = None) -> None:
        """Applies `items`, the last of them into `dst`; where there are none, copies."""
        if not items:
            self.activate(src, LINEAR, dst)
        for i, item in enumerate(items):
            into = dst if i == len(items) - 1 else self.hidden(items_width(src.width, (item,)))
            self.item(src, item, into, live if i == 0 else None)
            src = into

    def item(self, src: Range, item: Item, dst: Range, live: Live | None) -> None:
        if isinstance(item, DenseSpec):
            self.dense(src, item.kernel, item.bias, item.activation, dst, live)
            return
        assert live is None
        if isinstance(item, SplitSpec):
            self.block(item, [src], dst)
        elif isinstance(item, Mask):
            self.merge("mul", ((src, 1.0), (Range(item.input, 0, src.width), 1.0)), dst)
        elif isinstance(item, Gain):
            self.merge("add", ((src, 1.0),), dst, gain=item.param)
        else:
            self.activate(src, item, dst)
