"""What `benchmarks/peers.py` and `benchmarks/fit.py` have in common: contestants, each in a process of its own.

remote      a process, seen from the program that holds the race;  serve: that process;  field: all of them
program     how they begin and end
contestant  what runs in it and times itself
inference   a trained model's answer: one class for each peer
training    a step of `fit`: one class for each peer
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Of those that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
