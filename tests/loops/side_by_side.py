"""The same training by Keras and natively, and what came of both."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras.layers import BatchNormalization, Concatenate, Dense, Dropout, Input, LayerNormalization

import fusedsplit as fs
from fusedsplit.loops import _keras_private as private

ROWS = 45
# Keras 3.5 differs: targets by name go by the order of names, outputs without a loss shift the others' trackers,
# train_on_batch and test_on_batch go on with the metrics of the last call, and regularizers compute in float32.
IS_OLD = not private.tests_each_batch_by_itself()
# Their numbers are drawn in another way than Keras': a run with these is compared with nothing.
COMPARED = ("weights", "optimizer", "history", "metrics")


def branches(units: int = 1, activation: Any = None, name: str = "out") -> keras.Model:
    """Dense -> split -> two Dense -> concatenate -> Dense."""
    x = Input((6,), name="x")
    h = Dense(8, name="stem")(x)
    a = Dense(4, activation="relu", name="left")(h[:, :4])
    b = Dense(5, activation="tanh", name="right")(h[:, 4:])
    return keras.Model(x, Dense(units, activation=activation, name=name)(Concatenate()([a, b])))


def deep(units: int = 1, activation: Any = None) -> keras.Model:
    """With a LayerNormalization, a shared layer and a frozen one."""
    x = Input((6,), name="x")
    shared = Dense(6, activation="gelu", name="shared")
    h = LayerNormalization(name="norm")(shared(x))
    frozen = Dense(7, activation="tanh", name="frozen")
    h = frozen(shared(h))
    frozen.trainable = False
    return keras.Model(x, Dense(units, activation=activation, name="out")(h))


def two_outputs() -> keras.Model:
    """Two inputs, and two outputs: a number and a class."""
    x, z = Input((6,), name="x"), Input((3,), name="z")
    h = Dense(8, activation="relu", name="stem")(Concatenate()([x, z]))
    number = Dense(1, name="number")(h[:, :5])
    probs = Dense(3, activation="softmax", name="kind")(h[:, 3:])
    return keras.Model([x, z], [number, probs])


def dict_of_outputs(number: str = "number", kind: str = "kind") -> keras.Model:
    """The outputs of `two_outputs` by key; the order of the keys is not theirs, the layers' names may be."""
    x = Input((6,), name="x")
    h = Dense(8, activation="relu", name="stem")(x)
    outputs = {"number": Dense(1, name=number)(h[:, :5]), "kind": Dense(3, activation="softmax", name=kind)(h[:, 3:])}
    return keras.Model(x, outputs)


def regularized() -> keras.Model:
    x = Input((6,), name="x")
    h = Dense(5, activation="relu", kernel_regularizer="l2", bias_regularizer=keras.regularizers.L1(0.01), name="a")(x)
    frozen = Dense(4, kernel_regularizer="l2", trainable=False, name="frozen")
    out = Dense(1, kernel_regularizer=keras.regularizers.L1L2(0.02, 0.03), name="out")
    return keras.Model(x, out(frozen(h)))


def with_dropout(rate: float = 0.5) -> keras.Model:
    x = Input((6,), name="x")
    h = Dropout(rate, seed=3, name="drop")(Dense(16, activation="relu", name="a")(x))
    return keras.Model(x, Dense(1, name="out")(h))


def with_normalization() -> keras.Model:
    x = Input((6,), name="x")
    h = BatchNormalization(name="norm")(Dense(8, activation="relu", name="a")(x))
    return keras.Model(x, Dense(1, name="out")(h))


def floats(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(keras.config.floatx())


# Samples, targets and their weights for most tests.
X = floats(ROWS, 6).astype("float64")
Y = floats(ROWS, 1, seed=2).astype("float64")
W = abs(floats(ROWS, seed=5)).astype("float64")


def classes(kinds: int, rows: int = ROWS, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, kinds, rows)


@dataclasses.dataclass
class Run:
    """What a training left behind."""

    model: Any
    result: Any
    weights: list[np.ndarray]
    optimizer: list[np.ndarray]
    history: dict[str, list[float]]
    metrics: list[np.ndarray]


def run(
    make: Callable[[], keras.Model],
    compiled: Callable[[], dict[str, Any]],
    train: Callable[[Any], Any],
    loop: str,
) -> Run:
    """Makes a model of seed 0, compiles it, and trains it.

    Keras runs it eagerly, which takes no tracing and gives the same numbers, unless several losses or executions of
    several steps have it do otherwise there.
    """
    keras.utils.clear_session(free_memory=False)  # the names of metrics count on; collecting takes longer than a run
    keras.utils.set_random_seed(0)
    model = fs.fuse(make(), loop=loop)
    arguments = compiled()
    several = isinstance(arguments.get("loss"), (list, dict)) or "steps_per_execution" in arguments
    arguments.setdefault("run_eagerly", loop == "keras" and not several)
    model.compile(**arguments)
    result = train(model)
    return Run(
        model,
        result,
        [v.numpy() for v in model.weights],
        [v.numpy() for v in model.optimizer.variables],
        dict(model.history.history) if getattr(model, "history", None) else {},
        [v.numpy() for v in model.metrics_variables],
    )


def both(
    make: Callable[[], keras.Model], compiled: Callable[[], dict[str, Any]], train: Callable[[Any], Any]
) -> tuple[Run, Run]:
    """(by Keras, natively)."""
    return run(make, compiled, train, "keras"), run(make, compiled, train, "native")


def assert_same(by_keras: Run, native: Run, rtol: float = 1e-9) -> None:
    """Weights, optimizer state, History and metrics agree."""
    assert list(by_keras.history) == list(native.history)
    for name in by_keras.history:
        close(by_keras.history[name], native.history[name], rtol, name)
    for kind in ("weights", "optimizer", "metrics"):
        ours, theirs = getattr(native, kind), getattr(by_keras, kind)
        assert len(ours) == len(theirs)
        for i, (a, b) in enumerate(zip(theirs, ours)):
            assert a.dtype == b.dtype
            close(a, b, rtol, f"{kind}[{i}]")


def close(expected: Any, given: Any, rtol: float, what: str = "") -> None:
    expected = np.asarray(expected, dtype="float64")
    scale = np.abs(expected[np.isfinite(expected)]).max(initial=0.0)
    np.testing.assert_allclose(given, expected, rtol=rtol, atol=rtol * scale + 1e-15, err_msg=what)


def check(
    make: Callable[[], keras.Model],
    compiled: Callable[[], dict[str, Any]],
    *data: Any,
    rtol: float = 1e-9,
    **options: Any,
) -> tuple[Run, Run | None]:
    """`fit` by Keras and natively, three epochs, without shuffling; both Runs, which agree.

    Where a step finds no data, and Keras counts it all the same, natively it is refused, and there is no second Run.
    """
    given = {"batch_size": 16, "epochs": 3, "shuffle": False, "verbose": 0, **options}

    def train(model: Any) -> Any:
        fresh = {k: v() if k == "callbacks" else v for k, v in given.items()}
        return model.fit(*data, **fresh)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        by_keras = run(make, compiled, train, "keras")
    if private.counts_steps_past_the_end() and any("ran out of data" in str(w.message) for w in caught):
        with pytest.raises(ValueError, match="finds no data"):
            run(make, compiled, train, "native")
        return by_keras, None
    native = run(make, compiled, train, "native")
    assert_same(by_keras, native, rtol=rtol)
    return by_keras, native
