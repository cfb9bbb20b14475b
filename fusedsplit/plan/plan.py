"""A plan: a straight-line, single-assignment program over the values of one row.

The plan says *what* is computed, never *where* values live: that is for the executors (`backends/tf.py`, the C++ core)
to decide.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Any, ClassVar

from fusedsplit.plan import code, rules, text
from fusedsplit.plan.steps import Dense, Param, Role, Step, Value


class HashedOnce:
    """For frozen dataclasses that key caches on hot paths: the hash of their many nested tuples, computed once."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]

    def __hash__(self) -> int:
        value: int | None = self.__dict__.get("_hash")
        if value is None:
            value = self.__dict__["_hash"] = hash(tuple(getattr(self, f.name) for f in dataclasses.fields(self)))
        return value

    def __getstate__(self) -> dict[str, object]:
        # The hashes of strings differ from process to process.
        return {name: value for name, value in self.__dict__.items() if name != "_hash"}


@dataclasses.dataclass(frozen=True)
class Plan(HashedOnce):
    """Values, params and steps; `points` counts the int32 inputs that `Live` refers to."""

    values: tuple[Value, ...]
    params: tuple[Param, ...]
    steps: tuple[Step, ...]
    points: int = 0

    __hash__ = HashedOnce.__hash__

    def with_role(self, role: Role) -> list[int]:
        return [i for i, value in enumerate(self.values) if value.role == role]

    @property
    def inputs(self) -> list[int]:
        return self.with_role("input")

    @property
    def outputs(self) -> list[int]:
        return self.with_role("output")

    def flops(self) -> int:
        """Multiply-adds of the products, counted as two operations, for one row."""
        return sum(2 * math.prod(self.params[s.kernel].shape) for s in self.steps if isinstance(s, Dense))

    def validate(self) -> Plan:
        """Checks every rule of the data model and returns the plan itself.

        Raises:
            PlanError: naming the step and the rule that it breaks.
        """
        rules.check(self)
        return self

    def encode(self) -> list[int]:
        """The plan as a flat list of 64-bit integers; floats travel as the bits of a double."""
        return code.encode(self)

    @staticmethod
    def decode(integers: Iterable[int]) -> Plan:
        """The plan that `encode` wrote, validated.

        Raises:
            PlanError: if the version is another one, the list ends early or goes on too long, or a rule is broken.
        """
        return Plan(*code.decode(integers)).validate()

    def __str__(self) -> str:
        return text.show(self)
