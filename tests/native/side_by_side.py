"""A plan trained natively and plainly, and what came of both."""

from __future__ import annotations

import numpy as np

from fusedsplit.native.recipe import Loss
from fusedsplit.native.trainer import Trainer
from tests.native.plain_trainer import RATE, PlainTrainer, random_params

ROWS, BATCH, EPOCHS = 50, 16, 2


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
