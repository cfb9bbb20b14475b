"""Every private name of Keras that fused models need, in one place, as Keras 3.5 to 3.15 have them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras


def nodes_in_order(model: Any) -> Iterator[Any]:
    """The calls of a functional model in the order in which it runs them."""
    for depth in sorted(model._nodes_by_depth, reverse=True):
        yield from model._nodes_by_depth[depth]


def functional_of(model: Any) -> Any | None:
    """The functional model that a model is, or, being Sequential, keeps; None where there is none."""
    if isinstance(model, keras.Sequential):
        return model._functional
    return model if hasattr(model, "_nodes_by_depth") and hasattr(model, "_inputs_struct") else None


def is_plain(model: Any) -> bool:
    """Whether a model runs its graph and nothing else: functional or Sequential, and no subclass of the user's."""
    kind = type(model)
    module = kind.__module__
    return kind.__name__ in ("Functional", "Sequential", "FusedModel") and module.startswith(("keras.", "fusedsplit."))


def inlined(node: Any) -> Any | None:
    """The functional model that a call of a nested model runs, where nothing but its graph matters; else None."""
    operation = node.operation
    if not isinstance(operation, keras.Model) or not is_plain(operation):
        return None
    functional = functional_of(operation)
    kwargs = {k: v for k, v in node.arguments.kwargs.items() if not (k == "training" and v is False)}
    if functional is None or any(v is not None for v in kwargs.values()):
        return None
    given = keras.tree.flatten(node.arguments.args)
    if len(node.arguments.args) != 1 or len(given) != len(functional.inputs):
        return None
    try:
        keras.tree.assert_same_structure(node.arguments.args[0], functional._inputs_struct)
    except (TypeError, ValueError):
        if len(given) != 1:
            return None
    for x, ref in zip(given, functional.inputs):
        if not isinstance(x, keras.KerasTensor) or len(x.shape) != len(ref.shape) or x.dtype != ref.dtype:
            return None
    return functional


def same_graph(model: Any) -> tuple[Any, Any]:
    """The structures of symbolic inputs and outputs that a model was made of."""
    functional = functional_of(model)
    assert functional is not None, model
    return functional._inputs_struct, functional._outputs_struct


def with_training(operation: Any, training: bool | None) -> Any:
    """An operation as a functional model calls it: with `training`, if it takes that and it is given."""
    takes = getattr(operation, "_call_has_training_arg", False)
    if training is None or not takes:
        return operation
    return lambda *args, **kwargs: operation(*args, **{**kwargs, "training": training})


_OVERRIDES = (
    "call",
    "train_step",
    "test_step",
    "predict_step",
    "compute_loss",
    "compute_metrics",
    "fit",
    "compile",
)


def check_readable(model: Any) -> None:
    """Raises unless the graph of `model` says all that it computes.

    Raises:
        TypeError: if it is no model of Keras 3.
        ValueError: if it is subclassed, not built, or has state outside its graph.
    """
    if not isinstance(model, keras.Model):
        other = type(model).__module__.split(".")[0]
        hint = " (a model of tf_keras: build it with Keras 3)" if other == "tf_keras" else ""
        raise TypeError(f"`model`: expected a keras.Model. Received: {model!r}{hint}")
    name = f"{type(model).__name__} {model.name!r}"
    if isinstance(model, keras.Sequential) and model._functional is None:
        raise ValueError(
            f"`model`: expected a Sequential whose input shape is known; start it with keras.Input, or call "
            f"model.build(shape). Received: {name}, not built"
        )
    functional = functional_of(model)
    if functional is None:
        raise ValueError(
            f"`model`: expected a functional or Sequential model, whose graph can be read. Received: {name}, a "
            "subclass that may compute anything; fuse the functional models inside it, or build it with "
            "keras.Model(inputs, outputs)"
        )
    overridden = [m for m in _OVERRIDES if not is_plain(model) and _defines(type(model), m)]
    if overridden:
        raise ValueError(
            f"`model`: expected a model that runs as Keras runs it. Received: {name}, which overrides "
            f"{', '.join(overridden)}; fuse a plain keras.Model(model.inputs, model.outputs)"
        )
    inside = {id(layer) for layer in functional.layers}
    outside = [layer.name for layer in model._layers if id(layer) not in inside and layer is not functional]
    own = [variable.name for variable in (*model._trainable_variables, *model._non_trainable_variables)]
    if outside or own:
        raise ValueError(
            f"`model`: expected all layers and weights within its graph. Received: {name}, with "
            f"{', '.join([*outside, *own])} outside of it"
        )


def _defines(cls: type, method: str) -> bool:
    """Whether a class of the user's, in front of Keras' own, defines a method."""
    for base in cls.__mro__:
        if base.__module__.startswith(("keras.", "fusedsplit.")):
            return False
        if method in vars(base):
            return True
    return False


def strategy_scope(model: Any) -> Any:
    """Within it a model is of the same tf.distribute strategy."""
    return model.distribute_strategy.scope()


def carry_over(model: Any, other: Any) -> None:
    """Gives another model over the same graph what does not come along with it: flags, policy, how it is compiled."""
    # Not by the property, which would set it for every layer.
    other._trainable = model._trainable
    other._dtype_policy = model._dtype_policy
    if model.compiled and model._compile_config is not None:
        # compile_from_config would make a new optimizer.
        other.compile(**{**model._compile_config.config, "optimizer": model.optimizer})


def untracked(model: Any, name: str, make: Any) -> Any:
    """An attribute that Keras does not look into."""
    attributes = vars(model)
    if name not in attributes:
        attributes[name] = make()
    return attributes[name]
