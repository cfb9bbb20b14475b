"""Native training steps against NumPy and Keras' own losses and optimizers in float64."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from fusedsplit.native import library
from fusedsplit.native.recipe import Dropout, Loss, Metric, Optimizer, Recipe, Regularizer

if library.core_problem() is not None:
    pytest.skip(f"the core is not usable: {library.core_problem()}", allow_module_level=True)

from fusedsplit.native.trainer import Trainer
from fusedsplit.plan import Activation, PlanBuilder, Range
from tests.native.plain_trainer import RATE, PlainTrainer, logits_plan, random_params, split_plan

ROWS, BATCH, EPOCHS = 50, 16, 2
ADAM = Optimizer("adam")
MSE = Loss("mean_squared_error", 0)
SIGMOID, SOFTMAX = Activation("sigmoid"), Activation("softmax")


@pytest.fixture(autouse=True)
def float64():
    """Keras' own constants in float64."""
    keras.config.dtype_policy()  # which is kept from its first use on
    before = keras.config.floatx()
    keras.config.set_floatx("float64")
    yield
    keras.config.set_floatx(before)


def data(plan, seed=1, rows=ROWS):
    rng = np.random.default_rng(seed)
    inputs = [rng.standard_normal((rows, plan.values[v].width)) for v in plan.inputs]
    return inputs, rng


def targets_for(loss: Loss, width: int, rng: np.random.Generator, rows=ROWS):
    if loss.name.startswith("sparse"):
        return rng.integers(0, width, rows)
    if loss.name in ("categorical_crossentropy", "categorical_hinge"):
        return np.eye(width)[rng.integers(0, width, rows)]
    if "hinge" in loss.name or loss.name == "binary_crossentropy":
        return rng.integers(0, 2, (rows, width)).astype(float)
    if loss.name in ("kl_divergence", "poisson", "mean_squared_logarithmic_error"):
        return rng.random((rows, width))
    return rng.standard_normal((rows, width))


def both(plan, recipe, inputs, targets, weights, points=(), batch=BATCH, epochs=EPOCHS, tolerance=1e-9):
    """Trains natively and plainly, and compares all that both have."""
    params = random_params(plan)
    native, plain = Trainer(plan, recipe, "float64"), PlainTrainer(plan, recipe, params)
    native.set_params(params)
    rows = len(inputs[0])
    order = np.concatenate([np.random.default_rng(e).permutation(rows) for e in range(epochs)])
    outputs = [np.full((rows, plan.values[v].width), np.nan) for v in plan.outputs]
    for epoch in range(epochs):
        taken = order[epoch * rows : (epoch + 1) * rows].astype(np.int64)
        steps = native.run(inputs, targets, weights, taken, batch, np.full(rows, RATE), points=points, outputs=outputs)
        assert steps.done == -(-rows // batch)
        for k in range(steps.done):
            chosen = taken[k * batch : (k + 1) * batch]
            total, losses, values = plain.step(
                [x[chosen] for x in inputs],
                [t[chosen] for t in targets],
                [None if w is None else w[chosen] for w in weights],
                [p if p.ndim == 0 else p[chosen] for p in points],
            )
            assert steps.rows[k] == len(chosen)
            np.testing.assert_allclose(steps.losses[k], [total, *losses], rtol=tolerance, atol=tolerance)
            for got, want in zip(outputs, values, strict=True):
                np.testing.assert_allclose(
                    got[k * batch : k * batch + len(chosen)], want, rtol=tolerance, atol=tolerance
                )
    for got, want in zip(native.params, plain.params, strict=True):
        np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)
    return native, plain


LOSSES = [
    Loss("mean_squared_error", 0),
    Loss("mean_absolute_error", 0),
    Loss("mean_squared_logarithmic_error", 0),
    Loss("mean_absolute_percentage_error", 0),
    Loss("huber", 0),
    Loss("huber", 0, delta=0.3),
    Loss("log_cosh", 0),
    Loss("hinge", 0),
    Loss("squared_hinge", 0),
    Loss("categorical_hinge", 0),
    Loss("binary_crossentropy", 0, from_logits=True),
    Loss("binary_crossentropy", 0, from_logits=True, label_smoothing=0.1),
    Loss("categorical_crossentropy", 0, from_logits=True, label_smoothing=0.2),
    Loss("sparse_categorical_crossentropy", 0, from_logits=True),
]
OF_PROBABILITIES = [
    (Loss("binary_crossentropy", 0), "sigmoid"),
    (Loss("binary_crossentropy", 0, label_smoothing=0.2), "sigmoid"),
    (Loss("poisson", 0), "softplus"),
    (Loss("kl_divergence", 0), "softmax"),
    (Loss("categorical_crossentropy", 0), "softmax"),
    (Loss("categorical_crossentropy", 0), "sigmoid"),
    (Loss("sparse_categorical_crossentropy", 0), "softmax"),
    (Loss("sparse_categorical_crossentropy", 0), "sigmoid"),
]


def loss_id(loss) -> str:
    if not isinstance(loss, Loss):
        return str(loss)
    options = {k: v for k, v in vars(loss).items() if v != getattr(Loss("", 0), k) and k != "name"}
    return "-".join([loss.name, *(f"{k}={v}" for k, v in options.items())])


@pytest.mark.parametrize("outputs", [1, 3, 70])
@pytest.mark.parametrize("loss", LOSSES, ids=loss_id)
def test_losses_of_linear_outputs(loss, outputs):
    plan = split_plan(outputs=outputs)
    inputs, rng = data(plan)
    both(plan, Recipe((loss,), ADAM), inputs, [targets_for(loss, outputs, rng)], [None])


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("loss", "last"), OF_PROBABILITIES, ids=loss_id)
def test_losses_of_probabilities(loss, last, weighted):
    plan = split_plan(outputs=4, last=Activation(last))
    inputs, rng = data(plan)
    weights = rng.random(ROWS) if weighted else None
    both(plan, Recipe((loss,), ADAM), inputs, [targets_for(loss, 4, rng)], [weights])


@pytest.mark.parametrize(
    ("name", "last"),
    [("binary_crossentropy", "sigmoid"), ("categorical_crossentropy", "softmax")]
    + [("sparse_categorical_crossentropy", "softmax")],
)
def test_a_crossentropy_takes_the_logits_of_a_last_activation(name, last):
    plan = logits_plan(last)
    loss = Loss(name, 0, logits=1)
    inputs, rng = data(plan)
    both(plan, Recipe((loss,), ADAM), inputs, [targets_for(loss, 3, rng)], [rng.random(ROWS)])


@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "mean", "sum", "mean_with_sample_weight"])
@pytest.mark.parametrize("weighted", [False, True])
def test_reductions(reduction, weighted):
    plan = split_plan()
    inputs, rng = data(plan)
    weights = rng.random(ROWS) if weighted else None
    loss = Loss("mean_squared_error", 0, reduction=reduction, weight=0.7)
    both(plan, Recipe((loss,), Optimizer("sgd")), inputs, [targets_for(loss, 3, rng)], [weights])


def test_several_outputs_with_weights_of_their_own():
    plan = split_plan(heads=3)
    inputs, rng = data(plan)
    losses = (Loss("mean_squared_error", 0, weight=0.3), Loss("huber", 2, weight=2.0))
    targets = [targets_for(loss, 3, rng) for loss in losses]
    trainable = (*(True,) * 8, False, False, True, True)
    recipe = Recipe(losses, ADAM, trainable=trainable)
    both(plan, recipe, inputs, targets, [None, rng.random(ROWS)])


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


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda o: f"{o.name}-{o.momentum}-{o.amsgrad}-{o.centered}")
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
