"""Who runs a loop, and why."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.layers import Conv1D, Dense, Dropout, Flatten, GaussianDropout, Input

import fusedsplit as fs
from fusedsplit.loops import _keras_private as private
from fusedsplit.loops import training
from fusedsplit.native import library
from tests.loops.side_by_side import (
    ROWS,
    X,
    Y,
    assert_same,
    branches,
    classes,
    close,
    run,
    two_outputs,
    with_dropout,
    with_normalization,
)

OPTIONS = {"batch_size": 16, "epochs": 2, "shuffle": False, "verbose": 0}


class Own(keras.losses.Loss):
    def call(self, y_true, y_pred):
        return (y_true - y_pred) ** 2


def fit(model, *data, **options):
    return model.fit(*data or (X, Y), **{**OPTIONS, **options})


def convolution():
    x = Input((6, 1))
    return keras.Model(x, Dense(1)(Flatten()(Conv1D(2, 3)(x))))


def noise():
    x = Input((6,))
    return keras.Model(x, Dense(1)(GaussianDropout(0.2, seed=1)(Dense(4)(x))))


def unused():
    x = Input((6,))
    h = Dense(4)(x)
    return keras.Model([x], [Dense(1)(Dense(3)(h)), Dense(2)(h)])


def computed():
    return branches()


REASONS = {
    "own loss": (branches, {"loss": lambda: Own()}, {}, "'own'|Own"),
    "own function": (branches, {"loss": lambda: lambda y, p: keras.ops.abs(y - p)}, {}, "lambda"),
    "cosine": (branches, {"loss": lambda: "cosine_similarity"}, {}, "cosine_similarity"),
    "not reduced": (branches, {"loss": lambda: keras.losses.MeanSquaredError(reduction="none")}, {}, "not reduced"),
    "optimizer": (branches, {"optimizer": lambda: keras.optimizers.Adamax(0.01)}, {}, "Adamax"),
    "scaled": (
        branches,
        {"optimizer": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.01))},
        {},
        "LossScaleOptimizer",
    ),
    "rate": (branches, {"optimizer": lambda: keras.optimizers.SGD(lambda: 0.01)}, {}, "learning rate"),
    "eager": (branches, {"run_eagerly": lambda: True}, {}, "eagerly"),
    "graph": (convolution, {}, {"x": X[:, :, None]}, "Conv1D"),
    "drawn otherwise": (noise, {}, {}, "gaussian|Gaussian"),
    "normalization": (with_normalization, {}, {}, "[Nn]orm"),
    "sparse": (branches, {}, {"x": tf.sparse.from_dense(X)}, "dense"),
    "weights of columns": (branches, {}, {"sample_weight": np.ones((ROWS, 1, 1))}, "sample weights"),
    "shape": (branches, {}, {"y": np.ones((ROWS, 2))}, "shape"),
}


@pytest.mark.parametrize("case", REASONS)
def test_what_is_not_built_is_refused_or_left_to_keras(case):
    make, compiled, data, reason = REASONS[case]
    given = {"x": X, "y": Y, **data}
    results = []
    for loop in ("native", "auto", "keras"):
        keras.utils.set_random_seed(0)
        model = fs.fuse(make(), loop=loop)
        model.compile(**{"optimizer": "sgd", "loss": "mse", **{k: v() for k, v in compiled.items()}})
        if loop == "native":
            with pytest.raises(ValueError, match=reason):
                model.fit(**given, **OPTIONS)
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                results.append(model.fit(**given, **OPTIONS).history["loss"])
            except Exception as error:  # noqa: BLE001
                results.append(type(error))
    if isinstance(results[1], type):
        assert results[0] is results[1]
    else:
        close(results[1], results[0], 1e-12)


def test_inference_needs_no_training():
    model = fs.fuse(with_normalization(), loop="native")
    model.compile("sgd", "mse")
    model.evaluate(X, Y, verbose=0)
    model.predict(X, verbose=0)
    with pytest.raises(ValueError, match="loop='native'"):
        fit(model)


@pytest.mark.skipif(not private.rounds_regularizers(), reason="left to this Keras in float64, and are no functions")
@pytest.mark.parametrize("kind", ["l1", "own"])
def test_regularizers(kind):
    x = Input((6,))
    own = "l1" if kind == "l1" else lambda w: 0.01 * keras.ops.sum(w**4)
    model = fs.fuse(keras.Model(x, Dense(1)(Dense(4, kernel_regularizer=own)(x))), loop="native")
    model.compile("sgd", "mse")
    if kind == "l1":
        fit(model)
    else:
        with pytest.raises(ValueError, match="regularizer"):
            fit(model)


def test_constraints():
    x = Input((6,))
    model = fs.fuse(keras.Model(x, Dense(1)(Dense(4, kernel_constraint="non_neg")(x))), loop="native")
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="constraint"):
        fit(model)


def test_a_subclass_and_a_step_of_its_own():
    class Mine(fs.FusedModel):
        def train_step(self, data):
            return super().train_step(data)

    x = Input((6,))
    mine = Mine(x, Dense(1)(Dense(4)(x)))
    mine.compile("sgd", "mse")
    mine.loop = "native"
    with pytest.raises(ValueError, match="train_step"):
        fit(mine)
    model = fs.fuse(branches(), loop="native")
    model.compile("sgd", "mse")
    model.train_step = lambda data: {}
    with pytest.raises(ValueError, match="train_step"):
        fit(model)


def test_a_strategy():
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        model = fs.fuse(branches(), loop="native")
        model.compile("sgd", "mse")
        with pytest.raises(ValueError, match="strategy"):
            fit(model)


def test_a_policy_other_than_floatx():
    x = Input((6,), dtype="float32")
    model = fs.fuse(keras.Model(x, Dense(1, dtype="float32")(Dense(4, dtype="float32")(x))), loop="native")
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="float64"):
        fit(model)
    model.predict(X, verbose=0)


def test_names_of_loops():
    with pytest.raises(ValueError, match="expected 'auto', 'native' or 'keras'"):
        fs.fuse(branches(), loop="fast")
    model = fs.fuse(branches())
    assert model.loop == "auto"
    with pytest.raises(ValueError, match="expected"):
        model.loop = "no"


def test_not_compiled_is_keras_error():
    with pytest.raises(ValueError, match="compile"):
        fs.fuse(branches(), loop="native").fit(X, Y)


def test_recompiling_is_seen():
    def train(model):
        fit(model)
        model.get_layer("left").trainable = False
        model.compile(keras.optimizers.SGD(0.1), "mae")
        return fit(model).history

    runs = [run(branches, lambda: {"optimizer": "adam", "loss": "mse"}, train, loop) for loop in ("keras", "native")]
    assert_same(*runs)


def test_frozen_after_compile_is_trained_as_compiled():
    def train(model):
        fit(model)
        model.get_layer("left").trainable = False
        fit(model)

    compiled = lambda: {"optimizer": "sgd", "loss": "mse", "run_eagerly": False}  # noqa: E731  # eagerly it is heeded
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert_same(*(run(branches, compiled, train, loop) for loop in ("keras", "native")))


def test_an_optimizer_of_other_variables():
    optimizer = keras.optimizers.Adam()
    other = branches()
    optimizer.build(other.trainable_variables)
    model = fs.fuse(branches())
    model.compile(optimizer, "mse")
    with pytest.raises((ValueError, KeyError)):
        fit(model)


def test_without_the_core_keras_runs_its_loops(monkeypatch):
    def missing():
        raise library.NativeError("the library is missing")

    monkeypatch.setattr(library, "core", missing)
    model = fs.fuse(branches())
    model.compile("sgd", "mse")
    fit(model)
    assert model.predict(X, verbose=0).shape == (ROWS, 1)
    assert "missing" in fs.explain(model).loops["fit"]
    with pytest.raises(ValueError, match="missing"):
        fs.Trainer(model)


def test_dropout_is_of_its_seed_and_its_rate():
    def make():
        return with_dropout(0.25)

    compiled = lambda: {"optimizer": keras.optimizers.SGD(0.05), "loss": "mse"}  # noqa: E731
    a, b = (run(make, compiled, fit, "native") for _ in range(2))
    assert_same(a, b, rtol=0)
    by_keras = run(make, compiled, fit, "keras")
    assert not np.allclose(by_keras.weights[0], a.weights[0], rtol=1e-6)
    # The seed goes on as Keras' own does, by the steps taken.
    states = [r.model.get_layer("drop").seed_generator.state.numpy() for r in (by_keras, a)]
    assert list(states[0]) == list(states[1])


def test_dropout_of_nothing_is_none():
    compiled = lambda: {"optimizer": keras.optimizers.SGD(0.05), "loss": "mse"}  # noqa: E731
    assert_same(*(run(lambda: with_dropout(0.0), compiled, fit, loop) for loop in ("keras", "native")))


def test_explain():
    model = fs.fuse(branches())
    loops = fs.explain(model).loops
    assert set(loops) == {"fit", "evaluate", "predict"} and all("core" in text for text in loops.values())
    model.compile(keras.optimizers.Ftrl(), Own())
    loops = fs.explain(model).loops
    assert "Ftrl" in loops["fit"] and "Own" in loops["fit"]
    assert "Own" in loops["evaluate"] and "Ftrl" not in loops["evaluate"]
    assert loops["predict"].startswith("the core")
    model.loop = "native"
    assert fs.explain(model).loops["fit"].startswith("raises")
    model.loop = "keras"
    assert "loop='keras'" in fs.explain(model).loops["predict"]
    normal = fs.explain(fs.fuse(with_normalization())).loops
    assert "norm" in normal["fit"] and "core" in normal["evaluate"]


def test_bits_do_not_depend_on_how_the_run_is_cut(monkeypatch):
    compiled = lambda: {"optimizer": keras.optimizers.Adam(0.02), "loss": "mse", "metrics": ["mae"]}  # noqa: E731
    whole = run(branches, compiled, fit, "native")
    monkeypatch.setattr(training, "SECONDS", 0.0)
    cut = run(branches, compiled, fit, "native")
    shown = run(branches, compiled, lambda m: fit(m, verbose=1), "native")
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(16)
    streamed = run(branches, compiled, lambda m: fit(m, data, batch_size=None), "native")
    for other in (cut, shown, streamed):
        assert all((a == b).all() for a, b in zip(whole.weights + whole.optimizer, other.weights + other.optimizer))


def test_outputs_of_which_one_has_no_part_in_the_loss():
    """Keras gives their variables no gradient, and warns."""
    compiled = lambda: {"optimizer": "sgd", "loss": ["mse", None]}  # noqa: E731
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        runs = [
            run(two_outputs, compiled, lambda m: m.fit([X, X[:, :3]], [Y, classes(3)], **OPTIONS), loop)
            for loop in ("keras", "auto")
        ]
    assert_same(*runs)


def test_dropout_layers_are_only_keras_own():
    class Mine(Dropout):
        pass

    x = Input((6,))
    model = fs.fuse(keras.Model(x, Dense(1)(Mine(0.5)(Dense(4)(x)))))
    model.compile("sgd", "mse")
    fit(model)


@pytest.mark.parametrize(
    "compiled",
    [
        lambda: {"loss": "mse"},  # whose optimizer is RMSprop
        lambda: {"optimizer": keras.optimizers.SGD(0.05), "loss": "mse", "jit_compile": True},
        lambda: {"optimizer": "sgd", "loss": keras.losses.MeanSquaredError(reduction="sum"), "loss_weights": [0.3]},
    ],
)
def test_what_compile_leaves_open(compiled):
    runs = [run(branches, compiled, fit, loop) for loop in ("keras", "native")]
    assert_same(*runs)
    assert type(runs[1].model.optimizer) is type(runs[0].model.optimizer)


ERRORS = {
    "class weights beside sample weights": {"class_weight": {0: 2.0}, "sample_weight": np.ones(ROWS)},
    "targets of other rows": {"y": Y[:-1]},
    "a validation split of everything": {"validation_split": 1.0},
    "no targets": {"y": None},
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_are_those_of_keras(case):
    errors = []
    for loop in ("keras", "auto"):
        model = fs.fuse(branches(), loop=loop)
        model.compile("sgd", "mse")
        before = model.get_weights()
        with pytest.raises(Exception) as error:  # noqa: PT011
            model.fit(**{"x": X, "y": Y, **OPTIONS, **ERRORS[case]})
        errors.append((type(error.value), str(error.value)))
        assert all((a == b).all() for a, b in zip(before, model.get_weights()))
    assert errors[0] == errors[1]


def test_regularizers_alone_are_left_to_keras():
    def make():
        x = Input((6,))
        return keras.Model(x, Dense(1, kernel_regularizer=keras.regularizers.L2(0.1))(Dense(4, activation="relu")(x)))

    def alone(model):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of variables without a gradient
            return model.fit(X, **OPTIONS)

    compiled = lambda: {"optimizer": keras.optimizers.SGD(0.1)}  # noqa: E731
    assert_same(*(run(make, compiled, alone, loop) for loop in ("keras", "auto")))


def test_capped_epochs_are_left_to_keras():
    if not hasattr(keras.config, "set_max_epochs"):
        pytest.skip("not in this Keras")
    keras.config.set_max_epochs(1)
    try:
        model = fs.fuse(branches())
        model.compile("sgd", "mse")
        assert len(fit(model).history["loss"]) == 1
        model.loop = "native"
        with pytest.raises(ValueError, match="max_epochs"):
            fit(model)
    finally:
        keras.config.set_max_epochs(None)


def test_losses_by_name_are_explained():
    model = fs.fuse(two_outputs())
    model.compile("sgd", {"number": "mse", "kind": "cosine_similarity"})
    assert "cosine_similarity" in fs.explain(model).loops["evaluate"]
    model = fs.fuse(branches())
    model.compile("sgd")
    assert "no loss" in fs.explain(model).loops["fit"]
