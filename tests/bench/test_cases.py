"""The named shapes, their data, and the float64 computation of a case."""

from __future__ import annotations

import numpy as np
import pytest

from fusedsplit.bench import cases, numeric
from fusedsplit.bench.cases import Branch, Case


def test_the_ladder_is_as_documented() -> None:
    shapes = {name: (cases.CASES[name].inputs, cases.CASES[name].stem) for name in cases.LADDER}
    assert shapes == {"seed2": (10, 8), "med": (128, 256), "wide": (64, 512), "large": (512, 1024)}
    assert [cases.CASES[name].stem_activation for name in cases.TWINS] == ["relu"] * 3


@pytest.mark.parametrize("case", cases.CASES.values(), ids=lambda case: case.name)
def test_sizes_fit_together(case: Case) -> None:
    shapes = case.dense_shapes()
    assert [w.shape for w in case.weights()[::2]] == [(s.rows, s.columns) for s in shapes]
    assert case.flops() == sum(2 * s.rows * s.columns for s in shapes)
    assert case.flops() < case.gradient_flops() < 3 * case.flops()
    assert case.rows(3).shape == (3, case.inputs) and case.upstream(3).shape == (3, case.outputs)
    assert case.why


def test_data_is_deterministic() -> None:
    case = cases.CASES["seed2"]
    assert all(np.array_equal(a, b) for a, b in zip(case.weights(), case.weights()))
    assert not np.array_equal(case.weights(0)[0], case.weights(1)[0])


def test_select_names_what_is_unknown() -> None:
    assert [case.name for case in cases.select("wide, seed2")] == ["wide", "seed2"]
    assert len(cases.select("all")) == len(cases.CASES)
    with pytest.raises(ValueError, match="expected some of seed2, .*Received: nope"):
        cases.select("seed2,nope")


_KINDS = Case(
    "kinds",
    3,
    (Branch(2, (3, 2), "tanh"), Branch(3, ()), Branch(1, (4,), "sigmoid")),
    "every activation, an identity, two layers, a head",
    stem_activation="relu",
    head=2,
)


def test_float64_gradients_are_those_of_finite_differences() -> None:
    weights = [w.astype("float64") for w in _KINDS.weights()]
    x, dy = _KINDS.rows(5), _KINDS.upstream(5)
    truth = numeric.solve(_KINDS, weights, x, dy)
    step = 1e-6
    for i, weight in enumerate(weights):
        found = np.empty_like(weight)
        for at in np.ndindex(weight.shape):
            ends = []
            for sign in (step, -step):
                moved = [w.copy() for w in weights]
                moved[i][at] += sign
                ends.append(np.sum(numeric.solve(_KINDS, moved, x, dy).exact.output * truth.upstream))
            found[at] = (ends[0] - ends[1]) / (2 * step)
        np.testing.assert_allclose(truth.exact.gradients[i], found, rtol=1e-6, atol=1e-8)


def test_rows_at_a_kink_get_no_upstream_gradient() -> None:
    case = cases.CASES["seed2"]
    weights, x = case.weights(), case.rows(4)
    # The first branch's bias cancels the third row's sums, as nearly as float32 can say.
    slice64 = (x[2].astype("float64") @ weights[0] + weights[1])[:4]
    weights[3] = -(slice64 @ weights[2]).astype("float32")
    truth = numeric.solve(case, weights, x, case.upstream(4))
    assert [bool(row.any()) for row in truth.upstream] == [True, True, False, True]


def test_disagreement_tells_a_wrong_result_from_rounding() -> None:
    case = cases.CASES["seed2"]
    weights, x = case.weights(), case.rows(64)
    truth = numeric.solve(case, weights, x, case.upstream(64))
    rounded = numeric.Result(truth.exact.output.astype("float32"), [g.astype("float32") for g in truth.exact.gradients])
    baseline = numeric.relative_errors(truth, rounded)
    assert not numeric.disagreement(baseline, baseline)
    for i, what in ((0, "output"), (5, "gradient of weight 4")):
        arrays = [rounded.output.copy(), *(g.copy() for g in rounded.gradients)]
        arrays[i].flat[0] += 1e-3 * np.abs(arrays[i]).max()
        wrong = numeric.relative_errors(truth, numeric.Result(arrays[0], arrays[1:]))
        assert numeric.disagreement(wrong, baseline).startswith(f"{what}: expected")
    arrays[0][0, 0] = np.nan
    unknown = numeric.relative_errors(truth, numeric.Result(arrays[0], rounded.gradients))
    assert "Received: nan" in numeric.disagreement(unknown, baseline)
    with pytest.raises(ValueError, match="result 0: expected shape"):
        numeric.relative_errors(truth, numeric.Result(arrays[0][:1], rounded.gradients))
