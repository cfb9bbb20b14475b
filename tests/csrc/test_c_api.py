"""The table of TensorFlow's C API against the headers of the installed TensorFlow, and what is exported."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from fusedsplit.native import library

ROOT = Path(__file__).resolve().parents[2]
COMPILER = shutil.which("c++") or shutil.which("g++")


def symbols(path: Path, *flags: str) -> list[tuple[str, str]]:
    """(kind, name) of a file's symbols, as nm gives them."""
    if shutil.which("nm") is None:
        pytest.skip("nm is not installed")
    done = subprocess.run(["nm", *flags, str(path)], capture_output=True, text=True, check=True)
    lines = (line.split() for line in done.stdout.splitlines())
    return [(fields[-2], fields[-1]) for fields in lines if len(fields) >= 2]


@pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler")
@pytest.mark.parametrize("headers", ["tensorflow", "own"])
def test_declarations_have_the_types_of_tensorflow(headers):
    import tensorflow as tf

    flags = ["-std=c++17", "-fsyntax-only", "-Wall", "-Werror", f"-I{ROOT}", f"-I{ROOT / 'csrc'}"]
    if headers == "tensorflow":
        source = ROOT / "tests/csrc/c_api_check.cc"
        flags += ["-isystem", tf.sysconfig.get_include()]
    else:
        source = ROOT / "csrc/tensorflow/c_api.cc"
    done = subprocess.run([COMPILER, *flags, str(source)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(library.file_problem(library.op_path()) is not None, reason="the op is not built")
class TestOpLibrary:
    def test_links_against_neither_tensorflow_nor_python(self):
        unresolved = {name for kind, name in symbols(library.op_path(), "-D") if kind == "U"}
        assert not [name for name in unresolved if name.startswith(("TF_", "_ZN10tensorflow", "Py", "_Py"))]

    def test_exports_only_its_own_functions(self):
        strong = {name for kind, name in symbols(library.op_path(), "-D", "--defined-only") if kind in "TDBR"}
        assert {name for name in strong if not name.startswith(("_init", "_fini"))} == {
            "fusedsplit_op_status",
            "fusedsplit_op_info",
            "fusedsplit_op_saved_bytes",
            "fusedsplit_op_set_threads",
        }

    def test_without_tensorflow_it_says_so(self):
        program = (
            "from fusedsplit.native import library\n"
            "try:\n"
            "    library.OpLibrary(library.op_path())\n"
            "except library.NativeError as error:\n"
            "    print(error)\n"
        )
        import sys

        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False)
        assert done.returncode == 0, done.stderr
        assert "Received: no TensorFlow" in done.stdout
