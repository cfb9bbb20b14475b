"""Preconditions of the core: checked where FUSEDSPLIT_ASSERTIONS is defined, and gone everywhere else."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.csrc.test_c_api import COMPILER, ROOT

pytestmark = pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler")

PROGRAM = """
#include "core/runtime/assert.h"
#include <cstdio>
int main() {
  int evaluated = 0;
  FUSEDSPLIT_ASSERT(++evaluated == 1);
  std::printf("%d", evaluated);
  std::fflush(stdout);
  FUSEDSPLIT_ASSERT(evaluated == 2);
}
"""


def _run(directory: Path, *flags: str) -> subprocess.CompletedProcess:
    source, program = directory / "program.cc", directory / "program"
    source.write_text(PROGRAM)
    strict = ["-std=c++17", "-Wall", "-Wextra", "-Werror", f"-I{ROOT / 'csrc'}"]
    files = [str(source), str(ROOT / "csrc/core/runtime/assert.cc")]
    subprocess.run([COMPILER, *strict, *flags, *files, "-o", str(program)], check=True)
    return subprocess.run([str(program)], capture_output=True, text=True)


def test_a_broken_precondition_ends_the_process_and_says_where(tmp_path):
    done = _run(tmp_path, "-DFUSEDSPLIT_ASSERTIONS")
    assert done.stdout == "1"
    assert done.returncode < 0
    assert re.search(r"program\.cc:9: expected evaluated == 2", done.stderr)


def test_without_the_define_nothing_is_evaluated(tmp_path):
    done = _run(tmp_path)
    assert (done.stdout, done.returncode, done.stderr) == ("0", 0, "")


def test_the_sanitizer_builds_have_assertions():
    rule = (ROOT / "Makefile").read_text().split("\nsanitize:")[1].split("\n\n")[0]
    builds = re.findall(r'CXXFLAGS="([^"]+)"', rule)
    assert len(builds) == 2
    assert all("-DFUSEDSPLIT_ASSERTIONS" in flags for flags in builds)
