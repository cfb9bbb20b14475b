"""Native training steps against NumPy and Keras' own losses and optimizers in float64."""

from __future__ import annotations

import concurrent.futures
import itertools

import numpy as np
import pytest

from fusedsplit.native import library
from fusedsplit.native.recipe import Dropout, Loss, Metric, Optimizer, Recipe, Regularizer

if library.core_problem() is not None:
    pytest.skip(f"the core is not usable: {library.core_problem()}", allow_module_level=True)

from fusedsplit.native.trainer import Trainer
from fusedsplit.plan import Activation, PlanBuilder, Range
from tests.native.plain_trainer import RATE, logits_plan, random_params, split_plan
from tests.native.side_by_side import BATCH, ROWS, both, data, targets_for

pytestmark = pytest.mark.usefixtures("float64")

ADAM = Optimizer("adam")
MSE = Loss("mean_squared_error", 0)
SIGMOID, SOFTMAX = Activation("sigmoid"), Activation("softmax")


OPTIMIZERS = [
    Optimizer("sgd"),
    Optimizer("sgd", momentum=0.9),
    Optimizer("sgd", momentum=0.9, nesterov=True, weight_decay=0.01),
    Optimizer("adam"),
    Optimizer("adam", beta_1=0.7, beta_2=0.9, epsilon=1e-3, amsgrad=True),
    Optimizer("adamw", weight_decay=0.05),
    Optimizer("rmsprop"),
    Optimizer("rmsprop", momentum=0.5, rho=0.8),
    Optimizer("rmsprop", momentum=0.5, centered=True),
    Optimizer("rmsprop", centered=True, weight_decay=0.01),
    Optimizer("adagrad"),
    Optimizer("nadam"),
    Optimizer("lion", beta_2=0.99),
]
OPTIONS = [
    {},
    {"clipnorm": 0.3},
    {"global_clipnorm": 0.3},
    {"clipvalue": 0.05},
    {"use_ema": True, "ema_momentum": 0.9},
    {"use_ema": True, "ema_momentum": 0.9, "ema_overwrite_frequency": 3},
    {"gradient_accumulation_steps": 3},
    {"gradient_accumulation_steps": 2, "global_clipnorm": 0.2, "use_ema": True, "ema_overwrite_frequency": 2},
]


def with_options(optimizer: Optimizer, options) -> Optimizer:
    return Optimizer(**{**vars(optimizer), **options})


KERAS_NAMES = {
    "momentums": ("_momentums", "momentums"),
    "moving_average": ("_model_variables_moving_average",),
    "accumulated_gradients": ("_accumulated_gradients",),
}


def cells():
    """Every optimizer, with no option and with most; every option, with two optimizers; the rest in the full run."""
    for (i, optimizer), (j, options) in itertools.product(enumerate(OPTIMIZERS), enumerate(OPTIONS)):
        name = f"{optimizer.name}-{optimizer.momentum}-{optimizer.amsgrad}-{optimizer.centered}-{options}"
        drawn = i in (2, 4) or j in (0, len(OPTIONS) - 1)
        yield pytest.param(optimizer, options, id=name, marks=() if drawn else pytest.mark.full)


@pytest.mark.parametrize(("optimizer", "options"), cells())
def test_optimizers_with_their_options_and_slots(optimizer, options):
    plan = split_plan()
    inputs, rng = data(plan)
    optimizer = with_options(optimizer, options)
    frozen = (True, True, False, True, True, False, True, True)
    regularizers = (None, Regularizer(l1=0.01), None, Regularizer(l2=0.02), Regularizer(0.01, 0.02), None, None, None)
    decayed = (True, False, True, True, False, True, True, True)
    recipe = Recipe((MSE,), optimizer, trainable=frozen, decayed=decayed, regularizers=regularizers)
    native, plain = both(plan, recipe, inputs, [targets_for(MSE, 3, rng)], [None])
    assert native.iterations == int(plain.optimizer._iterations)
    for name, values in native.slots.items():
        names = KERAS_NAMES.get(name, (f"_{name}",))
        want = next(getattr(plain.optimizer, n) for n in names if hasattr(plain.optimizer, n))
        assert [v is None for v in values] == [not trained for trained in frozen]
        for got, variable in zip([v for v in values if v is not None], want, strict=True):
            np.testing.assert_allclose(got, np.asarray(variable), rtol=1e-9, atol=1e-11, err_msg=name)
    if optimizer.name == "nadam":
        np.testing.assert_allclose(native.scalars["u_product"], float(plain.optimizer._u_product), rtol=1e-12)


