"""Every provider computes the same, in every mode."""

from __future__ import annotations

import numpy as np
import pytest

from fusedsplit.bench import ladder, providers
from fusedsplit.bench.cases import CASES, Branch, Case
from fusedsplit.bench.program import ProviderUnavailable

_SMALL = Case("small", 6, (Branch(4, (5,)),) * 3, "equal branches: every provider can compute it", "relu", head=2)
# Without a compiled op these are missing, and say why.
_OPTIONAL = {"op", "op-xla", "op-functional"}


@pytest.mark.parametrize(
    "case",
    [_SMALL, CASES["seed2"], *(pytest.param(CASES[name], marks=pytest.mark.full) for name in ("deep3", "identity"))],
    ids=lambda c: c.name,
)
def test_providers_agree(case: Case) -> None:
    contest = ladder.Contest(case, tuple(providers.PROVIDERS))
    assert all(contest.missing.values())
    if case is _SMALL:
        assert set(contest.missing) <= _OPTIONAL
    *_, problems = contest.batch(33)
    assert not {name: text for name, text in problems.items() if text}


def test_a_wrong_program_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    hand = providers.PROVIDERS["hand"].build

    def wrong(case: Case, weights: list[np.ndarray]):
        return hand(case, [*weights[:-1], weights[-1] + np.float32(1e-3)])

    monkeypatch.setitem(providers.PROVIDERS, "hand", providers.Provider("hand", wrong, "its last bias is off"))
    *_, problems = ladder.Contest(_SMALL, ("lambda", "hand")).batch(8)
    assert not problems["lambda"] and "output: expected" in problems["hand"]


def test_unequal_branches_are_no_batched_product() -> None:
    case = CASES["seed2"]
    with pytest.raises(ProviderUnavailable, match="expected branches of one Dense each and of one shape"):
        providers.make("batched", case, case.weights())
    with pytest.raises(ValueError, match="provider: expected one of lambda, .*Received: 'nope'"):
        providers.make("nope", case, case.weights())


def test_cells_are_measured_in_every_mode() -> None:
    contest = ladder.Contest(_SMALL, ("lambda", "hand"))
    cells = list(contest.measure(4, ladder.MODES, rounds=3, min_sample=1e-6))
    assert [cell.mode for cell in cells] == list(ladder.MODES)
    for cell in cells:
        assert cell.ok and set(cell.timings) == {"lambda", "hand"}
        assert cell.speedup("lambda") == 1 and cell.speedup("hand") > 0 and np.isnan(cell.speedup("op"))
    assert cells[1].flops > cells[0].flops


def test_floors() -> None:
    assert all(timing.best > 0 for timing in ladder.floors(rounds=1, min_sample=1e-6).values())
