"""JAX by hand: Keras' Adam in a jitted step, one call for each step or for a whole epoch."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from race.training.task import BETA_1, BETA_2, EPSILON, RATE, Flights
from race.training.trainee import EPOCH, Trainee


def _loss(weights: Any, x: Any, y: Any) -> Any:
    stem, stem_bias, left, left_bias, right, right_bias, head, head_bias = weights
    a, b = jnp.split(x @ stem + stem_bias, 2, axis=1)
    parts = jax.nn.relu(a @ left + left_bias), jax.nn.relu(b @ right + right_bias)
    return jnp.mean((jnp.concatenate(parts, axis=1) @ head + head_bias - y) ** 2)


def _step(state: Any, batch: Any) -> tuple[Any, Any]:
    """One step of Adam; `state` is (weights, first moments, second moments, steps done)."""
    weights, means, squares, done = state
    loss, gradients = jax.value_and_grad(_loss)(weights, *batch)
    t = done + 1
    rate = RATE * jnp.sqrt(1 - BETA_2**t) / (1 - BETA_1**t)
    means = [m + (g - m) * (1 - BETA_1) for m, g in zip(means, gradients)]
    squares = [v + (g * g - v) * (1 - BETA_2) for v, g in zip(squares, gradients)]
    weights = [w - rate * m / (jnp.sqrt(v) + EPSILON) for w, m, v in zip(weights, means, squares)]
    return (weights, means, squares, t), loss


class _Jax(Trainee):
    """Batches lie on the device, one behind the other, before anything is timed."""

    def flights(self, task: Flights) -> None:
        self.task = task
        x, y = (jnp.asarray(a.reshape(task.steps, task.batch, -1)) for a in task.data())
        self.batches = self.laid_out(x, y)
        self.state = self.initial()
        self.calls, self.units = {EPOCH: self.epoch}, {EPOCH: task.steps}

    def initial(self) -> Any:
        weights = [jnp.asarray(w) for w in self.task.weights()]
        return weights, [jnp.zeros_like(w) for w in weights], [jnp.zeros_like(w) for w in weights], jnp.float32(0)

    def laid_out(self, x: Any, y: Any) -> Any:
        raise NotImplementedError

    def run(self, state: Any, batches: Any) -> Any:
        raise NotImplementedError

    def first(self, steps: int) -> Any:
        raise NotImplementedError

    def epoch(self) -> None:
        self.state = jax.block_until_ready(self.run(self.state, self.batches))

    def train(self, steps: int) -> list[np.ndarray]:
        return [np.asarray(w) for w in self.run(self.initial(), self.first(steps))[0]]


class Scan(_Jax):
    """An epoch in one call."""

    def __init__(self) -> None:
        super().__init__()
        self._epoch = jax.jit(lambda state, batches: jax.lax.scan(_step, state, batches)[0], donate_argnums=0)

    def laid_out(self, x: Any, y: Any) -> Any:
        return x, y

    def first(self, steps: int) -> Any:
        return tuple(a[:steps] for a in self.batches)

    def run(self, state: Any, batches: Any) -> Any:
        return self._epoch(state, batches)


class Step(_Jax):
    """A call for each step."""

    def __init__(self) -> None:
        super().__init__()
        self._one = jax.jit(_step, donate_argnums=0)

    def laid_out(self, x: Any, y: Any) -> Any:
        return list(zip(x, y))

    def first(self, steps: int) -> Any:
        return self.batches[:steps]

    def run(self, state: Any, batches: Any) -> Any:
        for batch in batches:
            state, _ = self._one(state, batch)
        return state
