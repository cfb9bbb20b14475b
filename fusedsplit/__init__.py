"""A fused SplitDense-Branch-Concat layer for Keras on TensorFlow.

Importing the package imports neither TensorFlow nor Keras: the public names load on first use. Where Keras is already
imported the layer classes are registered for loading at once, elsewhere as soon as Keras arrives.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fusedsplit import _registration

if TYPE_CHECKING:  # what the lazy names are, for type checkers: `as` says that they are public
    from fusedsplit.backends.dispatch import FusedSplitWarning as FusedSplitWarning
    from fusedsplit.backends.dispatch import use_backend as use_backend
    from fusedsplit.layers import merges as merges
    from fusedsplit.layers.dynamic import LearnedSplit as LearnedSplit
    from fusedsplit.layers.dynamic_split_dense import DynamicSplitDense as DynamicSplitDense
    from fusedsplit.layers.functional import split_dense as split_dense
    from fusedsplit.layers.merge_dense import MergeDense as MergeDense
    from fusedsplit.layers.reference import model as _model
    from fusedsplit.layers.spec import SplitSpec as SplitSpec
    from fusedsplit.layers.split_dense import SplitDense as SplitDense
    from fusedsplit.loops.by_hand import Trainer as Trainer
    from fusedsplit.models.fused_model import FusedModel as FusedModel
    from fusedsplit.models.fused_model import fuse as fuse
    from fusedsplit.models.fused_model import unfuse as unfuse
    from fusedsplit.native.predictor import Predictor as Predictor
    from fusedsplit.tools.check import check as check
    from fusedsplit.tools.explain import explain as explain
    from fusedsplit.tools.info import info as info

    reference = _model

__version__ = "0.1.0"

# Public name -> (module, name there; None for the module itself).
_PUBLIC: dict[str, tuple[str, str | None]] = {
    "SplitDense": ("layers.split_dense", "SplitDense"),
    "MergeDense": ("layers.merge_dense", "MergeDense"),
    "DynamicSplitDense": ("layers.dynamic_split_dense", "DynamicSplitDense"),
    "LearnedSplit": ("layers.dynamic", "LearnedSplit"),
    "SplitSpec": ("layers.spec", "SplitSpec"),
    "merges": ("layers.merges", None),
    "split_dense": ("layers.functional", "split_dense"),
    "reference": ("layers.reference", "model"),
    "FusedModel": ("models.fused_model", "FusedModel"),
    "fuse": ("models.fused_model", "fuse"),
    "unfuse": ("models.fused_model", "unfuse"),
    "Predictor": ("native.predictor", "Predictor"),
    "Trainer": ("loops.by_hand", "Trainer"),
    "use_backend": ("backends.dispatch", "use_backend"),
    "FusedSplitWarning": ("backends.dispatch", "FusedSplitWarning"),
    "check": ("tools.check", "check"),
    "explain": ("tools.explain", "explain"),
    "info": ("tools.info", "info"),
}

# What is of use without the TensorFlow backend of Keras.
_ANYWHERE = {"SplitSpec", "merges", "info", "Predictor"}

__all__ = [*_PUBLIC, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name not in _ANYWHERE:
        _registration.require_tensorflow()
    module, attribute = _PUBLIC[name]
    value = importlib.import_module(f"{__name__}.{module}")
    if attribute is not None:
        value = getattr(value, attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})


_registration.install()
