"""cli.py: the `fusedsplit` command."""

import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers as kl

import fusedsplit
import fusedsplit as fs
from fusedsplit.cli import main
from tests import children


def test_info(capsys):
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    assert "tensorflow" in text and "backend op" in text


def test_check(capsys):
    assert main(["check", "--random", "1", "--backends", "tf"]) == 0
    assert "0 failed" in capsys.readouterr().out


def test_check_says_so_when_something_fails(capsys, monkeypatch):
    from fusedsplit.backends import dispatch

    right = dispatch.run
    monkeypatch.setattr(
        dispatch,
        "run",
        lambda computation, operands, backend: [
            y + (backend != "reference") for y in right(computation, operands, backend)
        ],
    )
    assert main(["check", "--random", "0", "--backends", "tf"]) == 1
    assert "FAILED" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["no-such-command"], ["check", "--random", "many"]], ids=str)
def test_bad_arguments_exit_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    assert "usage: fusedsplit" in capsys.readouterr().err


def test_python_m_fusedsplit():
    result = subprocess.run([sys.executable, "-m", "fusedsplit", "--version"], capture_output=True, text=True)
    assert result.stdout.strip() == fusedsplit.__version__


# explain and convert.


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def saved(here, rng) -> keras.Model:
    """A model, trained a little, and in plain.keras."""
    x = keras.Input((5,))
    h = kl.Dropout(0.2)(kl.BatchNormalization()(kl.Dense(6, activation="relu")(x)))
    model = keras.Model(x, kl.Dense(1)(h), name="made")
    model.compile(keras.optimizers.AdamW(0.02), "mae", metrics=["mse"])
    model.fit(rng.normal(size=(32, 5)), rng.normal(size=(32, 1)), epochs=2, verbose=0)
    model.save("plain.keras")
    return model


def test_explain_a_file(saved, capsys):
    assert main(["explain", "plain.keras"]) == 0
    plain = capsys.readouterr().out
    fs.fuse(saved).save("fused.keras")
    assert main(["explain", "fused.keras"]) == 0
    fused = capsys.readouterr().out
    assert "made: 4 calls; fs.fuse would run 4 of them in 1 region at inference" in plain
    assert "made: 4 calls; runs 4 of them in 1 region at inference" in fused
    assert "while training it looks across rows" in plain and "expected gain" in fused


def test_convert_both_ways_keeps_everything(saved, capsys, rng):
    assert main(["convert", "plain.keras", "fused.keras"]) == 0
    out = capsys.readouterr().out
    assert "plain.keras -> fused.keras: 'made' is now a fused model" in out
    assert "at inference: 1 region, 0 of 4 calls left to Keras" in out
    assert f"with AdamW and its {len(saved.optimizer.variables)} variables" in out
    assert main(["convert", "fused.keras", "again.keras"]) == 0
    assert "'made' is now a plain Keras model, which loads without fusedsplit" in capsys.readouterr().out
    fused, again = keras.models.load_model("fused.keras"), keras.models.load_model("again.keras")
    assert type(fused) is fs.FusedModel and not isinstance(again, fs.FusedModel)
    for model in (fused, again):
        for mine, its in zip(saved.optimizer.variables, model.optimizer.variables, strict=True):
            np.testing.assert_array_equal(mine.numpy(), its.numpy())
    x, y = rng.normal(size=(32, 5)), rng.normal(size=(32, 1))
    losses = [m.fit(x, y, shuffle=False, epochs=2, verbose=0).history["loss"] for m in (saved, again)]
    for model, loss in zip((saved, again), losses):
        assert type(model.optimizer) is keras.optimizers.AdamW and loss == pytest.approx(losses[0], rel=0.2)


def test_converted_files_load_in_a_process_without_fusedsplit(saved):
    assert main(["convert", "plain.keras", "fused.keras"]) == 0
    assert main(["convert", "fused.keras", "again.keras"]) == 0
    code = (
        "import sys; sys.modules['fusedsplit'] = None; import keras; m = keras.models.load_model('again.keras'); "
        "print(type(m).__name__, len(m.optimizer.variables))"
    )
    result = children.run(code)
    assert result.stdout.split() == ["Functional", str(len(saved.optimizer.variables))], result.stderr


def test_what_still_needs_fusedsplit_is_said(here, capsys):
    x = keras.Input((4,))
    fs.fuse(keras.Model(x, fs.SplitDense(kl.Dense(4), [kl.Dense(2)] * 2, name="mine")(x))).save("fused.keras")
    assert main(["convert", "fused.keras", "plain.keras"]) == 0
    out = capsys.readouterr().out
    assert "a plain Keras model, whose mine still need fusedsplit" in out and "not compiled, as it was not" in out


