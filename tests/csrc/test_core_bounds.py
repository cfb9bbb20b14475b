"""The bounds of what the core makes of a plan: the texts are Python's, and the memory stays within limits."""

from __future__ import annotations

import subprocess
import sys

import pytest

from fusedsplit.plan import PlanError
from tests.csrc.on_core import core
from tests.plan.test_plan import EXCESSIVE, GENEROUS

# In a process of its own, which may take 2 GiB more than it has taken to begin with.
UNDER_LIMIT = """
import resource
from fusedsplit.native import library
from tests.plan.test_plan import {maker}
code, core = {maker}{arguments}.encode(), library.core()
taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + (2 << 30),) * 2)
try:
    core.Program32(code)
    print("made")
except ValueError:
    print("refused")
"""


@pytest.mark.parametrize("name", EXCESSIVE)
def test_the_core_refuses_what_python_refuses(name):
    plan, _ = EXCESSIVE[name]
    with pytest.raises(PlanError) as refused:
        plan.validate()
    assert core.plan_problem(plan.encode()) == str(refused.value)


@pytest.mark.parametrize("name", GENEROUS)
def test_the_core_takes_plans_of_large_models(name):
    assert core.plan_problem(GENEROUS[name].encode()) == ""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("maker", "arguments", "outcome"),
    [
        ("pieces", (60_000, 16_000), "refused"),
        ("pieces", (1_000, 4_000), "made"),
        ("links", (2_000, 1 << 15, 30), "made"),
    ],
)
def test_a_few_megabytes_of_code_ask_for_no_gigabytes(maker, arguments, outcome):
    script = UNDER_LIMIT.format(maker=maker, arguments=arguments)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == outcome, done.stderr
