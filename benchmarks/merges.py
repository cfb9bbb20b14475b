"""Every merge, the gated units, several inputs and dynamic splits: fused layers against their unfused Keras versions.

    python benchmarks/merges.py [--batches 512 4096] [--only NAME ...] [--backends op op-xla tf]

The section "merges" of `fusedsplit bench`, for any of its cases at any batch and on any backend. Outputs and gradients
are compared before anything is timed; losing lines are printed like winning ones, and the exit code says only whether
everything agreed.
"""

from __future__ import annotations

import argparse
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from rich.console import Console

from fusedsplit.bench import conditions, report
from fusedsplit.bench.ladder import MergeContest
from fusedsplit.bench.merge_cases import BATCHES, MERGES, MODES


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    parser.add_argument("--only", nargs="+", choices=MERGES, default=list(MERGES), metavar="NAME")
    parser.add_argument("--backends", nargs="+", default=["op", "op-xla"])
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    results = report.Results(conditions.collect())
    for name in args.only:
        contest = MergeContest(MERGES[name], ("lambda", "lambda-xla", *args.backends))
        results.missing |= contest.missing
        for batch in args.batches:
            results.merges += contest.measure(batch, MODES, rounds=args.rounds)
    console = Console()
    report.show(results, console if console.is_terminal else Console(width=150))
    return int(not results.ok)


if __name__ == "__main__":
    sys.exit(main())
