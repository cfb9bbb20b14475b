"""plan.py: the rules of the data model, printing, and the encoding."""

import dataclasses
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusedsplit.plan import (
    LINEAR,
    MAX_WIDTH,
    PLAN_VERSION,
    Activation,
    Const,
    Dense,
    Live,
    Merge,
    Mix,
    Param,
    Plan,
    PlanError,
    Range,
    Row,
    Value,
    rules,
)

RELU = Activation("relu")


def every_step() -> Plan:
    """A plan with every kind of step and operand."""
    values = (
        Value(6, "input"),
        Value(8, "hidden"),
        Value(2, "hidden"),
        Value(2, "hidden"),
        Value(5, "output"),
        Value(4, "output"),
        Value(3, "output"),
    )
    params = (Param((6, 8)), Param((8,)), Param((4, 4)), Param((4,)), Param((8, 2)))
    steps = (
        Dense(Range(0, 0, 6), 0, 1, RELU, Range(1, 0, 8)),
        Dense(Range(1, 0, 8), 4, None, LINEAR, Range(2, 0, 2), Live(0, "leading")),
        Row("softmax", Range(2, 0, 2), Range(3, 0, 2)),
        Mix(Range(3, 0, 2), (Range(1, 0, 4), Range(1, 4, 8)), Range(4, 0, 4)),
        Row("max", Range(1, 2, 7), Range(4, 4, 5)),
        Merge(
            "mul",
            ((Range(1, 0, 4), 1.0), (Range(1, 3, 4), -0.5)),
            3,
            Const(1.0),
            Activation("elu", 1.5),
            Range(5, 0, 4),
        ),
        Row("normalize", Range(1, 1, 4), Range(6, 0, 3), 1e-3),
    )
    return Plan(values, params, steps, points=1)


def test_every_step_is_valid_and_survives_encoding():
    plan = every_step().validate()
    assert Plan.decode(plan.encode()) == plan


def test_printing_names_values_ranges_and_params():
    text = str(every_step())
    for line in (
        "h0 = relu(x0 @ p0 + p1)",
        "h1 = h0.leading(point 0) @ p4",
        "h2 = row_softmax(h1)",
        "y0[0:4] = mix(h2; h0[0:4], h0[4:8])",
        "y0[4:5] = row_max(h0[2:7])",
        "y1 = elu(1.5)(mul(h0[0:4], -0.5 h0[3:4]) * p3 + 1)",
        "y2 = row_normalize(h0[1:4], 0.001)",
    ):
        assert line in text


def test_flops_counts_the_products():
    assert every_step().flops() == 2 * (6 * 8 + 8 * 2)


def _step(index: int, **changes):
    plan = every_step()
    steps = list(plan.steps)
    steps[index] = dataclasses.replace(steps[index], **changes)
    return dataclasses.replace(plan, steps=tuple(steps))


def pieces(sources: int, count: int) -> Plan:
    """A Merge of many sources, of whose columns the core may cut `count` pieces, each with all sources."""
    values = (Value(1, "input"), Value(32 * count, "hidden"), Value(count, "output"))
    merge = Merge("add", ((Range(0, 0, 1), 1.0),) * sources, None, None, LINEAR, Range(1, 0, 32 * count))
    rows = (Row("mean", Range(1, 32 * i, 32 * i + 32), Range(2, i, i + 1)) for i in range(count))
    return Plan(values, (), (merge, *rows))


def products(inputs: int, units: int, count: int) -> Plan:
    """Products of one input with one kernel."""
    dense = (Dense(Range(0, 0, inputs), 0, None, LINEAR, Range(1, i * units, (i + 1) * units)) for i in range(count))
    return Plan((Value(inputs, "input"), Value(count * units, "output")), (Param((inputs, units)),), tuple(dense))


def links(writers: int, units: int, readers: int) -> Plan:
    """`readers` wide products that each read what `writers` steps wrote."""
    values = (Value(1, "input"), Value(writers, "hidden"), Value(readers * units, "output"))
    each = (Merge("add", ((Range(0, 0, 1), 1.0),), None, None, LINEAR, Range(1, i, i + 1)) for i in range(writers))
    wide = (Dense(Range(1, 0, writers), 0, None, LINEAR, Range(2, i * units, (i + 1) * units)) for i in range(readers))
    return Plan(values, (Param((writers, units)),), (*each, *wide))


# Few integers that ask for much: what is beyond the bounds of steps.py, and what they let pass.
EXCESSIVE = {
    "sources of pieces": (pieces(40_000, 4_000), "step 0: expected at most 4194304 sources of all pieces of steps"),
    "links": (links(8_000, 1 << 15, 9), "step 800[0-9]: expected at most 67108864 links between pieces of steps"),
    "columns": (
        Plan((Value(MAX_WIDTH, "input"),) * 3 + (Value(1, "output"),), (), ()),
        "values: expected at most 33554",
    ),
    "params": (
        dataclasses.replace(every_step(), params=(Param((MAX_WIDTH, MAX_WIDTH)),) * 65_536),
        "values: expected at most 68719476736 elements of all params. Received: 281474976710656",
    ),
    "kernels": (products(1 << 22, 1, 1 << 15), "step 511: expected at most 67108864 links between pieces of steps"),
}
GENEROUS = {
    "branches": (pieces(4_096, 32)),
    "members": (products(512, 512, 32 * 700)),
    "products": (products(4_096, 4_096, 1_024)),
}


