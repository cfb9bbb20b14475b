"""Deleting backends/op.py and the native libraries leaves a working package."""

import shutil
import subprocess
import sys
from pathlib import Path

import fusedsplit

PROGRAM = """
import numpy as np, fusedsplit as fs
from keras.layers import Dense
layer = fs.SplitDense(Dense(8), [Dense(4, activation="relu"), Dense(6)], head=Dense(1))
layer(np.ones((3, 10), "float32"))
assert fs.check(layer).ok
assert "without backends/op.py" in fs.info().backends["op"], fs.info()
assert "without backends/op.py" in str(fs.explain(layer))
try:
    with fs.use_backend("op"):
        layer(np.ones((3, 10), "float32"))
except ValueError as error:
    assert "without backends/op.py" in str(error)
else:
    raise AssertionError("an explicit op ran")
print(fs.__file__)
"""


def test_the_package_without_the_op(tmp_path):
    package = Path(fusedsplit.__file__).parent
    shutil.copytree(package, tmp_path / "fusedsplit", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    (tmp_path / "fusedsplit" / "backends" / "op.py").unlink()
    result = subprocess.run([sys.executable, "-c", PROGRAM], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert Path(result.stdout.strip()).is_relative_to(tmp_path)
