"""The plans that `make fuzz` starts from: python -m tests.csrc.fuzz_corpus FOLDER."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import numpy as np

from fusedsplit.plan import LINEAR, Activation, Plan
from tests.csrc.numpy_plan import RandomPlan, split_dense_plan
from tests.plan.test_plan import every_step, links, pieces


def plans() -> list[Plan]:
    tanh = Activation("tanh")
    found = [RandomPlan(np.random.default_rng(seed), 1 + 3 * seed).make() for seed in range(60)]
    found += [
        split_dense_plan(20, [64, 32, 96], [3, 2, 1], LINEAR, tanh),
        split_dense_plan(9, [7, 1], [5, 5], tanh, tanh),
    ]
    found += [pieces(sources, count) for sources, count in ((1, 4), (3, 2), (90, 9))] + [every_step(), links(5, 70, 3)]
    return found


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i, plan in enumerate(plans()):
        code = plan.encode()
        (folder / f"plan{i}").write_bytes(struct.pack(f"<{len(code)}q", *code))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
