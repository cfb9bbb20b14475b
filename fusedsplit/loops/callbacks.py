"""What callbacks can see of a native loop, and when."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras

from fusedsplit.loops import _keras_private as private

_BLIND = (keras.callbacks.History, keras.callbacks.ProgbarLogger)
# Callbacks whose hooks around a batch are idle where they work by the epoch.
_SAVERS = (keras.callbacks.ModelCheckpoint, keras.callbacks.BackupAndRestore)
_TRAIN_HOOKS = ("on_train_batch_begin", "on_train_batch_end", "on_batch_begin", "on_batch_end")
_TEST_HOOKS = ("on_test_batch_begin", "on_test_batch_end")
_PREDICT_HOOKS = ("on_predict_batch_begin", "on_predict_batch_end")


class Watch:
    """What the callbacks of one loop may see and change.

    Attributes:
        state: whether one of them may look at weights, metrics or the optimizer at all.
        bar: whether a progress bar wants to be moved.
        train: "state" if one may do so around each batch; "logs" if one looks at each batch's logs; else "".
        test: likewise for batches of `evaluate`.
        predict: likewise.
    """

    def __init__(self, callback_list: Any):
        callbacks = list(callback_list.callbacks) if callback_list is not None else []
        others = [callback for callback in callbacks if type(callback) not in _BLIND]
        self.state = bool(others)
        self.bar = any(type(c) is keras.callbacks.ProgbarLogger and c.verbose == 1 for c in callbacks)
        self.train = _most(_seen(callback, _TRAIN_HOOKS) for callback in others)
        self.test = _most(_seen(callback, _TEST_HOOKS) for callback in others)
        self.predict = _most(_seen(callback, _PREDICT_HOOKS) for callback in others)


def _most(seen: Iterable[str]) -> str:
    found = set(seen)
    return "state" if "state" in found else "logs" if "logs" in found else ""


def _seen(callback: Any, hooks: Iterable[str]) -> str:
    """What a callback may see around each batch."""
    if all(private.is_default(getattr(callback, hook)) for hook in hooks):
        return ""
    kind = type(callback)
    if kind in _SAVERS and callback.save_freq == "epoch":
        return ""
    if kind is keras.callbacks.TensorBoard and private.writes_by_epoch(callback):
        return ""
    if kind is keras.callbacks.TerminateOnNaN or kind.__module__ == "tqdm.keras":
        return "logs"
    return "state"
