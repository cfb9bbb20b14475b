"""No cache keeps a layer alive, nor the functions it was made with, once nobody else does."""

from __future__ import annotations

import gc
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.layers import Dense

import fusedsplit as fs


class Token:
    """Something that a closure holds."""


def closure(token: Token, function):
    def with_token(*args):
        assert token is not None
        return function(*args)

    return with_token


def merged(token: Token) -> fs.SplitDense:
    return fs.SplitDense(Dense(8), [Dense(4), Dense(4)], merge=closure(token, lambda parts: parts[0] * parts[1]))


def merged_with_head(token: Token) -> fs.SplitDense:
    merge = closure(token, lambda parts: parts[0] * parts[1])
    return fs.SplitDense(Dense(8), [Dense(4), Dense(4)], merge=merge, head=Dense(1, activation="sigmoid"))


def merged_by_a_layer(token: Token) -> fs.MergeDense:
    layer = keras.layers.Add()
    layer.token = token
    return fs.MergeDense([Dense(4), Dense(4)], merge=layer)


def split_by_a_callable(token: Token) -> fs.DynamicSplitDense:
    return fs.DynamicSplitDense(Dense(8), Dense(4), Dense(4), split=closure(token, lambda x: tf.shape(x)[0] % 4))


def nested(token: Token) -> fs.MergeDense:
    inner = fs.SplitDense(Dense(8), [Dense(2, activation="relu"), None])
    layer = fs.MergeDense([inner, Dense(3)], merge="concat", head=Dense(1, activation="sigmoid"))
    layer.token = token
    return layer


def nested_with_a_callable(token: Token) -> fs.MergeDense:
    layer = fs.MergeDense([merged(token), Dense(3)])
    return layer


def unfused(token: Token) -> fs.SplitDense:
    activation = closure(token, keras.ops.tanh)
    return fs.SplitDense(Dense(8, activation=activation), [Dense(4), Dense(4)])


MAKERS = (merged, merged_with_head, merged_by_a_layer, split_by_a_callable, nested, nested_with_a_callable, unfused)


def gradients(layer, x):
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(x, training=True) ** 2)
    return tape.gradient(loss, layer.trainable_variables)


def use_everywhere(layer, x) -> None:
    for made in (lambda f: f, tf.function, lambda f: tf.function(f, jit_compile=True)):
        made(lambda x: layer(x))(x)
        made(lambda x: gradients(layer, x))(x)
    model = keras.Sequential([keras.Input((10,)), layer])
    model.compile("sgd", "mse")
    model.fit(x, np.zeros((4, layer(x).shape[-1])), verbose=0)
    model.predict(x, verbose=0)
    fs.reference(layer)(x)
    fs.explain(layer)
    if not layer.unfusable_reasons():
        fs.check(layer, batch=3)
        if not layer.spec.points:
            fs.split_dense(x, layer.params, layer.spec)


def used_and_left(make) -> dict[str, weakref.ref]:
    """References to everything about a layer that only this frame held (a frame's variables may outlive a `del`)."""
    token = Token()
    layer = make(token)
    use_everywhere(layer, tf.ones([4, 10]))
    left = {"token": token, "layer": layer}
    left |= {f"sub-layer {part.name}": part for part in layer.sublayers}
    left |= {f"variable {variable.path}": variable for variable in layer.variables}
    return {name: weakref.ref(thing) for name, thing in left.items()}


def alive(references: dict[str, weakref.ref]) -> list[str]:
    keras.backend.clear_session()
    gc.collect()
    return [name for name, reference in references.items() if reference() is not None]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "make",
    [pytest.param(m, marks=pytest.mark.full) if m in (merged, merged_by_a_layer) else m for m in MAKERS],
    ids=lambda make: make.__name__,
)
def test_a_layer_and_what_it_holds_die(make):
    assert alive(used_and_left(make)) == []


def fused_and_left() -> dict[str, weakref.ref]:
    """The same of a fused model, in which one Lambda is understood and another is not."""
    token = Token()
    x = keras.Input((10,))
    parts = keras.layers.Lambda(closure(token, lambda t: tf.split(t, 2, axis=-1)))(Dense(8)(x))
    y = keras.layers.Concatenate()([Dense(4, activation="relu")(part) for part in parts])
    y = keras.layers.Lambda(closure(token, lambda t: t + tf.random.uniform([8])), output_shape=(8,))(y)
    plain = keras.Model(x, Dense(1)(y))
    fused = fs.fuse(plain)
    for made in (lambda f: f, tf.function, lambda f: tf.function(f, jit_compile=True)):
        made(lambda x: gradients(fused, x))(tf.ones([4, 10]))
    fused.compile("sgd", "mse")
    fused.fit(np.ones((4, 10)), np.ones((4, 1)), verbose=0)
    assert fused.regions
    return {name: weakref.ref(thing) for name, thing in {"token": token, "plain": plain, "fused": fused}.items()}


@pytest.mark.filterwarnings("ignore")
def test_a_fused_model_and_its_lambdas_die():
    assert alive(fused_and_left()) == []
