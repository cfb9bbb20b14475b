"""A program: a predictor scores a batch in other processes, by joblib and by Dask; the recipe of docs/predictor.md.

The predictor travels as its file does, and the workers import no TensorFlow. Each prints a line of JSON.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import joblib
import numpy as np

import fusedsplit as fs


def score(predictor: fs.Predictor, part: np.ndarray) -> tuple[list[float], int, bool]:
    """The scores of some rows, and in which process, and whether TensorFlow is there."""
    return predictor(part).ravel().tolist(), os.getpid(), "tensorflow" in sys.modules


def by_joblib(predictor: fs.Predictor, parts: list[np.ndarray]) -> list:
    return joblib.Parallel(n_jobs=2, backend="loky")(joblib.delayed(score)(predictor, part) for part in parts)


def by_dask(predictor: fs.Predictor, parts: list[np.ndarray]) -> list:
    from dask.distributed import Client, LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, memory_limit=0) as cluster:
        with Client(cluster) as client:
            everywhere = client.scatter(predictor, broadcast=True)
            return client.gather([client.submit(score, everywhere, part, pure=False) for part in parts])


def main(folder: Path) -> None:
    predictor, rows = fs.Predictor.load(folder / "model.fs", threads=1), np.load(folder / "rows.npy")
    parts = np.array_split(rows, 4)
    here = [score(predictor, part) for part in parts]
    for run in (by_joblib, by_dask):
        print(json.dumps({run.__name__: run(predictor, parts)}), flush=True)
    print(json.dumps({"here": here}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
