"""Contestants for the tests of the race itself."""

from __future__ import annotations

import os


class Constant:
    def repetitions(self, name: str, min_sample: float) -> int:
        return 1

    def sample(self, name: str, repetitions: int) -> float:
        return 2.0


class Dying(Constant):
    def sample(self, name: str, repetitions: int) -> float:
        os._exit(3)
