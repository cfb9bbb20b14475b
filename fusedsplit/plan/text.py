"""A plan as text, for people."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from fusedsplit.plan.code import PLAN_VERSION
from fusedsplit.plan.steps import LINEAR, Activation, Const, Dense, Merge, Range, Row, Step

if TYPE_CHECKING:
    from fusedsplit.plan.plan import Plan


def show(plan: Plan) -> str:
    """Values, params and steps, a line each."""
    names = _value_names(plan)

    def columns(r: Range) -> str:
        whole = r.start == 0 and r.stop == plan.values[r.value].width
        return names[r.value] if whole else f"{names[r.value]}[{r.start}:{r.stop}]"

    lines = [f"plan v{PLAN_VERSION}: {len(plan.steps)} steps, {plan.flops()} flops per row"]
    lines += [f"  {names[i]}: {v.role}, width {v.width}" for i, v in enumerate(plan.values)]
    lines += [f"  p{i}: param {'x'.join(map(str, p.shape))}" for i, p in enumerate(plan.params)]
    lines += [f"  {columns(step.dst)} = {_show_step(step, columns)}" for step in plan.steps]
    return "\n".join(lines)


def _value_names(plan: Plan) -> list[str]:
    letters = {"input": "x", "hidden": "h", "output": "y"}
    seen = dict.fromkeys(letters, 0)
    names = []
    for value in plan.values:
        names.append(f"{letters[value.role]}{seen[value.role]}")
        seen[value.role] += 1
    return names


def _show_step(step: Step, show: Callable[[Range], str]) -> str:
    if isinstance(step, Dense):
        text = f"{show(step.src)} @ p{step.kernel}"
        if step.live is not None:
            text = f"{show(step.src)}.{step.live.side}(point {step.live.point}) @ p{step.kernel}"
        if step.bias is not None:
            text += f" + p{step.bias}"
        return _show_activation(step.activation, text)
    if isinstance(step, Merge):
        terms = (show(r) if scale == 1 else f"{scale:g} {show(r)}" for r, scale in step.srcs)
        text = f"{step.op}({', '.join(terms)})"
        for symbol, operand in (("*", step.gain), ("+", step.shift)):
            if operand is not None:
                text += f" {symbol} " + (f"{operand.value:g}" if isinstance(operand, Const) else f"p{operand}")
        return _show_activation(step.activation, text)
    if isinstance(step, Row):
        epsilon = f", {step.epsilon:g}" if step.op == "normalize" else ""
        return f"row_{step.op}({show(step.src)}{epsilon})"
    return f"mix({show(step.gate)}; {', '.join(map(show, step.experts))})"


def _show_activation(activation: Activation, text: str) -> str:
    return text if activation == LINEAR else f"{activation}({text})"