@pytest.mark.parametrize("rows", [1, 31, 600])
def test_other_batches(rows):
    plan = split_plan(inputs=40, units=64, outputs=2)
    inputs, rng = data(plan, rows=rows)
    both(plan, Recipe((MSE,), ADAM), inputs, [targets_for(MSE, 2, rng, rows)], [None], batch=600, epochs=3)


def test_a_live_split():
    from fusedsplit.plan import LINEAR, Live

    b = PlanBuilder()
    x, hidden, y = b.input(6), b.hidden(8), b.output(2)
    b.dense(x, b.param((6, 4)), b.param((4,)), Activation("tanh"), Range(hidden.value, 0, 4), Live(0, "leading"))
    b.dense(x, b.param((6, 4)), b.param((4,)), Activation("relu"), Range(hidden.value, 4, 8), Live(1, "trailing"))
    b.dense(hidden, b.param((8, 2)), None, LINEAR, y)
    b.points = 2
    plan = b.plan()
    inputs, rng = data(plan)
    points = [np.array(3, np.int32), rng.integers(0, 7, ROWS).astype(np.int32)]
    both(plan, Recipe((MSE,), ADAM), inputs, [targets_for(MSE, 2, rng)], [None], points)


def test_what_no_loss_depends_on_stays_and_frozen_params_too():
    plan = split_plan(heads=2)
    inputs, rng = data(plan)
    frozen = (False, False, *(True,) * 8)
    native, _ = both(plan, Recipe((MSE,), ADAM, trainable=frozen), inputs, [targets_for(MSE, 3, rng)], [None])
    before = random_params(plan)
    same = [np.array_equal(a, b) for a, b in zip(native.params, before, strict=True)]
    assert same == [True, True, *(False,) * 6, True, True]


METRICS = (
    Metric("categorical_accuracy", 0),
    Metric("categorical_accuracy", 0, weighted=True),
    Metric("binary_accuracy", 0, threshold=0.3),
    Metric("mean_squared_error", 0, weighted=True),
    Metric("categorical_crossentropy", 0),
)


@pytest.mark.parametrize("trains", [True, False])
def test_metrics_are_sums_over_rows(trains):
    plan = logits_plan("softmax")
    inputs, rng = data(plan)
    loss = Loss("categorical_crossentropy", 0, logits=1)
    target, weight = targets_for(loss, 3, rng), rng.random(ROWS)
    recipe = Recipe((loss,), ADAM if trains else None, metrics=METRICS)
    trainer = Trainer(plan, recipe, "float64")
    trainer.set_params(random_params(plan))
    outputs = [np.empty((ROWS, 3)), None]
    steps = trainer.run(inputs, [target], [weight], None, BATCH, np.full(4, RATE), outputs=outputs)
    y = outputs[0]
    hits = y.argmax(1) == target.argmax(1)
    values = [hits, hits, (target == (y > 0.3)).mean(1), ((y - target) ** 2).mean(1), -(target * np.log(y)).sum(1)]
    for k, start in enumerate(range(0, ROWS, BATCH)):
        rows = slice(start, start + BATCH)
        for i, (metric, value) in enumerate(zip(METRICS, values, strict=True)):
            w = weight[rows] if metric.weighted else np.ones(len(weight[rows]))
            np.testing.assert_allclose(steps.metrics[k, i], [(value[rows] * w).sum(), w.sum()], rtol=1e-12)
    same = [np.array_equal(a, b) for a, b in zip(trainer.params, random_params(plan), strict=True)]
    assert same == [not trains] * 4 and trainer.iterations == (4 if trains else 0)


