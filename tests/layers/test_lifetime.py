"""No cache keeps a layer alive, nor the functions it was made with, once nobody else does."""

from __future__ import annotations

import gc
import warnings
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


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
def test_a_layer_and_what_it_holds_die(make):
    token = Token()
    layer = make(token)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        use_everywhere(layer, tf.ones([4, 10]))
    alive = {"token": weakref.ref(token), "layer": weakref.ref(layer)}
    alive |= {f"sub-layer {part.name}": weakref.ref(part) for part in layer.sublayers}
    alive |= {f"variable {v.path}": weakref.ref(v) for v in layer.variables}
    del token, layer
    keras.backend.clear_session()
    gc.collect()
    assert [name for name, ref in alive.items() if ref() is not None] == []
