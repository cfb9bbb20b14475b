"""The config of sub-layers, merges and functions, and what is made from it again."""

from __future__ import annotations

from typing import Any

import keras
from keras.layers import Layer

from fusedsplit.layers import merges
from fusedsplit.layers.merges import NamedMerge
from fusedsplit.layers.sublayers import check_serializable, is_fused


def serialize(layer: Layer) -> dict[str, Any]:
    if not is_fused(layer):
        check_serializable(layer)
    serialized: dict[str, Any] = keras.saving.serialize_keras_object(layer)
    # The layer builds its sub-layers itself; a sub-layer that is rebuilt first would add state to a locked one.
    serialized.pop("build_config", None)
    return serialized


def deserialize(serialized: dict[str, Any]) -> Layer:
    config = dict(serialized["config"])
    if isinstance(config.get("activation"), dict):
        # Keras up to 3.5 cannot read an activation that is a layer back by itself.
        config["activation"] = keras.saving.deserialize_keras_object(config["activation"])
    return keras.saving.deserialize_keras_object({**serialized, "config": config})


def serialize_merge(merge: Any) -> Any:
    if merge is None:
        return None
    if isinstance(merge, merges.Concat):
        return "concat"
    if isinstance(merge, merges.Elementwise):
        return merge.name
    if isinstance(merge, NamedMerge):
        return merge.get_config()
    return serialize_function("merge", merge)


def serialize_function(what: str, function: Any) -> Any:
    """The config of a function that can be loaded again.

    Raises:
        ValueError: if it is not registered with Keras.
    """
    if not isinstance(function, Layer):
        registered = keras.saving.get_registered_object(keras.saving.get_registered_name(function))
        if registered is not function:
            raise ValueError(
                f"`{what}`: expected a function registered with @keras.saving.register_keras_serializable(), so that "
                f"it can be loaded. Received: {what}={function!r}"
            )
    return keras.saving.serialize_keras_object(function)
