"""The merge cases, their float64 computation, and that every program of one computes the same."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from keras.layers import Dense

import fusedsplit as fs
from fusedsplit.bench import exact, fused, ladder, numeric, providers
from fusedsplit.bench.cases import CASES, Branch, Case
from fusedsplit.bench.merge_cases import DEFAULT, MERGES, MODES, QUICK, MergeCase

# A share of them: `fusedsplit bench` compares all, and `tests/test_merges.py` every merge.
_COMPARED = ("subtract", "maximum", "mmoe", "dueling", "highway", "inputs3", "dynamic_rows")


def test_every_merge_has_a_case() -> None:
    kinds = {type(case.layer("tf").merge_function).__name__ for case in MERGES.values()}
    assert kinds == {"Concat", "Elementwise", "Weighted", "Mixture", "Dueling", "Highway"}
    assert set(fs.merges.ELEMENTWISE) <= set(MERGES) and set(QUICK) <= set(DEFAULT) <= set(MERGES)
    assert not set(MERGES) & set(CASES), "a name on the command line means one case"


@pytest.mark.parametrize("case", MERGES.values(), ids=lambda case: case.name)
def test_sizes_fit_together(case: MergeCase) -> None:
    layer = case.layer("tf")
    assert [w.shape for w in case.weights()] == [tuple(p.shape) for p in layer.params]
    assert case.flops() < case.gradient_flops() < 3 * case.flops()
    x = case.rows(3)
    assert [a.shape for a in tf.nest.flatten(x)] == [(3, width) for width in case.widths]
    assert layer(x).shape == case.upstream(3).shape == (3, case.outputs)
    assert case.why


@pytest.mark.parametrize("name", _COMPARED)
def test_programs_agree(name: str) -> None:
    contest = ladder.MergeContest(MERGES[name], ("lambda", "lambda-xla", "tf", "op"))
    assert set(contest.missing) <= {"op"}
    *_, problems = contest.batch(33, MODES)
    assert not {name: text for name, text in problems.items() if text}


def test_a_wrong_program_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = ladder.MergeContest.layer

    def layer(self: ladder.MergeContest, backend: str):
        layer = right(self, backend)
        if backend == "xla":
            layer.params[-1].assign_add([1e-3] * self.case.outputs)
        return layer

    monkeypatch.setattr(ladder.MergeContest, "layer", layer)
    *_, problems = ladder.MergeContest(MERGES["weighted"], ("lambda", "tf", "xla")).batch(8, MODES)
    assert not problems["lambda"] and not problems["tf"] and "output: expected" in problems["xla"]


def test_cells_are_measured() -> None:
    contest = ladder.MergeContest(MERGES["inputs3"], ("lambda", "tf"))
    cells = list(contest.measure(4, ladder.MODES, rounds=3, min_sample=1e-6))
    assert [cell.mode for cell in cells] == list(ladder.MODES)
    assert all(cell.ok and cell.case == "inputs3" and set(cell.timings) == {"lambda", "tf"} for cell in cells)


def test_a_backend_that_cannot_run_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "reasons_against", lambda layer, backend, jit: ["it is not built"] * (backend == "op"))
    contest = ladder.MergeContest(MERGES["grn"])
    assert contest.missing == {"op": "it is not built", "op-xla": "it is not built"} and set(contest.programs) == {
        "lambda",
        "lambda-xla",
    }


def test_float64_is_numpys() -> None:
    branches = (Branch(2, (3, 2), "tanh"), Branch(3, ()), Branch(1, (4,), "sigmoid"))
    case = Case("smooth", 3, branches, "no kink", stem_activation="tanh", head=2)
    layers = providers.dense_layers(case)
    layer = fused.split_dense_layer(case, layers, "tf")
    providers.build_and_assign(case, layers, case.weights())
    x, dy = case.rows(7), case.upstream(7)
    found, expected = exact.solve(layer, x, dy), numeric.solve(case, case.weights(), x, dy)
    np.testing.assert_array_equal(found.upstream, expected.upstream)
    np.testing.assert_allclose(found.exact.output, expected.exact.output, rtol=1e-12)
    for a, b in zip(found.exact.gradients, expected.exact.gradients, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-13)
    assert all(np.all(np.abs(e) <= m * (1 + 1e-9)) for e, m in zip(found.exact.gradients, found.magnitude.gradients))


@pytest.mark.parametrize("merge", ["maximum", "minimum"])
def test_rows_at_a_kink_get_no_upstream_gradient(merge: str) -> None:
    layer = fs.MergeDense([Dense(4), Dense(4)], merge=merge)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((5, 3)).astype("float32")
    layer.build(x.shape)
    first, _, second, bias = layer.params
    first.assign(rng.standard_normal(first.shape).astype("float32"))
    second.assign(rng.standard_normal(second.shape).astype("float32"))
    # In the third row both branches give nearly the same first column.
    difference = x[2].astype("float64") @ (first.numpy() - second.numpy())
    bias.assign([difference[0], 9.0, 9.0, 9.0])
    truth = exact.solve(layer, x, np.ones((5, 4), "float32"))
    assert [bool(row.any()) for row in truth.upstream] == [True, True, False, True, True]
