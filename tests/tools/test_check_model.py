"""check_model.py and check_against.py: they pass what is right, and fail what is not."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as kl

import fusedsplit as fs
from fusedsplit.backends import dispatch
from fusedsplit.bench import architectures
from fusedsplit.models.region import RegionComputation
from fusedsplit.tools import check_report
from fusedsplit.tools.check_report import ORDERS
from tests.tools.test_check import WRONG

MODELS = {
    "mmoe": lambda: architectures.mmoe(7, 2, (6, 5), (4,), 2),
    "grn": lambda: architectures.grn(6, 5, 0.3, 1),
    "vae": lambda: architectures.vae(8, 6, 3),
    "swiglu": lambda: architectures.swiglu(4, 6, 1),
    "mlp": lambda: architectures.mlp(6, (8, 5), 0.3),
    "dcn_v2": lambda: architectures.dcn_v2(8, 2, 3, (6,)),
}


def _randomized(model: keras.Model, rng: np.random.Generator) -> keras.Model:
    for v in model.weights:
        value = rng.normal(size=v.shape, scale=0.5)
        v.assign(np.abs(value) + 0.5 if "variance" in v.path else value)
    return model


@pytest.fixture
def model(rng) -> keras.Model:
    """Two regions while training, and one at inference."""
    x = keras.Input((5,))
    h = kl.Dense(6, activation="tanh")(kl.Dense(7, activation="silu")(x))
    h = kl.Dropout(0.4)(kl.BatchNormalization()(h))
    return _randomized(keras.Model(x, kl.Dense(2)(kl.Dense(3, activation="relu")(h)), name="made"), rng)


@pytest.mark.parametrize("training", (False, True))
@pytest.mark.parametrize("name", MODELS)
def test_architectures_hold(name, training, rng):
    model = _randomized(MODELS[name](), rng)
    report = fs.check(model, training=training, backends=["tf", "reference"])
    assert report.ok, report
    assert {row.backend for row in report.rows} == {"tf", "reference"}
    assert len(report.rows) == 6 * len(fs.fuse(model).schedule(training).regions)


def test_every_backend_and_order_is_in_the_report(model):
    report = fs.check(fs.fuse(model))
    assert report.ok, report
    assert {row.backend for row in report.rows} | set(report.skipped) == {"op", "xla", "tf", "reference", "predictor"}
    assert {row.order for row in report.rows} == set(ORDERS)
    assert "1 region, 4 Dense" in str(report)


@pytest.mark.parametrize("training", (False, True))
@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_fails_in_its_order(model, name, training, monkeypatch):
    change, order = WRONG[name]
    right = RegionComputation.execute

    def execute(self, run, operands, *args):
        return [change(y, operands.inputs, operands.params) for y in right(self, run, operands, *args)]

    monkeypatch.setattr(RegionComputation, "execute", execute)
    report = fs.check(model, backends=["tf"], training=training)
    assert not report.ok
    failed = [row.order for row in report.rows if not row.ok]
    assert failed[0] == order
    assert "FAILED" in str(report)


def test_other_masks_than_kerass_fail(model, monkeypatch):
    right = RegionComputation._mask
    monkeypatch.setattr(RegionComputation, "_mask", lambda self, *args: 1 + right(self, *args))
    assert fs.check(model, backends=["tf"]).ok
    report = fs.check(model, backends=["tf"], training=True)
    failed = [row.where for row in report.rows if not row.ok]
    assert failed and all(where.startswith("region 2: ") for where in failed)


def test_the_model_stays_as_it_is(model):
    before = [v.numpy() for v in model.variables]
    fs.check(model, backends=["op" if "op" not in fs.check(model).skipped else "tf"], training=True)
    fs.check(fs.fuse(model), against=model, training=True)
    for v, value in zip(model.variables, before):
        np.testing.assert_array_equal(v.numpy(), value)


def test_given_inputs_are_used(model, rng):
    assert fs.check(model, np.zeros((3, 5)), backends=["tf"]).ok
    report = fs.check(model, rng.normal(size=(3, 5)) * np.nan, backends=["tf"])
    assert not report.ok
    with pytest.raises(
        ValueError, match=r"`inputs`: expected arrays of shapes \[\(None, 5\)\]. Received: \[\(3, 4\)\]"
    ):
        fs.check(model, np.zeros((3, 4)))
    with pytest.raises(ValueError, match="expected arrays of shapes"):
        fs.check(model, [np.zeros((3, 5))] * 2)


def test_integers_are_those_that_an_embedding_knows(rng):
    ids, x = keras.Input((2,), dtype="int32"), keras.Input((4,))
    h = kl.Concatenate()([kl.Flatten()(kl.Embedding(3, 4)(ids)), kl.Dense(5)(x)])
    model = keras.Model({"ids": ids, "x": x}, {"y": kl.Dense(2)(kl.Dense(3)(h))})
    assert fs.check(model, backends=["tf"]).ok
    assert fs.check(model, {"ids": rng.integers(0, 3, (6, 2)), "x": rng.normal(size=(6, 4))}, backends=["tf"]).ok
    assert fs.check(fs.fuse(model), against=model).ok


def test_inputs_that_cannot_be_drawn_must_be_given():
    x = keras.Input((2,), dtype="string")
    model = keras.Model(x, kl.Dense(2)(kl.Dense(2)(kl.Lambda(lambda t: tf.strings.to_number(t), output_shape=(2,))(x))))
    with pytest.raises(ValueError, match="`inputs`: expected arrays, since .* is of dtype string"):
        fs.check(model)


def test_nothing_fused_is_nothing_wrong():
    x = keras.Input((3,))
    report = fs.check(keras.Model(x, kl.Dense(2)(x)))
    assert report.ok and not report.rows
    assert "nothing of it is fused at inference" in str(report)


def test_what_cannot_be_differentiated_twice_is_skipped():
    x = keras.Input((3,))
    report = fs.check(keras.Model(x, kl.Dense(2, activation="softsign")(kl.Dense(4)(x))), backends=["tf"])
    assert report.ok and {row.order for row in report.rows} == {"value", "gradient"}
    assert "TensorFlow cannot differentiate" in str(report)


def test_normalizations_are_differentiated_truly():
    """Keras' own second-order gradient takes the mean for constant, since tf.nn.moments does."""
    moments = tf.nn.moments
    x = keras.Input((4,))
    model = keras.Model(x, kl.LayerNormalization()(kl.Dense(5)(kl.Dense(3)(x))))
    report = fs.check(model, backends=["tf"])
    assert report.ok and "tf.nn.moments takes the mean for constant" in str(report)
    assert fs.check(fs.fuse(model), against=model).ok
    assert tf.nn.moments is moments


