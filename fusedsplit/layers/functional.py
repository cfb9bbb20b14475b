"""`fs.split_dense`: the functional form of the layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from fusedsplit.backends import dispatch
from fusedsplit.backends.base import Operands
from fusedsplit.layers.computation import SpecComputation, as_rows
from fusedsplit.layers.lower import lower
from fusedsplit.layers.spec import SplitSpec


def split_dense(
    inputs: Any, params: Sequence[Any], spec: SplitSpec, backend: str = "auto", *, points: Sequence[Any] = ()
) -> Any:
    """The functional form: what a layer computes, on plain tensors, with the least overhead.

    Example:

    >>> import numpy as np, fusedsplit as fs
    >>> from keras.layers import Dense
    >>> layer = fs.SplitDense(Dense(8), [Dense(4), Dense(6)])
    >>> x = np.ones((32, 10), "float32")
    >>> y = layer(x)
    >>> bool(np.allclose(fs.split_dense(x, layer.params, layer.spec), y))
    True

    Args:
        inputs: a tensor of shape (..., width), or a list of them where the spec has several inputs.
        params: the weights in the order of `spec.params`; `layer.params`, for one.
        spec: a `SplitSpec`; `layer.spec`, for one.
        backend: as in `SplitDense`.
        points: int32 tensors, scalars or one number for each row, where the spec splits by the data.

    Returns:
        The output tensor, or a list of them where `spec.merge` is None.

    Raises:
        ValueError: if a shape or the number of inputs or params is not what the spec says, or an explicitly chosen
            backend cannot run.
    """
    if not points and dispatch.is_eager_tensor(inputs):
        outputs = _split_dense_eagerly(inputs, params, spec, backend)
        if outputs is not None:
            return outputs if spec.merge is None else outputs[0]
    tensors = [tf.convert_to_tensor(x) for x in (inputs if isinstance(inputs, (list, tuple)) else [inputs])]
    dtype = tensors[0].dtype.name
    weights = [tf.convert_to_tensor(p) for p in params]
    points = [as_rows(tf.cast(point, tf.int32)) for point in points]
    _check_operands(tensors, weights, points, spec)
    computation = SpecComputation(spec, dtype)
    context = dispatch.current_context(dtype, tensors)
    choice = dispatch.choose(dispatch.check_name(backend), computation.plan(), context)
    dispatch.report(choice, "split_dense")
    outputs = dispatch.run(computation, Operands(tensors, weights, points), choice.name)
    return outputs if spec.merge is None else outputs[0]


def _split_dense_eagerly(x: Any, params: Sequence[Any], spec: SplitSpec, backend: str) -> list[Any] | None:
    """The op at once, which checks every shape itself; None where it cannot run or where something does not fit."""
    if not spec.is_one_plan:
        return None
    plan = lower(spec)
    if not dispatch.runs_op_eagerly(backend, plan, x.dtype):
        return None
    try:
        return dispatch.OP.run(plan, [x], params)
    except (tf.errors.InvalidArgumentError, TypeError, ValueError):
        return None


def _check_operands(
    inputs: Sequence[tf.Tensor], params: Sequence[tf.Tensor], points: Sequence[tf.Tensor], spec: SplitSpec
) -> None:
    if len(points) != spec.points:
        raise ValueError(f"`points`: expected {spec.points} tensors. Received: {len(points)}")
    if len(inputs) != len(spec.inputs):
        raise ValueError(f"`inputs`: expected {len(spec.inputs)} tensors. Received: {len(inputs)}")
    if len(params) != len(spec.params):
        raise ValueError(f"`params`: expected {len(spec.params)} tensors. Received: {len(params)}")
    for i, (x, width) in enumerate(zip(inputs, spec.inputs)):
        if x.shape.rank is None or x.shape.rank < 2 or x.shape[-1] != width:
            raise ValueError(f"`inputs[{i}]`: expected shape (..., {width}) of rank 2 or more. Received: {x.shape}")
    for i, (p, shape) in enumerate(zip(params, spec.params)):
        if p.shape != shape:
            raise ValueError(f"`params[{i}]`: expected shape {shape}. Received: {p.shape}")
    dtypes = {x.dtype.name for x in (*inputs, *params)}
    if len(dtypes) > 1:
        raise ValueError(f"expected inputs and params of one dtype. Received: {sorted(dtypes)}")
