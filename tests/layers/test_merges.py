"""merges.py: the named merges and callables, in every form, trained, saved, and what they refuse."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.layers import Activation, Dense

import fusedsplit as fs
from fusedsplit.layers import merges
from tests import numpy_reference


@keras.saving.register_keras_serializable(package="tests")
def doubled_concat(tensors):
    x, y = tensors
    return tf.concat([x, y * 2], axis=-1)


LAYERS = {
    "weighted": lambda: fs.MergeDense(
        [Dense(5, activation="relu"), Dense(3)], merge=fs.merges.weighted([1, 2]), head=Dense(1)
    ),
    "weighted, nothing whole": lambda: fs.MergeDense([Dense(2), None], merge=fs.merges.weighted([-0.5, 3])),
    "mixture": lambda: fs.MergeDense([Dense(4, activation="relu"), Dense(4), Dense(2)], merge=fs.merges.mixture()),
    "mixture, own softmax": lambda: fs.MergeDense(
        [Dense(4, activation="relu"), Dense(4), Dense(4), Dense(3, activation="softmax")],
        merge=fs.merges.mixture(softmax=False),
        head=[Dense(5, activation="relu"), Dense(1)],
    ),
    "dueling mean": lambda: fs.MergeDense([Dense(1), Dense(4)], merge=fs.merges.dueling()),
    "dueling max": lambda: fs.SplitDense(Dense(9), [Dense(1), Dense(4)], split=[4, 5], merge=fs.merges.dueling("max")),
    "dueling naive": lambda: fs.MergeDense([Dense(1), Dense(4)], merge=fs.merges.dueling("naive")),
    "highway": lambda: fs.MergeDense(
        [Dense(6, activation="relu"), Dense(6, activation="sigmoid")], merge=fs.merges.highway()
    ),
    "GLU": lambda: fs.SplitDense(Dense(8), [None, Activation("sigmoid")], merge="multiply"),
    "GEGLU": lambda: fs.SplitDense(Dense(8), [Activation("gelu"), None], merge="multiply", head=Dense(3)),
    "SwiGLU": lambda: fs.SplitDense(Dense(10), [Activation("silu"), None], merge="multiply", head=Dense(6)),
    "multiply five, with zeros": lambda: fs.MergeDense(
        [Dense(7, activation="relu") for _ in range(5)], merge="multiply"
    ),
    "subtract four": lambda: fs.MergeDense([Dense(3) for _ in range(4)], merge="subtract"),
    "maximum with ties": lambda: fs.MergeDense([Dense(9, activation="relu") for _ in range(3)], merge="maximum"),
    "minimum with ties": lambda: fs.MergeDense([Dense(9, activation="relu") for _ in range(3)], merge="minimum"),
    "callable": lambda: fs.MergeDense([Dense(5, activation="relu"), Dense(3)], merge=doubled_concat, head=Dense(2)),
    "callable, no head": lambda: fs.SplitDense(Dense(8), [Dense(3), None], merge=doubled_concat),
    "callable, sigmoid head": lambda: fs.MergeDense(
        [Dense(5), Dense(3)], merge=doubled_concat, head=[Dense(4), Dense(1, activation="sigmoid")]
    ),
    "nested": lambda: fs.SplitDense(
        Dense(8),
        [fs.SplitDense(Dense(6), [Dense(2, activation="relu"), None]), [Dense(4), fs.MergeDense([Dense(3), None])]],
        head=Dense(2),
    ),
    "nested mixture": lambda: fs.SplitDense(
        Dense(8), [fs.MergeDense([Dense(4), Dense(4), Dense(2)], merge=fs.merges.mixture()), Dense(4)], merge="add"
    ),
}
WIDTH = 6


def built(name):
    layer = LAYERS[name]()
    layer.build((None, WIDTH))
    return layer


@pytest.mark.parametrize("name", LAYERS)
def test_check_holds(name, uncompiled_backends):
    # `xla` is `tf` compiled, which takes seconds for each layer: it has those whose steps differ.
    everywhere = name in ("mixture, own softmax", "dueling max", "highway", "callable, sigmoid head", "nested")
    report = fs.check(built(name), backends=None if everywhere else uncompiled_backends)
    assert report.ok, str(report)


@pytest.mark.parametrize("rank", [2, 3], ids=lambda n: f"rank {n}")
@pytest.mark.parametrize("name", LAYERS)
def test_value_is_numpys(name, rank, backend_in_grids, rng):
    layer = built(name)
    x = rng.normal(size=(7, WIDTH) if rank == 2 else (3, 5, WIDTH)).astype("float32")
    with fs.use_backend(backend_in_grids):
        found = [layer(x), tf.function(layer)(x)]
    if callable(layer.merge_function):
        expected = np.reshape(fs.reference(layer)(x.reshape(-1, WIDTH)), found[0].shape)
    else:
        (expected,) = numpy_reference.compute(layer.spec, [x], layer.params)
    for y in found:
        assert y.shape == layer.compute_output_shape(x.shape)
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_are_the_unfused_models(name, fused_backend_in_grids, rng):
    layer = built(name)
    reference = fs.reference(layer)
    x = tf.constant(rng.normal(size=(13, WIDTH)).astype("float32"))
    weights = [w.value for w in layer.weights]
    gradients = []
    with fs.use_backend(fused_backend_in_grids):
        for f in (layer, tf.function(layer), reference):
            with tf.GradientTape() as tape:
                tape.watch(x)
                loss = tf.reduce_sum(f(x) ** 2)
            gradients.append(tape.gradient(loss, [x, *weights]))
    *ours, theirs = gradients
    for found in ours:
        for a, b in zip(found, theirs, strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("name", LAYERS)
def test_saving(name, tmp_path, rng):
    layer = built(name)
    x = keras.Input((WIDTH,))
    model = keras.Model(x, layer(x))
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    data = rng.normal(size=(5, WIDTH)).astype("float32")
    np.testing.assert_array_equal(loaded(data), model(data))
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    np.testing.assert_array_equal(clone(data), model(data))


@pytest.mark.parametrize("name", ["mixture", "callable", "dueling max", "nested"])
def test_export_holds_no_custom_op(name, tmp_path, rng):
    layer = built(name)
    x = keras.Input((WIDTH,))
    keras.Model(x, layer(x)).export(tmp_path / "saved")
    loaded = tf.saved_model.load(tmp_path / "saved")
    graph = next(iter(loaded.signatures.values())).graph.as_graph_def()
    names = {n.op for n in graph.node} | {n.op for f in graph.library.function for n in f.node_def}
    assert not any(n.startswith("Fusedsplit") for n in names)
    data = rng.normal(size=(5, WIDTH)).astype("float32")
    np.testing.assert_allclose(loaded.serve(data), layer(data), rtol=1e-5, atol=1e-6)


def test_many_inputs(backend, rng):
    layer = fs.MergeDense([Dense(3, activation="relu") for _ in range(16)], merge="average")
    x = [rng.normal(size=(4, i + 1)).astype("float32") for i in range(16)]
    with fs.use_backend(backend):
        y = layer(x)
    np.testing.assert_allclose(y, numpy_reference.compute(layer.spec, x, layer.params)[0], rtol=1e-5, atol=1e-6)


def test_inputs_as_a_dict(backend, rng):
    x = {"b": rng.normal(size=(4, 5)).astype("float32"), "a": rng.normal(size=(4, 3)).astype("float32")}
    layer = fs.MergeDense([Dense(2), Dense(2)])
    with fs.use_backend(backend):
        y = layer(x)
    expected = numpy_reference.compute(layer.spec, [x["a"], x["b"]], layer.params)
    np.testing.assert_allclose(y, expected[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: fs.MergeDense([Dense(3), Dense(4)], merge="add"), r"one width. Received: widths \[3, 4\]"),
        (
            lambda: fs.MergeDense([Dense(3), Dense(3), Dense(3)], merge=fs.merges.mixture()),
            r"Received: widths \[3, 3, 3\]",
        ),
        (
            lambda: fs.MergeDense([Dense(3), Dense(4), Dense(2)], merge=fs.merges.mixture()),
            r"Received: widths \[3, 4, 2\]",
        ),
        (
            lambda: fs.MergeDense([Dense(2), Dense(4)], merge=fs.merges.dueling()),
            r"\(one column\).*Received: widths \[2, 4\]",
        ),
        (
            lambda: fs.MergeDense([Dense(5), Dense(5)], merge=fs.merges.highway()),
            r"layer's input, 6. Received: widths \[5, 5\]",
        ),
        (
            lambda: fs.MergeDense([Dense(5)], merge=fs.merges.weighted([1, 2])),
            r"expected 2 branches. Received: widths \[5\]",
        ),
        (
            lambda: fs.MergeDense([Dense(5)], merge=lambda parts: tf.constant(1.0)),
            "expected a callable that gives one tensor",
        ),
        (
            lambda: fs.SplitDense(Dense(4), [fs.MergeDense([Dense(2), Dense(2)], merge=None), None]),
            "a part with one output",
        ),
    ],
)
def test_what_does_not_fit_is_refused_when_built(make, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        make().build((None, WIDTH))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: fs.merges.weighted([]), "expected a list of finite numbers"),
        (lambda: fs.merges.weighted([1, float("nan")]), "expected a list of finite numbers. Received: "),
        (lambda: fs.merges.weighted("ab"), "expected a list of finite numbers"),
        (lambda: fs.merges.dueling("median"), "expected 'mean', 'max' or 'naive'. Received: 'median'"),
        (lambda: merges.get(3), "expected one of .* Received: 3"),
    ],
)
def test_bad_merges_are_refused_at_once(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_an_unregistered_callable_raises_when_the_config_is_made():
    layer = fs.MergeDense([Dense(3), Dense(3)], merge=lambda parts: parts[0] - parts[1])
    with pytest.raises(ValueError, match="`merge`: expected a function registered"):
        layer.get_config()
