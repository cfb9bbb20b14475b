"""What a call of a fused model gives: structures, masks, dtypes, shapes, and layers that change after `fuse`."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as kl

import fusedsplit as fs
from fusedsplit.bench.precision import keras_in
from tests.models import keras_models as models

pytestmark = pytest.mark.filterwarnings("ignore::fusedsplit.FusedSplitWarning")
X = models.rows()


def same(fused, model, x, **kwargs):
    """Equal outputs, in one structure, in eager mode and in a graph."""
    expected = model(x, **kwargs)
    for found in (fused(x, **kwargs), tf.function(lambda: fused(x, **kwargs))()):
        keras.tree.assert_same_structure(found, expected)
        for a, b in zip(keras.tree.flatten(found), keras.tree.flatten(expected)):
            assert a.dtype == b.dtype and a.shape == b.shape
            np.testing.assert_allclose(np.asarray(a, "float64"), np.asarray(b, "float64"), rtol=2e-5, atol=2e-6)


def branch(x, units=3, activation="relu"):
    return kl.Dense(units, activation=activation)(kl.Dense(4, activation="tanh")(x))


# Structures.


def structured(kind):
    a, b = keras.Input((6,), name="a"), keras.Input((4,), name="b")
    h = kl.Concatenate()([branch(a), branch(b)])
    p, q = kl.Dense(2, name="p")(h), kl.Dense(3, name="q", activation="softmax")(h)
    va, vb = models.rows(5, 6), models.rows(5, 4)
    return {
        "lists": lambda: (keras.Model([a, b], [p, q]), [va, vb]),
        "tuples": lambda: (keras.Model((a, b), (p, q)), (va, vb)),
        "dicts": lambda: (keras.Model({"a": a, "b": b}, {"p": p, "q": q}), {"a": va, "b": vb}),
        "nested": lambda: (keras.Model([{"a": a}, (b,)], {"both": [p, (q,)]}), [{"a": va}, (vb,)]),
        "list of one": lambda: (keras.Model([a], [branch(a)]), va),
        "list in a list": lambda: (keras.Model(a, [[branch(a)]]), va),
        "dict for a list": lambda: (keras.Model([a, b], q), {"a": va, "b": vb}),
        "an intermediate": lambda: (keras.Model([a, b], [h, q]), [va, vb]),
        "an input": lambda: (keras.Model([a, b], [a, q, b]), [va, vb]),
        "twice": lambda: (keras.Model([a, b], [q, p, q]), [va, vb]),
    }[kind]()


@pytest.mark.parametrize(
    "kind",
    ["lists", "tuples", "dicts", "nested", "list of one", "list in a list"]
    + ["dict for a list", "an intermediate", "an input", "twice"],
)
def test_structures(kind):
    model, x = structured(kind)
    fused = fs.fuse(model)
    assert len(fused.regions) == 1
    same(fused, model, x)
    same(fused, model, keras.tree.map_structure(tf.constant, x), training=True)
    found, expected = fused.predict(x, verbose=0), model.predict(x, verbose=0)
    keras.tree.map_structure(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6), found, expected)


def test_unused_inputs_and_outputs():
    a, unused = keras.Input((6,)), keras.Input((2,))
    kept, _ = keras.ops.split(kl.Dense(6)(branch(a)), 2, axis=-1)
    model = keras.Model([a, unused], branch(kept))
    same(fs.fuse(model), model, [X, models.rows(12, 2)])


def test_layers_called_twice_and_shared_with_the_outside():
    x = keras.Input((6,))
    shared = kl.Dense(6, activation="tanh")
    h = kl.Add()([shared(shared(x)), shared(branch(x, 6))])
    model = keras.Model(x, kl.Dense(2)(h))
    other = keras.Model(x, shared(x))
    fused = fs.fuse(model)
    (region,) = fused.regions
    assert len(region.plan.params) == 8 and region.layers.count(shared) == 1
    same(fused, model, X)
    with tf.GradientTape(persistent=True) as tape:
        a, b = (tf.reduce_sum(m(X, training=True) ** 2) for m in (fused, model))
    np.testing.assert_allclose(
        tape.gradient(a, shared.kernel.value), tape.gradient(b, shared.kernel.value), rtol=1e-4, atol=1e-4
    )
    shared.kernel.assign(shared.kernel * 0.5)
    same(fused, model, X)
    np.testing.assert_allclose(other(X), shared(X))


def test_a_region_stops_where_the_graph_leaves_it_and_comes_back():
    x = keras.Input((6,))
    h = branch(x, 4)
    unknown = kl.UnitNormalization()(h)
    model = keras.Model(x, branch(kl.Concatenate()([h, unknown])))
    fused = fs.fuse(model)
    assert len(fused.regions) == 2
    assert "UnitNormalization" in str(fused.schedule().reasons)
    same(fused, model, X)


# Shapes.


@pytest.mark.parametrize("shape", [(4, 6), (None, 6), (2, 3, 6)])
def test_rows_of_several_axes(shape):
    x = keras.Input(shape)
    model = keras.Model(x, branch(kl.Concatenate()([branch(x), kl.Dropout(0.2)(kl.Dense(2)(x))])))
    fused = fs.fuse(model)
    assert len(fused.regions) == 1
    for n in (3, 1, 0):
        same(fused, model, models.rows(n, *(5 if size is None else size for size in shape)))


def test_batches_of_no_and_of_one_row():
    for model in (models.functional(), models.normalized()):
        for n in (0, 1):
            same(fs.fuse(model), model, models.rows(n))
            same(fs.fuse(model), model, tf.constant(models.rows(n)))


def test_a_static_batch_size_is_no_condition():
    x = keras.Input(batch_shape=(4, 6))
    model = keras.Model(x, branch(x))
    fused = fs.fuse(model)
    for n in (4, 7):
        same(fused, model, models.rows(n))


def test_inputs_of_different_batches():
    """Keras broadcasts, or says what does not fit."""
    a, b = keras.Input((6,)), keras.Input((6,))
    model = keras.Model([a, b], kl.Dense(2)(kl.Add()([kl.Dense(3)(a), kl.Dense(3)(b)])))
    fused = fs.fuse(model)
    same(fused, model, [models.rows(5), models.rows(1)])
    with pytest.raises(Exception, match="(?i)incompatible shapes|broadcast"):
        fused([models.rows(5), models.rows(4)])
    with pytest.raises(ValueError, match="different leading dimensions"):
        fs.fuse(model, backend="tf")([models.rows(5), models.rows(1)])


def test_inputs_of_different_batches_in_a_graph(fused_backend):
    a, b = keras.Input((6,)), keras.Input((6,))
    fused = fs.fuse(keras.Model([a, b], kl.Dense(2)(kl.Add()([kl.Dense(3)(a), kl.Dense(3)(b)]))), backend=fused_backend)
    spec = tf.TensorSpec((None, 6))
    with pytest.raises(tf.errors.InvalidArgumentError):
        tf.function(lambda x, y: fused([x, y]), input_signature=[spec, spec])(models.rows(5), models.rows(4))


def test_wrong_inputs_are_refused_as_keras_refuses_them():
    fused = fs.fuse(models.functional())
    for wrong in (models.rows(4, 7), [X, X]):
        with pytest.raises(ValueError):
            fused(wrong)


def test_ranks_are_adjusted_as_keras_does():
    model = models.functional()
    same(fs.fuse(model), model, X[..., None])


# Dtypes.


def test_float64():
    x = keras.Input((6,), dtype="float64")
    model = keras.Model(x, kl.Dense(2, dtype="float64")(kl.Dense(4, "tanh", dtype="float64")(x)))
    fused = fs.fuse(model)
    assert len(fused.regions) == 1 and fused.regions[0].dtype == "float64"
    np.testing.assert_allclose(fused(X.astype("float64")), model(X.astype("float64")), rtol=1e-12, atol=1e-14)
    same(fused, model, X)  # converted, as Keras converts


def test_a_float64_policy():
    with keras_in("float64"):
        model = models.functional()
        fused = fs.fuse(model)
        assert len(fused.regions) == 1
        np.testing.assert_allclose(fused(X.astype("float64")), model(X.astype("float64")), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_stays(policy):
    x = keras.Input((6,))
    model = keras.Model(x, kl.Dense(2, dtype=policy)(kl.Dense(4, dtype=policy)(x)))
    fused = fs.fuse(model)
    reasons = [why for call, why in fused.schedule().reasons.items() if call.is_layer]
    assert fused.regions == [] and len(reasons) == 2 and all("mixed dtype policy" in why for why in reasons)
    same(fused, model, X)


def test_the_policy_of_a_model_is_not_that_of_its_layers():
    """Keras casts a variable to what the layer computes in that owns it."""
    x = keras.Input((6,))
    model = keras.Model(x, kl.Dense(2, dtype="float32")(branch(x)))
    model.dtype_policy = "mixed_bfloat16"
    fused = fs.fuse(model)
    assert len(fused.regions) == 1
    same(fused, model, X)
    around = keras.Sequential([kl.Input((6,)), kl.Dense(6, dtype="mixed_bfloat16"), fused])
    assert around(X).shape == (12, 2)


def test_several_dtypes_in_one_model():
    x = keras.Input((6,))
    h = kl.Dense(4, dtype="float64")(kl.Dense(5, dtype="float64")(kl.Dense(4)(branch(x))))
    model = keras.Model(x, h)
    same(fs.fuse(model), model, X)


def test_float16():
    x = keras.Input((6,), dtype="float16")
    model = keras.Model(x, kl.Dense(2, dtype="float16")(kl.Dense(4, "relu", dtype="float16")(x)))
    fused, x = fs.fuse(model), X.astype("float16")
    assert fused(x).dtype == "float16"
    np.testing.assert_allclose(fused(x), model(x), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint8", "bool"])
def test_integers_are_cast_as_dense_casts_them(dtype):
    x = keras.Input((6,), dtype=dtype)
    model = keras.Model(x, branch(x))
    fused = fs.fuse(model)
    assert len(fused.regions) == 1
    same(fused, model, (np.arange(30).reshape(5, 6) % 3).astype(dtype))
    same(fused, model, tf.cast(np.arange(30).reshape(5, 6) % 3, dtype))


# Masks.


def mask_of(y):
    return getattr(y, "_keras_mask", None)


def masked_models():
    def tail(x):
        h = kl.Dropout(0.5)(kl.LeakyReLU()(kl.LayerNormalization()(kl.Dense(5)(x))))
        return kl.Activation("sigmoid")(kl.Dense(3)(h))

    x = keras.Input((4, 6))
    yield "masking", keras.Model(x, tail(kl.Masking()(x))), np.where(np.arange(4)[:, None] < 2, models.rows(5, 4, 6), 0)
    ids = keras.Input((4,), dtype="int32")
    yield "embedding", keras.Model(ids, tail(kl.Embedding(9, 6, mask_zero=True)(ids))), np.arange(20).reshape(5, 4) % 3


@pytest.mark.parametrize("name, model, x", [pytest.param(*case, id=case[0]) for case in masked_models()])
def test_masks_pass_through(name, model, x):
    fused = fs.fuse(model, backend="tf")  # which would raise if it ran unfused
    assert len(fused.regions) == 1
    found, expected = fused(x), model(x)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert mask_of(expected) is not None
    np.testing.assert_array_equal(mask_of(found), mask_of(expected))


def test_masks_reach_what_reads_them():
    ids = keras.Input((4,), dtype="int32")
    h = kl.Dense(4, activation="relu")(kl.Dense(5)(kl.Embedding(9, 6, mask_zero=True)(ids)))
    model = keras.Model(ids, kl.Dense(2)(kl.GlobalAveragePooling1D()(h)))
    x = np.arange(20).reshape(5, 4) % 3
    fused = fs.fuse(model)
    assert len(fused.regions) == 1
    same(fused, model, x)
    same(fused, model, x, training=True)


def test_masks_that_are_combined_run_unfused():
    ids = keras.Input((4,), dtype="int32")
    e = kl.Embedding(9, 6, mask_zero=True)(ids)
    model = keras.Model(ids, kl.Dense(2)(kl.Concatenate()([kl.Dense(3)(e), kl.Dense(4)(e)])))
    x = np.arange(20).reshape(5, 4) % 3
    fused = fs.fuse(model)
    same(fused, model, x)
    np.testing.assert_array_equal(mask_of(fused(x)), mask_of(model(x)))
    with pytest.raises(ValueError, match="a mask goes through"):
        fs.fuse(model, backend="tf")(x)


def test_reading_a_graph_leaves_its_calls_alone():
    x = keras.Input((4, 6))
    h = kl.Lambda(lambda xs: xs[0] + xs[1])([kl.Dense(3)(x), kl.Dense(3)(x)])
    model = keras.Model(x, kl.BatchNormalization()(kl.Dense(2)(h), training=False))
    nodes = [node for layer in model.layers for node in layer._inbound_nodes]
    before = [dict(node.arguments.kwargs) for node in nodes]
    fused = fs.fuse(model)
    same(fused, model, models.rows(5, 4, 6))
    assert len(fused.regions) == 1
    assert [node.arguments.kwargs for node in nodes] == before


def test_a_mask_that_the_caller_gives():
    x = keras.Input((4, 6))
    model = keras.Model(x, kl.GlobalAveragePooling1D()(branch(x)))
    given, mask = models.rows(5, 4, 6), np.arange(20).reshape(5, 4) % 3 > 0
    same(fs.fuse(model), model, given, mask=tf.constant(mask))
    tensor = tf.constant(given)
    tensor._keras_mask = tf.constant(mask)
    np.testing.assert_allclose(fs.fuse(model)(tensor), model(tensor), rtol=1e-5, atol=1e-6)
    tail = keras.Model(x, branch(x))
    np.testing.assert_array_equal(mask_of(fs.fuse(tail)(tensor)), mask)
