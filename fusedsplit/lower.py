"""Spec -> Plan."""

from __future__ import annotations

import functools

from fusedsplit.plan import LINEAR, Activation, Dense, Merge, Param, Plan, Range, Row, Step, Value
from fusedsplit.spec import Branch, DenseSpec, Item, SplitSpec, items_width

_MERGE_OPS = {
    "add": "add",
    "subtract": "add",
    "average": "add",
    "multiply": "mul",
    "maximum": "max",
    "minimum": "min",
}


@functools.lru_cache(maxsize=1024)
def lower(spec: SplitSpec, logits: bool = False) -> Plan:
    """The plan of a spec.

    Args:
        spec: what is computed.
        logits: where `spec.has_logits`, also give out what goes into the last activation, as a second output.
    """
    return _Lowering(spec, logits).plan()


class _Lowering:
    def __init__(self, spec: SplitSpec, logits: bool):
        self.spec = spec
        self.logits = logits
        self.values = [Value(width, "input") for width in spec.inputs]
        self.steps: list[Step] = []

    def plan(self) -> Plan:
        spec = self.spec
        stem = self.items(Range(0, 0, spec.inputs[0]), spec.stem) if spec.stem else None
        sources = [self.source(branch, stem) for branch in spec.branches]
        if spec.merge is None:
            for branch, src in zip(spec.branches, sources):
                self.items_into(src, branch.items, self.output(branch.width))
        elif spec.head:
            self.head(self.merged(sources, None))
        else:
            self.merged(sources, self.output(spec.merged_width))
        return Plan(tuple(self.values), tuple(map(Param, spec.params)), tuple(self.steps)).validate()

    def source(self, branch: Branch, stem: Range | None) -> Range:
        if branch.source is not None:
            return Range(branch.source, branch.start, branch.stop)
        assert stem is not None
        return Range(stem.value, stem.start + branch.start, stem.start + branch.stop)

    def merged(self, sources: list[Range], dst: Range | None) -> Range:
        """The merged value: written into `dst`, or into a new hidden value, or where it already stands."""
        spec = self.spec
        if spec.merge == "concat":
            if dst is None and (whole := self.joined(sources)) is not None:
                return whole
            dst = dst or self.hidden(spec.merged_width)
            at = dst.start
            for branch, src in zip(spec.branches, sources):
                self.items_into(src, branch.items, Range(dst.value, at, at + branch.width))
                at += branch.width
            return dst
        parts = [self.items(src, b.items) for b, src in zip(spec.branches, sources)]
        dst = dst or self.hidden(spec.merged_width)
        scales = [1.0] * len(parts)
        if spec.merge == "subtract":
            scales[1:] = [-1.0] * (len(parts) - 1)
        elif spec.merge == "average":
            scales = [1.0 / len(parts)] * len(parts)
        self.steps.append(Merge(_MERGE_OPS[spec.merge], tuple(zip(parts, scales)), None, None, LINEAR, dst))
        return dst

    def joined(self, sources: list[Range]) -> Range | None:
        """The one range that identity branches on adjacent slices already form, if they do."""
        if any(branch.items for branch in self.spec.branches):
            return None
        for left, right in zip(sources, sources[1:]):
            if left.value != right.value or left.stop != right.start:
                return None
        return Range(sources[0].value, sources[0].start, sources[-1].stop)

    def head(self, src: Range) -> None:
        head = self.spec.head
        width = items_width(src.width, head)
        dst = self.output(width)
        if not (self.logits and self.spec.has_logits):
            self.items_into(src, head, dst)
            return
        *others, last = head
        logits = self.output(width)
        self.items_into(src, (*others, last._replace(activation=LINEAR)), logits)
        self.activation(logits, last.activation, dst)

    def items(self, src: Range, items: tuple[Item, ...]) -> Range:
        """Applies `items` into a new hidden value; where there are none, `src` itself is the result."""
        return self.items_into(src, items, self.hidden(items_width(src.width, items))) if items else src

    def items_into(self, src: Range, items: tuple[Item, ...], dst: Range) -> Range:
        """Applies `items`, the last of them into `dst`; where there are none, copies."""
        for i, item in enumerate(items):
            last = i == len(items) - 1
            width = items_width(src.width, (item,))
            into = dst if last else self.hidden(width)
            if isinstance(item, DenseSpec):
                self.dense(src, item, into)
            else:
                self.activation(src, item, into)
            src = into
        if not items:
            self.activation(src, LINEAR, dst)
        return dst

    def dense(self, src: Range, item: DenseSpec, dst: Range) -> None:
        if item.activation.name == "softmax":
            into = self.hidden(item.units)
            self.steps.append(Dense(src, item.kernel, item.bias, LINEAR, into))
            self.steps.append(Row("softmax", into, dst))
        else:
            self.steps.append(Dense(src, item.kernel, item.bias, item.activation, dst))

    def activation(self, src: Range, activation: Activation, dst: Range) -> None:
        if activation.name == "softmax":
            self.steps.append(Row("softmax", src, dst))
        else:
            self.steps.append(Merge("add", ((src, 1.0),), None, None, activation, dst))

    def hidden(self, width: int) -> Range:
        self.values.append(Value(width, "hidden"))
        return Range(len(self.values) - 1, 0, width)

    def output(self, width: int) -> Range:
        self.values.append(Value(width, "output"))
        return Range(len(self.values) - 1, 0, width)
