"""The programs beside the package find their modules in the folder where they lie; peers run in their own processes.

(PyTorch crashes in a process that TensorFlow is in.)
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from race.remote import Remote  # noqa: E402

Start = Callable[..., Remote]


@pytest.fixture(scope="module")
def start() -> Iterator[Start]:
    """Makes remotes, each once, and ends their processes; skips where a module that one needs is not installed."""
    made: dict[str, Remote] = {}

    def make(target: str, environment: dict[str, str] | None = None, needs: str = "sys") -> Any:
        if importlib.util.find_spec(needs) is None:
            pytest.skip(f"{needs} is not installed")
        if target not in made or not made[target].alive:
            made[target] = Remote(target, {"OMP_NUM_THREADS": "1", **(environment or {})})
        return made[target]

    yield make
    for remote in made.values():
        remote.close()
