"""What every test of the core runs under."""

from __future__ import annotations

import ctypes

import pytest

from fusedsplit.native import library

ISAS = [] if library.core_problem() else library.core().isas()


def perturb_malloc(byte: int) -> None:
    """New memory is full of this, so that what a gradient forgot to write does not look like zeros."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(-6, byte)  # M_PERTURB of glibc


@pytest.fixture(autouse=True)
def restore():
    """Every test leaves the core's settings as it found them."""
    if not ISAS:
        yield
        return
    core = library.core()
    isa, threads = core.isa(), core.threads()
    perturb_malloc(171)
    yield
    perturb_malloc(0)
    core.set_isa(isa)
    core.set_threads(threads)


@pytest.fixture(params=ISAS)
def isa(request):
    """Each instruction set that was built and runs here."""
    assert library.core().set_isa(request.param)
    assert library.core().isa() == request.param
    return request.param