def test_backends_that_cannot_run_are_refused(model):
    with pytest.raises(ValueError, match="expected 'auto' or one of"):
        fs.check(model, backends=["cuda"])


@pytest.mark.parametrize("wrong_one", [3, None, kl.Dense(3)], ids=str)
def test_what_cannot_be_checked_is_refused(wrong_one):
    with pytest.raises(TypeError, match="expected a fused layer, a SplitSpec or a Keras model. Received"):
        fs.check(wrong_one)


def test_a_long_report_shows_the_worst_and_what_failed(model):
    rows = [check_report.Row("tf", order, 0.1, 0.1, i / 100, f"region {i}: y") for i in range(10) for order in ORDERS]
    text = str(check_report.CheckReport("made", tuple(rows), {}))
    assert "region 9" in text and "region 8" not in text and "of 30 rows the worst" in text
    failed = check_report.Row("tf", "value", 0.1, 0.1, 1.5, "region 0: y")
    text = str(check_report.CheckReport("made", (*rows, failed, failed), {}))
    assert text.count("FAILED") == 3


# against=


@pytest.fixture
def pair():
    """A Lambda program, and the layer that it becomes."""
    x = keras.Input((10,))
    a, b = kl.Lambda(lambda t: tf.split(t, 2, axis=-1))(kl.Dense(8)(x))
    old = keras.Model(x, kl.Concatenate()([kl.Dense(4, activation="relu")(a), kl.Dense(6, activation="gelu")(b)]))
    branches = [kl.Dense(4, activation="relu"), kl.Dense(6, activation="gelu")]
    x = keras.Input((10,))
    new = keras.Model(x, fs.SplitDense(kl.Dense(8), branches)(x), name="new")
    new.set_weights(old.get_weights())
    return old, new


def test_a_migration_is_proven(pair):
    old, new = pair
    for one, other in ((new, old), (old, new), (new.layers[1], old), (new.layers[1], fs.reference(new.layers[1]))):
        report = fs.check(one, against=other)
        assert report.ok, report
    report = fs.check(new, against=old, backends=["tf", "reference"], batch=5)
    assert report.ok and {row.backend for row in report.rows} == {"weights", "both in float64", "tf", "reference"}
    assert "the other one's own" in str(report) and str(report).startswith("new against functional")


def test_one_other_activation_fails_even_in_float64(pair):
    old, new = pair
    new.layers[1].branches[1][0].activation = keras.activations.silu
    new = keras.models.clone_model(new)
    new.set_weights(old.get_weights())
    report = fs.check(new, against=old)
    failed = {(row.backend, row.order) for row in report.rows if not row.ok}
    assert ("both in float64", "value") in failed and ("auto", "gradient") in failed
    assert not any(backend == "weights" for backend, _ in failed)


def test_unequal_weights_fail_and_are_named(pair):
    old, new = pair
    new.layers[1].branches[0][0].kernel.assign_add(np.full((4, 4), 1e-3))
    report = fs.check(new, against=old)
    row = report.rows[0]
    assert not report.ok and not row.ok and row.backend == "weights" and row.where.endswith("kernel")
    assert row.error == pytest.approx(1e-3, rel=1e-3)


