"""What `fs.check` finds: rows of the worst errors, printed as a table."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from fusedsplit.backends import dispatch
from fusedsplit.backends.base import Planned
from fusedsplit.tools.tables import table

ORDERS = ("value", "gradient", "second order")
MOST_ROWS = 12  # of a table; of more rows, the worst of each backend and order


@dataclasses.dataclass(frozen=True)
class Row:
    """The worst element of one backend in one order of differentiation.

    `error` is the largest absolute error against float64; `unfused_error` the largest that the unfused Keras
    computation makes itself; `ratio` the largest error relative to what is allowed at that element, so that the check
    holds where it is at most 1. `where` names the region of a model and the tensor that the worst element stands in.
    """

    backend: str
    order: str
    error: float
    unfused_error: float
    ratio: float
    where: str = ""

    @property
    def ok(self) -> bool:
        return self.ratio <= 1.0


@dataclasses.dataclass(frozen=True)
class CheckReport:
    """What `check` found; prints as a table.

    Attributes:
        name: of what was checked.
        rows: one for each backend and order, and for each region of a model.
        skipped: what was not checked -> why.
        against: what it was compared with.
        notes: what else there is to say.
    """

    name: str
    rows: tuple[Row, ...]
    skipped: dict[str, list[str]]
    against: str = "unfused Keras"
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every backend that can run held every bound."""
        return bool(self.rows or self.notes) and all(row.ok for row in self.rows)

    def __str__(self) -> str:
        lines = [f"{self.name}: {'ok' if self.ok else 'FAILED'}"]
        if self.rows:
            lines.append(self._table())
        lines += self.notes
        lines += [f"{name}: skipped, {'; '.join(reasons)}" for name, reasons in self.skipped.items()]
        return "\n".join(lines)

    def _table(self) -> str:
        shown = self.rows if len(self.rows) <= MOST_ROWS else _worst_and_failed(self.rows)
        where = any(row.where for row in shown)
        header = [
            "backend",
            "order",
            "largest error",
            f"{self.against}'{'' if self.against.endswith('s') else 's'} own",
            "of allowed",
            "",
        ]
        rows: list[list[str]] = [
            [
                r.backend,
                r.order,
                f"{r.error:.2e}",
                f"{r.unfused_error:.2e}",
                f"{r.ratio:.2f}",
                "ok" if r.ok else "FAILED",
            ]
            for r in shown
        ]
        if where:
            header.append("worst in")
            rows = [[*cells, r.where] for cells, r in zip(rows, shown)]
        text = table(header, rows)
        more = len(self.rows) - len(shown)
        return f"{text}\n(of {len(self.rows)} rows the worst of each backend and order)" if more else text


def _worst_and_failed(rows: Sequence[Row]) -> list[Row]:
    worst: dict[tuple[str, str], Row] = {}
    for row in rows:
        key = (row.backend, row.order)
        if key not in worst or row.ratio > worst[key].ratio:
            worst[key] = row
    return [row for row in rows if not row.ok or row is worst[row.backend, row.order]]


def worst_row(
    backend: str,
    order: str,
    found: Sequence[np.ndarray],
    exact: Sequence[np.ndarray],
    own: Sequence[float],
    allowed: Sequence[np.ndarray | float],
    names: Sequence[str] = (),
) -> Row:
    """The row of one backend in one order.

    Args:
        backend: its name.
        order: of differentiation.
        found: what it gives, tensor by tensor.
        exact: the same in float64.
        own: the largest error of the unfused computation in each tensor.
        allowed: the largest error that passes in each tensor, or at each of its elements.
        names: of the tensors.
    """
    error = ratio = 0.0
    where = ""
    for f, e, a, name in zip(found, exact, allowed, names or [""] * len(found)):
        if not f.size:
            continue
        errors = np.abs(f - e)
        a = np.broadcast_to(a, errors.shape)
        worst = float(np.max(np.divide(errors, a, out=np.where(errors > 0, np.inf, 0.0), where=a > 0)))
        if not np.isfinite(f).all():
            worst = np.inf
        error = max(error, float(errors.max()))
        if worst > ratio or not where:
            where = name
        ratio = max(ratio, worst)
    return Row(backend, order, error, max(own, default=0.0), ratio, where)


def usable_backends(computation: Planned, backends: Sequence[str] | None) -> tuple[list[str], dict[str, list[str]]]:
    """The backends that are checked on a computation, and why each other one is not.

    Raises:
        ValueError: if one that is named in `backends` cannot run.
    """
    context = dispatch.current_context(computation.dtype)
    unfusable = computation.unfusable_reasons()
    against = dispatch.reasons_against(None if unfusable else computation.plan(), context, unfusable)
    if backends is None:
        return [n for n in against if not against[n]], {n: r for n, r in against.items() if r}
    for name in backends:
        if against[dispatch.check_name(name)]:
            raise ValueError(f"expected backends that can run. Received: {name!r}, but {'; '.join(against[name])}")
    return list(backends), {}
