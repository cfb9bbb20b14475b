"""The library that the op and the Python module share: with none, a damaged or a foreign one there is a reason."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fusedsplit.native import library

pytestmark = pytest.mark.skipif(library.core_problem() is not None, reason=f"{library.core_problem()}")

PROGRAM = """
import os
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
from fusedsplit.native import library
print(library.__file__)
print(library.core_problem())
from fusedsplit.backends import op
print(op.problem())
"""


def problems(site: Path) -> list[str]:
    """What a new process that finds the package in `site` says against the Python module, and against the op."""
    env = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, cwd=site, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    file, *reasons = done.stdout.splitlines()
    assert Path(file).is_relative_to(site)
    return reasons


@pytest.fixture
def site(tmp_path) -> Path:
    shutil.copytree(library.PACKAGE, tmp_path / "fusedsplit", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_a_copied_package_finds_the_library_beside_it(site):
    assert problems(site) == ["None", "None"]


def of_another_build(path: Path) -> None:
    build = library.build_info()["build"].encode()
    content = path.read_bytes()
    assert build in content
    path.write_bytes(content.replace(build, b"x" * len(build)))


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda path: path.unlink(), "libfusedsplit_core.so is missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:5000]), "libfusedsplit_core.so is damaged"),
        (lambda path: path.write_bytes(b"not a library" * 50), "libfusedsplit_core.so is damaged"),
        (of_another_build, "expected the core library of build"),
        (lambda path: shutil.copy(path.with_name("_op.so"), path), "cannot be"),
    ],
    ids=["missing", "truncated", "no library", "another build", "another library"],
)
def test_the_shared_library(site, harm, reason):
    harm(site / "fusedsplit" / library.SHARED_LIBRARY)
    of_core, of_op = problems(site)
    assert reason in of_core and reason in of_op


def test_an_isa_of_another_architecture_is_refused_with_the_names_that_there_are():
    """Such a name would cap nothing."""
    foreign = "avx2" if platform.machine() in ("aarch64", "arm64") else "neon"
    code = "from fusedsplit.native import library; print(library.core_problem())"
    env = {**os.environ, "FUSEDSPLIT_MAX_ISA": foreign}
    root = library.PACKAGE.parent
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, env=env)
    assert "FUSEDSPLIT_MAX_ISA: expected one of" in done.stdout, done.stderr
    assert "Received: " in done.stdout and foreign in done.stdout


def test_nothing_is_thrown_through_the_c_interface():
    """More integers than there can be memory for: no plan, but no end of the process."""
    code = (
        "import ctypes\n"
        "from fusedsplit.native import library\n"
        "saved_bytes = ctypes.CDLL(str(library.op_path())).fusedsplit_op_saved_bytes\n"
        "saved_bytes.argtypes = [ctypes.POINTER(ctypes.c_int64), ctypes.c_size_t, ctypes.c_int]\n"
        "saved_bytes.restype = ctypes.c_int64\n"
        "print(saved_bytes((ctypes.c_int64 * 1)(), 1 << 60, 0))\n"
    )
    root = library.PACKAGE.parent
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert (done.returncode, done.stdout.strip()) == (0, "-1"), done.stderr
