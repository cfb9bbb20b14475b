"""plan.py's HashedOnce: what is hashed once stays equal to what is made anew, in copies and in other processes."""

from __future__ import annotations

import copy
import dataclasses
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import fusedsplit
from fusedsplit.layers.lower import lower
from fusedsplit.layers.merges import Concat
from fusedsplit.layers.spec import Branch, DenseSpec, SplitSpec
from fusedsplit.plan import Activation


def make_spec() -> SplitSpec:
    stem = (DenseSpec(8, 0, None, Activation("relu")),)
    branches = (Branch(None, 0, 4, ()), Branch(None, 4, 8, (Activation("elu", 1.5),)))
    return SplitSpec((10,), ((10, 8),), stem, branches, Concat(), ())


MAKERS = {"spec": make_spec, "plan": lambda: lower.__wrapped__(make_spec())}


@pytest.fixture(params=MAKERS)
def make(request):
    return MAKERS[request.param]


@pytest.mark.parametrize(
    "copied",
    [copy.copy, copy.deepcopy, dataclasses.replace, lambda x: pickle.loads(pickle.dumps(x))],
    ids=["copy", "deepcopy", "replace", "pickle"],
)
def test_a_copy_is_equal_and_has_the_same_hash(make, copied):
    original = make()
    found = {original: "known"}
    other = copied(original)
    assert other is not original and "_hash" not in vars(other)
    assert other == original and hash(other) == hash(original) == hash(make())
    assert found[other] == "known"


def test_a_replaced_field_has_another_hash():
    plan = MAKERS["plan"]()
    hash(plan)
    other = dataclasses.replace(plan, points=1)
    assert other != plan and hash(other) != hash(plan)


def test_another_process_finds_what_it_is_given():
    """The hashes of strings differ there."""

    def run(code: str, seed: int, given: bytes = b"") -> bytes:
        paths = [str(Path(fusedsplit.__file__).resolve().parents[1])]
        env = {**os.environ, "PYTHONHASHSEED": str(seed), "PYTHONPATH": os.pathsep.join(paths)}
        start = (
            f"import pickle, sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); from test_hash import MAKERS\n"
        )
        result = subprocess.run([sys.executable, "-c", start + code], input=given, capture_output=True, env=env)
        assert result.returncode == 0, result.stderr.decode()
        return result.stdout

    written = run(
        "known = {make(): name for name, make in MAKERS.items()}\nsys.stdout.buffer.write(pickle.dumps(known))", 1
    )
    run(
        """known = pickle.loads(sys.stdin.buffer.read())
for name, make in MAKERS.items():
    assert known[make()] == name
    assert hash(make()) in map(hash, known)
""",
        2,
        written,
    )
