"""Few rows: threads share chains, or the columns of wide products; the bits are those of one thread."""

from __future__ import annotations

import numpy as np
import pytest

from fusedsplit.plan import LINEAR, Activation, Live, PlanBuilder
from tests.csrc.numpy_plan import fill
from tests.csrc.on_core import RELU, TANH, backward, check_against_numpy, core, forward

SILU = Activation("silu")  # its derivative needs what it was applied to


def stack(build, x, widths, activation, bias=True):
    for width in widths:
        y = build.hidden(width)
        build.dense(x, build.param((x.width, width)), build.param((width,)) if bias else None, activation, y)
        x = y
    return x


def finish(build, x, width):
    build.dense(x, build.param((x.width, width)), None, LINEAR, build.output(width))
    return build.plan()


def one_chain():
    """Widths on and off whole vectors, wide enough to be cut and not."""
    build = PlanBuilder()
    return finish(build, stack(build, build.input(130), [259, 193, 64, 300], RELU), 257)


def needs_arguments():
    build = PlanBuilder()
    return finish(build, stack(build, build.input(130), [259, 300], SILU, bias=False), 3)


def lopsided():
    """A long chain beside a short one."""
    build = PlanBuilder()
    x = build.input(130)
    build.dense(x, build.param((130, 5)), None, TANH, build.output(5))
    return finish(build, stack(build, x, [259, 300], TANH), 140)


def residual():
    """A sum of two chains of which one is the input, so that chains may not run side by side on the way back."""
    build = PlanBuilder()
    x = build.input(260)
    for _ in range(2):
        h = stack(build, x, [260, 260], RELU)
        y = build.hidden(260)
        build.merge("add", [(x, 1.0), (h, 1.0)], y)
        x = y
    return finish(build, x, 1)


def shared():
    """One wide kernel in three steps."""
    build = PlanBuilder()
    kernel, x = build.param((256, 256)), build.input(256)
    for _ in range(3):
        y = build.hidden(256)
        build.dense(x, kernel, None, TANH, y)
        x = y
    return finish(build, x, 2)


def shared_with_live():
    """A wide kernel in a step whose columns are shared out, and in one with a point, which is computed whole."""
    build = PlanBuilder()
    build.points = 1
    kernel, x = build.param((256, 256)), build.input(256)
    h, y = build.hidden(256), build.output(256)
    build.dense(x, kernel, None, TANH, h)
    build.dense(h, kernel, None, LINEAR, y, Live(0, "leading"))
    return build.plan()


PLANS = {f.__name__: f() for f in (one_chain, needs_arguments, lopsided, residual, shared, shared_with_live)}


@pytest.mark.parametrize("rows", (1, 33, 79))
@pytest.mark.parametrize("name", PLANS)
def test_values_and_gradients(name, rows):
    check_against_numpy(fill(PLANS[name], rows, np.random.default_rng(1)))


@pytest.mark.parametrize("rows", (1, 7, 33, 79))
@pytest.mark.parametrize("name", PLANS)
def test_bits_do_not_depend_on_threads(isa, name, rows):
    case = fill(PLANS[name], rows, np.random.default_rng(2)).cast(np.float32)

    def results():
        arrays = [*forward(case)[0], *forward(case, True)[0], *backward(case), *backward(case, save=False)]
        return [a.tobytes() for a in arrays]

    core.set_threads(1)
    alone = results()
    for threads in (2, 3, 8):
        core.set_threads(threads)
        assert results() == alone, threads
