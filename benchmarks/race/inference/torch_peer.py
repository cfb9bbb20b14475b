"""PyTorch, eager and compiled, in inference mode. (Its MKL runs at less than full speed on AMD's CPUs.)"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from fusedsplit.plan import Activation
from race.inference import plans
from race.inference.peer import Bound, Peer, on_rows

_BINARY = {"add": torch.add, "mul": torch.mul, "max": torch.maximum, "min": torch.minimum}


class Vocabulary(plans.Vocabulary):
    def param(self, array: np.ndarray) -> Any:
        """Kernels as `F.linear` wants them: (out, in)."""
        return torch.from_numpy(np.ascontiguousarray(array.T))

    def dense(self, x: Any, kernel: Any, bias: Any, activation: Activation) -> Any:
        y = F.linear(x, kernel, bias)
        return y.relu_() if activation.name == "relu" else self.activate(activation, y)

    def combine(self, op: str, a: Any, b: Any) -> Any:
        return _BINARY[op](a, b)

    def split(self, x: Any, sizes: Sequence[int]) -> Sequence[Any]:
        return torch.split(x, list(sizes), dim=1)

    def columns(self, x: Any, start: int, stop: int) -> Any:
        return x[:, start:stop]

    def concat(self, parts: Sequence[Any]) -> Any:
        return torch.cat(list(parts), dim=1)

    def row(self, op: str, x: Any, epsilon: float) -> Any:
        if op == "softmax":
            return torch.softmax(x, dim=1)
        if op == "normalize":
            return F.layer_norm(x, (x.shape[1],), eps=epsilon)
        return x.mean(dim=1, keepdim=True) if op == "mean" else x.amax(dim=1, keepdim=True)

    def relu(self, x: Any) -> Any:
        return torch.relu(x)

    def sigmoid(self, x: Any) -> Any:
        return torch.sigmoid(x)

    def tanh(self, x: Any) -> Any:
        return torch.tanh(x)

    def silu(self, x: Any) -> Any:
        return F.silu(x)

    def elu(self, x: Any, alpha: float) -> Any:
        return F.elu(x, alpha)


class Torch(Peer):
    """Eager calls."""

    def configure(self, threads: int) -> None:
        super().configure(threads)
        torch.set_num_threads(threads)
        torch.set_num_interop_threads(1)

    def program(self) -> Any:
        v = Vocabulary()
        params = [v.param(p) for p in self.subject.params]
        subject = self.subject
        return lambda *rows: subject.compute(v, rows, params)

    def bind(self, inputs: Sequence[np.ndarray]) -> dict[str, Bound]:
        return {"torch": _bound(self.program(), inputs)}


class TorchCompiled(Torch):
    """By TorchInductor, anew for each batch, which may take long."""

    def bind(self, inputs: Sequence[np.ndarray]) -> dict[str, Bound]:
        torch.compiler.reset()
        return {"torch-compiled": _bound(torch.compile(self.program(), dynamic=False), inputs)}


def _bound(program: Any, inputs: Sequence[np.ndarray]) -> Bound:
    rows = [torch.from_numpy(x) for x in on_rows(inputs)]

    def call() -> Any:
        with torch.inference_mode():
            return program(*rows)

    return Bound(call, lambda ys: [y.numpy() for y in ys])
