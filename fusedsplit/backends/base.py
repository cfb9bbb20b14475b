"""What meets in `dispatch.py`: computations, which are what there is to run, and backends, which run plans."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from fusedsplit.plan import Plan


class CallContext(NamedTuple):
    """Where a call happens, as far as the choice of a backend depends on it."""

    dtype: str
    eager: bool = True
    in_xla: bool = False
    in_save: bool = False
    in_branch: bool = False  # of a tf.cond or tf.switch_case that XLA compiles
    device: str | None = None  # what the inputs are on, such as "GPU:0"; None for a CPU


class Operands(NamedTuple):
    """Every tensor that a plan is run on.

    Attributes:
        inputs: one for each input of the plan, masks included, of one dtype and with equal leading dimensions.
        params: one for each param, of that dtype.
        points: one int32 tensor for each point, of shape () or (rows,).
    """

    inputs: list[Any]
    params: list[Any]
    points: list[Any]


# A backend's `run`.
Run = Callable[["Plan", Sequence[Any], Sequence[Any], Sequence[Any]], list[Any]]


class Planned(Protocol):
    """What has a plan, or reasons against one."""

    @property
    def dtype(self) -> str:
        """What it computes in."""
        ...

    def unfusable_reasons(self) -> list[str]:
        """Why a call now can only run unfused; empty where the plan may run."""
        ...

    def plan(self, logits: bool = False) -> Plan:
        """What is computed."""
        ...


class OnOperands(Protocol):
    """What runs on operands that are given, by a backend or without a plan."""

    def execute(self, run: Run, operands: Operands, logits: bool = False) -> list[Any]:
        """The outputs, and behind them the logits if wanted, by a backend's `run`."""
        ...

    def unfused(self, operands: Operands) -> list[Any]:
        """The outputs without a plan, in the dtype of the operands."""
        ...


class Computation(Protocol):
    """What a layer, or a region of a model, hands to dispatch: row-wise work as a plan, and the same thing unfused."""

    @property
    def name(self) -> str:
        """Whose computation it is, in reports."""
        ...

    @property
    def dtype(self) -> str:
        """What it computes in."""
        ...

    @property
    def logit_outputs(self) -> tuple[int, ...]:
        """The outputs that come from a sigmoid or a softmax, whose input Keras' crossentropies look for."""
        ...

    def unfusable_reasons(self) -> list[str]:
        """Why a call now can only run unfused; empty where the plan may run."""
        ...

    def plan(self, logits: bool = False) -> Plan:
        """What is computed. With `logits`, those of `logit_outputs` are further outputs, behind the others.

        Only where `unfusable_reasons` is empty.
        """
        ...

    def params(self) -> list[Any]:
        """The plan's params as they are now."""
        ...

    def operands(self, inputs: Sequence[Any]) -> Operands:
        """Everything that a call on `inputs` is computed from, read now; masks are drawn anew."""
        ...

    def execute(self, run: Run, operands: Operands, logits: bool = False) -> list[Any]:
        """The outputs, and behind them the logits if wanted, by a backend's `run`."""
        ...

    def call_unfused(self, inputs: Sequence[Any]) -> list[Any]:
        """The outputs of a call by the Keras layers themselves."""
        ...


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

    def __init__(self, name: str, why: str):
        self.name = name
        self.why = why

    def not_supported_reasons(self, plan: Plan | None, context: CallContext) -> list[str]:
        return [f"this installation was made without backends/{self.name}.py, or what it needs: {self.why}"]

    def run(self, plan: Plan, inputs: Sequence[Any], params: Sequence[Any], points: Sequence[Any] = ()) -> list[Any]:
        raise NotImplementedError(self.not_supported_reasons(plan, CallContext("float32"))[0])
