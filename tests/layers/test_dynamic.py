"""DynamicSplitDense: callable and learned split points."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.layers import Activation, Dense

import fusedsplit as fs


@keras.saving.register_keras_serializable(package="tests")
def one_point(x):
    return tf.cast(tf.reduce_sum(tf.cast(x > 0, tf.int32)) % 9, tf.int32)


@keras.saving.register_keras_serializable(package="tests")
def point_per_row(x):
    return tf.reduce_sum(tf.cast(x > 0, tf.int64), axis=-1)


BRANCHES = {
    "Dense each": lambda: (Dense(4, activation="relu"), Dense(6)),
    "slices": lambda: (None, None),
    "mixed": lambda: ([Activation("tanh"), Dense(3)], [Dense(5, activation="gelu"), Dense(2)]),
}
SPLITS = {"one point": one_point, "a point per row": point_per_row, "a constant": lambda x: 3}


def masked(layer, x, p):
    """The formula of the docstring, in NumPy."""
    weights = [np.asarray(w, np.float64) for w in layer.get_weights()]
    h = x @ weights[0] + weights[1]
    left = np.arange(h.shape[-1]) < np.asarray(p)[..., None]
    l_in, r_in = np.where(left, h, 0), np.where(left, 0, h)
    return np.concatenate([np.maximum(l_in @ weights[2] + weights[3], 0), r_in @ weights[4] + weights[5]], -1)


@pytest.mark.parametrize("split", SPLITS)
def test_value_is_the_formulas(split, backend, rng):
    layer = fs.DynamicSplitDense(Dense(8), *BRANCHES["Dense each"](), split=SPLITS[split])
    x = rng.normal(size=(23, 6)).astype("float32")
    layer.build(x.shape)
    point = SPLITS[split](tf.constant(x))
    with fs.use_backend(backend):
        found = [layer(x), tf.function(layer)(x)]
    for y in found:
        np.testing.assert_allclose(y, masked(layer, x, np.asarray(point)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("point", [-5, 0, 1, 7, 8, 100])
def test_points_are_clamped(point, backend, rng):
    layer = fs.DynamicSplitDense(Dense(8), *BRANCHES["Dense each"](), split=lambda x: point)
    x = rng.normal(size=(5, 6)).astype("float32")
    with fs.use_backend(backend):
        y = layer(x)
    np.testing.assert_allclose(y, masked(layer, x, np.clip(point, 0, 8)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rank", [2, 3], ids=lambda n: f"rank {n}")
@pytest.mark.parametrize("branches", BRANCHES)
@pytest.mark.parametrize("split", SPLITS)
def test_values_and_gradients_are_the_unfused_models(split, branches, rank, backend_in_grids, rng):
    layer = fs.DynamicSplitDense(Dense(8), *BRANCHES[branches](), split=SPLITS[split], head=Dense(2))
    x = tf.constant(rng.normal(size=(9, 6) if rank == 2 else (3, 4, 6)).astype("float32"))
    layer.build(x.shape)
    gradients = []
    with fs.use_backend(backend_in_grids):
        for f in (layer, tf.function(layer), fs.reference(layer)):
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = f(x)
                loss = tf.reduce_sum(y**2)
            gradients.append([y, *tape.gradient(loss, [x, *(w.value for w in layer.trainable_variables)])])
    for found in gradients[:-1]:
        for a, b in zip(found, gradients[-1], strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("branches", BRANCHES)
def test_check_holds(branches):
    layer = fs.DynamicSplitDense(Dense(8), *BRANCHES[branches](), split=point_per_row)
    layer.build((None, 6))
    report = fs.check(layer)
    assert report.ok, str(report)


MASKED = {
    "Dense each": lambda: (Dense(4, activation="tanh"), Dense(6)),
    "slices": lambda: (None, None),
    "mixed": lambda: ([Activation("relu"), Dense(2)], Dense(3)),
    "fused": lambda: (fs.MergeDense([Dense(3), Dense(2)]), None),
}


@pytest.mark.parametrize("split", ["one point", "a point per row", "learned"])
@pytest.mark.parametrize("branches", MASKED)
def test_a_masked_nan_is_zero_in_value_and_gradient(branches, split, backend_in_grids, rng):
    """The last column is no number; it is masked on the left, and nothing of it may be seen there."""
    splits = {
        "one point": lambda x: tf.constant(5),
        "a point per row": lambda x: 3 + tf.cast(x[..., 0] > 0, tf.int32),
        "learned": fs.LearnedSplit(initial=0.5),
    }
    layer = fs.DynamicSplitDense(Dense(8), *MASKED[branches](), split=splits[split], merge=None)
    x = tf.constant(rng.normal(size=(7, 6)), tf.float32)
    layer.build(x.shape)
    right = [v.value for sublayer in layer.branches[1] for v in sublayer.weights]
    variables = [v.value for v in layer.trainable_variables if all(v.value is not w for w in right)]
    calls = [layer, tf.function(layer), fs.reference(layer)]
    if split != "learned":  # whose mask is soft then
        calls += [functools.partial(f, training=True) for f in calls]

    def run(f):
        with tf.GradientTape() as tape:
            tape.watch(x)
            left, _ = f(x)
            loss = tf.reduce_sum(left**2)
        return [left, *tape.gradient(loss, [x, *variables], unconnected_gradients="zero")]

    def run_with(number):
        layer.stem[0].bias.assign([0.1] * 7 + [number])
        with fs.use_backend(backend_in_grids):
            return [run(f) for f in calls]

    expected = run_with(0.0)
    for number in (np.nan, np.inf, -np.inf):
        for found, wanted in zip(run_with(number), expected, strict=True):
            for a, b in zip(found, wanted, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_a_soft_mask_is_a_factor(backend, rng):
    layer = learned(False)
    x = rng.normal(size=(3, 6)).astype("float32")
    layer.build(x.shape)
    layer.stem[0].bias.assign([0.0] * 6 + [np.nan])
    with fs.use_backend(backend):
        assert np.isnan(layer(x, training=True)).all()


def test_a_dynamic_split_within_another_layer_is_called_itself(rng):
    inner = fs.DynamicSplitDense(Dense(6), None, Dense(3), split=lambda x: tf.constant(2))
    layer = fs.SplitDense(Dense(8), [inner, None])
    x = rng.normal(size=(3, 10)).astype("float32")
    y = layer(x)
    np.testing.assert_allclose(y, fs.reference(layer)(x), rtol=1e-6)
    assert "a point of its own" in "; ".join(layer.unfusable_reasons())


def learned(gated: bool, dtype: str = "float32") -> fs.DynamicSplitDense:
    split = fs.LearnedSplit(temperature=1.5, gate=Dense(1, dtype=dtype) if gated else None, dtype=dtype)
    branches = Dense(3, activation="tanh", dtype=dtype), Dense(2, dtype=dtype)
    return fs.DynamicSplitDense(Dense(7, dtype=dtype), *branches, split=split)


@pytest.mark.parametrize("gated", [False, True], ids=["global", "gated"])
def test_learned_points_are_soft_while_training_and_hard_at_inference(gated, backend, rng):
    layer = learned(gated)
    x = rng.normal(size=(11, 6)).astype("float32")
    layer.build(x.shape)
    reference = fs.reference(layer)
    with fs.use_backend(backend):
        soft, hard = layer(x, training=True), layer(x)
    np.testing.assert_allclose(soft, reference(x, training=True), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(hard, reference(x, training=False), rtol=1e-5, atol=1e-5)
    assert np.abs(np.subtract(soft, hard)).max() > 1e-3


@pytest.mark.parametrize("gated", [False, True], ids=["global", "gated"])
def test_gradients_of_learned_points_are_the_numerical_ones(gated, fused_backend, rng):
    layer = learned(gated, "float64")
    x = tf.constant(rng.normal(size=(5, 6)))
    layer.build(x.shape)
    variables = layer.trainable_variables
    assert len(variables) == (8 if gated else 7)
    with fs.use_backend(fused_backend):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(layer(x, training=True) ** 2)
        gradients = tape.gradient(loss, [v.value for v in variables])
        for variable, gradient in zip(variables, gradients, strict=True):
            value, delta = variable.numpy(), 1e-6
            direction = rng.normal(size=value.shape)
            losses = []
            for sign in (1, -1):
                variable.assign(value + sign * delta * direction)
                losses.append(float(tf.reduce_sum(layer(x, training=True) ** 2)))
            variable.assign(value)
            numeric = (losses[0] - losses[1]) / (2 * delta)
            assert np.sum(gradient * direction) == pytest.approx(numeric, rel=1e-5, abs=1e-7)


def test_a_learned_point_finds_where_images_of_digits_are_cut(fused_backend):
    """The target is the ink of an image's upper half less that of its lower half: the cut is after 32 of 64 pixels."""
    x = pytest.importorskip("sklearn.datasets").load_digits().data.astype("float32") / 16
    y = x[:, :32].sum(-1, keepdims=True) - x[:, 32:].sum(-1, keepdims=True)
    fixed = {"use_bias": False, "trainable": False}
    layer = fs.DynamicSplitDense(
        Dense(64, kernel_initializer="identity", **fixed),
        Dense(1, kernel_initializer="ones", **fixed),
        Dense(1, kernel_initializer="ones", **fixed),
        split=fs.LearnedSplit(temperature=2.0, initial=0.8),
        merge="subtract",
        backend=fused_backend,
    )
    inputs = keras.Input((64,))
    model = keras.Model(inputs, layer(inputs))
    model.compile(keras.optimizers.Adam(0.3), "mse", jit_compile=False)
    hard_loss = model.evaluate(x, y, verbose=0)
    losses = model.fit(x, y, epochs=8, batch_size=64, verbose=0).history["loss"]
    assert losses[-1] < 0.1 * losses[0]
    assert abs(float(layer.splitter.point.numpy()) - 32) < 2
    assert model.evaluate(x, y, verbose=0) < 0.1 * hard_loss


