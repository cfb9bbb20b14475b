"""`fs.check` of a compiled model: one native training step against Keras' own."""

import dataclasses

import keras
import numpy as np
import pytest
from keras.layers import BatchNormalization, Dense, Dropout, Input

import fusedsplit as fs
from fusedsplit.bench.precision import keras_in
from fusedsplit.loops import losses, optimizers
from fusedsplit.tools import check_training
from fusedsplit.tools.check_model import random_inputs
from fusedsplit.tools.check_training import NAME
from tests.loops.side_by_side import IS_OLD, branches, floats, regularized, two_outputs

X = floats(40, 6)


def step_of(model):
    """The row of its training step, nothing else of it checked."""
    model = fs.fuse(model)
    (row,), reasons = check_training.check(model, random_inputs(model.graph, 37, rng()), 5, rng())
    assert reasons == []
    return row


def rng():
    return np.random.default_rng(3)


def compiled(make=branches, optimizer=None, loss="mse", **more):
    model = make()
    model.compile(optimizer or keras.optimizers.Adam(0.01), loss, **more)
    return model


OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.05, momentum=0.8, nesterov=True),
    "adamw": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.02, clipnorm=0.5),
    "ema": lambda: keras.optimizers.Adam(0.01, use_ema=True, gradient_accumulation_steps=2),
    "schedule": lambda: keras.optimizers.RMSprop(keras.optimizers.schedules.ExponentialDecay(0.1, 2, 0.7)),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_is_keras(name):
    model = fs.fuse(compiled(optimizer=OPTIMIZERS[name]()))
    if name != "schedule":
        model.fit(X, X[:, :1], verbose=0, epochs=1)
    before = [v.numpy() for v in (*model.variables, *model.optimizer.variables, *model.metrics_variables)]
    config = model._compile_config
    row = step_of(model)
    assert row.ok and 0 < row.error < 1e-5, row
    after = [v.numpy() for v in (*model.variables, *model.optimizer.variables, *model.metrics_variables)]
    assert len(before) == len(after) and all((a == b).all() for a, b in zip(before, after))
    assert model._compile_config is config


@pytest.mark.parametrize(
    ("loss", "activation", "units"),
    [("sparse_categorical_crossentropy", "softmax", 3), ("binary_crossentropy", "sigmoid", 1), ("hinge", None, 1)],
)
def test_losses(loss, activation, units):
    assert step_of(compiled(lambda: branches(units, activation), loss=loss)).ok


def test_two_outputs_and_regularizers():
    loss, weights = {"number": "mae", "kind": "categorical_crossentropy"}, {"number": 0.3, "kind": 2.0}
    if IS_OLD:  # which takes them in the order of the names
        loss, weights = list(loss.values()), list(weights.values())
    assert step_of(compiled(two_outputs, loss=loss, loss_weights=weights)).ok
    assert step_of(compiled(regularized)).ok


def test_it_stands_in_the_report(monkeypatch):
    report = fs.check(compiled())
    assert report.ok and NAME in str(report) and sum(row.order == NAME for row in report.rows) == 1
    right = optimizers.described
    monkeypatch.setattr(optimizers, "described", lambda o: dataclasses.replace(right(o), beta_2=0.9989))
    report = fs.check(compiled())
    (row,) = [row for row in report.rows if not row.ok]
    assert not report.ok and row.order == NAME and "velocity" in row.where


def test_a_wrong_loss_is_seen(monkeypatch):
    right = losses.described
    monkeypatch.setattr(losses, "described", lambda *a: dataclasses.replace(right(*a), name="mean_absolute_error"))
    row = step_of(compiled(optimizer=keras.optimizers.SGD(0.1)))
    assert not row.ok and row.ratio > 100


def test_what_is_not_checked_is_said():
    def with_dropout():
        x = Input((6,))
        return keras.Model(x, Dense(1)(Dropout(0.5)(Dense(4, activation="relu")(x))))

    def with_normalization():
        x = Input((6,))
        return keras.Model(x, Dense(1)(BatchNormalization()(Dense(4, activation="relu")(x))))

    for model, reason in (
        (compiled(with_dropout), "Dropout"),
        (compiled(with_normalization), "ormalization"),
        (compiled(optimizer=keras.optimizers.Adamax()), "Adamax"),
    ):
        before = model.get_weights()
        fused = fs.fuse(model)
        rows, reasons = check_training.check(fused, random_inputs(fused.graph, 37, rng()), 5, rng())
        assert rows == [] and any(reason in text for text in reasons), reasons
        assert all((a == b).all() for a, b in zip(before, model.get_weights()))
    assert NAME not in fs.check(branches()).skipped


def test_gelu_in_float64_is_right_though_tensorflow_rounds_its_constants():
    with keras_in("float64"):
        x = Input((6,))
        model = keras.Model(x, Dense(3)(Dense(4, activation="gelu")(x)))
        model.compile("sgd", "mse")
        row = step_of(model)
    assert row.ok, row
