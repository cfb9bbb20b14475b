"""lower.py: which steps a spec becomes."""

import pytest
from keras.layers import Activation, Dense

import fusedsplit as fs
from fusedsplit.layers.lower import lower
from fusedsplit.plan import LINEAR, Merge, Mix, Plan, Range, Row
from fusedsplit.plan import Dense as DenseStep


def plan_of(layer, width: int = 10, logits: bool = False) -> Plan:
    layer.build((None, width))
    plan = lower(layer.spec, logits)
    assert Plan.decode(plan.encode()) == plan
    return plan


def kinds(plan: Plan) -> list[str]:
    return [type(step).__name__ for step in plan.steps]


def test_a_split_that_is_joined_again_is_no_step():
    plan = plan_of(fs.SplitDense(Dense(8), [None, None], head=Dense(1)))
    assert kinds(plan) == ["Dense", "Dense"]
    assert plan.steps[1].src == Range(plan.steps[0].dst.value, 0, 8)


def test_a_split_is_a_range_read_and_a_concat_a_range_written():
    plan = plan_of(fs.SplitDense(Dense(8), [Dense(4), Dense(6)], split=[3, 5]))
    stem, left, right = plan.steps
    assert (left.src, right.src) == (Range(stem.dst.value, 0, 3), Range(stem.dst.value, 3, 8))
    output = plan.outputs[0]
    assert (left.dst, right.dst) == (Range(output, 0, 4), Range(output, 4, 10))


def test_a_slice_beside_a_branch_is_copied_where_it_must_be():
    plan = plan_of(fs.SplitDense(Dense(8), [Dense(4), None]))
    assert kinds(plan) == ["Dense", "Dense", "Merge"]
    assert plan.steps[2] == Merge("add", ((plan.steps[2].srcs[0][0], 1.0),), None, None, LINEAR, plan.steps[2].dst)


def test_softmax_is_a_row_step():
    plan = plan_of(fs.SplitDense(Dense(8), [Dense(4, activation="softmax"), None], head=Dense(3, activation="softmax")))
    assert kinds(plan) == ["Dense", "Dense", "Row", "Merge", "Dense", "Row"]
    assert all(step.op == "softmax" for step in plan.steps if isinstance(step, Row))


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_logits_are_a_second_output(activation):
    layer = fs.SplitDense(Dense(8), [Dense(4), None], head=Dense(3, activation=activation))
    with_logits, without = plan_of(layer, logits=True), lower(layer.spec)
    assert len(with_logits.outputs) == 2 and len(without.outputs) == 1
    product = next(step for step in with_logits.steps if step.dst.value == with_logits.outputs[1])
    assert isinstance(product, DenseStep) and product.activation == LINEAR


@pytest.mark.parametrize(
    ("merge", "op", "scales"),
    [
        ("add", "add", [1, 1, 1]),
        ("subtract", "add", [1, -1, -1]),
        ("average", "add", [1 / 3] * 3),
        ("multiply", "mul", [1, 1, 1]),
        ("maximum", "max", [1, 1, 1]),
        ("minimum", "min", [1, 1, 1]),
    ],
)
def test_elementwise_merges_are_one_step(merge, op, scales):
    step = plan_of(fs.MergeDense([Dense(4) for _ in range(3)], merge=merge)).steps[-1]
    assert isinstance(step, Merge) and step.op == op
    assert [scale for _, scale in step.srcs] == scales


def test_a_gated_unit_is_a_product_and_its_factors():
    plan = plan_of(fs.SplitDense(Dense(8), [Activation("silu"), None], merge="multiply"))
    assert kinds(plan) == ["Dense", "Merge", "Merge"]
    assert plan.steps[-1].op == "mul"


def test_a_mixture_is_softmax_and_mix():
    plan = plan_of(fs.MergeDense([Dense(4), Dense(4), Dense(2)], merge=fs.merges.mixture()))
    assert kinds(plan)[-2:] == ["Row", "Mix"]
    assert isinstance(plan.steps[-1], Mix)


def test_a_nested_layer_is_part_of_the_same_plan():
    inner = fs.SplitDense(Dense(6), [Dense(2), None])
    plan = plan_of(fs.SplitDense(Dense(8), [inner, Dense(3)]))
    assert kinds(plan).count("Dense") == 4
    assert len(plan.inputs) == len(plan.outputs) == 1


def test_a_shared_dense_is_one_param_in_two_steps():
    shared = Dense(3)
    plan = plan_of(fs.SplitDense(Dense(8), [shared, shared]))
    assert plan.steps[1].kernel == plan.steps[2].kernel
    assert len(plan.params) == 4


def test_a_dynamic_split_reads_its_point():
    layer = fs.DynamicSplitDense(Dense(8), Dense(4), Dense(4), split=lambda x: 3)
    plan = plan_of(layer)
    assert plan.points == 1
    assert [step.live.side for step in plan.steps[1:]] == ["leading", "trailing"]
