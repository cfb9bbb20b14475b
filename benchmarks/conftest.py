"""The pytest-benchmark suites' options and the set-up that they share.

pytest benchmarks                          a small default selection
pytest benchmarks --cases all --batches 1,32,512,4096 --providers lambda,hand,op
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import tensorflow as tf

from fusedsplit.bench import cases, providers
from fusedsplit.bench.ladder import Contest


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fusedsplit")
    group.addoption("--cases", default=",".join(cases.QUICK), help='comma-separated case names, or "all"')
    group.addoption("--batches", default="32,4096", help="comma-separated batch sizes")
    group.addoption("--providers", default=",".join(providers.LADDER), help='comma-separated names, or "all"')


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    option = metafunc.config.getoption
    if "provider" in metafunc.fixturenames:
        names = option("--providers")
        metafunc.parametrize("provider", list(providers.PROVIDERS) if names == "all" else names.split(","))
        metafunc.parametrize("case", cases.select(option("--cases")), ids=lambda case: case.name, scope="module")
        metafunc.parametrize("batch", [int(b) for b in option("--batches").split(",")])


@functools.lru_cache(maxsize=1)
def _contest(case: cases.Case, names: tuple[str, ...]) -> Contest:
    # The Lambda program is always in: it says how large an error is one of float32 and not of the program.
    return Contest(case, tuple(dict.fromkeys((providers.BASELINE, *names))))


@functools.lru_cache(maxsize=8)
def _batch(contest: Contest, batch: int) -> tuple[tf.Tensor, tf.Tensor, dict[str, str]]:
    return contest.batch(batch)


Prepare = Callable[[str], Callable[[], object]]


@pytest.fixture
def prepare(request: pytest.FixtureRequest, benchmark, case: cases.Case, provider: str, batch: int) -> Prepare:
    """mode -> a checked call, traced and compiled; timings are grouped by case, batch and mode."""
    names = request.config.getoption("--providers")
    contest = _contest(case, tuple(providers.PROVIDERS) if names == "all" else tuple(names.split(",")))

    def ready(mode: str) -> Callable[[], object]:
        if provider in contest.missing:
            pytest.skip(contest.missing[provider])
        x, dy, problems = _batch(contest, batch)
        assert not problems[provider], problems[provider]
        benchmark.group = f"{case.name}, batch {batch}, {mode}"
        benchmark.extra_info |= {"case": case.name, "batch": batch, "provider": provider, "mode": mode}
        return contest.calls(mode, x, dy)[provider]

    return ready
