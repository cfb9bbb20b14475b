"""Optional packages: what a missing one costs, said in one sentence."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType

_CURE = "expected the packages of the bench extra (pip install 'fusedsplit[bench]')"


class MissingPackageError(RuntimeError):
    """A package of the bench extra is not installed."""


def require(module: str) -> ModuleType:
    """The module, or a MissingPackageError that names the extra to install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingPackageError(f"{_CURE}. Received: {error}") from error


def package_folder(package: str) -> Path:
    """The folder of an installed top-level package, found without importing it."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise MissingPackageError(f"{_CURE}. Received: no package named {package!r}")
    return Path(next(iter(spec.submodule_search_locations)))