@pytest.mark.parametrize(
    "split",
    ["learned", one_point, point_per_row, "gated"],
    ids=["learned", "one point", "a point per row", "gated"],
)
def test_saving(split, tmp_path, rng):
    layer = learned(True) if split == "gated" else fs.DynamicSplitDense(Dense(8), Dense(4), None, split=split)
    x = keras.Input((6,))
    model = keras.Model(x, layer(x))
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    data = rng.normal(size=(5, 6)).astype("float32")
    np.testing.assert_array_equal(loaded(data), model(data))


@pytest.mark.parametrize(
    ("split", "message"),
    [
        (lambda x: tf.reduce_sum(x), "expected a callable that gives integers. Received: dtype float32"),
        (lambda x: tf.zeros([3], tf.int32), r"one for each row .* Received: shape \(3,\)"),
        (lambda x: tf.cast(x, tf.int32), r"Received: shape \(4, 6\)"),
    ],
)
def test_a_callable_that_gives_something_else_is_refused_when_built(split, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        fs.DynamicSplitDense(Dense(8), Dense(4), Dense(4), split=split).build((4, 6))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: fs.DynamicSplitDense(Dense(8), None, None, split=4),
            "expected 'learned', a LearnedSplit or a callable",
        ),
        (lambda: fs.DynamicSplitDense(Dense(8), None, None, split="fixed"), "Received: split='fixed'"),
        (lambda: fs.DynamicSplitDense(None, None, None, split="learned"), "`stem`: expected a Dense"),
        (lambda: fs.LearnedSplit(temperature=0), "`temperature`: expected a positive number. Received: 0"),
        (lambda: fs.LearnedSplit(initial=2), "`initial`: expected a fraction"),
        (lambda: fs.LearnedSplit(gate=Dense(2)), "`gate`: expected a Dense with one unit"),
    ],
)
def test_bad_arguments_are_refused_at_once(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_one_plan_serves_one_point_and_a_point_per_row(fused_backend):
    def layer_of(split):
        layer = fs.DynamicSplitDense(Dense(8), Dense(4), Dense(4), split=split)
        layer.build((None, 6))
        return layer

    for split in (lambda x: 3, lambda x: tf.reduce_sum(tf.cast(x > 0, tf.int32), -1)):
        assert fs.check(layer_of(split), backends=[fused_backend]).ok


def test_masked_slices_and_a_callable_merge_make_three_stages(backend, rng):
    merge = lambda parts: parts[0] * 2 - parts[1]  # noqa: E731
    layer = fs.DynamicSplitDense(
        Dense(8), None, Dense(8), split=point_per_row, merge=merge, head=Dense(1, activation="sigmoid")
    )
    x = rng.normal(size=(5, 6)).astype("float32")
    layer.build(x.shape)
    assert len(layer.spec.stages()) == 3
    with fs.use_backend(backend):
        np.testing.assert_allclose(layer(x), fs.reference(layer)(x), rtol=1e-5, atol=1e-6)
