"""Fixtures of the tests of what needs no TensorFlow."""

import pytest

from fusedsplit.bench.precision import keras_in


@pytest.fixture
def float64():
    """Keras' own constants in float64."""
    with keras_in("float64"):
        yield