def test_a_wrong_backend_fails_but_not_in_float64(pair, monkeypatch):
    old, new = pair
    right = dispatch.call
    monkeypatch.setattr(
        dispatch,
        "call",
        lambda *args, **kwargs: [y + 1e-4 * (dispatch._forced.get() != "reference") for y in right(*args, **kwargs)],
    )
    report = fs.check(new, against=old, backends=["tf"])
    assert [(row.backend, row.order) for row in report.rows if not row.ok] == [("tf", "value")]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(dtype):
    x = keras.Input((6,), dtype=dtype)
    h = kl.Dense(4, activation="relu", dtype=dtype)(x)
    report = fs.check(keras.Model(x, kl.Dense(3, dtype=dtype)(h)), backends=["tf"])
    assert report.ok, report


def test_dicts_that_are_not_sorted():
    """Keras orders them by their keys, a predictor as they are: both are fed and read in the right order."""
    inputs = {name: keras.Input((size,), name=name) for name, size in (("b", 4), ("a", 3), ("unused", 2))}
    h = kl.Concatenate()([kl.Dense(5, activation="relu")(inputs[name]) for name in ("a", "b")])
    model = keras.Model(inputs, {"z": kl.Dense(2)(h), "y": [kl.Dense(2)(h), kl.Dense(2)(h)]})
    report = fs.check(model)
    assert report.ok, report
    assert any(row.backend == "predictor" for row in report.rows)


def test_dropout_draws_the_same_in_both(model):
    other = keras.models.clone_model(model)
    other.set_weights(model.get_weights())
    assert fs.check(fs.fuse(model), against=other, training=True).ok


def test_another_dtype_is_compared_by_the_coarser_one(pair):
    old, _ = pair
    x = keras.Input((10,), dtype="float64")
    branches = [kl.Dense(4, activation="relu", dtype="float64"), kl.Dense(6, activation="gelu", dtype="float64")]
    wide = keras.Model(x, fs.SplitDense(kl.Dense(8, dtype="float64"), branches)(x))
    wide.set_weights(old.get_weights())
    assert fs.check(old, against=wide).ok
    assert fs.check(wide, against=old).ok


def _model(inputs=(3,), units=(4,), activation=None) -> keras.Model:
    x = keras.Input(inputs)
    return keras.Model(x, [kl.Dense(n, activation=activation)(x) for n in units], name="other")


REFUSED = {
    "inputs": (_model((2, 3)), r"expected inputs of shapes \[\(None, 3\)\].*'other' with inputs of shapes"),
    "shapes": (_model(units=(5,)), r"same shapes.*weight 0 is 'dense.*/kernel' of shape \(3, 4\).*shape \(3, 5\)"),
    "number": (_model(units=(4, 4)), "expected as many weights as 'mine' has, 2. Received: 'other' with 4"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_compared_is_refused(name):
    other, message = REFUSED[name]
    mine = keras.Model(*(lambda x: (x, kl.Dense(4)(x)))(keras.Input((3,))), name="mine")
    with pytest.raises(ValueError, match=f"(?s)`against`: .*{message}"):
        fs.check(mine, against=other)


def test_other_outputs_are_refused():
    x = keras.Input((3,))
    y = kl.Dense(4)(x)
    one, two = keras.Model(x, y), keras.Model(x, [y, y])
    with pytest.raises(ValueError, match=r"`against`: expected outputs of shapes \[\(37, 4\)\]. Received: outputs of"):
        fs.check(one, against=two)


def test_layers_of_keras_need_inputs(rng):
    one, two = kl.Dense(3), kl.Dense(3)
    one.build((None, 4))
    two.build((None, 4))
    two.set_weights(one.get_weights())
    with pytest.raises(ValueError, match="`inputs`: expected arrays, since neither 'dense.*' nor 'dense.*' says"):
        fs.check(one, against=two)
    assert fs.check(one, rng.normal(size=(5, 4)).astype("float32"), against=two).ok


def test_what_is_no_model_or_not_built_is_refused(model):
    with pytest.raises(TypeError, match="`against`: expected a Keras model or layer. Received: 3"):
        fs.check(model, against=3)
    with pytest.raises(ValueError, match="`against`: expected a built model or layer. Received: 'dense.*', not built"):
        fs.check(model, against=kl.Dense(3))


@pytest.mark.parametrize("approximate", [False, True])
def test_gelu_in_float64_is_right_though_tensorflow_rounds_its_constants(approximate):
    x = keras.Input((6,), dtype="float64")
    h = keras.ops.gelu(kl.Dense(4, dtype="float64")(x), approximate=approximate)
    report = fs.check(keras.Model(x, kl.Dense(3, dtype="float64")(h)))
    errors = {(row.backend, row.order): row.error for row in report.rows}
    assert report.ok and errors.get(("op", "value"), 0.0) < 1e-14 and 1e-10 < errors["tf", "value"] < 1e-7
