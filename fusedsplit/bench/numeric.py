"""A case computed in float64 by NumPy, and whether a contestant's result agrees with it.

It shares no code with any contestant: neither Keras nor a plan appears here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fusedsplit.bench.cases import Case

# A pre-activation nearer to zero than this share of its own terms' magnitude may fall on either side of
# relu's kink in float32: sums of ten terms err by some 1e-7 of it, longer ones by less.
_KINK = 5e-7
# A contestant may err by four times what the Lambda program errs: enough for another order of summation, far
# too little for a wrong program. The floor, four units in the last place of the terms, is for cells where it
# is exact.
RATIO = 4.0
_FLOOR = 2.0**-22


class Result(NamedTuple):
    """The output, and the gradient of every weight in weight order."""

    output: np.ndarray
    gradients: list[np.ndarray]


class Truth(NamedTuple):
    """The exact result, the magnitude of the terms that each number sums, and the upstream gradient used."""

    exact: Result
    magnitude: Result
    upstream: np.ndarray


def _activate(name: str, z: np.ndarray) -> np.ndarray:
    if name == "relu":
        return np.maximum(z, 0)
    if name == "sigmoid":
        return 1 / (1 + np.exp(-z))
    return np.tanh(z) if name == "tanh" else z


def _derivative(name: str, z: np.ndarray) -> np.ndarray:
    if name == "relu":
        return z > 0
    if name == "sigmoid":
        y = _activate(name, z)
        return y * (1 - y)
    return 1 - np.tanh(z) ** 2 if name == "tanh" else np.ones_like(z)


class _Tape:
    """Dense layers applied one by one, with what the way back needs."""

    def __init__(self, case: Case, weights: Sequence[np.ndarray], magnitude: bool):
        self.case = case
        self.shapes = case.dense_shapes()
        self.weights = [np.abs(w) if magnitude else w for w in (np.asarray(w, "float64") for w in weights)]
        self.magnitude = magnitude
        self.saved: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def activation(self, i: int) -> str:
        # Every activation here is at most its argument in size, and its derivative at most 1.
        return "linear" if self.magnitude else self.shapes[i].activation

    def dense(self, i: int, x: np.ndarray) -> np.ndarray:
        z = x @ self.weights[2 * i] + self.weights[2 * i + 1]
        self.saved[i] = (x, z)
        return _activate(self.activation(i), z)

    def forward(self, x: np.ndarray) -> np.ndarray:
        h = self.dense(0, np.abs(x) if self.magnitude else x)
        i, start, outputs = 1, 0, []
        for branch in self.case.branches:
            part = h[:, start : start + branch.width]
            for _ in branch.units:
                part = self.dense(i, part)
                i += 1
            outputs.append(part)
            start += branch.width
        y = np.concatenate(outputs, axis=1)
        return y if self.case.head is None else self.dense(i, y)

    def back(self, i: int, dy: np.ndarray, gradients: list[np.ndarray]) -> np.ndarray:
        x, z = self.saved[i]
        dz = dy * _derivative(self.activation(i), z)
        gradients[2 * i] = x.T @ dz
        gradients[2 * i + 1] = dz.sum(axis=0)
        return dz @ self.weights[2 * i].T if i else dz

    def backward(self, dy: np.ndarray) -> list[np.ndarray]:
        dy = np.abs(dy) if self.magnitude else dy
        gradients: list[np.ndarray] = [np.empty(0)] * len(self.weights)
        if self.case.head is not None:
            dy = self.back(len(self.shapes) - 1, dy, gradients)
        i, start, parts = 1, 0, []
        for branch in self.case.branches:
            part = dy[:, start : start + branch.out]
            for j in reversed(range(i, i + len(branch.units))):
                part = self.back(j, part, gradients)
            i += len(branch.units)
            start += branch.out
            parts.append(part)
        self.back(0, np.concatenate(parts, axis=1), gradients)
        return gradients

    def near_kink(self, terms: _Tape) -> np.ndarray:
        """For each row, whether some relu's argument is too close to zero for float32 to know its side."""
        near = np.zeros(len(self.saved[0][0]), bool)
        for i, (_, z) in self.saved.items():
            if self.shapes[i].activation == "relu":
                near |= np.any(np.abs(z) < _KINK * terms.saved[i][1], axis=1)
        return near


def solve(case: Case, weights: Sequence[np.ndarray], x: np.ndarray, dy: np.ndarray) -> Truth:
    """The case in float64.

    Rows in which a relu stands at its kink get no upstream gradient: there, two right float32 programs may
    differ by a whole row's gradient, and no tolerance tells that from a mistake.
    """
    exact, terms = _Tape(case, weights, False), _Tape(case, weights, True)
    output, magnitude = exact.forward(np.asarray(x, "float64")), terms.forward(np.asarray(x, "float64"))
    dy = np.where(exact.near_kink(terms)[:, None], np.zeros_like(dy), dy)
    return Truth(
        Result(output, exact.backward(dy.astype("float64"))),
        Result(magnitude, terms.backward(dy.astype("float64"))),
        dy,
    )


def relative_errors(truth: Truth, result: Result) -> np.ndarray:
    """For the output and each gradient: the largest error, as a share of the largest sum of magnitudes."""
    exact = [truth.exact.output, *truth.exact.gradients]
    magnitude = [truth.magnitude.output, *truth.magnitude.gradients]
    received = [result.output, *result.gradients]
    errors = np.empty(len(received))
    for i, (want, scale, got) in enumerate(zip(exact, magnitude, received)):
        if np.shape(got) != want.shape:
            raise ValueError(f"result {i}: expected shape {want.shape}. Received: {np.shape(got)}")
        error = float(np.max(np.abs(np.asarray(got, "float64") - want), initial=0.0))
        errors[i] = error / max(float(np.max(scale, initial=0.0)), float(np.finfo("float32").tiny))
    return errors


def disagreement(errors: np.ndarray, baseline: np.ndarray) -> str:
    """Why `errors` are not those of the same program as `baseline`'s; empty when they are."""
    allowed = np.maximum(RATIO * baseline, _FLOOR)
    bad = ~(errors <= allowed)  # NaN is bad, too.
    if not bad.any():
        return ""
    i = int(np.argmax(np.where(bad, errors / allowed, -np.inf)))
    what = "output" if i == 0 else f"gradient of weight {i - 1}"
    return f"{what}: expected a relative error of at most {allowed[i]:.2g}. Received: {errors[i]:.2g}"
