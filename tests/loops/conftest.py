import keras
import pytest


@pytest.fixture(autouse=True, scope="module")
def float64():
    """Everything in double precision: floatx and the policy, which is kept once it was asked for."""
    floatx, policy = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx(floatx)
    keras.config.set_dtype_policy(policy)
