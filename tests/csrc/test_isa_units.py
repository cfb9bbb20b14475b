"""The ISA units, compiled for newer CPUs than the rest, must share no code with it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.csrc.test_c_api import COMPILER, ROOT, symbols

UNITS = sorted((ROOT / "csrc/core/microkernels").glob("isa_*.cc"))


@pytest.mark.skipif(COMPILER is None or shutil.which("nm") is None, reason="needs a C++ compiler and nm")
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_a_unit_defines_one_function_and_nothing_weak(unit: Path, tmp_path: Path):
    """A weak symbol of an AVX-512 object may be the one that the linker keeps: SIGILL on an older CPU."""
    target = tmp_path / "unit.o"
    # -O0 inlines nothing, so that every function the unit could share shows as a symbol.
    flags = ["-std=c++17", "-O0", "-fstack-protector-strong", "-fPIC", "-fvisibility=hidden", f"-I{ROOT / 'csrc'}"]
    flags += {
        "isa_avx2": ["-mavx2", "-mfma"],
        "isa_avx512": ["-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl"],
    }.get(unit.stem, [])
    done = subprocess.run([COMPILER, *flags, "-c", str(unit), "-o", str(target)], capture_output=True, text=True)
    if "unrecognized" in done.stderr or "unknown argument" in done.stderr:
        pytest.skip("the compiler has no such instruction set")
    assert done.returncode == 0, done.stderr
    # DW.ref.*: a pointer to the exception personality, data that is the same for every CPU.
    defined = [s for s in symbols(target, "--defined-only") if not s[1].startswith("DW.ref.")]
    assert not [name for kind, name in defined if kind in "VvWwu"]
    assert len([name for kind, name in defined if kind in "TDBR"]) == 1


def test_units_include_no_standard_library_code():
    allowed = {
        "<stddef.h>",
        "<stdint.h>",
        "<cstddef>",
        "<cstdint>",
        "<immintrin.h>",
        "<emmintrin.h>",
        "<arm_neon.h>",
        "<string.h>",
    }
    seen, pending, found = set(), list(UNITS), set()
    while pending:
        path = pending.pop()
        if path in seen:
            continue
        seen.add(path)
        for line in path.read_text().splitlines():
            if not line.startswith("#include"):
                continue
            name = line.split(maxsplit=1)[1].split("//")[0].strip()
            if name.startswith("<"):
                found.add(name)
            else:
                local = name.strip('"')
                pending += [p for p in (path.parent / local, ROOT / "csrc" / local) if p.exists()]
    assert UNITS
    assert found <= allowed
