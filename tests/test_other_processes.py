"""Functions that name `fs` travel to other processes: cloudpickle, joblib, scikit-learn, Dask."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from keras.layers import Dense

import fusedsplit as fs
from fusedsplit.native import library

cloudpickle = pytest.importorskip("cloudpickle")


def run(*command: str) -> str:
    env = {**os.environ, "PYTHONPATH": str(Path(fs.__file__).resolve().parents[1]), "TF_CPP_MIN_LOG_LEVEL": "3"}
    result = subprocess.run([sys.executable, *command], capture_output=True, text=True, env=env)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


def test_the_package_is_a_plain_module_whose_names_keep_their_meaning():
    assert type(fs) is types.ModuleType
    import fusedsplit.layers.merges
    import fusedsplit.layers.reference
    import fusedsplit.tools.check
    import fusedsplit.tools.explain
    import fusedsplit.tools.info  # noqa: F401

    for name in ("check", "explain", "info", "reference", "split_dense"):
        assert isinstance(getattr(fs, name), types.FunctionType)
    assert fs.merges is fusedsplit.layers.merges


def test_cloudpickle_takes_a_function_that_builds_a_layer(tmp_path):
    def build():
        from keras.layers import Dense

        return fs.SplitDense(Dense(8), [Dense(4), Dense(6)])

    path = tmp_path / "function"
    path.write_bytes(cloudpickle.dumps(build))  # by value, as every local function
    code = f"import cloudpickle; print(len(cloudpickle.load(open({str(path)!r}, 'rb'))().sublayers))"
    assert run("-c", code).strip() == "3"


@pytest.fixture(scope="module")
def found() -> dict:
    """What `other_processes.py` printed."""
    for package in ("joblib", "dask.distributed", "scikeras", "sklearn"):
        pytest.importorskip(package)
    lines = run("-W", "ignore", str(Path(__file__).with_name("other_processes.py"))).splitlines()
    return {key: value for line in lines if line.startswith("{") for key, value in json.loads(line).items()}


@pytest.mark.parametrize("client", ["by_joblib", "by_dask"])
def test_models_are_built_in_worker_processes(client, found):
    counts, processes = zip(*found[client])
    here, (process, _) = zip(*found["here"])
    assert counts == here
    assert process not in processes


def test_a_search_fits_models_in_worker_processes(found):
    assert found["by_search"]["width"] in (4, 8)


@pytest.fixture(scope="module")
def scored(tmp_path_factory) -> dict:
    """What `scoring.py` printed."""
    for package in ("joblib", "dask.distributed"):
        pytest.importorskip(package)
    if library.core_problem() is not None:
        pytest.skip(f"the core is not usable: {library.core_problem()}")
    folder = tmp_path_factory.mktemp("scoring")
    layer = fs.SplitDense(Dense(8), [Dense(4, activation="relu"), Dense(6)], head=Dense(1))
    layer.build((None, 10))
    fs.Predictor(layer).save(folder / "model.fs")
    np.save(folder / "rows.npy", np.random.default_rng(0).normal(size=(1000, 10)).astype("float32"))
    lines = run("-W", "ignore", str(Path(__file__).with_name("scoring.py")), str(folder)).splitlines()
    return {key: value for line in lines if line.startswith("{") for key, value in json.loads(line).items()}


@pytest.mark.parametrize("client", ["by_joblib", "by_dask"])
def test_a_batch_is_scored_in_worker_processes(client, scored):
    (here, (process, *_), _), (found, processes, with_tensorflow) = zip(*scored["here"]), zip(*scored[client])
    assert found == here
    assert process not in processes
    assert not any(with_tensorflow)
