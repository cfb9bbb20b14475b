"""What every executor of plans offers to `dispatch.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from fusedsplit.plan import Plan


class CallContext(NamedTuple):
    """Where a call happens, as far as the choice of a backend depends on it."""

    dtype: str
    eager: bool = True
    in_xla: bool = False
    in_save: bool = False
    in_branch: bool = False  # of a tf.cond or tf.switch_case


class Backend(Protocol):
    """Executes a whole plan on tensors; differentiable to any order."""

    name: str

    def not_supported_reasons(self, plan: Plan | None, context: CallContext) -> list[str]:
        """Why this backend cannot run the plan (any plan, if None) there; empty when it can."""
        ...

    def run(self, plan: Plan, inputs: Sequence[Any], params: Sequence[Any], points: Sequence[Any] = ()) -> list[Any]:
        """The plan's outputs, in order.

        Args:
            plan: a validated plan.
            inputs: tensors of one dtype, shape (..., width), with equal leading dimensions, rank >= 2.
            params: tensors of that dtype with the shapes the plan says.
            points: int32 tensors of shape () or (batch,), one for each point that the plan refers to.
        """
        ...


class Absent:
    """Stands for a backend whose files were removed from the package."""

    def __init__(self, name: str):
        self.name = name

    def not_supported_reasons(self, plan: Plan | None, context: CallContext) -> list[str]:
        return [f"this installation was made without backends/{self.name}.py"]

    def run(self, plan: Plan, inputs: Sequence[Any], params: Sequence[Any], points: Sequence[Any] = ()) -> list[Any]:
        raise NotImplementedError(self.not_supported_reasons(plan, CallContext("float32"))[0])
