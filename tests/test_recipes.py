"""docs/recipes.md: every recipe trains as its unfused Keras version does."""

import functools
import re
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.initializers import Constant
from keras.layers import Activation, Dense

import fusedsplit as fs

PAGE = Path(__file__).resolve().parent.parent / "docs" / "recipes.md"
pytestmark = pytest.mark.skipif(not PAGE.exists(), reason="installed without docs/")
RECIPES = dict(re.findall(r"^## (.+?)\n.*?```python\n(.*?)```", PAGE.read_text() if PAGE.exists() else "", re.M | re.S))
STEPS, BATCH = 200, 64


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    data = pytest.importorskip("sklearn.datasets").load_digits()
    return (data.data / 16).astype("float32"), data.target.astype("int32")


def made(recipe: str):
    """The recipe's layers, built, and its loss."""
    keras.utils.set_random_seed(3)
    names = {"fs": fs, "tf": tf, "Dense": Dense, "Activation": Activation, "Constant": Constant}
    exec(compile(RECIPES[recipe], f"recipes.md: {recipe}", "exec"), names)
    return names["layers"], names["loss"]


def train(callables, variables, loss, digits) -> np.ndarray:
    variables = list({id(v): v.value for v in variables}.values())

    @tf.function
    def step(x, y):
        with tf.GradientTape() as tape:
            value = loss(*callables, x, y)
        for variable, gradient in zip(variables, tape.gradient(value, variables), strict=True):
            variable.assign_sub(0.05 * gradient)
        return value

    order = np.random.default_rng(0).integers(0, len(digits[0]), (STEPS, BATCH))
    return np.array([step(digits[0][rows], digits[1][rows]) for rows in order])


@pytest.fixture(scope="module")
def unfused(digits) -> Callable[[str], np.ndarray]:
    """The losses of a recipe's unfused layers, which are those of one seed, trained once for all backends."""

    @functools.cache
    def losses(recipe: str) -> np.ndarray:
        layers, loss = made(recipe)
        loss(*layers, digits[0][:BATCH], digits[1][:BATCH])  # builds every layer
        references = [fs.reference(layer) for layer in layers]
        return train(references, [v for model in references for v in model.trainable_variables], loss, digits)

    return losses


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_losses_are_the_unfused_ones(recipe, fused_backend, digits, unfused):
    expected = unfused(recipe)
    layers, loss = made(recipe)
    loss(*layers, digits[0][:BATCH], digits[1][:BATCH])
    with fs.use_backend(fused_backend):
        fused = train(layers, [v for layer in layers for v in layer.trainable_variables], loss, digits)
    np.testing.assert_allclose(fused[0], expected[0], rtol=1e-5)
    np.testing.assert_allclose(fused, expected, rtol=5e-3)
    assert fused[-20:].mean() < fused[:20].mean() - 0.02


def test_there_are_six():
    assert len(RECIPES) == 6
