"""Fixtures of the tests of what needs no TensorFlow."""

import keras
import pytest


@pytest.fixture
def float64():
    """Keras' own constants in float64."""
    keras.config.dtype_policy()  # which is kept from its first use on
    before = keras.config.floatx()
    keras.config.set_floatx("float64")
    yield
    keras.config.set_floatx(before)
