"""Real architectures, plain against fused: eager, graph, XLA, with gradients, and `fit`.

    python benchmarks/models.py [--only NAME ...] [--batches 1 32 512] [--modes forward gradients eager fit]

Outputs and gradients are compared with the model in float64 before anything is timed. Each cell is interleaved; the
last column is the better fused form over the better plain one. Losing cells are printed like winning ones, and the exit
code says only whether everything agreed.
"""

from __future__ import annotations

import argparse
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from rich.console import Console

from fusedsplit.bench import conditions, report
from fusedsplit.bench.architectures import ARCHITECTURES
from fusedsplit.bench.models import BATCHES, MODES, ModelContest


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=ARCHITECTURES, default=list(ARCHITECTURES), metavar="NAME")
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    console = Console()
    results = report.Results(conditions.collect())
    for name in args.only:
        contest = ModelContest(name)
        for batch in args.batches:
            results.models += contest.measure(batch, args.modes, rounds=args.rounds)
            console.print(f"{name}, batch {batch}: measured")
    report.show(results, console if console.is_terminal else Console(width=150))
    return int(not results.ok)


if __name__ == "__main__":
    sys.exit(main())
