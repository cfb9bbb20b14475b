"""The dtype in which Keras makes models, for a while."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import keras


@contextlib.contextmanager
def keras_in(dtype: str) -> Iterator[None]:
    """Within it Keras makes what it makes in `dtype`: the policy is kept from its first use on, so both are set."""
    before = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx(dtype)
    keras.config.set_dtype_policy(dtype)
    try:
        yield
    finally:
        keras.config.set_floatx(before[0])
        keras.config.set_dtype_policy(before[1])
