"""Deleting backends/op.py, native/, loops/ and the native libraries leaves a working package."""

import shutil
from pathlib import Path

import pytest

import fusedsplit
from tests import children

# What is deleted -> the reasons for which the op and the loops do not run; "" where they may.
DELETED = {
    ("backends/op.py",): ("without backends/op.py", ""),
    ("loops",): ("", "No module named 'fusedsplit.loops'"),
    ("native",): ("without backends/op.py", "No module named 'fusedsplit.native'"),
    ("backends/op.py", "native", "loops"): ("without backends/op.py", "No module named 'fusedsplit.loops'"),
}

PROGRAM = """
import sys
# That of an installation to be edited finds what is missing here in the tree that it was made from.
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in finder.__module__]
import keras, numpy as np, fusedsplit as fs
from keras.layers import Concatenate, Dense, Input

op, loops = sys.argv[1:]
x, y = np.ones((40, 10), "float32"), np.ones((40, 1), "float32")

layer = fs.SplitDense(Dense(8), [Dense(4, activation="relu"), Dense(6)], head=Dense(1))
layer(x)
assert fs.check(layer).ok
assert "usable" in str(fs.info())
if op:
    assert op in fs.info().backends["op"], fs.info()
    assert op in str(fs.explain(layer))
    try:
        with fs.use_backend("op"):
            layer(x)
    except ValueError as error:
        assert op in str(error)
    else:
        raise AssertionError("an explicit op ran")

a = Input((10,))
h = Dense(8)(a)
model = keras.Model(a, Dense(1)(Concatenate()([Dense(4, activation="relu")(h[:, :4]), Dense(6)(h[:, 4:])])))
model.compile("adam", "mse")
model = fs.fuse(model)
assert len(model.regions) == 1
losses = model.fit(x, y, epochs=2, verbose=0).history["loss"]
assert losses[1] < losses[0]
assert np.isfinite(model.evaluate(x, y, verbose=0)) and np.isfinite(model.test_on_batch(x, y))
np.testing.assert_allclose(model.predict(x, verbose=0), model(x), rtol=1e-4, atol=1e-5)
np.testing.assert_allclose(model.predict_on_batch(x), model(x), rtol=1e-4, atol=1e-5)
assert fs.check(model).ok
if loops:
    assert all(loops in text for text in fs.explain(model).loops.values()), fs.explain(model)
    model.loop = "native"
    assert "raises" in str(fs.explain(model))
    try:
        model.fit(x, y)
    except ValueError as error:
        assert loops in str(error)
    else:
        raise AssertionError("native loops ran")
print(fs.__file__)
"""


@pytest.mark.parametrize("deleted", DELETED, ids=" ".join)
def test_the_package_without(deleted, tmp_path):
    package = Path(fusedsplit.__file__).parent
    ignored = ["__pycache__"] if deleted == ("loops",) else ["__pycache__", "*.so"]
    shutil.copytree(package, tmp_path / "fusedsplit", ignore=shutil.ignore_patterns(*ignored))
    for path in deleted:
        path = tmp_path / "fusedsplit" / path
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    result = children.run(PROGRAM, *DELETED[deleted], cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert Path(result.stdout.strip()).is_relative_to(tmp_path)