def test_sparse_accuracy_takes_either_kind_of_labels():
    plan = logits_plan("softmax")
    inputs, rng = data(plan)
    loss = Loss("sparse_categorical_crossentropy", 0, logits=1)
    trainer = Trainer(plan, Recipe((loss,), metrics=(Metric("sparse_categorical_accuracy", 0),)), "float64")
    trainer.set_params(random_params(plan))
    labels = rng.integers(0, 3, ROWS)
    outputs = [np.empty((ROWS, 3)), None]
    runs = [
        trainer.run(inputs, [given], [None], None, ROWS, None, outputs=outputs)
        for given in (labels, labels.astype(np.int32), labels[:, None])
    ]
    assert {run.metrics[0, 0, 0] for run in runs} == {(outputs[0].argmax(1) == labels).sum()}
    assert len({run.losses[0, 0] for run in runs}) == 1


def dropout_plan(width=20):
    b = PlanBuilder()
    x, mask, y = b.input(width), b.input(width), b.output(width)
    b.merge("mul", ((x, 1.0), (mask, 1.0)), y, gain=b.param((width,)))
    return b.plan()


def test_dropout_draws_the_same_numbers_however_steps_are_cut():
    plan = dropout_plan()
    rows = 4000
    x = np.ones((rows, 20))
    masks = []
    for batch, calls in ((1000, 1), (1000, 4)):
        trainer = Trainer(plan, Recipe((MSE,), Optimizer("sgd"), dropouts=(Dropout(1, 0.3, 7),)), "float64")
        trainer.set_params([np.ones(20)])
        y = np.empty((rows, 20))
        for part in np.split(np.arange(rows), calls):
            trainer.run([x], [x], [None], part, batch, np.zeros(4), outputs=[y], first_row=part[0])
        masks.append(y)
    np.testing.assert_array_equal(*masks)
    kept = masks[0] != 0
    np.testing.assert_allclose(masks[0][kept], 1 / 0.7)
    assert abs(kept.mean() - 0.7) < 0.01
    assert np.abs(kept.mean(0) - 0.7).max() < 0.05
    # Every step, row and column has its own.
    steps = kept.reshape(4, 1000, 20)
    assert all(not np.array_equal(steps[i], steps[j]) for i in range(4) for j in range(i))
    assert len({row.tobytes() for row in kept}) > 3500


