"""Hands the raw ops arbitrary integers as plans and tensors of any rank and shape, and prints what came back.

A program of its own, so that a crash is seen as one: `python -m tests.backends.op_random_tries SEED TRIES`.
"""

from __future__ import annotations

import collections
import sys

import numpy as np
import tensorflow as tf

from fusedsplit.backends import op
from tests.csrc.numpy_plan import Case, RandomPlan, fill

REFUSALS = (tf.errors.InvalidArgumentError, tf.errors.ResourceExhaustedError)
SPECIAL = [0, 1, -1, 2, 3, 7, 2**16, 2**24, 2**31, 2**32, 2**62, -(2**63), 2**63 - 1]


class Tries:
    def __init__(self, seed: int):
        self.rng = np.random.default_rng(seed)
        self.ops = op._loaded().wrappers
        self.counts: collections.Counter[str] = collections.Counter()
        self.cases = [self.case() for _ in range(200)]
        self.made: dict[int, tf.Tensor] = {}
        lists = ("inputs", "params", "points", "output_grads")
        self.kept = {id(array) for case in self.cases for name in lists for array in getattr(case, name)}

    def chance(self, p: float) -> bool:
        return bool(self.rng.random() < p)

    def integer(self) -> int:
        if self.chance(0.4):
            return int(self.rng.choice(np.array(SPECIAL, np.int64)))
        if self.chance(0.7):
            return int(self.rng.integers(-3, 40))
        return int(self.rng.integers(-(2**63), 2**63 - 1, dtype=np.int64))

    def case(self) -> Case:
        plan = RandomPlan(self.rng, max_width=6).make()
        case = fill(plan, int(self.rng.integers(0, 5)), self.rng)
        return case.cast(self.rng.choice([np.float32, np.float64]))

    def mutated(self, code: list[int]) -> list[int]:
        code = list(code)
        for _ in range(self.rng.integers(1, 4)):
            at = int(self.rng.integers(0, len(code)))
            kind = self.rng.integers(4)
            if kind == 0:
                del code[at:]
            elif kind == 1:
                code.insert(at, self.integer())
            else:
                code[at] = self.integer()
            code = code or [1]
        return code

    def packed(self, code: list[int]) -> bytes:
        data = op.pack_plan(code)
        return data[: int(self.rng.integers(0, len(data) + 1))] if self.chance(0.02) else data

    def strange(self, array: np.ndarray) -> np.ndarray:
        """Another rank or shape, or now and then another type."""
        kind = self.rng.integers(4)
        if kind == 0:
            return array.reshape((1,) * int(self.rng.integers(1, 4)) + array.shape)
        if kind == 1 and array.ndim:
            return array[..., : max(0, array.shape[-1] - 1)]
        if kind == 2:
            return array.reshape(-1) if array.size != 1 else array.reshape(())
        shape = tuple(int(d) for d in self.rng.integers(0, 4, self.rng.integers(0, 6)))
        return np.ones(shape, array.dtype)

    def tensors(self, arrays: list[np.ndarray], p: float) -> list[tf.Tensor]:
        arrays = [self.strange(a) if self.chance(p) else a for a in arrays]
        if arrays and self.chance(p / 4):
            arrays = arrays[:-1] if self.chance(0.5) else [*arrays, arrays[-1]]
        return [self.tensor(a) for a in arrays]

    def tensor(self, array: np.ndarray) -> tf.Tensor:
        """Of an array of a case, made once; of any other, made now."""
        key = id(array)
        if key not in self.kept:
            return tf.constant(array)
        if key not in self.made:
            self.made[key] = tf.constant(array)
        return self.made[key]

    def once(self) -> None:
        case = self.cases[self.rng.integers(len(self.cases))]
        code = case.plan.encode()
        kind = self.rng.integers(3)
        if kind == 0:
            code = [self.integer() for _ in range(self.rng.integers(0, 60))]
        elif kind == 1:
            code = self.mutated(code)
        p = 0.05 if kind == 2 else 0.01
        n_outputs = len(case.output_grads) if self.chance(0.97) else int(self.rng.integers(1, 4))
        inputs = self.tensors(case.inputs, p)
        params = self.tensors(case.params, p)
        points = self.tensors(case.points, p)
        forward = {"inputs": inputs, "params": params, "points": points, "plan": self.packed(code)}
        if self.chance(0.2):
            self.ops.fusedsplit_infer(sources=[*inputs, *params], plan=forward["plan"])
            return
        if self.chance(0.5):
            save = self.chance(0.5)
            self.ops.fusedsplit_forward(n_outputs=n_outputs, save=save, **forward)
            return
        size = int(self.rng.integers(0, 5000)) if self.chance(0.2) else 0
        wanted = [int(self.rng.integers(0, 2)) for _ in range(len(case.inputs) + len(case.params))]
        if self.chance(0.05):
            wanted = [self.integer() for _ in range(self.rng.integers(0, 8))]
        self.ops.fusedsplit_backward(
            outputs=self.tensors(case.output_grads, p),
            saved=tf.zeros([size] if self.chance(0.95) else [1, size], tf.uint8),
            output_grads=self.tensors(case.output_grads, p),
            wanted=wanted,
            **forward,
        )

    def run(self, tries: int) -> None:
        for _ in range(tries):
            try:
                self.once()
                self.counts["ran"] += 1
            except REFUSALS as error:
                self.counts["refused"] += 1
                assert error.message
            except (TypeError, ValueError):
                # Refused by TensorFlow's own argument checks (lists of different lengths or types).
                self.counts["refused by TensorFlow"] += 1


def main() -> None:
    seed, tries = (int(a) for a in sys.argv[1:])
    run = Tries(seed)
    run.run(tries)
    print(dict(run.counts))


if __name__ == "__main__":
    main()
