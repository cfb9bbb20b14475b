"""Settings read from the environment, each in one place.

What every call asks for is read once, when it is first needed: reading the environment takes 0.8 us.
"""

from __future__ import annotations

import functools
import os
import platform

BACKENDS = ("op", "xla", "tf", "reference")
# By architecture, slowest first. NEON is what the baseline of 64-bit Arm has.
ISAS = {"x86_64": ("baseline", "avx2", "avx512"), "aarch64": ("baseline", "neon")}
_ARCHITECTURES = {"amd64": "x86_64", "arm64": "aarch64"}


@functools.cache
def backend() -> str | None:
    """FUSEDSPLIT_BACKEND: the backend used where a layer says "auto"."""
    value = os.environ.get("FUSEDSPLIT_BACKEND", "").strip().lower()
    choices = ("auto", *BACKENDS)
    if value and value not in choices:
        raise ValueError(f"FUSEDSPLIT_BACKEND: expected one of {choices}. Received: {value!r}")
    return None if value in ("", "auto") else value


def max_isa() -> str | None:
    """FUSEDSPLIT_MAX_ISA: the widest instruction set that the core may use.

    The core reads the variable itself, and knows the names of its own architecture, as they are written here: any
    other would cap nothing.
    """
    value = os.environ.get("FUSEDSPLIT_MAX_ISA", "")
    machine = platform.machine().lower()
    choices = ISAS.get(_ARCHITECTURES.get(machine, machine), ("baseline",))
    if value and value not in choices:
        raise ValueError(f"FUSEDSPLIT_MAX_ISA: expected one of {choices} on {machine}. Received: {value!r}")
    return value or None


def num_threads() -> int | None:
    """FUSEDSPLIT_NUM_THREADS: the most threads that the core, which reads it itself, may use."""
    value = os.environ.get("FUSEDSPLIT_NUM_THREADS", "")
    if not value:
        return None
    if not (value.isascii() and value.isdecimal()) or int(value) < 1:
        raise ValueError(f"FUSEDSPLIT_NUM_THREADS: expected a positive integer. Received: {value!r}")
    return int(value)


@functools.cache
def verbose() -> frozenset[str]:
    """FUSEDSPLIT_VERBOSE: comma-separated topics to report on stderr; known: dispatch."""
    return frozenset(filter(None, os.environ.get("FUSEDSPLIT_VERBOSE", "").replace(" ", "").split(",")))
