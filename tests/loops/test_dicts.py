"""Models whose outputs are a dict: everything that `compile` and the loops take by key."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.layers import Dense, Input

import fusedsplit as fs
from tests.loops.side_by_side import (
    IS_OLD,
    W,
    X,
    Y,
    assert_same,
    check,
    classes,
    close,
    dict_of_outputs,
    run,
)

LOSSES = {"kind": "sparse_categorical_crossentropy", "number": "mse"}
TARGETS = {"number": Y, "kind": classes(3)}
WEIGHTS = {"number": W, "kind": W**2}
# What compile and fit are given besides.
CASES = {
    "plain": ({}, {}),
    "loss weights": ({"loss_weights": {"number": 0.3, "kind": 2.0}}, {}),
    "metrics": ({"metrics": {"number": ["mae", "mse"], "kind": "accuracy"}}, {"validation_split": 0.3}),
    "metrics of one": ({"metrics": {"kind": ["accuracy"]}, "weighted_metrics": {"number": "mae"}}, {}),
    "lists": ({"loss": list(LOSSES.values()), "loss_weights": [2.0, 0.5], "metrics": [["accuracy"], ["mae"]]}, {}),
    "one weight": ({"weighted_metrics": {"number": ["mae"], "kind": "accuracy"}}, {"sample_weight": W}),
    "weights": (
        {"weighted_metrics": {"number": ["mae", keras.metrics.R2Score]}, "metrics": {"number": "mae"}},
        {"sample_weight": WEIGHTS, "validation_data": (X[:9], {k: v[:9] for k, v in TARGETS.items()}, W[:9])},
    ),
    "executions": ({"steps_per_execution": 2}, {}),
}
OTHER_NAMES = {"number": "first", "kind": "second"}
EXCHANGED = {"number": "kind", "kind": "number"}


def sgd(**more):
    def compiled():
        made = {k: {n: _made(v) for n, v in m.items()} if isinstance(m, dict) else m for k, m in more.items()}
        return {"optimizer": keras.optimizers.SGD(0.05, momentum=0.5), "loss": dict(LOSSES), **made}

    return compiled


def _made(metrics):
    return [m() if isinstance(m, type) else m for m in metrics] if isinstance(metrics, list) else metrics


@pytest.mark.parametrize("case", CASES)
def test_fit(case):
    if IS_OLD and case == "executions":
        pytest.skip("this Keras counts a step that it has no data for")
    compiled, options = CASES[case]
    check(dict_of_outputs, sgd(**compiled), X, TARGETS, **options)


@pytest.mark.parametrize("names", [OTHER_NAMES, EXCHANGED], ids=["others", "exchanged"])
@pytest.mark.parametrize("case", ["plain", "weights"])
def test_layers_of_other_names_than_the_keys(case, names):
    compiled, options = CASES[case]
    if IS_OLD and names is OTHER_NAMES and case == "weights":
        pytest.skip("this Keras' metrics go by the names of layers")
    check(lambda: dict_of_outputs(**names), sgd(**compiled), X, TARGETS, **options)


@pytest.mark.parametrize("return_dict", [True, False])
def test_evaluate(return_dict):
    found = []
    metrics = {"number": ["mae"], "kind": ["accuracy"]}
    for loop in ("keras", "native"):
        evaluated = run(
            dict_of_outputs,
            sgd(metrics=metrics, weighted_metrics={"kind": ["accuracy"]}),
            lambda m: m.evaluate(X, TARGETS, sample_weight=WEIGHTS, batch_size=16, verbose=0, return_dict=return_dict),
            loop,
        )
        found.append(evaluated)
    a, b = (f.result for f in found)
    if return_dict:
        assert list(a) == list(b)
        a, b = list(a.values()), list(b.values())
    close(a, b, 1e-9)
    assert_same(*found)


@pytest.mark.skipif(IS_OLD, reason="this Keras goes on where the last call ended; its own is left to it")
def test_on_batch():
    def test(model):
        first = {k: v[:9] for k, v in TARGETS.items()}
        return [model.test_on_batch(X[:9], first), *model.test_on_batch(X[:9], first, return_dict=True).values()]

    found = [run(dict_of_outputs, sgd(), test, loop).result for loop in ("keras", "native")]
    for a, b in zip(*found):
        close(a, b, 1e-9)


@pytest.mark.parametrize("method", ["predict", "predict_on_batch"])
def test_predict_gives_the_keys_in_keras_order(method):
    model = fs.fuse(dict_of_outputs())
    found = []
    for loop in ("keras", "native"):
        model.loop = loop
        found.append(getattr(model, method)(X[:7], **({"verbose": 0} if method == "predict" else {})))
    assert type(found[0]) is type(found[1]) and list(found[0]) == list(found[1])
    for a, b in zip(found[0].values(), found[1].values()):
        close(a, b, 1e-12)


@pytest.mark.parametrize("weights", [None, W, WEIGHTS])
def test_a_dataset(weights):
    data = (X, TARGETS) if weights is None else (X, TARGETS, weights)
    batches = tf.data.Dataset.from_tensor_slices(data).batch(16)
    runs = check(dict_of_outputs, sgd(weighted_metrics={"number": ["mae"]}), batches, batch_size=None)
    arrays = run(
        dict_of_outputs,
        sgd(weighted_metrics={"number": ["mae"]}),
        lambda m: m.fit(X, TARGETS, sample_weight=weights, batch_size=16, epochs=3, shuffle=False, verbose=0),
        "native",
    )
    assert_same(runs[1], arrays, rtol=1e-15)


def single():
    x = Input((6,))
    return keras.Model(x, {"only": Dense(1, name="only")(Dense(5, activation="tanh")(x))})


@pytest.mark.parametrize("y", [Y, {"only": Y}], ids=["array", "dict"])
@pytest.mark.parametrize("weights", [None, W])
def test_a_dict_of_one(y, weights):
    compiled = lambda: {"optimizer": "sgd", "loss": {"only": "mse"}, "weighted_metrics": ["mae"]}  # noqa: E731
    check(single, compiled, X, y, sample_weight=weights)


@pytest.mark.skipif(IS_OLD, reason="this Keras takes targets and losses of all outputs only")
def test_some_outputs_without_a_loss():
    some = {"number": Y}
    check(dict_of_outputs, sgd(loss={"number": "mse"}), X, some)
    check(dict_of_outputs, sgd(loss={"number": "mse"}, metrics={"kind": ["accuracy"]}), X, TARGETS)
    check(dict_of_outputs, sgd(loss={"number": "mse", "kind": None}), X, TARGETS)
    check(dict_of_outputs, sgd(), X, TARGETS, sample_weight={"number": W, "kind": None})


def test_a_step_by_hand():
    model = fs.fuse(dict_of_outputs())
    model.compile(**sgd()())
    with fs.Trainer(model) as trainer:
        losses = [trainer.step(X, TARGETS, sample_weight=WEIGHTS) for _ in range(5)]
        assert losses[-1] < losses[0] and set(trainer.predict(X)) == {"number", "kind"}


def test_check_does_a_training_step():
    model = fs.fuse(dict_of_outputs())
    model.compile(**sgd(loss_weights={"number": 0.3, "kind": 2.0})())
    report = fs.check(model, [X])
    assert report.ok and any(row.order == "training step" for row in report.rows), report


LEFT = {
    "targets of other names": {"y": {"number": Y, "class": classes(3)}},
    "too many targets": {"y": {**TARGETS, "more": Y}},
    "too few targets": {"y": {"number": Y}},
    "a list of targets": {"y": [classes(3), Y]},
    "a list of weights": {"sample_weight": [W, W]},
    "weights of other names": {"sample_weight": {"number": W}},
    "class weights": {"class_weight": {0: 2.0}},
}


@pytest.mark.parametrize("case", LEFT)
def test_what_is_left_to_keras(case):
    """Its errors among it."""
    options = {"x": X, "y": TARGETS, "batch_size": 16, "shuffle": False, "verbose": 0, **LEFT[case]}
    results = []
    for loop in ("native", "auto", "keras"):
        keras.utils.set_random_seed(0)
        model = fs.fuse(dict_of_outputs(), loop=loop)
        model.compile("sgd", dict(LOSSES))
        try:
            results.append(model.fit(**options).history)
        except Exception as error:  # noqa: BLE001
            results.append((type(error), str(error)))
    assert results[0][0] is ValueError and "loop='native'" in results[0][1]
    if isinstance(results[1], dict):
        for name, values in results[2].items():
            close(results[1][name], values, 1e-12)
    else:
        assert results[1][0] is results[2][0] and results[1][1][:50] == results[2][1][:50]


def test_structures_of_structures_are_left_to_keras():
    x = Input((6,))
    h = Dense(4)(x)
    model = fs.fuse(keras.Model(x, {"one": [Dense(1)(h), Dense(2)(h)], "two": Dense(2)(h)}), loop="native")
    model.compile("sgd", "mse")
    assert "structure of structures" in fs.explain(model).loops["fit"]
    with pytest.raises(ValueError, match="structure of structures"):
        model.fit(X, {"one": [Y, np.tile(Y, 2)], "two": np.tile(Y, 2)}, verbose=0)
