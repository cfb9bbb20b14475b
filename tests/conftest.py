"""Fixtures that every test file shares."""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import pytest

from fusedsplit import config
from fusedsplit.backends import dispatch, op

FUSED_BACKENDS = ("op", "xla", "tf")


def _available(name: str, *marks: pytest.MarkDecorator):
    missing = [pytest.mark.skipif(op.problem() is not None, reason=f"op: {op.problem()}")] if name == "op" else []
    return pytest.param(name, marks=[*missing, *marks])


def _sparing(names: tuple[str, ...]) -> list:
    return [_available(name, *[pytest.mark.full] * (name == "xla")) for name in names]


@pytest.fixture(params=[_available(name) for name in config.BACKENDS])
def backend(request: pytest.FixtureRequest) -> str:
    """Every backend, those that cannot run here skipped with the reason."""
    return request.param


@pytest.fixture(params=[_available(name) for name in FUSED_BACKENDS])
def fused_backend(request: pytest.FixtureRequest) -> str:
    """Every backend but the reference."""
    return request.param


@pytest.fixture(params=_sparing(config.BACKENDS))
def backend_in_grids(request: pytest.FixtureRequest) -> str:
    """Every backend; `xla`, which is `tf` compiled and takes a second to compile each layer, in the full run alone."""
    return request.param


@pytest.fixture(params=_sparing(FUSED_BACKENDS))
def fused_backend_in_grids(request: pytest.FixtureRequest) -> str:
    """Every backend but the reference; `xla` in the full run alone."""
    return request.param


@pytest.fixture
def uncompiled_backends() -> list[str]:
    """What `fs.check` is asked for where `xla`, which takes seconds to compile each layer, is left out."""
    return ["tf"] if op.problem() is not None else ["op", "tf"]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    keras.utils.set_random_seed(7)


@pytest.fixture
def setenv(monkeypatch: pytest.MonkeyPatch):
    """Sets a variable as if the process had begun with it: settings are read once."""

    def forget() -> None:
        config.backend.cache_clear()
        config.verbose.cache_clear()
        dispatch._choose.cache_clear()
        dispatch._runs_op_eagerly.cache_clear()

    def set_one(name: str, value: str) -> None:
        monkeypatch.setenv(name, value)
        forget()

    yield set_one
    monkeypatch.undo()
    forget()