def trained(plan, recipe, dtype="float32", rows=700, batch=300, calls=1, seconds=None):
    rng = np.random.default_rng(3)
    widths = [plan.values[v].width for v in plan.inputs]
    inputs = [rng.standard_normal((rows, w)).astype(dtype) for w in widths[:1]]
    target = rng.standard_normal((rows, plan.values[plan.outputs[0]].width)).astype(dtype)
    trainer = Trainer(plan, recipe, dtype)
    trainer.set_params([p.astype(dtype) for p in random_params(plan)])
    order = rng.permutation(rows * 3) % rows
    losses = []
    steps = -(-len(order) // batch)
    per_call = -(-steps // calls)
    for first in range(0, steps, per_call):
        part = order[first * batch : (first + per_call) * batch]
        while len(part):
            done = trainer.run(inputs, [target], [None], part, batch, np.full(len(part), RATE), seconds=seconds)
            losses.append(done.losses)
            part = part[done.rows.sum() :]
    slots = [v for values in trainer.slots.values() for v in values]
    return [*trainer.params, *slots, np.concatenate(losses)]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_bits_depend_on_neither_threads_nor_calls_nor_seconds(dtype):
    plan = split_plan(inputs=64, units=128, outputs=5)
    optimizer = Optimizer("adam", clipnorm=0.5)
    recipe = Recipe((MSE,), optimizer, regularizers=(Regularizer(l2=0.1), *(None,) * 7))
    core = library.core()
    threads = core.threads()
    runs = []
    try:
        for count, calls, seconds in ((1, 1, None), (2, 1, None), (3, 7, None), (2, 2, 0.0)):
            core.set_threads(count)
            runs.append(trained(plan, recipe, dtype, calls=calls, seconds=seconds))
    finally:
        core.set_threads(threads)
    for run in runs[1:]:
        for got, want in zip(run, runs[0], strict=True):
            np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("batch", [32, 100, 300, 512])
@pytest.mark.parametrize("heads", [0, 1])
def test_bits_where_workers_share_chains(batch, heads):
    """One shard or more, fewer than workers or not; with a head that joins the chains, and without."""
    plan = split_plan(inputs=64, units=128, outputs=5, heads=heads)
    core = library.core()
    threads = core.threads()
    runs = []
    try:
        for count in (1, 2, 3, 8):
            core.set_threads(count)
            runs.append(trained(plan, Recipe((MSE,), Optimizer("adam")), rows=600, batch=batch))
    finally:
        core.set_threads(threads)
    for run in runs[1:]:
        for got, want in zip(run, runs[0], strict=True):
            np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("isa", library.core().isas())
def test_every_isa(isa):
    plan = split_plan(inputs=33, units=40, outputs=5)
    core = library.core()
    before = core.isa()
    try:
        assert core.set_isa(isa)
        got = trained(plan, Recipe((Loss("log_cosh", 0),), Optimizer("nadam")), "float64")
        core.set_isa(core.isas()[0])
        want = trained(plan, Recipe((Loss("log_cosh", 0),), Optimizer("nadam")), "float64")
    finally:
        core.set_isa(before)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_two_trainers_in_two_threads():
    plan = split_plan(inputs=64, units=128, outputs=5)
    recipe = Recipe((MSE,), ADAM)
    want = trained(plan, recipe, rows=2000)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        runs = [f.result() for f in [pool.submit(trained, plan, recipe, rows=2000) for _ in range(4)]]
    for run in runs:
        for a, b in zip(run, want, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("label", [-1, 3, 2**40])
def test_a_bad_label_is_named_before_anything_changes(label):
    plan = logits_plan("softmax")
    inputs, rng = data(plan)
    loss = Loss("sparse_categorical_crossentropy", 0, logits=1)
    trainer = Trainer(plan, Recipe((loss,), ADAM), "float64")
    trainer.set_params(random_params(plan))
    labels = rng.integers(0, 3, ROWS)
    labels[41] = label
    message = rf"targets\[0\]: expected labels in \[0, 3\). Received: {label} in row 41"
    with pytest.raises(ValueError, match=message):
        trainer.run(inputs, [labels], [None], None, 4, np.full(ROWS, RATE))
    assert trainer.iterations == 0
    for got, want in zip(trainer.params, random_params(plan), strict=True):
        np.testing.assert_array_equal(got, want)
    # Where it is not taken it does no harm.
    assert trainer.run(inputs, [labels], [None], np.arange(40), 4, np.full(ROWS, RATE)).done == 10


def test_errors_name_what_was_expected():
    plan = split_plan()
    inputs, rng = data(plan)
    target = targets_for(MSE, 3, rng)
    trainer = Trainer(plan, Recipe((MSE,), ADAM), "float64")
    rates = np.full(ROWS, RATE)

    def run(inputs=inputs, target=target, weight=None, order=None, batch=16, rates=rates, **options):
        return trainer.run(inputs, [target], [weight], order, batch, rates, **options)

    for message, error, options in [
        (
            r"inputs\[0\]: expected shape \(50, 7\). Received: shape \(50, 6\)",
            ValueError,
            {"inputs": [inputs[0][:, :6].copy()]},
        ),
        ("expected a C-contiguous array of float64", TypeError, {"inputs": [inputs[0].astype("f")]}),
        ("expected a C-contiguous array of float64", TypeError, {"inputs": [np.asfortranarray(inputs[0])]}),
        (r"inputs: expected 1. Received: 2", ValueError, {"inputs": inputs * 2}),
        (r"targets\[0\]: expected shape \(50, 3\)", ValueError, {"target": target[:49]}),
        (r"weights\[0\]: expected shape \(50\)", ValueError, {"weight": np.ones(7)}),
        (r"order: expected samples in \[0, 50\). Received: 50 in row 1", ValueError, {"order": np.array([0, 50])}),
        (r"order: expected samples in \[0, 50\). Received: -1 in row 0", ValueError, {"order": np.array([-1])}),
        (r"rates: expected one for each of 4 steps. Received: 3", ValueError, {"rates": rates[:3]}),
        ("batch: expected at least 1. Received: 0", ValueError, {"batch": 0}),
        (
            r"outputs\[0\]: expected 50 rows from row 1 on. Received: 50",
            ValueError,
            {"outputs": [np.empty((50, 3))], "first_row": 1},
        ),
    ]:
        with pytest.raises(error, match=message):
            run(**options)
    assert trainer.iterations == 0
    with pytest.raises(ValueError, match=r"params\[0\]: expected shape \(7, 8\)"):
        trainer.set_params([np.zeros(1), *random_params(plan)[1:]])
    with pytest.raises(ValueError, match="slots: expected one that the optimizer has. Received: accumulators"):
        trainer.set_slots({"accumulators": []})
    with pytest.raises(ValueError, match="scalars: expected one of"):
        trainer.set_scalars({"u_product": 1.0})
    assert run(order=np.empty(0, np.int64)).done == 0


@pytest.mark.parametrize(
    ("message", "recipe"),
    [
        ("expected a loss that is built. Received: cosine_similarity", Recipe((Loss("cosine_similarity", 0),))),
        ("expected a loss that is built. Received: huber_logits", Recipe((Loss("huber", 0, from_logits=True),))),
        ("expected an optimizer that is built. Received: ftrl", Recipe((MSE,), Optimizer("ftrl"))),
        ("losses: output: expected an index below 1. Received: 1", Recipe((Loss("huber", 1),))),
        ("reduction: expected", Recipe((Loss("huber", 0, reduction="none"),))),
        ("trainable: expected 8. Received: 1", Recipe((MSE,), ADAM, trainable=(True,))),
        (r"dropouts: expected a rate in \[0, 1\)", Recipe((MSE,), ADAM, dropouts=(Dropout(0, 1.0, 0),))),
        ("metrics: expected targets", Recipe((MSE,), metrics=(Metric("sparse_categorical_accuracy", 0),))),
        ("metrics: expected a loss with the same output", Recipe((), metrics=(Metric("huber", 0),))),
    ],
)
def test_recipes_that_do_not_fit(message, recipe):
    with pytest.raises(ValueError, match=message):
        Trainer(split_plan(), recipe)
    with pytest.raises(ValueError, match="dtype: expected 'float32' or 'float64'. Received: 'float16'"):
        Trainer(split_plan(), Recipe((MSE,)), "float16")


def test_state_goes_from_one_trainer_to_another():
    plan = split_plan()
    inputs, rng = data(plan)
    target = targets_for(MSE, 3, rng)
    recipe = Recipe((MSE,), Optimizer("nadam", use_ema=True, gradient_accumulation_steps=2))
    first, second = Trainer(plan, recipe, "float64"), Trainer(plan, recipe, "float64")
    first.set_params(random_params(plan))

    def run(trainer, rows):
        trainer.run([x[rows] for x in inputs], [target[rows]], [None], None, 5, np.full(9, RATE))

    run(first, slice(0, 25))
    second.set_params(first.params)
    second.set_slots(first.slots)
    second.set_scalars(first.scalars)
    second.iterations = first.iterations
    for trainer in (first, second):
        run(trainer, slice(25, 50))
    assert second.iterations == 10
    for a, b in zip(first.params, second.params, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_weighted_float32_run_is_near_the_float64_one():
    plan = split_plan(inputs=30, units=48, outputs=4)
    single, double = (trained(plan, Recipe((MSE,), ADAM), dtype) for dtype in ("float32", "float64"))
    for a, b in zip(single, double, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4)
