"""A program: for each set of private names, given as JSON, what still works in a TensorFlow that lacks them.

TensorFlow is imported once; every set has a child process of its own, forked before anything runs.
"""

from __future__ import annotations

import importlib
import json
import sys
import tempfile
import traceback
import types
from pathlib import Path

import keras
import tensorflow as tf

EAGER = "the op in eager mode"
FORMS = {
    EAGER: lambda call: call,
    "the op in graphs": lambda call: tf.function(call, autograph=False),
    "the op inside XLA": lambda call: tf.function(call, autograph=False, jit_compile=True),
}


def hide(names: list[str]) -> None:
    """Takes names, or what they are attributes of, out of what modules hold for those who import them now."""
    import_module = importlib.import_module

    def without(module: str, package: str | None = None):
        found = import_module(module, package)
        hidden = {name.removeprefix(f"{module}.").split(".")[0] for name in names if name.startswith(f"{module}.")}
        return types.SimpleNamespace(**{k: v for k, v in vars(found).items() if k not in hidden}) if hidden else found

    importlib.import_module = without
    try:
        importlib.import_module("fusedsplit.backends._tf_private")
    finally:
        importlib.import_module = import_module


def close(found, expected) -> None:
    for a, b in zip(tf.nest.flatten(found), tf.nest.flatten(expected), strict=True):
        tf.debugging.assert_near(a, b, rtol=1e-4, atol=1e-5)


def derivatives(call, x, variables, second: bool):
    """The value, the gradients, and with `second` a gradient of a gradient."""
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as tape:
            y = call(x)
            loss = tf.reduce_sum(y * y)
        first = tape.gradient(loss, variables)
        squares = tf.add_n([tf.reduce_sum(g * g) for g in first])
    return [y, first, outer.gradient(squares, x)] if second else [y, first]


def findings(backends: list[str], second: bool) -> dict[str, str]:
    """For every form of the backends "" where it is right, or what it raised; and what the user is told."""
    import fusedsplit as fs

    dense = keras.layers.Dense
    layer = fs.SplitDense(dense(8, activation="tanh"), [dense(4, activation="tanh"), dense(4, activation="tanh")])
    x = tf.reshape(tf.linspace(-1.0, 1.0, 40), [4, 10])
    layer.build(x.shape)
    expected = derivatives(fs.reference(layer), x, layer.trainable_variables, second)
    found = {}
    for backend in backends:
        for form, made in FORMS.items():
            run = made(lambda x: derivatives(layer, x, layer.trainable_variables, second))
            try:
                with fs.use_backend(backend):
                    if form == EAGER:
                        close(layer(x), expected[0])  # without a tape
                    close(run(x), expected)
                found[f"{backend}: {form}"] = ""
            except Exception as error:
                found[f"{backend}: {form}"] = f"{type(error).__name__}: {error}"
    close(fs.fuse(with_lambda := lambda_model())(x), with_lambda(x))
    found["info"] = str(fs.info())
    found["explain"] = str(fs.explain(layer))
    found["saved"] = "holds the op" if b"FusedsplitForward" in saved(layer) else ""
    return found


def lambda_model() -> keras.Model:
    x = keras.Input((10,))
    a, b = keras.layers.Lambda(lambda t: tf.split(t * 2.0, 2, axis=-1))(keras.layers.Dense(8)(x))
    return keras.Model(x, keras.layers.Concatenate()([keras.layers.Dense(4)(a), keras.layers.Dense(6)(b)]))


def saved(layer) -> bytes:
    module = tf.Module()
    module.layer = layer
    module.f = tf.function(lambda x: layer(x), input_signature=[tf.TensorSpec([None, 10])], autograph=False)
    with tempfile.TemporaryDirectory() as directory:
        tf.saved_model.save(module, directory)
        with open(f"{directory}/saved_model.pb", "rb") as file:
            return file.read()


def answer(names: list[str]) -> dict[str, str]:
    try:
        hide(names)
        # What needs none of the names is tried without all of them alone.
        every = len(names) != 1
        return findings(["auto", "op", *["xla", "tf", "reference"] * every], second=every)
    except BaseException:
        return {"failed": traceback.format_exc()}


if __name__ == "__main__":
    sys.path.append(str(Path(__file__).resolve().parents[1]))
    from forked import in_child

    json.dump([in_child(answer, names) for names in json.loads(sys.argv[1])], sys.stdout)
