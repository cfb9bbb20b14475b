"""Registers the layer classes with Keras, now or as soon as Keras is imported.

Keras 3.12 and newer do not import a class by its config's module, so `keras.models.load_model` needs the classes to be
registered, whichever of the two packages is imported first. Nothing here may end somebody's `import keras`: what goes
wrong is a warning, and stands in `fs.info()`.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import threading
import types
import warnings
from collections.abc import Sequence
from typing import Any

# The modules whose import registers a class.
_CLASSES = ("layers.split_dense", "layers.merge_dense", "layers.dynamic_split_dense", "models.fused_model")

# Why the classes could not be registered when Keras was imported; None where nothing went wrong.
problem: str | None = None


def install() -> None:
    """Registers at once if Keras is imported, else when it will be."""
    if "keras" in sys.modules and not _is_whole(sys.modules["keras"]):
        with contextlib.suppress(Exception):
            importlib.import_module("keras")  # waits until another thread has imported it
    if _is_whole(sys.modules.get("keras")):
        register()
    else:
        sys.meta_path.insert(0, _KerasFinder())


def register() -> None:
    """Imports the layers, which registers them; a Keras that they cannot run on stays usable without them."""
    global problem
    try:
        if backend_problem() is None:  # else it is no fault, and whoever uses a layer is told
            for name in _CLASSES:
                importlib.import_module(f"fusedsplit.{name}")
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
        _warn()


def _warn() -> None:
    with contextlib.suppress(Exception):  # where warnings are errors
        warnings.warn(
            f"fusedsplit cannot register its layers, and keras.models.load_model will not find them: {problem}",
            RuntimeWarning,
            stacklevel=2,
        )


def backend_problem() -> str | None:
    """Why the Keras in this process, if any, cannot run the layers."""
    config: Any = getattr(sys.modules.get("keras"), "config", None)
    backend = config.backend() if hasattr(config, "backend") else "tensorflow"  # else Keras 2, or none
    if backend == "tensorflow":
        return None
    return (
        "fusedsplit needs the TensorFlow backend of Keras: set KERAS_BACKEND=tensorflow before Keras is imported. "
        f"Received: backend {backend!r}"
    )


def require_tensorflow() -> None:
    """Imports Keras.

    Raises:
        ImportError: if its backend is another one than TensorFlow.
    """
    importlib.import_module("keras")
    reason = backend_problem()
    if reason is not None:
        raise ImportError(reason)


def _is_whole(module: types.ModuleType | None) -> bool:
    """Whether a module is imported, and not half-way through its own import."""
    return module is not None and not getattr(module.__spec__, "_initializing", False)


class _KerasFinder(importlib.abc.MetaPathFinder):
    """Finds keras as the other finders do, and lets the registration follow its import.

    Whoever only asks whether there is a Keras comes here too, so it stays until Keras is imported.
    """

    def __init__(self) -> None:
        self._asks = threading.local()

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != "keras" or hasattr(self._asks, "now"):
            return None
        self._asks.now = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            del self._asks.now
        if spec is not None and spec.loader is not None:
            spec.loader = _RegisteringLoader(spec.loader, self)
        return spec


class _RegisteringLoader(importlib.abc.Loader):
    """The loader it wraps, and then the registration."""

    def __init__(self, loader: importlib.abc.Loader, finder: _KerasFinder):
        self._loader = loader
        self._finder = finder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: types.ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        self._loader.exec_module(module)
        with contextlib.suppress(ValueError):
            sys.meta_path.remove(self._finder)
        register()
