"""NumPy: products by its BLAS, everything else an operation at a time, in place where that is possible."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fusedsplit.plan import Activation
from race.inference import plans
from race.inference.peer import Bound, Peer, on_rows

_BINARY = {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}


class Vocabulary(plans.Vocabulary):
    """In float32, or in whatever the params are."""

    def param(self, array: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(array)

    def dense(self, x: Any, kernel: Any, bias: Any, activation: Activation) -> Any:
        y = x @ kernel
        if bias is not None:
            y += bias
        if activation.name == "relu":
            return np.maximum(y, 0, out=y)
        return self.activate(activation, y)

    def combine(self, op: str, a: Any, b: Any) -> Any:
        return _BINARY[op](a, a.dtype.type(b) if isinstance(b, float) else b)

    def split(self, x: Any, sizes: Sequence[int]) -> Sequence[Any]:
        ends = np.cumsum(sizes)
        return [x[:, end - size : end] for end, size in zip(ends, sizes)]

    def columns(self, x: Any, start: int, stop: int) -> Any:
        return x[:, start:stop]

    def concat(self, parts: Sequence[Any]) -> Any:
        return np.concatenate(parts, axis=1)

    def row(self, op: str, x: Any, epsilon: float) -> Any:
        if op == "softmax":
            e = np.exp(x - x.max(axis=1, keepdims=True))
            return e / e.sum(axis=1, keepdims=True)
        if op != "normalize":
            return getattr(x, op)(axis=1, keepdims=True)
        centred = x - x.mean(axis=1, keepdims=True)
        return centred / np.sqrt(np.mean(centred * centred, axis=1, keepdims=True) + epsilon)

    def relu(self, x: Any) -> Any:
        return np.maximum(x, 0)

    def sigmoid(self, x: Any) -> Any:
        return 1 / (1 + np.exp(-x))

    def tanh(self, x: Any) -> Any:
        return np.tanh(x)

    def silu(self, x: Any) -> Any:
        return x / (1 + np.exp(-x))

    def elu(self, x: Any, alpha: float) -> Any:
        return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


class NumPy(Peer):
    """As few lines as a user would write."""

    def configure(self, threads: int) -> None:
        super().configure(threads)
        try:
            from threadpoolctl import threadpool_limits
        except ImportError:
            return  # The BLAS then uses every CPU that this process may use.
        self._limits = threadpool_limits(threads)

    def bind(self, inputs: Sequence[np.ndarray]) -> dict[str, Bound]:
        v = Vocabulary()
        params = [v.param(p) for p in self.subject.params]
        rows = on_rows(inputs)
        return {"numpy": Bound(lambda: self.subject.compute(v, rows, params), list)}
