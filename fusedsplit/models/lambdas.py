"""Lambdas and operations of `keras.ops`: traced, and understood operation by operation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fusedsplit.models.graph import Call
from fusedsplit.models.rows import NotRowWise, RowProgram


def traces(call: Call) -> bool:
    """Whether a call is understood by tracing it: that of a Lambda, or of no layer at all."""
    return not call.is_layer or type(call.operation).__name__ == "Lambda"


def lower_call(call: Call, program: RowProgram, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Adds what such a call computes to a program, and gives its outputs."""
    raise NotRowWise("it is not understood yet")
