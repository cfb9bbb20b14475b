"""layers.py: what the layers compute, own, refuse and give back."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as kl
from keras.layers import Dense, Dropout

import fusedsplit as fs
from tests import numpy_reference


def seed2(**kwargs) -> fs.SplitDense:
    """Example 2 of the first seed."""
    return fs.SplitDense(Dense(8), [Dense(4, activation="relu"), Dense(6, activation="relu")], head=Dense(1), **kwargs)


LAYERS = {
    "split and concat": (lambda: fs.SplitDense(Dense(8), [None, None], head=Dense(1)), 10),
    "a Dense each": (seed2, 10),
    "no head": (lambda: fs.SplitDense(Dense(8), [Dense(4), Dense(6)]), 10),
    "sizes given": (lambda: fs.SplitDense(Dense(9), [Dense(4), None, Dense(2)], split=[2, 3, 4]), 7),
    "stacks": (
        lambda: fs.SplitDense(
            [Dense(5, activation="tanh"), Dense(8)],
            [[Dense(3, activation="gelu"), Dense(4)], [kl.Activation("relu"), Dense(2)]],
            head=[Dense(7, activation="silu"), Dense(2, activation="softmax")],
        ),
        3,
    ),
    "activation layers": (
        lambda: fs.SplitDense(
            Dense(12, activation=kl.LeakyReLU(negative_slope=0.1)),
            [
                kl.ReLU(),
                kl.ReLU(max_value=6),
                kl.ELU(alpha=0.5),
                [kl.Softmax(), Dense(2)],
                [Dropout(0.5)],
                None,
            ],
        ),
        4,
    ),
    "no biases": (
        lambda: fs.SplitDense(
            Dense(6, use_bias=False), [Dense(3, use_bias=False), Dense(3)], head=Dense(2, use_bias=False)
        ),
        5,
    ),
    "one branch": (lambda: fs.SplitDense(Dense(3), [Dense(2, activation="sigmoid")]), 4),
    "one column": (lambda: fs.SplitDense(Dense(1), [Dense(1)]), 1),
    "17 branches": (lambda: fs.SplitDense(Dense(34), [Dense(3, activation="relu") for _ in range(17)]), 6),
    "add": (lambda: fs.SplitDense(Dense(8), [Dense(5), Dense(5, activation="relu")], merge="add"), 6),
    "merge, one input": (lambda: fs.MergeDense([Dense(5), Dense(5, activation="relu")], merge="multiply"), 6),
}
LAYERS |= {
    f"width {w}": (
        lambda w=w: fs.SplitDense(Dense(w + 3), [Dense(w, activation="relu"), Dense(2)], split=[w, 3]),
        w,
    )
    for w in (2, 15, 16, 17, 31, 33, 47, 48, 49, 100, 257)
}
ACTIVATIONS = sorted(set(numpy_reference.FUNCTIONS) - {"gelu_tanh"})


def built(name: str):
    make, width = LAYERS[name]
    layer = make()
    layer.build((None, width))
    return layer, width


def randomize(layer, rng) -> None:
    layer.set_weights([rng.normal(size=w.shape, scale=w.shape[0] ** -0.5) for w in layer.get_weights()])


@pytest.mark.parametrize("name", LAYERS)
def test_value_is_numpys(name, backend, rng):
    if backend == "xla" and "width" in name:
        pytest.skip("`xla` is `tf` compiled: the odd sizes are for the op")
    layer, width = built(name)
    randomize(layer, rng)
    x = rng.normal(size=(37, width)).astype("float32")
    with fs.use_backend(backend):
        y = layer(x)
    (expected,) = numpy_reference.compute(layer.spec, [x], layer.params)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", LAYERS)
def test_check_holds(name, uncompiled_backends):
    layer, _ = built(name)
    # `xla` is `tf` compiled, which takes seconds for each layer: it has those whose steps differ.
    backends = None if name in ("a Dense each", "stacks", "activation layers", "add") else uncompiled_backends
    report = fs.check(layer, backends=backends)
    assert report.ok, str(report)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_everywhere(activation, fused_backend_in_grids, rng):
    layer = fs.SplitDense(
        Dense(6, activation=activation),
        [Dense(5, activation=activation), None],
        head=Dense(7, activation=activation),
    )
    layer.build((None, 5))
    x = rng.normal(size=(19, 5)).astype("float32")
    report = fs.check(layer, x, backends=[fused_backend_in_grids])
    assert report.ok, str(report)
    (expected,) = numpy_reference.compute(layer.spec, [x], layer.params)
    with fs.use_backend(fused_backend_in_grids):
        np.testing.assert_allclose(layer(x), expected, rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize("rows", [0, 1, 2, 13], ids=lambda n: f"rows {n}")
@pytest.mark.parametrize("rank", [2, 3, 4], ids=lambda n: f"rank {n}")
def test_batches_and_ranks(rows, rank, backend_in_grids, rng):
    layer, width = built("stacks")
    shape = {2: (rows, width), 3: (rows, 5, width), 4: (2, rows, 3, width)}[rank]
    x = rng.normal(size=shape).astype("float32")
    with fs.use_backend(backend_in_grids):
        y = layer(x)
        graph = tf.function(layer)(x)
    assert y.shape == graph.shape == (*shape[:-1], 2)
    (expected,) = numpy_reference.compute(layer.spec, [x], layer.params)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(graph, expected, rtol=1e-5, atol=1e-5)


def test_unknown_batch_has_a_static_output_width(backend):
    layer, width = built("a Dense each")
    with fs.use_backend(backend):
        f = tf.function(layer).get_concrete_function(tf.TensorSpec([None, None, width]))
    assert f.output_shapes.as_list() == [None, None, 1]


@pytest.mark.parametrize("merge", ["concat", "add", "subtract", "multiply", "average", "maximum", "minimum", None])
def test_merges_of_three_branches(merge, backend, rng):
    layer = fs.MergeDense([Dense(4, activation=a) for a in ("relu", "tanh", None)], merge=merge)
    layer.build((None, 6))
    x = rng.normal(size=(9, 6)).astype("float32")
    with fs.use_backend(backend):
        y = layer(x)
    expected = numpy_reference.compute(layer.spec, [x], layer.params)
    for found, e in zip(y if merge is None else [y], expected, strict=True):
        np.testing.assert_allclose(found, e, rtol=1e-5, atol=1e-6)


def test_merge_of_several_inputs(backend, rng):
    layer = fs.MergeDense(
        [Dense(64, activation="relu"), Dense(32, activation="relu")], head=Dense(1, activation="sigmoid")
    )
    x = [rng.normal(size=(11, 10)).astype("float32"), rng.normal(size=(11, 5)).astype("float32")]
    with fs.use_backend(backend):
        y = layer(x)
    np.testing.assert_allclose(y, numpy_reference.compute(layer.spec, x, layer.params)[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(y, fs.reference(layer)(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", ["int32", "int8", "uint8", "bool", "float64"])
def test_inputs_are_cast_as_dense_casts_them(dtype, backend, rng):
    layer, width = built("a Dense each")
    x = rng.integers(0, 2, size=(5, width)).astype(dtype)
    with fs.use_backend(backend):
        y = layer(x)
    assert y.dtype == "float32"
    np.testing.assert_allclose(y, fs.reference(layer)(x.astype("float32")), rtol=1e-5, atol=1e-6)


def _compiled(activation, x):
    """What XLA makes of it: in TensorFlow 2.16 a relu6 of what is no number is 0."""
    return tf.function(keras.activations.get(activation), jit_compile=True)(tf.constant([[x]], "float32"))[0, 0]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_nan_and_infinity_are_as_in_keras(activation, fused_backend, rng):
    layer = fs.SplitDense(Dense(4), [Dense(3, activation=activation), Dense(3, activation=activation)])
    layer.build((None, 3))
    x = rng.normal(size=(8, 3)).astype("float32")
    x[1:8:2, 1] = np.nan, np.inf, -np.inf, 3e38
    with fs.use_backend("reference"):
        expected = layer(x).numpy()
    with fs.use_backend(fused_backend):
        found = layer(x).numpy()
    if activation == "softmax":
        # Which columns of a row with an infinity are 0 and which NaN differs between TensorFlow's own kernels.
        found, expected = found.sum(-1), expected.sum(-1)
    if fused_backend == "xla" and not np.isnan(_compiled(activation, np.nan)):
        kept = ~np.isnan(expected)
        found, expected = found[kept], expected[kept]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_gradients_are_the_numerical_ones(fused_backend, rng):
    layer = fs.SplitDense(
        Dense(6, activation="tanh", dtype="float64"),
        [Dense(3, activation="sigmoid", dtype="float64"), [Dense(2, activation="softplus", dtype="float64")]],
        head=Dense(2, activation="gelu", dtype="float64"),
    )
    layer.build((None, 4))
    x = tf.constant(rng.normal(size=(5, 4)))
    params = [tf.convert_to_tensor(p) for p in layer.params]

    def f(*tensors):
        return fs.split_dense(tensors[0], tensors[1:], layer.spec, fused_backend)

    analytic, numeric = tf.test.compute_gradient(f, [x, *params], delta=1e-5)
    for a, n in zip(analytic, numeric, strict=True):
        np.testing.assert_allclose(a, n, rtol=1e-6, atol=1e-8)


def test_second_order_gradients_are_the_numerical_ones(fused_backend, rng):
    layer = fs.SplitDense(
        Dense(4, activation="tanh", dtype="float64"), [Dense(3, activation="sigmoid", dtype="float64"), None]
    )
    layer.build((None, 3))
    x = tf.constant(rng.normal(size=(3, 3)))
    params = [tf.convert_to_tensor(p) for p in layer.params]

    def gradient(*tensors):
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            y = fs.split_dense(tensors[0], tensors[1:], layer.spec, fused_backend)
        return tf.concat([tf.reshape(g, [-1]) for g in tape.gradient(y, list(tensors))], 0)

    analytic, numeric = tf.test.compute_gradient(gradient, [x, *params], delta=1e-5)
    for a, n in zip(analytic, numeric, strict=True):
        np.testing.assert_allclose(a, n, rtol=1e-6, atol=1e-7)


# The sub-layers are owned, not copied.


def test_sublayers_are_the_very_objects():
    stem, a, b, head = Dense(8), Dense(4), Dense(6), Dense(1)
    layer = fs.SplitDense(stem, [a, [b]], head=head)
    assert layer.sublayers == [stem, a, b, head]
    assert layer.stem == [stem] and layer.branches == [[a], [b]] and layer.head == [head]


def test_built_sublayers_keep_their_weights():
    stem, a = Dense(8), Dense(4)
    stem.build((None, 3))
    kernel = stem.kernel
    layer = fs.SplitDense(stem, [a, None])
    layer.build((None, 3))
    assert layer.sublayers[0].kernel is kernel


def test_a_built_stem_for_other_inputs_is_refused():
    stem = Dense(8)
    stem.build((None, 3))
    with pytest.raises(
        ValueError, match=r"expected a kernel for inputs of width 5. Received: a built one of shape \(3, 8\)"
    ):
        fs.SplitDense(stem, [None, None]).build((None, 5))


def test_a_shared_dense_counts_once_and_its_gradients_add(fused_backend, rng):
    shared = Dense(3, activation="tanh")
    layer = fs.SplitDense(Dense(8), [shared, shared])
    layer.build((None, 5))
    assert len(layer.weights) == 4
    assert fs.check(layer, backends=[fused_backend]).ok


def test_same_seed_gives_the_unfused_models_weights():
    def unfused():
        x = keras.Input((10,))
        parts = kl.Lambda(lambda t: tf.split(t, [4, 4], axis=1))(Dense(8)(x))
        parts = [Dense(4, activation="relu")(parts[0]), Dense(6, activation="relu")(parts[1])]
        y = kl.concatenate(parts)
        return keras.Model(x, Dense(1)(y))

    keras.utils.set_random_seed(3)
    expected = unfused().get_weights()
    keras.utils.set_random_seed(3)
    layer = seed2()
    layer.build((None, 10))
    for found, e in zip(layer.get_weights(), expected, strict=True):
        np.testing.assert_array_equal(found, e)


def test_weights_are_interchangeable_with_the_unfused_model(rng):
    layer, width = built("a Dense each")
    reference = fs.reference(seed2_built := layer)
    assert [w.shape for w in reference.get_weights()] == [w.shape for w in layer.get_weights()]
    other = seed2()
    other.build((None, width))
    other.set_weights(reference.get_weights())
    x = rng.normal(size=(4, width)).astype("float32")
    np.testing.assert_allclose(other(x), seed2_built(x), rtol=1e-6, atol=1e-6)


def test_reference_shares_the_weights():
    layer, _ = built("a Dense each")
    reference = fs.reference(layer)
    assert {id(w) for w in reference.weights} == {id(w) for w in layer.weights}
    assert any(isinstance(x, kl.Lambda) for x in reference.layers)


def test_params_read_the_variables_at_each_access():
    layer, _ = built("a Dense each")
    before = layer.params[0].numpy()
    layer.stem[0].kernel.assign(before + 1)
    np.testing.assert_array_equal(layer.params[0].numpy(), before + 1)


def test_weights_order_is_stem_branches_head():
    layer, _ = built("a Dense each")
    assert [tuple(w.shape) for w in layer.weights] == [
        (10, 8),
        (8,),
        (4, 4),
        (4,),
        (4, 6),
        (6,),
        (10, 1),
        (1,),
    ]
    assert tuple(tuple(p.shape) for p in layer.params) == layer.spec.params


# Refusals.


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: fs.SplitDense(None, [None]), "expected a Dense or a list of them"),
        (
            lambda: fs.SplitDense(kl.Activation("relu"), [None]),
            "`stem`: expected Dense, a list of them, or None. Received: <Activation",
        ),
        (lambda: fs.SplitDense(Dense(8), []), r"expected a list of at least one branch. Received: \[\]"),
        (lambda: fs.SplitDense(Dense(8), Dense(4)), "expected a list of at least one branch"),
        (
            lambda: fs.SplitDense(Dense(8), [kl.Conv1D(2, 1), None]),
            r"`branches\[0\]`: expected Dense, Dropout",
        ),
        (lambda: fs.SplitDense(Dense(8), [None, None], head=kl.Flatten()), "`head`: expected Dense"),
        (lambda: fs.SplitDense(Dense(8), [None] * 3), "do not divide equally"),
        (lambda: fs.SplitDense(Dense(8), [None, None], split=[3, 4]), "sum to the stem's 8 units"),
        (lambda: fs.SplitDense(Dense(8), [None, None], merge="concatenate"), "`merge`: expected one of"),
        (lambda: fs.SplitDense(Dense(8), [None, None], merge=None, head=Dense(1)), "`head`: expected None"),
        (
            lambda: fs.SplitDense(Dense(8), [None, None], backend="cuda"),
            "`backend`: expected 'auto' or one of .* Received: 'cuda'",
        ),
        (
            lambda: fs.SplitDense(Dense(8), [None, None], dtype="float64"),
            "`dtype`: expected the policy of the first sub-layer",
        ),
    ],
)
def test_bad_arguments_are_refused_at_once(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((10,), r"rank 2 or more. Received: shape \(10,\)"),
        ((None, None), r"last dimension is known. Received: shape \(None, None\)"),
    ],
)
def test_bad_input_shapes_are_refused_in_build(shape, message):
    with pytest.raises(ValueError, match=message):
        seed2().build(shape)


@pytest.mark.parametrize("shape", [(4, 11), (10,), (2, 3, 9)], ids=str)
def test_other_shapes_at_call_are_refused(shape, backend):
    layer, _ = built("a Dense each")
    with fs.use_backend(backend), pytest.raises(ValueError, match="incompatible with the layer"):
        layer(np.zeros(shape, "float32"))


def test_branches_of_different_widths_do_not_add():
    layer = fs.SplitDense(Dense(8), [Dense(3), Dense(4)], merge="add")
    with pytest.raises(ValueError, match=r"expected branch outputs of one width. Received: widths \[3, 4\]"):
        layer.build((None, 5))


def test_set_weights_names_the_mismatched_shapes():
    layer, _ = built("a Dense each")
    weights = layer.get_weights()
    with pytest.raises(ValueError, match=r"\(10, 8\).*\(3, 3\)"):
        layer.set_weights([np.zeros((3, 3)), *weights[1:]])
    with pytest.raises(ValueError, match="length 7"):
        layer.set_weights(weights[1:])


def test_inputs_of_another_number_than_the_branches():
    layer = fs.MergeDense([Dense(3), Dense(3)])
    with pytest.raises(ValueError, match="expected 2 inputs, one for each branch. Received: shapes"):
        layer.build([(None, 3), (None, 4), (None, 5)])


@pytest.mark.parametrize(
    "call",
    [lambda layer: layer.spec, fs.reference, fs.explain, fs.check],
    ids=["spec", "reference", "explain", "check"],
)
def test_an_unbuilt_layer_says_so(call):
    with pytest.raises(ValueError, match="expected a built"):
        call(seed2())
