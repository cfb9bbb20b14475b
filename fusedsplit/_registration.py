"""Registers the layer classes with Keras, now or as soon as Keras is imported.

Keras 3.12 and newer do not import a class by its config's module, so `keras.models.load_model` needs the classes to be
registered, whichever of the two packages is imported first.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Sequence
from typing import Any

# The modules whose import registers a class.
_CLASSES = ("layers.split_dense", "layers.merge_dense", "layers.dynamic_split_dense", "models.fused_model")


def install() -> None:
    """Registers at once if Keras is imported, else when it will be."""
    keras = sys.modules.get("keras")
    if keras is None:
        sys.meta_path.insert(0, _KerasFinder())
    elif hasattr(keras, "layers"):  # not one that is half-way through its own import
        register()


def register() -> None:
    """Imports the layers, which registers them; a Keras that they cannot run on stays usable without them."""
    try:
        for name in _CLASSES:
            importlib.import_module(f"fusedsplit.{name}")
    except ImportError:
        pass


class _KerasFinder(importlib.abc.MetaPathFinder):
    """Steps aside at the first import of keras, and lets the registration follow it."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != "keras":
            return None
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        spec = importlib.util.find_spec("keras")
        if spec is not None and spec.loader is not None:
            spec.loader = _RegisteringLoader(spec.loader)
        return spec


class _RegisteringLoader(importlib.abc.Loader):
    """The loader it wraps, and then the registration."""

    def __init__(self, loader: importlib.abc.Loader):
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: types.ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        self._loader.exec_module(module)
        register()
