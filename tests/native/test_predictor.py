"""Predictors: what they compute, take, give and refuse, and where they travel."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers as kl
from keras.layers import Dense

import fusedsplit as fs
from fusedsplit.native import library

if library.core_problem() is not None:
    pytest.skip(f"the core is not usable: {library.core_problem()}", allow_module_level=True)

RNG = np.random.default_rng(0)


def rows(*shape: int, dtype: str = "float32") -> np.ndarray:
    return RNG.normal(size=shape).astype(dtype)


def built(layer, *shapes):
    layer.build(shapes[0] if len(shapes) == 1 else list(shapes))
    for weight in layer.weights:
        weight.assign(rows(*weight.shape, dtype=weight.dtype) * 0.5)
    return layer


def towers():
    """Two inputs and two outputs, in dicts; a BatchNormalization that folds, one that does not, and a shared layer."""
    a, b = keras.Input((6,), name="a"), keras.Input((6,), name="b")
    shared = Dense(8, activation="relu")
    h = kl.Concatenate()([shared(kl.BatchNormalization()(a)), shared(b)])
    h = kl.BatchNormalization()(Dense(12)(h))
    model = keras.Model({"a": a, "b": b}, {"p": Dense(3, activation="softmax")(h), "q": kl.Activation("gelu")(h)})
    for weight in model.weights:
        weight.assign(np.abs(rows(*weight.shape)) + 0.1)
    return model


LAYERS = {
    "concat": lambda: built(
        fs.SplitDense(Dense(8), [Dense(4, activation="relu"), Dense(6)], head=Dense(1)), (None, 10)
    ),
    "list": lambda: built(fs.SplitDense(Dense(8), [Dense(4), None], merge=None), (None, 10)),
    "mixture": lambda: built(
        fs.MergeDense([*(Dense(5) for _ in range(3)), Dense(3)], merge=fs.merges.mixture()),
        (None, 10),
    ),
    "learned": lambda: built(
        fs.DynamicSplitDense(Dense(8), Dense(4), Dense(5, activation="tanh"), split="learned"), (None, 10)
    ),
    "float64": lambda: built(fs.SplitDense(Dense(8, dtype="float64"), [Dense(4, dtype="float64"), None]), (None, 10)),
}


def by_op(layer, x):
    with fs.use_backend("op"):
        outputs = layer(x)
    return [np.asarray(y) for y in (outputs if isinstance(outputs, list) else [outputs])]


@pytest.mark.parametrize("count", [1, 5, 200, 700])
@pytest.mark.parametrize("name", LAYERS)
def test_unfolded_bits_are_those_of_the_op(name, count):
    layer = LAYERS[name]()
    x = rows(count, 10, dtype=layer.compute_dtype)
    found = fs.Predictor(layer, fold=False)(x)
    found = found if isinstance(found, list) else [found]
    for got, want in zip(found, by_op(layer, x), strict=True):
        assert got.dtype == want.dtype and got.tobytes() == want.tobytes()


@pytest.mark.parametrize("name", LAYERS)
def test_folded_results_differ_by_rounding(name):
    layer = LAYERS[name]()
    x = rows(50, 10, dtype=layer.compute_dtype)
    folded, plain = (fs.Predictor(layer, fold=fold) for fold in (True, False))
    assert folded.plan.flops() <= plain.plan.flops()
    for got, want in zip(np.atleast_1d(folded(x)), np.atleast_1d(plain(x)), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e3 * np.finfo(x.dtype).eps)


@pytest.mark.parametrize("fold", [False, True])
def test_a_model_with_dicts(fold):
    model = towers()
    predictor = fs.Predictor(model, fold=fold)
    x = {"b": rows(9, 6), "a": rows(9, 6)}
    found, want = predictor(x), model(x)
    assert list(found) == list(want)
    for name in want:
        np.testing.assert_allclose(found[name], want[name], rtol=1e-4, atol=1e-4)
    if fold:
        assert len(predictor.plan.steps) < len(fs.Predictor(model, fold=False).plan.steps)


def test_models_of_other_structures():
    x, z = keras.Input((4,)), keras.Input((3,))
    both = keras.Model([x, z], [Dense(2)(kl.Concatenate()([x, z])), Dense(5)(x)])
    given = [rows(3, 4), rows(3, 3)]
    for got, want in zip(fs.Predictor(both)(given), both(given), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-5)
    unused = keras.Model([x, z], Dense(2)(x))
    np.testing.assert_allclose(fs.Predictor(unused)(given), unused(given), atol=1e-5)
    one = keras.Sequential([keras.Input((4,)), Dense(3)])
    np.testing.assert_allclose(fs.Predictor(one)(given[0]), one(given[0]), atol=1e-5)
    fused = fs.fuse(one)
    np.testing.assert_allclose(fs.Predictor(fused)(given[0]), one(given[0]), atol=1e-5)
    flat = keras.Sequential([keras.Input((2, 3)), kl.Flatten(), Dense(4), kl.Reshape((2, 2))])
    assert fs.Predictor(flat)(rows(7, 5, 2, 3)).shape == (7, 5, 2, 2)


def test_any_leading_axes():
    layer = LAYERS["concat"]()
    predictor, x = fs.Predictor(layer), rows(2, 3, 4, 10)
    assert predictor(x).shape == (2, 3, 4, 1)
    assert predictor(x).tobytes() == predictor(x.reshape(-1, 10)).tobytes()
    assert predictor(x[0, 0, 0]).shape == (1,)
    assert predictor(x[:0]).shape == (0, 3, 4, 1)


def test_other_arrays_are_converted():
    predictor = fs.Predictor(LAYERS["concat"]())
    x = RNG.integers(0, 5, (6, 10))
    want = predictor(x.astype("float32")).tobytes()
    wide = np.zeros((6, 20), "float32")
    wide[:, ::2] = x
    for given in (
        x,
        x.astype("float64"),
        x.astype("uint8"),
        x.astype(">f4"),
        x.tolist(),
        wide[:, ::2],
        keras.ops.array(x),
    ):
        assert predictor(given).tobytes() == want
    assert predictor(np.asfortranarray(x.astype("float32"))).tobytes() == want
    assert predictor(x > 2).shape == (6, 1)


def test_what_does_not_fit_is_refused():
    predictor = fs.Predictor(LAYERS["concat"]())
    for given, message in (
        (rows(3, 9), r"expected shape \(\.\.\., 10\). Received: shape \(3, 9\)"),
        (np.float32(1), r"expected shape \(\.\.\., 10\). Received: shape \(\)"),
    ):
        with pytest.raises(ValueError, match=message):
            predictor(given)
    for given in (np.array(["a"] * 10), np.zeros((2, 10), complex), np.zeros((2, 10), object), None):
        with pytest.raises(TypeError, match="expected an array of numbers"):
            predictor(given)
    two = fs.Predictor(towers())
    for given, message in (
        ([rows(3, 6)], "expected a dict of 'a', 'b'. Received: list"),
        ({"a": rows(3, 6)}, "expected a dict of 'a', 'b'. Received: keys 'a'"),
        ({"a": rows(3, 6), "b": rows(4, 6)}, "expected equal leading axes"),
    ):
        with pytest.raises(ValueError, match=message):
            two(given)


def test_out_is_written():
    predictor, x = fs.Predictor(LAYERS["concat"]()), rows(6, 10)
    want = predictor(x)
    for out in (np.zeros((6, 1), "float32"), np.zeros((6, 3), "float32")[:, 1:2]):
        assert predictor.predict(x, out) is out
        assert out.tobytes() == want.tobytes()
        assert predictor(x.astype("float64"), out=out) is out
    for out, error in (
        (np.zeros((6, 1)), TypeError),
        ([0.0], TypeError),
        (np.zeros((5, 1), "float32"), ValueError),
        (np.broadcast_to(np.float32(0), (6, 1)), ValueError),
    ):
        with pytest.raises(error, match="`out`: expected"):
            predictor(x, out)
    both = {"p": np.zeros((6, 3), "float32"), "q": np.zeros((6, 12), "float32")}
    assert fs.Predictor(towers())({"a": rows(6, 6), "b": rows(6, 6)}, both) is both
    assert both["p"].any() and both["q"].any()


def test_out_may_be_the_input():
    layer = built(fs.SplitDense(Dense(8), [Dense(4), Dense(6)]), (None, 10))
    predictor, x = fs.Predictor(layer, fold=False), rows(300, 10)
    want = predictor(x)
    assert predictor(x, x).tobytes() == want.tobytes()


def test_later_changes_of_weights_are_not_seen():
    layer, x = LAYERS["concat"](), rows(3, 10)
    predictor = fs.Predictor(layer, fold=False)
    before = predictor(x)
    for weight in layer.weights:
        weight.assign(weight * 0)
    assert predictor(x).tobytes() == before.tobytes()


def test_what_is_not_one_region_is_refused_with_the_reasons():
    model = keras.Sequential([keras.Input((8, 8, 1)), kl.Conv2D(2, 3, name="see"), kl.Flatten(), Dense(2)])
    with pytest.raises(ValueError, match="(?s)one region.*see: Conv2D is not known to be row-wise"):
        fs.Predictor(model)
    x = keras.Input((4,))
    with pytest.raises(ValueError, match="one of its inputs|computes nothing|one region"):
        fs.Predictor(keras.Model(x, [x, Dense(2)(x)]))
    by_data = built(fs.DynamicSplitDense(Dense(4), Dense(2), Dense(2), split=lambda x: 2), (None, 5))
    with pytest.raises(ValueError, match="splits where a function of the data says"):
        fs.Predictor(by_data)
    own = built(fs.MergeDense([Dense(2), Dense(2)], merge=lambda parts: parts[0] + parts[1]), (None, 5))
    with pytest.raises(ValueError, match="a function of its own"):
        fs.Predictor(own)
    half = built(fs.SplitDense(Dense(4, dtype="bfloat16"), [Dense(2, dtype="bfloat16"), None]), (None, 5))
    with pytest.raises(ValueError, match="float32 or float64"):
        fs.Predictor(half)
    with pytest.raises(TypeError, match="a built fused layer or a Keras model"):
        fs.Predictor(Dense(3))
    with pytest.raises(ValueError, match="expected a built layer"):
        fs.Predictor(fs.SplitDense(Dense(4), [None, None]))
    with pytest.raises(ValueError, match="`threads`: expected"):
        fs.Predictor(LAYERS["concat"](), threads=0)


@pytest.mark.parametrize("name", [*LAYERS, "model"])
def test_files_and_pickles_give_the_same(name, tmp_path):
    source = towers() if name == "model" else LAYERS[name]()
    predictor = fs.Predictor(source)
    x = {"a": rows(5, 6), "b": rows(5, 6)} if name == "model" else rows(5, 10)
    predictor.save(tmp_path / "model.fs")
    want = pickle.dumps(predictor(x))
    for other in (
        fs.Predictor.load(tmp_path / "model.fs"),
        fs.Predictor.load(str(tmp_path / "model.fs"), threads=1),
        pickle.loads(pickle.dumps(predictor)),
    ):
        assert pickle.dumps(other(x)) == want
        assert other.plan == predictor.plan and other.to_bytes() == predictor.to_bytes()
    assert list(tmp_path.iterdir()) == [tmp_path / "model.fs"]


def test_a_file_holds_no_names(tmp_path):
    layer = built(fs.SplitDense(Dense(8, name="secret_stem"), [Dense(4), Dense(6)], name="secret"), (None, 10))
    data = fs.Predictor(layer).to_bytes()
    assert b"secret" not in data and b"Dense" not in data and b"keras" not in data


@pytest.mark.parametrize("count", [1, 2000])
def test_many_threads_at_once(count):
    predictor, wrong = fs.Predictor(LAYERS["concat"]()), []
    x = rows(count, 10)
    want = predictor(x).tobytes()

    def work():
        wrong.extend(i for i in range(100) if predictor(x).tobytes() != want)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


WITHOUT_TENSORFLOW = """
import sys
import numpy as np
import fusedsplit as fs
predictor = fs.Predictor.load(sys.argv[1])
print(predictor(np.load(sys.argv[2])).tobytes().hex())
print([name for name in ("tensorflow", "keras") if name in sys.modules])
"""


def test_where_numpy_alone_is_installed(tmp_path):
    """As `pip install --no-deps fusedsplit numpy` leaves an environment."""
    import venv

    x, predictor = rows(4, 10), fs.Predictor(LAYERS["concat"]())
    predictor.save(tmp_path / "model.fs")
    np.save(tmp_path / "x.npy", x)
    venv.create(tmp_path / "env", with_pip=False, symlinks=True)
    (site,) = (tmp_path / "env").glob("lib/python*/site-packages")
    for package in (Path(np.__file__).parent, Path(np.__file__).parents[1] / "numpy.libs"):
        if package.exists():
            (site / package.name).symlink_to(package)
    shutil.copytree(Path(fs.__file__).parent, site / "fusedsplit", ignore=shutil.ignore_patterns("__pycache__"))
    command = [str(tmp_path / "env/bin/python"), "-I", "-c", WITHOUT_TENSORFLOW, "model.fs", "x.npy"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [predictor(x).tobytes().hex(), "[]"]


def test_without_the_native_core_it_says_why(tmp_path):
    shutil.copytree(
        Path(fs.__file__).parent, tmp_path / "fusedsplit", ignore=shutil.ignore_patterns("*.so", "__pycache__")
    )
    predictor = fs.Predictor(LAYERS["concat"]())
    predictor.save(tmp_path / "model.fs")
    code = "import fusedsplit as fs; print(fs.__file__); fs.Predictor.load('model.fs')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert str(tmp_path) in done.stdout and "NativeError" in done.stderr
