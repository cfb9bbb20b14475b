"""Imports go one way, and importing the package alone imports no TensorFlow."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import fusedsplit

PACKAGE = Path(fusedsplit.__file__).parent

# A module may import those of earlier groups only.
ORDER = (
    {"config", "_registration", "plan.steps", "native.recipe"},
    {"plan.code", "plan.rules"},
    {"plan.text"},
    {"plan.plan"},
    {"plan.builder", "plan.rewriting"},
    {"plan.fold"},
    {"plan"},
    {"native.library", "tools.tables", "backends.base", "backends.activations", "backends._tf_private"},
    {"native.structure", "native.trainer"},
    {"native.file_format"},
    {"native.predictor"},
    {"backends.op_in_xla", "backends.tf"},
    {"backends.op", "backends.xla"},
    {"backends.dispatch"},
    {"layers.merges", "layers._keras_private"},
    {"layers.spec", "layers.shapes"},
    {"layers.sublayers", "layers.lower", "layers.reference", "layers.dynamic"},
    {"layers.serialization", "layers.magnitude"},
    {"layers.computation"},
    {"layers.fused_layer", "layers.functional"},
    {"layers.split_dense", "layers.merge_dense", "layers.dynamic_split_dense"},
    {"loops.reasons"},
    {"loops._keras_private"},
    {"loops.choice", "loops.data", "loops.callbacks", "loops.variables"},
    {"loops.losses", "loops.metrics", "loops.optimizers", "loops.sources"},
    {"loops.compiled", "loops.given"},
    {"loops.totals", "loops.predict", "loops.why"},
    {"loops.training"},
    {"loops.evaluate"},
    {"loops.fit"},
    {"loops.by_hand"},
    {"models.row_plan", "models._keras_private", "models.loops"},
    {"models.rows", "models.graph"},
    {"models.operations", "models.tracing.nodes"},
    {"models.tracing.values", "models.tracing.patterns"},
    {"models.tracing.contract", "models.tracing.graph"},
    {"models.tracing.arithmetic"},
    {"models.tracing.trace"},
    {"models.lambdas"},
    {"models.calls"},
    {"models.region"},
    {"models.regions"},
    {"models.whole"},
    {"models.eager"},
    {"models.fused_model"},
    {"models.freeze"},
    {"tools.predict_files", "tools.check_predictor"},
    {"tools.check_report", "tools.float64", "tools.call_names", "tools.info"},
    {"tools.derivatives", "tools.gain", "tools.model_text"},
    {"tools.check_training"},
    {"tools.check_model", "tools.explain_model"},
    {"tools.check_against", "tools.explain"},
    {"tools.check", "tools.files"},
    {"tools.suite"},
)
# Rooms whose own file holds nothing but a docstring.
ROOMS = {"backends", "layers", "loops", "models", "models.tracing", "native", "tools"}


def _module(path: Path) -> str:
    return str(path.relative_to(PACKAGE).with_suffix("")).replace("/", ".").removesuffix(".__init__")


def _imports(path: Path) -> set[str]:
    """The package's own modules that a file imports when it runs."""
    tree = ast.parse(path.read_text())
    typing_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and getattr(block.test, "id", "") == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    found = set()
    for node in ast.walk(tree):
        ours = isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "fusedsplit"
        if ours and id(node) not in typing_only:
            base = node.module.removeprefix("fusedsplit").removeprefix(".")
            for alias in node.names:
                name = f"{base}.{alias.name}".removeprefix(".")
                found.add(name if (PACKAGE / f"{name.replace('.', '/')}.py").exists() else base)
    return found - {"", *ROOMS}


def _path(name: str) -> Path:
    path = PACKAGE / name.replace(".", "/")
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def test_imports_go_only_rightward():
    place = {name: i for i, group in enumerate(ORDER) for name in group}
    for name, at in place.items():
        for imported in _imports(_path(name)):
            assert imported in place, f"{name} imports {imported}, which has no place in ORDER"
            assert place[imported] < at, f"{name} imports {imported}, which is not to its left"


def test_every_module_has_its_place():
    known = set().union(*ORDER) | ROOMS | {"__init__", "__main__", "cli"}
    assert {_module(p) for p in PACKAGE.rglob("*.py") if p.parent.name != "bench"} == known


def _run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def test_importing_the_package_imports_neither_tensorflow_nor_keras_nor_numpy():
    code = "import sys, fusedsplit; print([m for m in ('tensorflow', 'keras', 'numpy') if m in sys.modules])"
    assert _run(code) == "[]"


def test_public_names_are_listed_and_resolve():
    for name in fusedsplit.__all__:
        assert name in dir(fusedsplit)
        assert getattr(fusedsplit, name) is not None


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_name"):
        fusedsplit.no_such_name  # noqa: B018
