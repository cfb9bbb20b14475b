"""The native libraries are hardened: where they are built on Linux, what the loader fills in is read-only after."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fusedsplit.native import library

LIBRARIES = sorted(library.PACKAGE.glob("*.so"))


def _readelf(flag: str, path: Path) -> str:
    return subprocess.run(["readelf", "-W", flag, str(path)], capture_output=True, text=True, check=True).stdout


@pytest.mark.skipif(sys.platform != "linux" or shutil.which("readelf") is None, reason="needs Linux and readelf")
@pytest.mark.skipif(not library.build_info().get("built"), reason="nothing is built")
class TestLibraries:
    @pytest.mark.parametrize("path", LIBRARIES, ids=lambda path: path.name.split(".")[0])
    def test_nothing_is_bound_late_or_stays_writable(self, path: Path):
        assert "GNU_RELRO" in _readelf("-l", path)
        assert re.search(r"BIND_NOW|FLAGS.*\bNOW\b", _readelf("-d", path))

    @pytest.mark.parametrize("path", LIBRARIES, ids=lambda path: path.name.split(".")[0])
    def test_no_stack_may_be_executed(self, path: Path):
        (stack,) = [line for line in _readelf("-l", path).splitlines() if "GNU_STACK" in line]
        assert "RWE" not in stack

    def test_stacks_are_protected(self):
        assert "__stack_chk_fail" in _readelf("--dyn-syms", library.op_path())

    def test_the_flags_are_on_record(self):
        flags = library.build_info()["flags"].split()
        assert "-fstack-protector-strong" in flags
        assert {"-D_FORTIFY_SOURCE=2", "-D_FORTIFY_SOURCE=3"} & set(flags)