def test_nothing_is_overwritten_without_force(saved, here, capsys):
    (here / "there.keras").write_text("mine")
    assert main(["convert", "plain.keras", "there.keras"]) == 2
    assert "'there.keras', which exists (--force overwrites it)" in capsys.readouterr().err
    assert (here / "there.keras").read_text() == "mine"
    assert main(["convert", "plain.keras", "there.keras", "--force"]) == 0
    assert main(["convert", "plain.keras", "plain.keras", "--force"]) == 0
    assert type(keras.models.load_model("plain.keras")) is fs.FusedModel


def test_a_failed_write_leaves_nothing_behind(saved, here, monkeypatch):
    def save(self, path, *args, **kwargs):
        path.write_text("half of it")
        raise OSError("disk full")

    before = sorted(here.iterdir())
    monkeypatch.setattr(keras.Model, "save", save)
    assert main(["convert", "plain.keras", "fused.keras"]) == 2
    assert sorted(here.iterdir()) == before


BAD = {
    "missing": ("no.keras", "expected a .keras file. Received: 'no.keras', which is no file"),
    "a directory": ("directory.keras", "'directory.keras', which is no file"),
    "another suffix": ("plain.h5", "expected a .keras file, as model.save writes it. Received: 'plain.h5'"),
    "not a zip": ("text.keras", "expected a .keras file, as model.save writes it. Received: 'text.keras'"),
}


@pytest.mark.parametrize("command", ("explain", "convert"))
@pytest.mark.parametrize("name", BAD)
def test_files_that_hold_no_model_are_refused(name, command, here, capsys):
    (here / "directory.keras").mkdir()
    (here / "plain.h5").write_text("")
    (here / "text.keras").write_text("text")
    path, message = BAD[name]
    assert main([command, path, *(["out.keras"] if command == "convert" else [])]) == 2
    captured = capsys.readouterr()
    assert f"fusedsplit {command}: " in captured.err and message in captured.err
    assert not captured.out and "Traceback" not in captured.err


@pytest.mark.parametrize("target", ["out.h5", "no/out.keras"])
def test_targets_that_cannot_be_written_are_refused(target, saved, capsys):
    assert main(["convert", "plain.keras", target]) == 2
    assert f"Received: '{target}'" in capsys.readouterr().err


def test_lambdas_need_the_users_word(here, capsys):
    x = keras.Input((4,))
    y = kl.Dense(2)(kl.Lambda(lambda t: t * 2.0, output_shape=(4,))(kl.Dense(4)(x)))
    keras.Model(x, y).save("lambda.keras")
    assert main(["explain", "lambda.keras"]) == 2
    assert "give --unsafe" in capsys.readouterr().err
    assert main(["explain", "lambda.keras", "--unsafe"]) == 0
    assert "1 Lambda" in capsys.readouterr().out
    assert main(["convert", "lambda.keras", "fused.keras", "--unsafe"]) == 0


def test_classes_of_ones_own_are_named(here, capsys):
    class Own(kl.Layer):
        def call(self, x):
            return x

    x = keras.Input((4,))
    keras.Model(x, kl.Dense(2)(Own()(x))).save("own.keras")
    assert main(["explain", "own.keras"]) == 2
    error = capsys.readouterr().err
    assert "Own" in error and "A class of your own is not known here: in the program that made it" in error


def test_models_that_cannot_be_read_are_named(here, capsys):
    keras.Sequential([kl.Dense(2)]).save("unbuilt.keras")
    for arguments in (["explain", "unbuilt.keras"], ["convert", "unbuilt.keras", "out.keras"]):
        assert main(arguments) == 2
        assert "unbuilt.keras: `model`: expected a Sequential whose input shape is known" in capsys.readouterr().err


# predict, and convert to what it reads.


@pytest.fixture
def predictor_file(here):
    layer = fs.SplitDense(kl.Dense(6), [kl.Dense(2, activation="relu"), None], head=kl.Dense(1))
    layer.build((None, 5))
    fs.Predictor(layer).save("model.fs")


def test_convert_to_a_predictor(saved, here, rng, capsys):
    assert main(["convert", "plain.keras", "model.fs"]) == 0
    assert "needs NumPy alone" in capsys.readouterr().out
    x = rng.normal(size=(7, 5)).astype("float32")
    want = saved.predict(x, verbose=0)
    np.testing.assert_allclose(fs.Predictor.load("model.fs")(x), want, atol=1e-5)
    assert main(["convert", "plain.keras", "model.fs"]) == 2
    assert "which exists" in capsys.readouterr().err
    assert main(["convert", "plain.keras", "model.fs", "--force", "--no-fold"]) == 0
    assert len(fs.Predictor.load("model.fs").plan.steps) == 3
    keras.Sequential([keras.Input((4, 4, 1)), kl.Conv2D(2, 3)]).save("image.keras")
    assert main(["convert", "image.keras", "image.fs"]) == 2
    assert "not known to be row-wise" in capsys.readouterr().err
    assert not (here / "image.fs").exists()


