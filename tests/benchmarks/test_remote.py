"""Contestants in processes of their own: answers, errors, deaths."""

from __future__ import annotations

from pathlib import Path

import pytest
from race.field import Field, Form
from race.remote import Remote

from fusedsplit.bench.program import ProviderUnavailable


def test_answers_and_errors(start) -> None:
    remote = start("builtins:dict")
    assert remote.ask("update", {"a": 1}) is None and remote.ask("get", "a") == 1
    with pytest.raises(ProviderUnavailable, match="KeyError: 'b'"):
        remote.ask("pop", "b")
    assert remote.alive and remote.ask("__len__") == 1


def test_what_cannot_be_made_says_why() -> None:
    with pytest.raises(ProviderUnavailable, match="no_such_module is not installed"):
        Remote("no_such_module:Peer")
    with pytest.raises(ProviderUnavailable, match="TypeError"):
        Remote("builtins:range")


def test_a_slow_answer_ends_its_process(start) -> None:
    remote = start("threading:Event")
    remote.patience = 0.2
    with pytest.raises(ProviderUnavailable, match="more than 0.2 s"):
        remote.ask("wait")
    assert not remote.alive
    with pytest.raises(ProviderUnavailable, match="has ended"):
        remote.ask("is_set")


def test_a_death_takes_none_along(start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    lines: list[str] = []
    field = Field({}, 2, 10.0, lines.append)
    healthy, ill = start("race_samplers:Constant"), start("race_samplers:Dying")
    forms = {"healthy": Form(healthy, "x"), "ill": Form(ill, "x", once=True)}
    timings = field.race(forms, "a race", rounds=3)
    assert list(timings) == ["healthy"] and timings["healthy"].samples == (2.0, 2.0, 2.0)
    assert list(field.missing) == ["a race, ill"] and "status 3" in lines[0]


def test_peers_that_are_absent_are_said_once() -> None:
    lines: list[str] = []
    field = Field({"gone": ("no_such_module:Peer", {})}, 2, 10.0, lines.append)
    field.miss("gone", "again")
    assert lines == ["gone: skipped: no_such_module is not installed"] and not field.peers
