"""What is trained, and its data as files: no framework here."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

RATE, BETA_1, BETA_2, EPSILON = 1e-3, 0.9, 0.999, 1e-7  # Keras' Adam


@dataclasses.dataclass(frozen=True)
class Flights:
    """F(U): `Dense(U)` -> two halves -> `Dense(U/2, relu)`, `Dense(3U/4, relu)` -> concat -> `Dense(1)`; mse, Adam.

    Attributes:
        units: U.
        batch: rows of a step; an incomplete last batch is left out.
        folder: where the arrays lie.
        rows: how many are trained on.
    """

    units: int
    batch: int
    folder: Path
    rows: int

    @property
    def name(self) -> str:
        return f"F({self.units})"

    @property
    def steps(self) -> int:
        return self.rows // self.batch

    def data(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows and targets of the steps, in memory."""
        rows = self.steps * self.batch
        return np.load(self.folder / "x.npy")[:rows], np.load(self.folder / "y.npy")[:rows]

    def test(self) -> tuple[np.ndarray, np.ndarray]:
        return np.load(self.folder / "x_test.npy"), np.load(self.folder / "y_test.npy")

    def weights(self) -> list[np.ndarray]:
        """Kernel, bias, kernel, bias …: stem, left, right, head; kernels as Glorot draws them."""
        half, right = self.units // 2, 3 * self.units // 4
        inputs = np.load(self.folder / "x_test.npy", mmap_mode="r").shape[1]
        rng = np.random.default_rng(self.units)
        made = []
        for shape in ((inputs, self.units), (half, half), (half, right), (half + right, 1)):
            limit = np.sqrt(6 / sum(shape))
            made += [rng.uniform(-limit, limit, shape).astype("float32"), np.zeros(shape[1], "float32")]
        return made

    def loss(self, weights: list[np.ndarray]) -> float:
        """The mean squared error on the test rows, in float64."""
        x, y = self.test()
        stem, stem_bias, left, left_bias, right, right_bias, head, head_bias = (w.astype("float64") for w in weights)
        h = x @ stem + stem_bias
        half = self.units // 2
        parts = np.maximum(h[:, :half] @ left + left_bias, 0), np.maximum(h[:, half:] @ right + right_bias, 0)
        return float(np.mean((np.concatenate(parts, axis=1) @ head + head_bias - y) ** 2))


@dataclasses.dataclass(frozen=True)
class Iris:
    """150 flowers: `Dense(16, relu)`, softmax over three; sparse categorical crossentropy, Adam, batches of 32."""

    name = "iris"
    batch = 32

    def data(self) -> tuple[np.ndarray, np.ndarray]:
        from sklearn.datasets import load_iris

        x, y = load_iris(return_X_y=True)
        order = np.random.default_rng(0).permutation(len(x))
        x = (x - x.mean(axis=0)) / x.std(axis=0)
        return x[order].astype("float32"), y[order].astype("int32")


def write_flights(folder: Path, rows: int | None) -> int:
    """The flights as files; returns how many rows there are to train on, at most `rows`."""
    from fusedsplit.bench import data

    flights = data.flights()
    x, y = flights.x_train[:rows], flights.y_train[:rows]
    for name, array in (("x", x), ("y", y), ("x_test", flights.x_test), ("y_test", flights.y_test)):
        np.save(folder / f"{name}.npy", array)
    return len(x)
