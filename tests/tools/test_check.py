"""check.py: it passes what is right, and fails what is not."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.layers import Dense, Dropout

import fusedsplit as fs
from fusedsplit.backends import dispatch


@pytest.fixture
def layer() -> fs.SplitDense:
    layer = fs.SplitDense(Dense(8, activation="tanh"), [Dense(4, activation="relu"), Dense(6)], head=Dense(2))
    layer.build((None, 5))
    return layer


def wrong(change):
    """`dispatch.run` with its outputs changed."""
    right = dispatch.run

    def run(computation, operands, backend):
        outputs = right(computation, operands, backend)
        return outputs if backend == "reference" else [change(y, operands.inputs, operands.params) for y in outputs]

    return run


@tf.custom_gradient
def with_half_the_gradient(y):
    return tf.identity(y), lambda dy: 0.5 * dy


@tf.custom_gradient
def without_second_order(y):
    return tf.identity(y), lambda dy: tf.stop_gradient(dy)


def _first(t):
    return tf.reshape(t, [-1])[0]


WRONG = {
    "value": (lambda y, x, p: y + 1e-4, "value"),
    "one element": (lambda y, x, p: y + tf.one_hot([0] * y.shape[0], y.shape[-1]) * 1e-4, "value"),
    "not a number": (lambda y, x, p: y * np.nan, "value"),
    "gradient": (lambda y, x, p: with_half_the_gradient(y), "gradient"),
    "gradient of one weight": (lambda y, x, p: y + 1e-3 * (_first(p[1]) - tf.stop_gradient(_first(p[1]))), "gradient"),
    "second order": (lambda y, x, p: without_second_order(y), "second order"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_fails_in_its_order(layer, name, monkeypatch):
    change, order = WRONG[name]
    monkeypatch.setattr(dispatch, "run", wrong(change))
    report = fs.check(layer, backends=["tf"])
    assert not report.ok
    failed = [row.order for row in report.rows if not row.ok]
    assert failed[0] == order
    assert "FAILED" in str(report)


def test_a_report_names_every_backend_and_order(layer):
    report = fs.check(layer)
    assert report.ok
    run = {row.backend for row in report.rows}
    assert run | set(report.skipped) == {"op", "xla", "tf", "reference", "predictor"}
    for backend in run:
        orders = ["value"] if backend == "predictor" else list(fs.check.__globals__["ORDERS"])
        assert [row.order for row in report.rows if row.backend == backend] == orders


@pytest.mark.parametrize("shape", [(7, 5), (2, 3, 5)], ids=str)
def test_given_inputs_are_used(layer, shape, rng):
    assert fs.check(layer, rng.normal(size=shape)).ok


def test_a_backend_that_cannot_run_is_refused(layer):
    with pytest.raises(ValueError, match="expected 'auto' or one of"):
        fs.check(layer, backends=["cuda"])


def test_a_layer_without_a_spec_is_refused():
    layer = fs.SplitDense(Dense(4, activation="mish"), [None, None])
    layer.build((None, 3))
    with pytest.raises(ValueError, match="has no spec: .*mish"):
        fs.check(layer)


def test_training_checks_what_is_computed_then(rng):
    dropped = fs.SplitDense(Dense(8), [[Dropout(0.5), Dense(3)], None])
    learned = fs.DynamicSplitDense(Dense(8), Dense(3), Dense(2), split="learned")
    for layer in (dropped, learned):
        layer.build((None, 5))
        assert layer.spec_for(True) != layer.spec
        assert fs.check(layer, training=True, backends=["tf"]).ok
        assert fs.check(layer, rng.normal(size=(2, 3, 5)), training=True, backends=["tf"]).ok


def test_a_layers_own_split_points_are_used(monkeypatch):
    points = []
    right = dispatch.run

    def run(computation, operands, backend):
        points.extend(operands.points)
        return right(computation, operands, backend)

    monkeypatch.setattr(dispatch, "run", run)
    layer = fs.DynamicSplitDense(Dense(8), Dense(3), Dense(2), split=lambda x: 3)
    layer.build((None, 5))
    assert fs.check(layer, backends=["tf"]).ok
    assert {int(p) for p in points} == {3}


def test_the_predictor_is_compared(rng):
    layer = fs.SplitDense(Dense(8), [Dense(4, activation="relu"), Dense(6)])
    layer.build((None, 10))
    report = fs.check(layer)
    assert [row.ok for row in report.rows if row.backend == "predictor"] == [True]
    assert not [row for row in fs.check(layer, training=True).rows if row.backend == "predictor"]
    own = fs.MergeDense([Dense(2), Dense(2)], merge=lambda parts: parts[0] * parts[1])
    own.build((None, 5))
    assert "no part of a plan" in fs.check(own).skipped["predictor"][0]


def test_a_wrong_predictor_is_found(monkeypatch):
    from fusedsplit.native import predictor
    from fusedsplit.plan import fold

    layer = fs.SplitDense(Dense(8), [Dense(4, activation="relu"), Dense(6)])
    layer.build((None, 10))

    def wrong(plan, params):
        plan, params = fold.fold(plan, params)
        return plan, [p * 1.001 for p in params]

    monkeypatch.setattr(predictor, "fold_plan", wrong)
    report = fs.check(layer)
    assert {row.backend for row in report.rows if not row.ok} == {"predictor"}


def test_the_predictor_of_a_model_is_compared():
    x = keras.Input((6,))
    h = keras.layers.BatchNormalization()(Dense(8, activation="relu")(x))
    model = keras.Model(x, {"p": Dense(3, activation="softmax")(h), "q": Dense(2)(h)})
    rows = [row for row in fs.check(model).rows if row.backend == "predictor"]
    assert len(rows) == 1 and rows[0].ok


def test_gelu_in_float64_is_right_though_tensorflow_rounds_its_constants():
    layer = fs.SplitDense(
        Dense(8, dtype="float64"), [Dense(4, activation="gelu", dtype="float64"), None], dtype="float64"
    )
    layer.build((None, 5))
    report = fs.check(layer)
    errors = {(row.backend, row.order): row.error for row in report.rows}
    assert report.ok and errors.get(("op", "value"), 0.0) < 1e-14 and 1e-10 < errors["tf", "value"] < 1e-7


def test_one_name_and_no_rows_are_refused():
    layer = fs.SplitDense(Dense(4), [Dense(2), None])
    layer.build((None, 5))
    with pytest.raises(TypeError, match=r"sequence of backends' names. Received: 'op'"):
        fs.check(layer, backends="op")
    with pytest.raises(ValueError, match="one row or more. Received: 0"):
        fs.check(layer, batch=0)
