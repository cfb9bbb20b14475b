"""What the documentation shows, run."""

import doctest
import importlib
import re
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.layers import Activation, Concatenate, Dense, Dropout, Lambda

import fusedsplit as fs
from fusedsplit.native import library

ROOT = Path(__file__).resolve().parent.parent
MODULES = (
    "layers.split_dense",
    "layers.merge_dense",
    "layers.dynamic_split_dense",
    "layers.dynamic",
    "layers.merges",
    "layers.functional",
    "native.predictor",
    "plan.fold",
    "tools.check",
    "tools.explain",
    "tools.info",
)
README = ROOT / "README.md"
PREDICTOR = ROOT / "docs" / "predictor.md"
pytestmark = pytest.mark.filterwarnings("ignore::fusedsplit.FusedSplitWarning")


@pytest.mark.parametrize("module", MODULES)
def test_docstring_examples(module):
    results = doctest.testmod(importlib.import_module(f"fusedsplit.{module}"), verbose=False)
    assert results.attempted and not results.failed


def _built(layer):
    layer.build((None, 10))
    return layer


@pytest.mark.skipif(not README.exists(), reason="installed without the README")
def test_every_line_of_python_in_the_readme_runs(tmp_path, monkeypatch):
    """Each block in turn, in one namespace that holds what the reader is taken to have."""
    monkeypatch.chdir(tmp_path)
    names = {
        "x": keras.Input((10,)),
        "x_train": np.zeros((64, 10), "float32"),
        "y_train": np.zeros((64, 10), "float32"),
        "Dense": Dense,
        "Dropout": Dropout,
        "Activation": Activation,
        "Lambda": Lambda,
        "concatenate": lambda parts: Concatenate()(parts),
        "tf": tf,
        "keras": keras,
        "np": np,
        "fs": fs,
    }
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    assert len(blocks) >= 5
    for block in blocks:
        if "fs.fuse(model)" in block:
            names["model"] = fs.reference(_built(fs.SplitDense(Dense(8), [Dense(4), Dense(6)])))
            names["model"].compile("adam", "mse")
        if "Halve" in block:
            names["Halve"] = type("Halve", (keras.layers.Layer,), {"call": lambda self, x: 0.5 * x})
        if "old_model" in block:
            layer = names["layer"] = fs.SplitDense(Dense(256), [Dense(64, activation="relu") for _ in range(4)])
            layer.build((None, 10))
            names["old_model"] = fs.reference(layer)
        if library.core_problem() is None or not ("fs.Trainer" in block or "fs.Predictor" in block):
            exec(compile(block, "README.md", "exec"), names)


@pytest.mark.skipif(not PREDICTOR.exists(), reason="installed without docs/")
@pytest.mark.skipif(library.core_problem() is not None, reason="the core is not usable")
def test_the_page_of_the_predictor_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```python\n(.*?)```", PREDICTOR.read_text(), flags=re.DOTALL)
    exec(compile(block, "predictor.md", "exec"), {"fs": fs, "np": np, "Dense": Dense})
