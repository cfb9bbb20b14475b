"""The scorecard's arithmetic and tables; nothing is timed here."""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rich")
from rich.console import Console

from fusedsplit.bench import ceilings
from fusedsplit.bench.harness import Timing

_FILE = Path(__file__).parents[2] / "benchmarks" / "scorecard.py"


@pytest.fixture(scope="module")
def scorecard():
    spec = importlib.util.spec_from_file_location("scorecard", _FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_verdicts(scorecard) -> None:
    score = scorecard.Score
    assert score("x", 1.0, 0.9).verdict == "ok" and score("x", 0.8, 0.9).verdict == "short"
    assert score("x", 0.8, 0.9, at_most=True).verdict == "ok" and score("x", 1.0, 0.9, at_most=True).verdict == "short"
    assert score("x", None, 0.9).verdict == "" and score("x", 1.0).verdict == ""
    assert score("x", float("nan"), 0.9).verdict == "short"


def test_tables_show_short_numbers_like_others(scorecard) -> None:
    scores = [scorecard.Score("good", 1.25, 1.0, "x"), scorecard.Score("bad", 123.4, 8, "MiB", True, "why")]
    console = Console(file=io.StringIO(), width=140)
    console.print(scorecard.table("memory", scores))
    text = console.file.getvalue()
    for word in ("1.25", "123", "<= 8", ">= 1", "ok", "short", "why"):
        assert word in text


def test_every_section_says_what_it_is(scorecard) -> None:
    assert all(section.__doc__ for section in scorecard.SECTIONS.values())


def test_products_and_rates() -> None:
    timings = {"product: TensorFlow": Timing((0.05,), 1), "med": Timing((1.0,), 1)}
    assert ceilings.rates(timings, None) == {"product: TensorFlow": ceilings.FLOPS / 0.05}
    assert ceilings.rates(timings, 1e9)["0.88 x FMA rate"] == 1e9
    assert ceilings.product_plan(3, 5).flops() == 30
    module = ceilings.core()
    if module is None:
        pytest.skip("there is no native core")
    program = module.Program32(ceilings.product_plan(3, 5).encode())
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((4, 3), "float32"), rng.standard_normal((3, 5), "float32")
    np.testing.assert_allclose(program.forward([a], [b])[0][0], a @ b, rtol=1e-5)
