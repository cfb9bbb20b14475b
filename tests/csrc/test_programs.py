"""The core's own programs: its checks, and the error of every activation on a sample of all floats."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.csrc.test_c_api import COMPILER, ROOT

pytestmark = pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler")


def run(name: str, *arguments: str) -> str:
    build = [sys.executable, "setup.py", "-q", "build_program", "--name", name]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, text=True)
    command = [str(ROOT / "build/programs" / name), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"})
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    return done.stdout


def test_selftest():
    assert "40 plans" in run("selftest", "40", "3")


def test_errors_of_activations_on_every_10007th_float():
    """A prime stride meets all exponents and no pattern of the mantissa; `make ulp` takes every float."""
    lines = run("ulp", "--stride", "10007").splitlines()
    assert len(lines) > 100 and not [line for line in lines if "OUT OF BOUNDS" in line or "wrong" in line]
