"""A fused SplitDense-Branch-Concat layer for Keras on TensorFlow.

Importing the package imports neither TensorFlow nor Keras: the public names load on first use. Where Keras is already
imported the layer classes are registered for loading at once, elsewhere as soon as Keras arrives.
"""

from __future__ import annotations

import importlib
import sys
import types
from typing import TYPE_CHECKING, Any

from fusedsplit import _registration

if TYPE_CHECKING:  # what the lazy names are, for type checkers
    from fusedsplit import merges
    from fusedsplit.backends.reference import model as reference
    from fusedsplit.check import check
    from fusedsplit.dispatch import FusedSplitWarning, split_dense, use_backend
    from fusedsplit.dynamic import LearnedSplit
    from fusedsplit.explain import explain
    from fusedsplit.info import info
    from fusedsplit.layers import DynamicSplitDense, MergeDense, SplitDense
    from fusedsplit.spec import SplitSpec

__version__ = "0.1.0"

# Public name -> (module, name there; None for the module itself).
_PUBLIC: dict[str, tuple[str, str | None]] = {
    "SplitDense": ("layers", "SplitDense"),
    "MergeDense": ("layers", "MergeDense"),
    "DynamicSplitDense": ("layers", "DynamicSplitDense"),
    "LearnedSplit": ("dynamic", "LearnedSplit"),
    "SplitSpec": ("spec", "SplitSpec"),
    "merges": ("merges", None),
    "split_dense": ("dispatch", "split_dense"),
    "use_backend": ("dispatch", "use_backend"),
    "FusedSplitWarning": ("dispatch", "FusedSplitWarning"),
    "reference": ("backends.reference", "model"),
    "check": ("check", "check"),
    "explain": ("explain", "explain"),
    "info": ("info", "info"),
}

__all__ = [*_PUBLIC, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _PUBLIC[name]
    value = importlib.import_module(f"{__name__}.{module}")
    if attribute is not None:
        value = getattr(value, attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})


class _Package(types.ModuleType):
    """Keeps the import of a submodule (check, explain, info) from hiding the function of the same name."""

    def __setattr__(self, name: str, value: Any) -> None:
        hides = name in _PUBLIC and _PUBLIC[name][1] is not None and isinstance(value, types.ModuleType)
        if not hides:
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
_registration.install()
