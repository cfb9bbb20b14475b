"""A plan trained in NumPy, with Keras' own losses and optimizers in float64: what the native trainer must equal."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf

from fusedsplit.native.recipe import Loss, Optimizer, Recipe, Regularizer
from fusedsplit.plan import LINEAR, Activation, Plan, PlanBuilder, Range
from tests.csrc.numpy_plan import Run

# Exact in float32, in which Keras keeps a learning rate.
RATE = 2.0**-8
RELU = Activation("relu")


def split_plan(inputs: int = 7, units: int = 8, outputs: int = 3, last: Activation = LINEAR, heads: int = 1) -> Plan:
    """Dense(units), its halves each through a Dense of its own, and heads, if any, on what they give."""
    b = PlanBuilder()
    x, stem = b.input(inputs), b.hidden(units)
    joined = b.hidden(units + 2) if heads else b.output(units + 2)
    half = units // 2
    b.dense(x, b.param((inputs, units)), b.param((units,)), Activation("tanh"), stem)
    parts = [(Range(stem.value, 0, half), 0, half), (Range(stem.value, half, units), half, units + 2)]
    for src, start, stop in parts:
        kernel, bias = b.param((src.width, stop - start)), b.param((stop - start,))
        b.dense(src, kernel, bias, RELU, Range(joined.value, start, stop))
    for _ in range(heads):
        b.dense(joined, b.param((units + 2, outputs)), b.param((outputs,)), last, b.output(outputs))
    return b.plan()


def logits_plan(last: str, outputs: int = 3) -> Plan:
    """A classifier that gives probabilities, and the logits that they come from."""
    b = PlanBuilder()
    x, hidden, y, logits = b.input(7), b.hidden(9), b.output(outputs), b.output(outputs)
    b.dense(x, b.param((7, 9)), b.param((9,)), RELU, hidden)
    b.dense(hidden, b.param((9, outputs)), b.param((outputs,)), LINEAR, logits)
    b.activate(logits, Activation(last), y)
    return b.plan()


def random_params(plan: Plan, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(p.shape) / np.sqrt(p.shape[0] if len(p.shape) == 2 else 4) for p in plan.params]


def keras_loss(loss: Loss) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """A loss of rows, (targets, predictions or logits) -> (rows,)."""
    function = getattr(keras.losses, loss.name)
    options = {}
    if "crossentropy" in loss.name:
        options["from_logits"] = loss.from_logits or loss.logits is not None
    if loss.label_smoothing:
        options["label_smoothing"] = loss.label_smoothing
    if loss.name == "huber":
        options["delta"] = loss.delta
    return lambda target, y: function(target, y, **options)


def keras_optimizer(optimizer: Optimizer) -> keras.optimizers.Optimizer:
    classes = {"sgd": "SGD", "adam": "Adam", "adamw": "AdamW", "rmsprop": "RMSprop", "adagrad": "Adagrad"}
    classes |= {"nadam": "Nadam", "lion": "Lion"}
    own = {
        "sgd": ("momentum", "nesterov"),
        "adam": ("beta_1", "beta_2", "epsilon", "amsgrad"),
        "adamw": ("beta_1", "beta_2", "epsilon", "amsgrad"),
        "rmsprop": ("rho", "momentum", "epsilon", "centered"),
        "adagrad": ("epsilon",),
        "nadam": ("beta_1", "beta_2", "epsilon"),
        "lion": ("beta_1", "beta_2"),
    }[optimizer.name]
    common = ("clipnorm", "global_clipnorm", "clipvalue", "use_ema", "ema_momentum", "ema_overwrite_frequency")
    options = {name: getattr(optimizer, name) for name in (*own, *common)}
    if optimizer.gradient_accumulation_steps > 1:
        options["gradient_accumulation_steps"] = optimizer.gradient_accumulation_steps
    if optimizer.weight_decay:
        options["weight_decay"] = optimizer.weight_decay
    elif optimizer.name == "adamw":
        options["weight_decay"] = None
    if optimizer.name == "adagrad":
        options["initial_accumulator_value"] = 0.0
    return getattr(keras.optimizers, classes[optimizer.name])(learning_rate=RATE, **options)


class PlainTrainer:
    """As fusedsplit.native.trainer.Trainer, one batch at a time."""

    def __init__(self, plan: Plan, recipe: Recipe, params: Sequence[np.ndarray]):
        self.plan, self.recipe = plan, recipe
        self.variables = [keras.Variable(p, dtype="float64", name=f"p{i}") for i, p in enumerate(params)]
        count = len(plan.params)
        self.trainable = recipe.trainable or (True,) * count
        self.regularizers = recipe.regularizers or (None,) * count
        self.optimizer = None
        if recipe.optimizer is not None:
            self.optimizer = keras_optimizer(recipe.optimizer)
            decayed = recipe.decayed or (True,) * count
            excluded = [v for v, decays in zip(self.variables, decayed) if not decays]
            if excluded:
                self.optimizer.exclude_from_weight_decay(var_list=excluded)
            self.optimizer.build([v for v, trained in zip(self.variables, self.trainable) if trained])

    @property
    def params(self) -> list[np.ndarray]:
        return [np.asarray(v) for v in self.variables]

    def step(self, inputs, targets, weights, points=()):
        """Returns the total loss, each loss, and the outputs."""
        run = Run(self.plan, inputs, self.params, list(points))
        outputs = run.outputs
        grads = [None] * len(outputs)
        losses = []
        for loss, target, weight in zip(self.recipe.losses, targets, weights, strict=True):
            source = loss.output if loss.logits is None else loss.logits
            value, grad = self.loss(loss, outputs[source], target, weight)
            losses.append(value)
            grads[source] = loss.weight * grad + (0 if grads[source] is None else grads[source])
        _, param_grads = run.gradients(grads)
        total = sum(loss.weight * value for loss, value in zip(self.recipe.losses, losses, strict=True))
        pairs = []
        for variable, grad, regularizer, trained in zip(
            self.variables, param_grads, self.regularizers, self.trainable, strict=True
        ):
            if not trained:
                continue
            if regularizer is not None:
                penalty, slope = self.penalty(regularizer, variable)
                total, grad = total + penalty, grad + slope
            pairs.append((tf.constant(grad), variable))
        if self.optimizer is not None:
            self.optimizer.apply_gradients(pairs)
        return total, losses, outputs

    @staticmethod
    def penalty(regularizer: Regularizer, variable: keras.Variable):
        factors = [float(np.float32(factor)) for factor in (regularizer.l1, regularizer.l2)]  # Keras 3.5 does not round
        with tf.GradientTape() as tape:
            value = keras.regularizers.L1L2(*factors)(variable.value)
        return float(value), tape.gradient(value, variable.value).numpy()

    @staticmethod
    def loss(loss: Loss, predictions, target, weight):
        y = tf.constant(predictions)
        with tf.GradientTape() as tape:
            tape.watch(y)
            rows = keras_loss(loss)(tf.constant(target), y)
            if weight is not None:
                rows = rows * weight
            count = len(predictions) if loss.reduction != "sum" else 1
            if loss.reduction == "mean_with_sample_weight" and weight is not None:
                count = np.sum(weight)
            value = tf.reduce_sum(rows) / count
        return float(value), tape.gradient(value, y).numpy()
