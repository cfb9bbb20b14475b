"""Imports go one way, and importing the package alone imports no TensorFlow."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import fusedsplit

PACKAGE = Path(fusedsplit.__file__).parent

# Each module may import only modules of earlier groups, or of its own group where it says so.
ORDER = (
    {"config", "plan", "text", "_registration"},
    {"merges", "native", "backends.base"},
    {"spec"},
    {"sublayers", "lower", "backends.reference", "backends.op_in_xla"},
    {"backends.xla"},
    {"backends.op"},
    {"dispatch", "dynamic"},
    {"fused_layer"},
    {"layers"},
    {"check", "explain", "info"},
    {"check_suite"},
)


def _imports(path: Path) -> set[str]:
    """The package's own modules that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "fusedsplit":
            base = node.module.removeprefix("fusedsplit").removeprefix(".")
            for alias in node.names:
                name = f"{base}.{alias.name}".removeprefix(".")
                found.add(name if (PACKAGE / f"{name.replace('.', '/')}.py").exists() else base)
    return found - {"", "backends"}


def test_imports_go_only_rightward():
    place = {name: i for i, group in enumerate(ORDER) for name in group}
    for name, at in place.items():
        path = PACKAGE / f"{name.replace('.', '/')}.py"
        for imported in _imports(path):
            assert imported in place, f"{name} imports {imported}, which has no place in ORDER"
            assert place[imported] < at, f"{name} imports {imported}, which is not to its left"


def test_every_module_has_its_place():
    known = set().union(*ORDER) | {"__init__", "__main__", "cli", "backends.__init__"}
    files = [p for p in PACKAGE.rglob("*.py") if p.parent.name != "bench"]
    names = {str(p.relative_to(PACKAGE).with_suffix("")).replace("/", ".") for p in files}
    assert names == known


def _run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def test_importing_the_package_imports_neither_tensorflow_nor_keras_nor_numpy():
    code = "import sys, fusedsplit; print([m for m in ('tensorflow', 'keras', 'numpy') if m in sys.modules])"
    assert _run(code) == "[]"


def test_public_names_are_listed_and_resolve():
    for name in fusedsplit.__all__:
        assert name in dir(fusedsplit)
        assert getattr(fusedsplit, name) is not None


def test_public_names_survive_the_import_of_modules_of_the_same_name():
    code = (
        "import fusedsplit.check, fusedsplit.explain, fusedsplit.info, fusedsplit as fs; "
        "print(callable(fs.check), callable(fs.explain), callable(fs.info))"
    )
    assert _run(code) == "True True True"


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_name"):
        fusedsplit.no_such_name  # noqa: B018
