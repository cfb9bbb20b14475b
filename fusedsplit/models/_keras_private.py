"""Every private name of Keras that fused models need, in one place, as Keras 3.5 to 3.15 have them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
from keras.src.backend.common import global_state
from keras.src.backend.common.variables import AutocastScope

from fusedsplit.layers._keras_private import is_compiled as is_compiled
from fusedsplit.layers._keras_private import output_names as output_names


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


# What a subclass may define without changing what its graph computes, or how it trains.
_HARMLESS = ("get_config", "from_config", "summary")


def check_readable(model: Any) -> None:
    """Raises unless the graph of `model` says all that it computes.

    Raises:
        TypeError: if it is no model of Keras 3.
        ValueError: if Keras does not run on TensorFlow; if the model is subclassed, not built, or has state outside its
            graph.
    """
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "expected Keras to run on TensorFlow; set KERAS_BACKEND=tensorflow before keras is imported. Received: "
            f"keras.backend.backend() == {keras.backend.backend()!r}"
        )
    if not isinstance(model, keras.Model):
        tf_keras = any(base.__module__.split(".")[0] == "tf_keras" for base in type(model).__mro__)
        hint = " (a model of tf_keras, which is Keras 2: build it with Keras 3)" if tf_keras else ""
        raise TypeError(f"`model`: expected a keras.Model. Received: {model!r}{hint}")
    name = f"{type(model).__name__} {model.name!r}"
    functional = functional_of(model)
    if functional is None and isinstance(model, keras.Sequential):
        raise ValueError(
            f"`model`: expected a Sequential whose input shape is known; start it with keras.Input, or call "
            f"model.build(shape). Received: {name}, not built"
        )
    if functional is None:
        raise ValueError(
            f"`model`: expected a functional or Sequential model, whose graph can be read. Received: {name}, a "
            "subclass, into which nobody can see; fuse the functional models inside it, or build it with "
            "keras.Model(inputs, outputs)"
        )
    replaced = overridden(model)
    if replaced:
        raise ValueError(
            f"`model`: expected a model that runs as Keras runs it. Received: {name}, which overrides "
            f"{', '.join(replaced)}; fuse a plain keras.Model(model.inputs, model.outputs)"
        )
    outside = _outside(model, functional)
    if outside:
        raise ValueError(
            f"`model`: expected all layers, weights and metrics within its graph. Received: {name}, with "
            f"{', '.join(outside)} outside of it"
        )


def overridden(model: Any) -> list[str]:
    """What classes of the user's, in front of Keras' own, define of what Keras' models have."""
    names: list[str] = []
    for base in type(model).__mro__:
        if base.__module__.startswith(("keras.", "fusedsplit.")):
            break
        names += [name for name in vars(base) if name == "__call__" or not name.startswith("_")]
    return sorted({name for name in names if hasattr(keras.Model, name)} - set(_HARMLESS))


def _outside(model: Any, functional: Any) -> list[str]:
    """The names of what a model tracks besides its graph."""
    inside = {id(layer) for layer in (*functional.layers, functional)}
    # Where Keras 3.5 puts a layer that is set on a functional model.
    layers = (*model._layers, *model._tracker.config["layers"][1])
    variables = (*model._trainable_variables, *model._non_trainable_variables)
    extra = (layer for layer in dict.fromkeys(layers) if id(layer) not in inside and not _was_built(model, layer))
    tracked = (*extra, *variables, *model._metrics, *model._seed_generators)
    return [x.name for x in tracked]


def _was_built(model: Any, layer: Any) -> bool:
    """Whether a layer is what a Sequential kept as its graph before it was built anew, as each `add` does: Keras goes
    on tracking it, though nothing has it any more."""
    if not isinstance(model, keras.Sequential) or type(layer).__name__ != "Functional":
        return False
    return layer.inputs[0] is model.inputs[0] and not any(value is layer for value in vars(model).values())


def strategy_scope(model: Any) -> Any:
    """Within it a model is of the same tf.distribute strategy."""
    return model.distribute_strategy.scope()


def carry_over(model: Any, other: Any) -> None:
    """Gives another model over the same graph what does not come along with it: flags, policy, how it is compiled."""
    # Not by the property, which would set it for every layer.
    other._trainable = model._trainable
    other._dtype_policy = model._dtype_policy
    if is_compiled(model):
        # compile_from_config would make a new optimizer. This one scales the loss already, if it is to.
        config = {**compiled_with(model), "optimizer": model.optimizer, "auto_scale_loss": False}
        other.compile(**config)


def made_once(model: Any, key: Any, make: Any) -> Any:
    """What was made for `key` since the model was last compiled, or else is made now; Keras does not look into it."""
    attributes = vars(model)
    config = attributes.get("_compile_config")
    compiled, made = attributes.get("_native_made", (None, None))
    if made is None or compiled is not config:
        made = {}
        attributes["_native_made"] = config, made
    if key not in made:
        made[key] = make()
    return made[key]


def compiled_with(model: Any) -> dict[str, Any]:
    """What a compiled model was given to `compile`."""
    config: dict[str, Any] = model._compile_config.config
    return config


def mask_of(x: Any) -> Any | None:
    """The mask that comes along with a tensor."""
    return getattr(x, "_keras_mask", None)


def set_mask(x: Any, mask: Any) -> None:
    x._keras_mask = mask


def within_a_call() -> bool:
    """Whether a layer is being called, from which what it calls would inherit `training`."""
    return global_state.get_global_attribute("current_call_ctx") is not None


def has_another_input_spec(model: Any) -> bool:
    """Whether a functional model was given one, in the place of that of its inputs."""
    return "_manual_input_spec" in vars(model)


def variables_as_they_are() -> AutocastScope:
    """Within it no variable is cast: otherwise it is to what the layer computes in that is being called."""
    return AutocastScope(None)
