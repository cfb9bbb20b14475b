"""A program: a function that names `fs` goes to other processes by joblib, by scikit-learn's search, and by Dask.

Each prints a line of JSON; the functions are of this program and of no module, so they travel by value.
"""

from __future__ import annotations

import json
import os

import joblib
import keras
import numpy as np
from keras.layers import Dense

import fusedsplit as fs


def build(width: int = 8) -> keras.Model:
    layer = fs.SplitDense(Dense(width), [Dense(4, activation="relu"), Dense(6)], head=Dense(1))
    model = keras.Sequential([keras.Input((10,)), layer])
    model.compile("sgd", "mse")
    return model


def parameters(width: int) -> tuple[int, int]:
    """What a model has there, and in which process."""
    return build(width).count_params(), os.getpid()


def by_joblib() -> list[tuple[int, int]]:
    return joblib.Parallel(n_jobs=2, backend="loky")(joblib.delayed(parameters)(width) for width in (4, 8))


def by_search() -> dict:
    from scikeras.wrappers import KerasRegressor
    from sklearn.model_selection import GridSearchCV

    x = np.random.default_rng(0).normal(size=(16, 10)).astype("float32")
    search = GridSearchCV(
        KerasRegressor(build, width=8, epochs=1, verbose=0),
        {"width": [4, 8]},
        n_jobs=2,
        cv=2,
        refit=False,
        error_score="raise",
    )
    return search.fit(x, x[:, 0]).best_params_


def by_dask() -> list[tuple[int, int]]:
    from dask.distributed import Client, LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, memory_limit=0) as cluster:
        with Client(cluster) as client:
            return client.gather(client.map(parameters, [4, 8]))


if __name__ == "__main__":
    for run in (by_joblib, by_search, by_dask):
        print(json.dumps({run.__name__: run()}), flush=True)
    print(json.dumps({"here": [[build(width).count_params(), os.getpid()] for width in (4, 8)]}))
