"""Whatever integers and tensors the raw ops get, they refuse or run: no crash."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fusedsplit.backends import op

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS, TRIES = 2, int(os.environ.get("FUSEDSPLIT_OP_TRIES", "1500"))


@pytest.mark.skipif(op.problem() is not None, reason=f"the op is not usable: {op.problem()}")
def test_arbitrary_plans_and_tensors():
    """3,000 tries (or as many as FUSEDSPLIT_OP_TRIES says, twice), by two programs at a time."""
    # The allocator fills what it gives out, so that memory read before it was written does not look like zeros.
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "MALLOC_PERTURB_": "171"}
    running = []
    for seed in range(PROGRAMS):
        command = [sys.executable, "-m", "tests.backends.op_random_tries", str(seed), str(TRIES)]
        pipe = subprocess.PIPE
        running.append(subprocess.Popen(command, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True))
    for process in running:
        output, errors = process.communicate()
        assert process.returncode == 0, errors[-3000:]
        counts = ast.literal_eval(output.strip().splitlines()[-1])
        assert sum(counts.values()) == TRIES
        assert counts["ran"] > TRIES // 20, counts
        assert counts["refused"] > 3 * TRIES // 10, counts