@pytest.mark.parametrize("order", ["C", "F"])
def test_predict(predictor_file, here, rng, capsys, order):
    x = rng.normal(size=(1000, 5))
    np.save("in.npy", np.asarray(x, order=order))
    assert main(["predict", "model.fs", "in.npy", "out.npy"]) == 0
    assert "1,000 rows in" in capsys.readouterr().out
    predictor = fs.Predictor.load("model.fs")
    assert np.load("out.npy").tobytes() == predictor(x).tobytes()
    from fusedsplit.tools.predict_files import predict_files

    predict_files("model.fs", ["in.npy", "out.npy"], force=True, chunk=1000)
    assert np.load("out.npy").tobytes() == predictor(x).tobytes()
    np.save("in.npy", x[:0])
    assert main(["predict", "model.fs", "in.npy", "out.npy", "--force"]) == 0
    assert np.load("out.npy").shape == (0, 1)
    np.save("in.npy", x.reshape(10, 100, 5)), np.save("one.npy", x[0])
    assert main(["predict", "model.fs", "in.npy", "out.npy", "--force"]) == 0
    assert main(["predict", "model.fs", "one.npy", "one_out.npy"]) == 0
    assert np.load("out.npy").shape == (10, 100, 1) and np.load("one_out.npy").shape == (1,)


def test_predict_with_several_inputs_and_outputs(here, rng):
    a, b = keras.Input((3,)), keras.Input((2,))
    h = kl.Concatenate()([a, b])
    fs.Predictor(keras.Model([a, b], [kl.Dense(4)(h), kl.Dense(1)(a)])).save("model.fs")
    given = [rng.normal(size=(9, n)).astype("float32") for n in (3, 2)]
    for name, x in zip("ab", given):
        np.save(f"{name}.npy", x)
    assert main(["predict", "model.fs", "a.npy", "b.npy", "p.npy", "q.npy"]) == 0
    want = fs.Predictor.load("model.fs")(given)
    assert [np.load(f"{name}.npy").tobytes() for name in "pq"] == [y.tobytes() for y in want]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no.fs", "in.npy", "out.npy"], "No such file"),
        (["in.npy", "in.npy", "out.npy"], "in.npy: expected the file of a Predictor"),
        (["plain.keras", "in.npy", "out.npy"], "other bytes; `fusedsplit convert` makes one from it"),
        (["model.fs", "in.npy"], "expected 1 files of inputs and 1 of outputs. Received: 1 files"),
        (["model.fs", "model.fs", "out.npy"], "expected a .npy file of numbers"),
        (["model.fs", "text.npy", "out.npy"], "expected a .npy file of numbers"),
        (["model.fs", "wide.npy", "out.npy"], r"wide.npy: expected an array of shape (..., 5). Received: shape (4, 6)"),
        (["model.fs", "in.npy", "in.npy"], "which exists (--force overwrites)"),
        (["model.fs", "in.npy", "out.txt"], "expected to write a .npy file"),
        (["model.fs", "in.npy", "none/out.npy"], "into a directory"),
        (["model.fs", "in.npy", "out.npy", "--threads", "0"], "`threads`: expected"),
    ],
    ids=str,
)
def test_predict_says_what_is_wrong(predictor_file, here, arguments, message, capsys):
    np.save("in.npy", np.zeros((4, 5), "float32"))
    np.save("wide.npy", np.zeros((4, 6), "float32"))
    np.save("text.npy", np.array(["a"]))
    (here / "plain.keras").write_bytes(b"PK")
    before = set(here.iterdir())
    assert main(["predict", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert set(here.iterdir()) == before


def test_predict_leaves_nothing_half_written(predictor_file, here, monkeypatch):
    np.save("in.npy", np.zeros((4, 5), "float32"))
    before = set(here.iterdir())
    from fusedsplit.tools import predict_files

    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(predict_files, "_run", stop)
    with pytest.raises(KeyboardInterrupt):
        main(["predict", "model.fs", "in.npy", "out.npy"])
    assert set(here.iterdir()) == before


@pytest.mark.parametrize("rich", [True, False])
def test_a_bar_on_a_terminal(predictor_file, here, rich, monkeypatch):
    import sys

    np.save("in.npy", np.zeros((400, 5), "float32"))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    if not rich:
        monkeypatch.setitem(sys.modules, "rich.progress", None)
    assert main(["predict", "model.fs", "in.npy", "out.npy"]) == 0
