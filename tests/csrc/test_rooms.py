"""Includes of C++ files go one way between the rooms of `csrc`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

CSRC = Path(__file__).parents[2] / "csrc"
# A file may include those of its own room and of the rooms after it.
CORE = ("tools", "train", "exec", "layout", "microkernels", "vec", "plan", "runtime")
# What stands around the core may include any room of it, and nothing of the others.
AROUND = ("tensorflow", "python")
FILES = sorted(p for p in CSRC.rglob("*") if p.suffix in (".h", ".cc"))


def _room(path: Path) -> str:
    """The room of a file by its path from `csrc`: of `core`, one of CORE, or "" for what stands before its rooms."""
    if path.parts[0] != "core":
        return path.parts[0] if len(path.parts) > 1 else ""
    return path.parts[1] if len(path.parts) > 2 else ""


def _includes(path: Path) -> list[Path]:
    return [Path(name) for name in re.findall(r'^\s*#\s*include\s+"([^"]+)"', path.read_text(), re.MULTILINE)]


def _may_include(room: str, other: str) -> bool:
    if room == other or other == "":
        return True
    if room in AROUND or room == "":
        return other in CORE
    return other in CORE and CORE.index(room) < CORE.index(other)


def test_the_order_has_every_room():
    rooms = {_room(path.relative_to(CSRC)) for path in FILES}
    assert rooms - {""} <= {*CORE, *AROUND}
    assert {"exec", "layout", "microkernels", "plan", "runtime", "tensorflow", "python"} <= rooms


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CSRC)))
def test_includes_go_one_way(path: Path):
    room = _room(path.relative_to(CSRC))
    for name in _includes(path):
        assert (CSRC / name).exists(), f"{name}: expected a path from csrc/"
        other = _room(name)
        assert _may_include(room, other), f"{room or path.name} includes {name}, of {other}"


@pytest.mark.parametrize(
    ("room", "other", "allowed"),
    [
        ("exec", "plan", True),
        ("plan", "exec", False),
        ("microkernels", "layout", False),
        ("runtime", "plan", False),
        ("tensorflow", "exec", True),
        ("python", "tensorflow", False),
        ("exec", "python", False),
    ],
)
def test_the_rule_itself(room: str, other: str, allowed: bool):
    assert _may_include(room, other) is allowed
