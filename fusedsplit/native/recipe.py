"""How a plan is trained or evaluated, as plain data: what the native trainer makes a step of.

Names and defaults are Keras' own, but nothing here imports it. What a recipe may hold is what is built: a trainer
refuses the rest with a ValueError that says so.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Loss:
    """A loss of one output of the plan: for each row what Keras' function of that name gives.

    Args:
        name: "mean_squared_error", "mean_absolute_error", "mean_squared_logarithmic_error",
            "mean_absolute_percentage_error", "huber", "log_cosh", "poisson", "kl_divergence", "hinge", "squared_hinge",
            "categorical_hinge", "binary_crossentropy", "categorical_crossentropy" or "sparse_categorical_crossentropy".
        output: index of the plan's output that is the predictions.
        logits: index of the plan's output of which `output` is the sigmoid or softmax: a crossentropy is computed from
            it, and its gradient goes there.
        from_logits: whether the predictions themselves are logits.
        label_smoothing: of crossentropies.
        delta: of "huber".
        weight: what the loss counts in the total.
        reduction: "sum_over_batch_size", "mean" (the same), "sum" or "mean_with_sample_weight".
        epsilon: to what crossentropies of probabilities, and logarithms, clip.
    """

    name: str
    output: int
    logits: int | None = None
    from_logits: bool = False
    label_smoothing: float = 0.0
    delta: float = 1.0
    weight: float = 1.0
    reduction: str = "sum_over_batch_size"
    epsilon: float = 1e-7


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """An optimizer and its hyperparameters, by Keras' names; those that are not its own are ignored.

    Args:
        name: "sgd", "adam", "adamw", "rmsprop", "adagrad", "nadam" or "lion".
    """

    name: str
    momentum: float = 0.0
    nesterov: bool = False
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-7
    amsgrad: bool = False
    rho: float = 0.9
    centered: bool = False
    weight_decay: float = 0.0
    clipnorm: float | None = None
    global_clipnorm: float | None = None
    clipvalue: float | None = None
    use_ema: bool = False
    ema_momentum: float = 0.99
    ema_overwrite_frequency: int | None = None
    gradient_accumulation_steps: int = 1


@dataclasses.dataclass(frozen=True)
class Regularizer:
    """`l1 * sum(abs(w)) + l2 * sum(square(w))` of a param that is trained, added to the loss."""

    l1: float = 0.0
    l2: float = 0.0


@dataclasses.dataclass(frozen=True)
class Dropout:
    """An input of the plan that is a mask: 0, or `1 / (1 - rate)`, drawn anew for each row of each step.

    The numbers depend on the seed, the count of steps, the row within the batch and the column, on nothing else.
    """

    input: int
    rate: float
    seed: int


@dataclasses.dataclass(frozen=True)
class Metric:
    """A metric that adds up: of each batch the sum over its rows of value times weight, and of the weights.

    Args:
        name: "binary_accuracy", "categorical_accuracy", "sparse_categorical_accuracy", or a loss by its name.
        output: index of the plan's output that is the predictions; the targets are those of the loss with that output.
        weighted: whether it takes the sample weights.
        threshold: of "binary_accuracy".
        epsilon: as a loss has it.
    """

    name: str
    output: int
    weighted: bool = False
    threshold: float = 0.5
    epsilon: float = 1e-7


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a plan is trained, or without an optimizer evaluated.

    Args:
        losses: at most one for each output.
        optimizer: None evaluates, and changes nothing.
        trainable: for each param of the plan, whether it is trained (empty: all are). A frozen one costs no gradient.
        decayed: for each param, whether weight decay applies (empty: to all).
        regularizers: for each param (empty: none has one).
        dropouts: the inputs of the plan that are drawn.
        metrics: what is summed beside the losses.
    """

    losses: tuple[Loss, ...]
    optimizer: Optimizer | None = None
    trainable: tuple[bool, ...] = ()
    decayed: tuple[bool, ...] = ()
    regularizers: tuple[Regularizer | None, ...] = ()
    dropouts: tuple[Dropout, ...] = ()
    metrics: tuple[Metric, ...] = ()
