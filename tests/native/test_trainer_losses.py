"""Losses of native training steps against Keras' own in float64, and their gradients numerically."""

from __future__ import annotations

import numpy as np
import pytest

from fusedsplit.native import library
from fusedsplit.native.recipe import Loss, Optimizer, Recipe

if library.core_problem() is not None:
    pytest.skip(f"the core is not usable: {library.core_problem()}", allow_module_level=True)

from fusedsplit.native.trainer import Trainer
from fusedsplit.plan import Activation, PlanBuilder
from tests.native.plain_trainer import logits_plan, random_params, split_plan
from tests.native.side_by_side import ROWS, both, data, targets_for

pytestmark = pytest.mark.usefixtures("float64")
ADAM = Optimizer("adam")

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


@pytest.mark.parametrize("name", ["mean_squared_error", "binary_crossentropy", "categorical_crossentropy", "huber"])
def test_nan_goes_where_it_goes_in_keras(name):
    plan = split_plan()
    inputs, rng = data(plan)
    loss = Loss(name, 0)
    inputs[0][5, 2] = np.nan
    trainer = Trainer(plan, Recipe((loss,)), "float64")
    trainer.set_params(random_params(plan))
    steps = trainer.run(inputs, [targets_for(loss, 3, rng)], [None], None, 5, None)
    assert np.isnan(steps.losses[:, 0]).tolist() == [k == 1 for k in range(10)]


@pytest.mark.parametrize("loss", LOSSES + [loss for loss, _ in OF_PROBABILITIES], ids=loss_id)
def test_gradients_of_losses_numerically(loss):
    """One param that is the prediction itself: a step of SGD gives its gradient."""
    width = 3
    b = PlanBuilder()
    x, y = b.input(width), b.output(width)
    b.merge("mul", ((x, 1.0),), y, gain=b.param((width,)))
    plan = b.plan()
    rng = np.random.default_rng(5)
    target = targets_for(loss, width, rng, 1)
    p = rng.uniform(0.2, 0.8, width)
    trainer = Trainer(plan, Recipe((loss,), Optimizer("sgd")), "float64")

    def run(params, rate):
        trainer.set_params([params])
        return trainer.run([np.ones((1, width))], [target], [None], None, 1, np.array([rate])).losses[0, 0]

    run(p, 1.0)
    got = p - trainer.params[0]
    step = 1e-6
    want = [(run(p + d, 0.0) - run(p - d, 0.0)) / (2 * step) for d in np.eye(width) * step]
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-8)
