"""_tf_private.py: what each private name of TensorFlow costs where it is missing, and that no other module uses one."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import fusedsplit
from fusedsplit.backends import _tf_private, op

ROOT = Path(fusedsplit.__file__).resolve().parent
ALL = "all of them"
SETS = {"none of them": [], ALL: [name.name for name in _tf_private.NAMES]}
SETS |= {name.name: [name.name] for name in _tf_private.NAMES}
FORMS = (_tf_private.EAGER, _tf_private.GRAPH, _tf_private.IN_XLA)


@pytest.fixture(scope="module")
def findings() -> dict[str, dict[str, str]]:
    """Set of missing names -> what `without_private_names.py` found."""
    program = Path(__file__).with_name("without_private_names.py")
    env = {**os.environ, "PYTHONPATH": str(ROOT.parent), "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-W", "ignore", str(program), json.dumps(list(SETS.values()))]
    result = subprocess.run(command, capture_output=True, text=True, env=env)
    assert result.returncode == 0, result.stderr[-3000:]
    return dict(zip(SETS, json.loads(result.stdout), strict=True))


def test_this_tensorflow_has_every_name():
    assert _tf_private.missing() == []
    assert [_tf_private.reasons(form) for form in FORMS] == [[], [], []]


@pytest.mark.parametrize("missing", SETS)
def test_a_missing_name_costs_just_what_needs_it(missing, findings):
    found = findings[missing]
    assert "failed" not in found, found["failed"]
    lost = {what for name in _tf_private.NAMES if name.name in SETS[missing] for what in name.lost}
    for form in FORMS:
        assert {found[key] for key in found if key.endswith(f": {form}") and not key.startswith("op")} == {""}
        if form in lost:
            assert "'op' was chosen explicitly and cannot run" in found[f"op: {form}"]
            assert any(f"has no {name}, which" in found[f"op: {form}"] for name in SETS[missing])
        elif op.problem() is None and (form != _tf_private.IN_XLA or op.xla_problem() is None):
            assert found[f"op: {form}"] == ""
    assert found["saved"] == ""
    for name in SETS[missing]:
        assert f"without {name}" in found["info"]
    for name in _tf_private.NAMES:
        said = name.name in SETS[missing] and any(form in name.lost for form in FORMS)
        assert (f"has no {name.name}, which" in found["explain"]) == said


def test_each_name_says_what_is_lost():
    for name in _tf_private.NAMES:
        assert name.lost, name


def test_no_other_module_uses_a_private_name():
    """In the package, by import or by a chain of attributes such as `tf.python.eager`."""
    private = ("tensorflow.python", "tensorflow.core", "tensorflow.compiler", "tensorflow.__internal__", "keras.src")
    for path in ROOT.rglob("*.py"):
        if path.name in ("_tf_private.py", "_keras_private.py"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            if isinstance(node, ast.Attribute):
                names = [ast.unparse(node).replace("tf.", "tensorflow.", 1)]
            for name in names:
                assert not name.startswith(private), f"{path}: {name}"
                assert not name.endswith("._set_attr"), f"{path}: {name}"
