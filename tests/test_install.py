"""Installing: with no compiler, or with the build skipped, the package runs on the pure-TensorFlow forms."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests import children

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.skipif(not (ROOT / "setup.py").exists(), reason="run against an installed package")

PROGRAM = """
import warnings, numpy as np, fusedsplit as fs
from keras.layers import Dense
x = np.ones((3, 10), "float32")
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    layers = [fs.SplitDense(Dense(8), [Dense(4, activation="relu"), Dense(6)], head=Dense(1)) for _ in range(2)]
    outputs = [layer(x) for layer in layers]
print(sum(issubclass(w.category, fs.FusedSplitWarning) for w in caught))
print(all(np.allclose(y, fs.reference(layer)(x), atol=1e-5) for y, layer in zip(outputs, layers)))
print(fs.info().backends["op"])
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A copy of what a build needs, without anything built."""
    copy = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(ROOT / name, copy)
    for name in ("fusedsplit", "csrc"):
        shutil.copytree(
            ROOT / name, copy / name, ignore=shutil.ignore_patterns("*.so", "__pycache__", "_build_info.json")
        )
    return copy


def install(source: Path, to: Path, **environment: str) -> subprocess.CompletedProcess:
    """Builds a wheel with no compiler on the PATH and unpacks it into `to`."""
    env = {k: v for k, v in os.environ.items() if k not in ("CC", "CXX", "PYTHONPATH")}
    env |= {"PATH": str(to / "no-programs-here"), **environment}
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", str(to), str(source)]
    result = subprocess.run(command, capture_output=True, text=True, env=env)
    for wheel in to.glob("*.whl"):
        zipfile.ZipFile(wheel).extractall(to / "site")
    return result


def run_installed(site: Path) -> list[str]:
    env = {**os.environ, "PYTHONPATH": str(site), "TF_CPP_MIN_LOG_LEVEL": "3"}
    result = children.run(PROGRAM, env=env, cwd=site)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip().splitlines()


@pytest.mark.parametrize(
    ("environment", "reason"),
    [({}, "no C++ compiler was found"), ({"FUSEDSPLIT_SKIP_BUILD": "1"}, "skipped (FUSEDSPLIT_SKIP_BUILD)")],
    ids=["no compiler", "skipped"],
)
def test_without_the_native_build(source, tmp_path, environment, reason):
    result = install(source, tmp_path, **environment)
    assert result.returncode == 0, result.stderr[-2000:]
    assert not list((tmp_path / "site").rglob("*.so"))
    warnings, equal, why = run_installed(tmp_path / "site")
    assert (warnings, equal) == ("1", "True")
    assert reason in why


def test_a_forced_build_fails_where_there_is_no_compiler(source, tmp_path):
    result = install(source, tmp_path, FUSEDSPLIT_FORCE_BUILD="1")
    assert result.returncode != 0
    assert "no C++ compiler was found" in result.stdout + result.stderr
