import pytest

from fusedsplit.bench.precision import keras_in


@pytest.fixture(autouse=True, scope="module")
def float64():
    """Everything in double precision."""
    with keras_in("float64"):
        yield
