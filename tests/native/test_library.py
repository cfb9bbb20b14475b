"""The library that the op and the Python module share: with none, a damaged or a foreign one there is a reason."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fusedsplit.native import library

TESTS = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.skipif(library.core_problem() is not None, reason=f"{library.core_problem()}")

# What there is to say against the Python module, and against the op, of the package in each of the directories.
PROGRAM = """
import json, os, sys
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import tensorflow
sys.path.append(sys.argv[1])
from forked import in_child

def problems(site):
    sys.path.insert(0, site)
    from fusedsplit.native import library
    from fusedsplit.backends import op
    return [library.__file__, library.core_problem(), op.problem()]

print(json.dumps([in_child(problems, site) for site in sys.argv[2:]]))
"""


def of_another_build(path: Path) -> None:
    build = library.build_info()["build"].encode()
    content = path.read_bytes()
    assert build in content
    path.write_bytes(content.replace(build, b"x" * len(build)))


# What happens to the library -> the reason that is given, None where nothing is wrong.
HARMS = {
    "copied with the package": (lambda path: None, None),
    "missing": (lambda path: path.unlink(), "libfusedsplit_core.so is missing"),
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:5000]), "libfusedsplit_core.so is damaged"),
    "no library": (lambda path: path.write_bytes(b"not a library" * 50), "libfusedsplit_core.so is damaged"),
    "another build": (of_another_build, "expected the core library of build"),
    "another library": (lambda path: shutil.copy(path.with_name("_op.so"), path), "cannot be"),
}


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[str, list]:
    """Harm -> the file of the package that was found, and the reasons against the Python module and the op."""
    sites = {name: tmp_path_factory.mktemp("site") for name in HARMS}
    for name, site in sites.items():
        shutil.copytree(library.PACKAGE, site / "fusedsplit", ignore=shutil.ignore_patterns("__pycache__"))
        HARMS[name][0](site / "fusedsplit" / library.SHARED_LIBRARY)
    command = [sys.executable, "-c", PROGRAM, str(TESTS), *map(str, sites.values())]
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path_factory.mktemp("empty"), env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    answers = json.loads(done.stdout.splitlines()[-1])
    for (file, *_), site in zip(answers, sites.values(), strict=True):
        assert Path(file).is_relative_to(site)
    return dict(zip(sites, answers, strict=True))


@pytest.mark.parametrize("harm", HARMS)
def test_the_shared_library(harm, found):
    _, of_core, of_op = found[harm]
    reason = HARMS[harm][1]
    if reason is None:
        assert of_core is None and of_op is None
    else:
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
