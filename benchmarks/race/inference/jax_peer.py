"""JAX: one jitted function, its weights constants of it, its rows on the device before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fusedsplit.plan import Activation
from race.inference import plans
from race.inference.peer import Bound, Peer, on_rows

_BINARY = {"add": jnp.add, "mul": jnp.multiply, "max": jnp.maximum, "min": jnp.minimum}


class Vocabulary(plans.Vocabulary):
    def param(self, array: np.ndarray) -> Any:
        return jnp.asarray(array)

    def dense(self, x: Any, kernel: Any, bias: Any, activation: Activation) -> Any:
        y = x @ kernel
        return self.activate(activation, y if bias is None else y + bias)

    def combine(self, op: str, a: Any, b: Any) -> Any:
        return _BINARY[op](a, b)

    def split(self, x: Any, sizes: Sequence[int]) -> Sequence[Any]:
        return jnp.split(x, np.cumsum(sizes)[:-1], axis=1)

    def columns(self, x: Any, start: int, stop: int) -> Any:
        return x[:, start:stop]

    def concat(self, parts: Sequence[Any]) -> Any:
        return jnp.concatenate(parts, axis=1)

    def row(self, op: str, x: Any, epsilon: float) -> Any:
        if op == "softmax":
            return jax.nn.softmax(x, axis=1)
        if op == "normalize":
            return jax.nn.standardize(x, axis=1, epsilon=epsilon)
        return getattr(jnp, op)(x, axis=1, keepdims=True)

    def relu(self, x: Any) -> Any:
        return jax.nn.relu(x)

    def sigmoid(self, x: Any) -> Any:
        return jax.nn.sigmoid(x)

    def tanh(self, x: Any) -> Any:
        return jnp.tanh(x)

    def silu(self, x: Any) -> Any:
        return jax.nn.silu(x)

    def elu(self, x: Any, alpha: float) -> Any:
        return jax.nn.elu(x, alpha)


class Jax(Peer):
    """A call that waits for its result."""

    def bind(self, inputs: Sequence[np.ndarray]) -> dict[str, Bound]:
        v = Vocabulary()
        params = [v.param(p) for p in self.subject.params]
        jitted = jax.jit(lambda *rows: self.subject.compute(v, rows, params))
        rows = [jnp.asarray(x) for x in on_rows(inputs)]
        jax.block_until_ready(jitted(*rows))
        return {"jax": Bound(lambda: jax.block_until_ready(jitted(*rows)), list)}
