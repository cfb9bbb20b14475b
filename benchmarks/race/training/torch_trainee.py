"""PyTorch: the loop that its users write, at its quickest."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from race.training.task import BETA_1, BETA_2, EPSILON, RATE, Flights
from race.training.trainee import EPOCH, Trainee


class TorchLoop(Trainee):
    """Eager, with fused Adam; rows are gathered in a random order."""

    def configure(self, threads: int) -> None:
        super().configure(threads)
        torch.set_num_threads(threads)
        torch.set_num_interop_threads(1)

    def flights(self, task: Flights) -> None:
        self.task = task
        self.x, self.y = (torch.from_numpy(a) for a in task.data())
        self._begin()
        self.calls, self.units = {EPOCH: self._epoch}, {EPOCH: task.steps}

    def _begin(self) -> None:
        arrays = self.task.weights()
        # Kernels as F.linear wants them: (out, in).
        self.weights = [torch.from_numpy(np.ascontiguousarray(a.T)).requires_grad_() for a in arrays]
        self.optimizer = torch.optim.Adam(self.weights, RATE, (BETA_1, BETA_2), EPSILON, fused=True)

    def _step(self, x: Any, y: Any) -> None:
        stem, stem_bias, left, left_bias, right, right_bias, head, head_bias = self.weights
        a, b = F.linear(x, stem, stem_bias).chunk(2, dim=1)
        parts = F.relu(F.linear(a, left, left_bias)), F.relu(F.linear(b, right, right_bias))
        loss = F.mse_loss(F.linear(torch.cat(parts, dim=1), head, head_bias), y)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()

    def _epoch(self) -> None:
        for rows in torch.randperm(len(self.x)).split(self.task.batch):
            self._step(self.x[rows], self.y[rows])

    def train(self, steps: int) -> list[np.ndarray]:
        batch = self.task.batch
        for i in range(steps):
            self._step(self.x[i * batch : (i + 1) * batch], self.y[i * batch : (i + 1) * batch])
        return [np.ascontiguousarray(w.detach().numpy().T) for w in self.weights]