BROKEN = {
    "read before written": (_step(0, src=Range(1, 0, 6)), "written before it is read"),
    "written twice": (_step(4, dst=Range(4, 3, 4)), "columns that no earlier step wrote"),
    "an input written": (_step(2, dst=Range(0, 0, 2)), "columns that no earlier step wrote"),
    "range past the value": (_step(0, src=Range(0, 0, 7)), "within 6 columns"),
    "empty range": (_step(4, src=Range(1, 2, 2)), "non-empty range"),
    "unknown value": (_step(0, src=Range(9, 0, 6)), "a value below 7"),
    "kernel of another shape": (_step(0, kernel=2), r"a param of shape \(6, 8\)"),
    "unknown param": (_step(0, kernel=7), "a param below 5"),
    "bias of another shape": (_step(0, bias=3), r"a param of shape \(8,\)"),
    "unknown activation": (_step(0, activation=Activation("mish")), "an activation of"),
    "infinite alpha": (_step(5, activation=Activation("elu", math.inf)), "finite activation parameter"),
    "unknown point": (_step(1, live=Live(1, "leading")), "a point input"),
    "softmax into another width": (_step(2, src=Range(1, 0, 3)), "a destination of width 3"),
    "mean into several columns": (_step(2, op="mean"), "a destination of width 1"),
    "normalized into another width": (_step(6, src=Range(1, 1, 5)), "a destination of width 4"),
    "normalized without epsilon": (_step(6, epsilon=0.0), "a finite epsilon above 0. Received: 0.0"),
    "negative epsilon": (_step(6, epsilon=-1e-3), "a finite epsilon above 0"),
    "infinite epsilon": (_step(6, epsilon=math.inf), "a finite epsilon above 0"),
    "epsilon not a number": (_step(6, epsilon=math.nan), "a finite epsilon above 0"),
    "epsilon of a softmax": (_step(2, epsilon=1e-3), "an epsilon of 0 for softmax"),
    "gate of another width": (_step(3, gate=Range(1, 0, 3)), "a gate of width 2"),
    "experts of different widths": (_step(3, experts=(Range(1, 0, 4), Range(1, 4, 7))), "experts of width 4"),
    "merge of different widths": (
        _step(5, srcs=((Range(1, 0, 4), 1.0), (Range(1, 0, 3), 1.0))),
        "width 1 or 4",
    ),
    "merge of nothing": (_step(5, srcs=()), "at least one source"),
    "scale not a number": (_step(5, srcs=((Range(1, 0, 4), math.nan),)), "finite scales"),
    "unknown merge": (_step(5, op="concat"), "an op of"),
    "output not written": (
        dataclasses.replace(every_step(), steps=every_step().steps[:-1]),
        "columns written",
    ),
    "no output": (Plan((Value(1, "input"),), (), ()), "at least one output"),
    "no input": (Plan((Value(1, "output"),), (), ()), "at least one input"),
    "width zero": (Plan((Value(0, "input"), Value(1, "output")), (), ()), "a width from 1"),
    "param of rank 3": (dataclasses.replace(every_step(), params=(Param((1, 1, 1)),)), "one or two sizes"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_plans_are_refused(name):
    plan, message = BROKEN[name]
    with pytest.raises(PlanError, match=message):
        plan.validate()


@pytest.mark.parametrize("name", EXCESSIVE)
def test_plans_that_ask_for_too_much_are_refused(name):
    plan, message = EXCESSIVE[name]
    with pytest.raises(PlanError, match=message):
        plan.validate()


@pytest.mark.parametrize("name", GENEROUS)
def test_plans_of_large_models_are_valid(name):
    GENEROUS[name].validate()


def test_another_version_is_refused():
    code = every_step().encode()
    with pytest.raises(PlanError, match=f"expected plan version {PLAN_VERSION}. Received: version 99"):
        Plan.decode([99, *code[1:]])


@pytest.mark.parametrize("cut", [0, 1, 4, 20, -1], ids=str)
def test_truncated_code_is_refused(cut):
    with pytest.raises(PlanError):
        Plan.decode(every_step().encode()[:cut])


def test_trailing_code_is_refused():
    with pytest.raises(PlanError, match="Received: "):
        Plan.decode([*every_step().encode(), 0])


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_change_is_refused_or_decodes_to_what_encodes_alike(data):
    code = every_step().encode()
    at = data.draw(st.integers(1, len(code) - 1))
    code[at] = data.draw(st.integers(-3, 9) | st.integers(-(2**63), 2**63 - 1))
    try:
        plan = Plan.decode(code)
    except PlanError:
        return
    assert Plan.decode(plan.encode()) == plan


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 6)), max_size=12), st.integers(0, 20), st.integers(1, 9))
def test_intervals_that_hold_a_range_are_counted(writes, start, width):
    written, by_column = rules._Written(), {}
    for i, (at, size) in enumerate(writes):
        columns = range(at, at + size)
        free = not any(c in by_column for c in columns)
        assert written.write(at, at + size) == free
        by_column.update(dict.fromkeys(columns, i) if free else {})
    holders = [by_column.get(c) for c in range(start, start + width)]
    assert written.holders(start, start + width) == (0 if None in holders else len(set(holders)))
