"""config.py: what the environment may say, and what becomes of anything else."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest

import fusedsplit
from fusedsplit import config
from fusedsplit.native import library
from tests import children

ON_X86 = platform.machine().lower() in ("x86_64", "amd64")
FOREIGN = "neon" if ON_X86 else "avx2"


@pytest.mark.parametrize(
    ("machine", "known"),
    [
        ("x86_64", ("baseline", "avx2", "avx512")),
        ("AMD64", ("baseline", "avx2", "avx512")),
        ("aarch64", ("baseline", "neon")),
        ("arm64", ("baseline", "neon")),
        ("riscv64", ("baseline",)),
    ],
)
def test_the_isas_are_those_of_the_machine(monkeypatch, machine, known):
    monkeypatch.setattr(platform, "machine", lambda: machine)
    for name in ("baseline", "avx2", "avx512", "neon"):
        monkeypatch.setenv("FUSEDSPLIT_MAX_ISA", name)
        if name in known:
            assert config.max_isa() == name
        else:
            with pytest.raises(ValueError, match=f"expected one of .*baseline.* on .* Received: '{name}'"):
                config.max_isa()


@pytest.mark.parametrize("value", ["AVX2", " avx2", "sse", "0"])
def test_an_isa_is_written_as_the_core_reads_it(monkeypatch, value):
    monkeypatch.setenv("FUSEDSPLIT_MAX_ISA", value)
    with pytest.raises(ValueError, match=f"FUSEDSPLIT_MAX_ISA: expected one of .* Received: '{value}'"):
        config.max_isa()


@pytest.mark.parametrize("value", ["0", "-1", "two", "2 ", "２", "1.5"])
def test_a_number_of_threads_is_written_as_the_core_reads_it(monkeypatch, value):
    monkeypatch.setenv("FUSEDSPLIT_NUM_THREADS", value)
    with pytest.raises(ValueError, match="FUSEDSPLIT_NUM_THREADS: expected a positive integer. Received: "):
        config.num_threads()


@pytest.mark.parametrize("value", [None, ""])
def test_what_is_not_set_limits_nothing(monkeypatch, value):
    for name in ("FUSEDSPLIT_MAX_ISA", "FUSEDSPLIT_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    assert config.max_isa() is None and config.num_threads() is None


def run(code: str, **environment: str) -> str:
    paths = str(Path(fusedsplit.__file__).resolve().parents[1])
    env = {**os.environ, "PYTHONPATH": paths, "TF_CPP_MIN_LOG_LEVEL": "3", **environment}
    result = children.run(code, env=env)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


@pytest.mark.skipif(library.core_problem() is not None, reason=f"the core: {library.core_problem()}")
def test_the_core_keeps_to_every_isa_that_it_has():
    for name in library.core().isas():
        assert (
            run("from fusedsplit.native import library; print(library.core().isa())", FUSEDSPLIT_MAX_ISA=name) == name
        )


@pytest.mark.parametrize(
    ("variable", "value"), [("FUSEDSPLIT_MAX_ISA", FOREIGN), ("FUSEDSPLIT_NUM_THREADS", "many")], ids=["isa", "threads"]
)
def test_what_the_core_would_ignore_is_a_reason_against_it(variable, value):
    code = """
import warnings, numpy as np, fusedsplit as fs
from fusedsplit.native import library
from keras.layers import Dense
layer = fs.SplitDense(Dense(4), [None, Dense(2)])
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always", fs.FusedSplitWarning)
    layer(np.ones((2, 3), "float32"))
said = [str(w.message) for w in caught if issubclass(w.category, fs.FusedSplitWarning)]
try:
    with fs.use_backend("op"):
        layer(np.ones((2, 3), "float32"))
except ValueError as error:
    said.append(str(error))
said += [fs.info().backends["op"], str(fs.explain(layer)), library.core_problem()]
print(len(said), all("VARIABLE: expected" in text for text in said))
"""
    assert run(code.replace("VARIABLE", variable), **{variable: value}) == "5 True"
