"""Row programs: what they compute, held against NumPy, and which steps it takes."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from fusedsplit.backends.tf import execute
from fusedsplit.models.rows import MAX_PIECES, NotRowWise, RowProgram, View, concat, stack
from fusedsplit.plan import Activation, Dense, Merge, Mix, PlanBuilder, Row

RELU, TANH, SIGMOID, SOFTMAX = (Activation(name) for name in ("relu", "tanh", "sigmoid", "softmax"))
RNG = np.random.default_rng(0)


def numbers(*shape):
    return RNG.normal(size=shape)


class Program(RowProgram):
    """A row program whose inputs and params have numbers, which are given out beside them."""

    def __init__(self):
        super().__init__()
        self.rows = []

    def given(self, *shape):
        array = numbers(3, *shape)
        self.rows.append(array)
        return self.input(shape), array

    def array(self, *shape):
        array = numbers(*shape)
        return self.param(len(self.sources), shape, lambda: array), array

    def check(self, *pairs):
        """Pairs of view and expected rows; gives the plan."""
        finished = self.plan([view for view, _ in pairs])
        inputs = [tf.constant(array.reshape(3, -1)) for array in self.rows]
        params = [tf.constant(np.asarray(self.sources[i].read(), "float64")) for i in finished.sources]
        results = execute(finished.plan, inputs, params)
        assert len(finished.plan.outputs) == len(results)
        for i, (view, expected) in zip(finished.outputs, pairs, strict=True):
            assert view.shape == expected.shape[1:]
            np.testing.assert_allclose(results[i], expected.reshape(3, -1), rtol=1e-12, atol=1e-12)
        return finished.plan


def kinds(plan):
    return [type(step) for step in plan.steps]


def relu(x):
    return np.maximum(x, 0)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


# Where things stand.


def test_moving_elements_is_no_step():
    p = Program()
    x, _ = p.given(2, 3)
    moved = stack([x.transpose((1, 0)), x.reshape((3, 2))], 1)[:, ::-1]
    assert moved.shape == (3, 2, 2)
    assert not p.steps


def test_parts_of_a_concat_are_written_where_they_belong():
    p = Program()
    x, a = p.given(4)
    (k0, w0), (k1, w1), (k2, w2) = p.array(4, 3), p.array(4, 2), p.array(5, 1)
    y = p.dense(concat([p.dense(x, k0), p.dense(x, k1)], -1), k2)
    plan = p.check((y, np.concatenate([a @ w0, a @ w1], 1) @ w2))
    assert kinds(plan) == [Dense] * 3
    assert [v.role for v in plan.values] == ["input", "output", "hidden"]


def test_a_value_stands_in_the_first_concat_that_wants_it_and_is_copied_to_the_next():
    p = Program()
    x, a = p.given(4)
    (k0, w0), (k1, w1), (k2, w2) = p.array(4, 3), p.array(4, 3), p.array(6, 2)
    u, v = p.dense(x, k0), p.dense(x, k1)
    ys = [p.dense(concat(parts, -1), k2) for parts in ([u, v], [v, u])]
    au, av = a @ w0, a @ w1
    expected = [np.concatenate(parts, 1) @ w2 for parts in ([au, av], [av, au])]
    plan = p.check(*zip(ys, expected))
    assert kinds(plan).count(Merge) == 2


def test_an_input_in_a_concat_is_copied():
    p = Program()
    x, a = p.given(3)
    k, w = p.array(3, 2)
    plan = p.check((concat([x, p.dense(x, k)], -1), np.concatenate([a, a @ w], 1)))
    assert sorted(t.__name__ for t in kinds(plan)) == ["Dense", "Merge"]


def test_concats_within_concats():
    p = Program()
    x, a = p.given(2)
    (k, w), (k2, w2) = p.array(2, 2), p.array(6, 6)
    inner = concat([p.dense(x, k), x], -1)
    y = p.dense(concat([x, inner], -1), k2)
    p.check((y, np.concatenate([a, a @ w, a], 1) @ w2))


def test_a_concat_that_is_read_twice_is_made_once():
    p = Program()
    (x, a), (z, b) = p.given(2), p.given(3)
    (k0, w0), (k1, w1) = p.array(5, 1), p.array(5, 2)
    joined, array = concat([x, z], -1), np.concatenate([a, b], 1)
    plan = p.check((p.dense(joined, k0), array @ w0), (p.dense(joined, k1), array @ w1))
    assert kinds(plan).count(Merge) == 2


# Outputs.


@pytest.mark.parametrize("key", [slice(None), slice(1, 3), slice(None, None, -1), [2, 0, 0]])
def test_an_input_or_a_part_of_it_as_output(key):
    p = Program()
    x, a = p.given(4)
    p.check((x[key], a[:, key]))


def test_a_part_of_a_value_as_output():
    p = Program()
    x, a = p.given(4)
    k, w = p.array(4, 6)
    y = p.dense(x, k)
    p.check((y[:2], (a @ w)[:, :2]), (y[1:5], (a @ w)[:, 1:5]))


def test_the_same_output_twice_and_one_that_is_read_inside():
    p = Program()
    x, a = p.given(4)
    (k, w), (k2, w2) = p.array(4, 3), p.array(3, 2)
    h = p.dense(x, k, None, RELU)
    p.check((h, relu(a @ w)), (h, relu(a @ w)), (p.dense(h, k2), relu(a @ w) @ w2))


def test_an_output_within_a_concat_that_is_an_output():
    p = Program()
    x, a = p.given(4)
    (k, w), (k2, w2) = p.array(4, 3), p.array(4, 2)
    u, v = p.dense(x, k), p.dense(x, k2)
    p.check((concat([v, u], -1), np.concatenate([a @ w2, a @ w], 1)), (u, a @ w))


def test_steps_that_nothing_needs_are_dropped():
    p = Program()
    x, a = p.given(4)
    (k, w), (unused, _) = p.array(4, 3), p.array(4, 5)
    p.dense(x, unused, None, TANH)
    plan = p.check((p.dense(x, k), a @ w))
    assert kinds(plan) == [Dense]
    assert len(plan.params) == 1


def test_an_empty_value_is_refused():
    p = Program()
    with pytest.raises(NotRowWise, match="an empty tensor"):
        p.input((0,))


# Joins.


def test_activations_join_what_they_are_applied_to():
    p = Program()
    x, a = p.given(4)
    (k, w), (k2, w2) = p.array(4, 3), p.array(4, 2)
    y = p.activate(concat([p.dense(x, k), p.dense(x, k2)], -1), RELU)
    plan = p.check((y, relu(np.concatenate([a @ w, a @ w2], 1))))
    assert kinds(plan) == [Dense, Dense]


def test_activations_of_a_part_or_of_what_others_read_stay_steps():
    p = Program()
    x, a = p.given(4)
    k, w = p.array(4, 3)
    h = p.dense(x, k)
    plan = p.check((p.activate(h, TANH), np.tanh(a @ w)), (h, a @ w))
    assert kinds(plan) == [Dense, Merge]
    p = Program()
    x, a = p.given(4)
    k, w = p.array(4, 3)
    plan = p.check((p.activate(p.dense(x, k)[:2], TANH), np.tanh(a @ w)[:, :2]))
    assert kinds(plan) == [Dense, Merge]


def test_an_activation_of_an_activation():
    p = Program()
    x, a = p.given(4)
    y = p.activate(p.activate(x, TANH), RELU)
    assert kinds(p.check((y, relu(np.tanh(a))))) == [Merge, Merge]


@pytest.mark.parametrize(("op", "fold"), [("add", np.add), ("mul", np.multiply)])
def test_sums_and_products_are_one_step(op, fold):
    p = Program()
    (x, a), (y, b), (z, c) = p.given(3), p.given(3), p.given(3)
    result = p.merge(op, [p.merge(op, [x, y], [2.0, 1.0]), z])
    plan = p.check((result, fold(fold(2 * a, b), c)))
    assert len(plan.steps) == 1


def test_a_scaled_sum_within_a_sum_stays_two_steps():
    p = Program()
    (x, a), (y, b) = p.given(3), p.given(3)
    plan = p.check((p.merge("add", [p.merge("add", [x, y]), x], [2.0, -1.0]), 2 * (a + b) - a))
    assert len(plan.steps) == 2


def test_a_value_with_itself():
    p = Program()
    x, a = p.given(3)
    double = p.merge("add", [x, x])
    p.check((p.merge("add", [double, double]), 4 * a), (p.merge("mul", [x, x, x]), a**3))


def test_max_and_min():
    p = Program()
    (x, a), (y, b) = p.given(3), p.given(3)
    p.check((p.merge("max", [x, y]), np.maximum(a, b)), (p.merge("min", [x, y], [-1.0, 1.0]), np.minimum(-a, b)))


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("gate_first", [True, False])
def test_a_weighted_sum_of_experts_is_one_mix(axis, gate_first):
    p = Program()
    (g, gates), *experts = p.given(3), p.given(5), p.given(5), p.given(5)
    stacked = stack([view for view, _ in experts], axis)
    gate = g.reshape((3, 1) if axis == 0 else (1, 3))
    product = p.merge("mul", [gate, stacked] if gate_first else [stacked, gate])
    plan = p.check((p.reduce("sum", product, axis), sum(gates[:, i : i + 1] * e for i, (_, e) in enumerate(experts))))
    assert kinds(plan) == [Mix]


def test_no_mix_where_the_gates_are_not_side_by_side_or_a_product_is_read_elsewhere():
    p = Program()
    (g, a), (x, b), (y, c) = p.given(2), p.given(4), p.given(4)
    reversed_gates = p.merge("mul", [stack([x, y], 0), g[::-1].reshape((2, 1))])
    plan = p.check((p.reduce("sum", reversed_gates, 0), a[:, 1:] * b + a[:, :1] * c))
    assert Mix not in kinds(plan)
    p = Program()
    (g, a), (x, b), (y, c) = p.given(2), p.given(4), p.given(4)
    product = p.merge("mul", [stack([x, y], 0), g.reshape((2, 1))])
    plan = p.check((p.reduce("sum", product, 0), a[:, :1] * b + a[:, 1:] * c), (product[0], a[:, :1] * b))
    assert Mix not in kinds(plan)


# Pieces.


def test_columns_that_are_not_side_by_side_are_taken_in_pieces():
    p = Program()
    x, a = p.given(6)
    plan = p.check(
        (p.activate(x[::2], TANH), np.tanh(a[:, ::2])), (p.scale(x[[0, 1, 4, 5]], 2.0), 2 * a[:, [0, 1, 4, 5]])
    )
    assert len(plan.steps) == 3 + 2


def test_reversed_columns():
    p = Program()
    x, a = p.given(4)
    k, w = p.array(4, 2)
    p.check((p.dense(x[::-1], k), a[:, ::-1] @ w), (p.merge("add", [x, x[::-1]]), a + a[:, ::-1]))


def test_one_column_against_many_is_one_piece():
    p = Program()
    (x, a), (y, b) = p.given(1), p.given(5)
    plan = p.check((p.merge("mul", [x, y]), a * b), (p.merge("add", [x, x[[0, 0, 0]]]), 2 * np.repeat(a, 3, 1)))
    assert len(plan.steps) == 2


def test_the_order_of_axes_that_takes_the_fewest_steps_is_chosen():
    p = Program()
    (x, a), (y, b) = p.given(5, 2), p.given(5, 1)
    plan = p.check((p.merge("mul", [x.transpose((1, 0)), y.transpose((1, 0))]), (a * b).transpose(0, 2, 1)))
    assert sum(isinstance(step, Merge) for step in plan.steps) <= 5 + 2 * 5


def test_too_many_pieces_are_refused():
    p = Program()
    x, a = p.given(2 * MAX_PIECES + 2)
    within = x[: 2 * MAX_PIECES : 2]
    p.check((p.scale(within, 2.0), 2 * a[:, : 2 * MAX_PIECES : 2]))
    k, _ = p.array(MAX_PIECES + 1, 2)
    for refused in (
        lambda: p.scale(x[::2], 2.0),
        lambda: p.dense(x[::2], k),
        lambda: p.activate(x[::2], TANH),
        lambda: p.plan([x[::2]]),
        lambda: p.dense(View(np.tile(x.columns[: MAX_PIECES + 1], (MAX_PIECES + 1, 1))), k),
    ):
        with pytest.raises(NotRowWise, match=f"pieces, of at most {MAX_PIECES}"):
            refused()


# Elementwise and along a row.


def test_scale_with_numbers_vectors_and_broadcasting():
    p = Program()
    (x, a), (y, b) = p.given(2, 3), p.given(1)
    gain, shift = numbers(3), numbers(2, 1)
    p.check(
        (p.scale(x, gain, shift), a * gain + shift),
        (p.scale(x, None, 1.0), a + 1),
        (p.scale(x, -1.0), -a),
        (p.scale(y, np.arange(4.0)), b * np.arange(4.0)),
    )


def test_equal_numbers_are_one_constant():
    p = Program()
    x, a = p.given(3)
    plan = p.check((p.scale(x, np.full(3, 2.0), np.full(3, -1.0)), 2 * a - 1))
    assert not plan.params


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_constants_are_finite(bad):
    p = Program()
    x, _ = p.given(2)
    for gain in (bad, [1.0, bad]):
        with pytest.raises(NotRowWise, match="not finite"):
            p.scale(x, gain)


def test_constants_of_equal_bytes_and_other_shapes_are_two():
    p = RowProgram()
    array = np.arange(6.0)
    assert p.constant(array.reshape(2, 3)) != p.constant(array.reshape(3, 2))
    assert p.constant(array) == p.constant(array.copy()) != p.constant(array.astype("float32"))


def test_scale_by_params_in_each_row_of_a_row():
    p = Program()
    x, a = p.given(2, 3)
    (g, gain), (s, shift) = p.array(3), p.array(3)
    plan = p.check((p.scale_by(x, g, s), a * gain + shift))
    assert len(plan.params) == 2


def test_dense_on_the_last_of_several_axes_shares_its_kernel():
    p = Program()
    x, a = p.given(2, 3)
    (k, w), (bias, b) = p.array(3, 4), p.array(4)
    plan = p.check((p.dense(x, k, bias, TANH), np.tanh(a @ w + b)))
    assert kinds(plan) == [Dense, Dense]
    assert len(plan.params) == 2


def test_along_a_row():
    p = Program()
    x, a = p.given(2, 4)
    mean, variance = a.mean(-1, keepdims=True), a.var(-1, keepdims=True)
    p.check(
        (p.row("softmax", x), softmax(a)),
        (p.row("mean", x), mean),
        (p.row("max", x), a.max(-1, keepdims=True)),
        (p.row("normalize", x, 1e-3), (a - mean) / np.sqrt(variance + 1e-3)),
    )


@pytest.mark.parametrize("op", ["sum", "mean", "max", "min"])
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("shape", [(3, 4), (1, 4), (3, 1)])
def test_reductions(op, axis, shape):
    p = Program()
    x, a = p.given(*shape)
    p.check((p.reduce(op, x, axis), getattr(np, op)(a, axis=axis if axis < 0 else axis + 1)))


def test_reductions_of_one_axis_give_a_number():
    p = Program()
    x, a = p.given(4)
    y = p.reduce("sum", x, 0)
    assert y.shape == ()
    p.check((p.activate(p.scale(y, 2.0), TANH), np.tanh(2 * a.sum(1))))


def test_a_mean_over_neighbours_is_one_row_step():
    p = Program()
    x, a = p.given(4)
    assert kinds(p.check((p.reduce("mean", x, 0), a.mean(1)))) == [Row]


# Logits.


def test_logits_of_whole_values_only():
    p = Program()
    x, _ = p.given(4)
    k, _ = p.array(4, 3)
    h = p.dense(x, k)
    for activation in (SIGMOID, SOFTMAX):
        y = p.activate(h, activation)
        assert p.output_logits(y) is h
        assert p.output_logits(y[:2]) is None
        assert p.output_logits(y[::-1]) is None
        assert p.output_logits(concat([y, x], -1)) is None
    assert p.output_logits(p.activate(h, TANH)) is None
    assert p.output_logits(x) is None


def test_an_output_and_its_logits():
    p = Program()
    x, a = p.given(4)
    k, w = p.array(4, 3)
    y = p.dense(x, k, None, SOFTMAX)
    p.check((y, softmax(a @ w)), (p.output_logits(y), a @ w))


# Params, masks and whole plans.


def test_a_param_of_one_key_is_one_param():
    p = RowProgram()
    first = p.param("key", (2,), lambda: None)
    assert p.param("key", (2,), lambda: None) == first
    assert p.param("other", (2,), lambda: None) != first


def test_masks_are_inputs_behind_the_others():
    p = Program()
    x, a = p.given(3)
    mask = p.mask("drawn by", (3,))
    y, b = p.given(3)
    assert p.masks == [("drawn by", (3,))]
    m = numbers(3, 3)
    p.rows.append(m)
    p.check((p.merge("add", [p.merge("mul", [x, mask]), y]), a * m + b), (mask, m))


def test_a_whole_plan_inlined():
    build = PlanBuilder()
    u, v = build.input(2), build.input(3)
    kernel = build.param((3, 2))
    h, out = build.hidden(2), build.output(4)
    build.dense(v, kernel, None, TANH, h)
    build.merge("add", ((u, 1.0), (h, 1.0)), out._replace(stop=2))
    build.merge("mul", ((u, 1.0), (h, 1.0)), out._replace(start=2))
    inner = build.plan()

    p = Program()
    x, a = p.given(5)
    k, w = p.array(3, 2)
    (y,) = p.inline(inner, [x[3:], x[2::-1]], [k])
    t = np.tanh(a[:, 2::-1] @ w)
    p.check((p.scale(y, 2.0), 2 * np.concatenate([a[:, 3:] + t, a[:, 3:] * t], 1)))
