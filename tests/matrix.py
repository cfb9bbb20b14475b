"""`make test-matrix`: one wheel, a core set of tests, in fresh environments with older and newer TensorFlow and Keras.

Builds the wheel once, makes an environment for each row of ROWS under build/matrix, installs the wheel and the row's
pins there, and runs the tests against the installed package. Prints the table that stands in the README. Before them
comes an environment of NumPy and the wheel alone, where a predictor is loaded and used.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "build" / "matrix"
# The op, gradients of every order, saving, export, and what Keras does with layers.
TESTS = (
    "layers/test_keras.py",
    "layers/test_merges.py",
    "layers/test_dynamic.py",
    "layers/test_seeds.py",
    "backends/test_dispatch.py",
    "backends/test_op.py",
    "backends/test_op_in_xla.py",
)


class Row(NamedTuple):
    """One environment: pip requirements of TensorFlow, Keras and NumPy."""

    tensorflow: str
    keras: str
    numpy: str

    @property
    def name(self) -> str:
        return "_".join(re.sub(r"[^\w.]+", "-", pin) for pin in self)


ROWS = (
    Row("tensorflow~=2.16.0", "keras==3.5.0", "numpy<2"),
    Row("tensorflow~=2.18.0", "keras==3.12.*", "numpy<2.1"),
    Row("tensorflow~=2.20.0", "keras", "numpy"),
    Row("tensorflow~=2.21.0", "keras", "numpy"),
)


def build_wheel(python: str) -> Path:
    """The wheel, built once for every row."""
    wheels = WORK / "wheel"
    shutil.rmtree(wheels, ignore_errors=True)
    env = {**os.environ, "FUSEDSPLIT_FORCE_BUILD": "1"}
    subprocess.run([python, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(wheels), str(ROOT)], check=True, env=env)
    (wheel,) = wheels.glob("fusedsplit-*.whl")
    return wheel


def run_row(row: Row, wheel: Path, tests: tuple[str, ...]) -> tuple[str, ...]:
    """One line of the table: versions, the backends that are usable, and how the tests ended."""
    home = WORK / row.name
    python = str(home / "bin" / "python")
    if not Path(python).exists():
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
    pins = [row.tensorflow, row.keras, row.numpy, "pytest", "pytest-timeout", "hypothesis", "scipy", "scikit-learn"]
    subprocess.run([python, "-m", "pip", "install", "-q", *pins], check=True)
    subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", "--force-reinstall", str(wheel)], check=True)
    # The tests alone, away from the source tree, so that what is tested is what the wheel installed.
    copy = home / "run" / "tests"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(ROOT / "tests", copy)
    # Or pytest finds the settings of the source tree above, and imports the package from there.
    (copy.parent / "pytest.ini").write_text("[pytest]\npythonpath = .\n")
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    report = (
        "import fusedsplit as fs; i = fs.info(); "
        "op = i.backends['op'] or 'usable' + ', not in XLA' * (i.core['inside XLA'] != 'usable'); "
        "print(*(i.versions[k] for k in ('tensorflow', 'keras', 'numpy')), op, sep='|')"
    )
    options = {"check": False, "capture_output": True, "text": True, "cwd": copy.parent, "env": env}
    info = subprocess.run([python, "-c", report], **options)
    if info.returncode:
        return (row.tensorflow, row.keras, row.numpy, "does not import", info.stderr.strip().splitlines()[-1])
    command = [python, "-m", "pytest", "-q", "--rootdir", ".", "-p", "no:cacheprovider", "-p", "no:warnings"]
    command += ["--import-mode=importlib", *(f"tests/{t}" for t in tests)]
    result = subprocess.run(command, **options)
    (home / "log.txt").write_text(result.stdout + result.stderr)
    closing = result.stdout.strip().splitlines()[-1].strip("= ")
    return (*info.stdout.strip().splitlines()[-1].split("|"), re.sub(r" in [\d.]+s.*", "", closing))


# What somebody with TensorFlow saves, and what somebody without it does with that.
SAVES = """
import numpy as np, fusedsplit as fs
from keras.layers import Dense
layer = fs.SplitDense(Dense(8), [Dense(4, activation="relu"), Dense(6, activation="relu")], head=Dense(1))
layer.build((None, 10))
predictor, x = fs.Predictor(layer), np.random.default_rng(0).standard_normal((1000, 10), "float32")
predictor.save("model.fs"), np.save("x.npy", x), np.save("y.npy", predictor(x))
"""
PREDICTS = """
import sys, time
import numpy as np, fusedsplit as fs
y = fs.Predictor.load("model.fs")(np.load("x.npy"))
seconds = time.time() - float(sys.argv[1])
same = np.allclose(y, np.load("y.npy"), rtol=0, atol=1e-5) and "tensorflow" not in sys.modules
print(np.__version__, f"predicts {seconds:.2f} s after its process began" if same else "fails: other numbers", sep="|")
"""


def run_numpy_alone(wheel: Path) -> tuple[str, ...]:
    """The line of an environment that `pip install --no-deps fusedsplit numpy` leaves."""
    home = WORK / "numpy-alone"
    shutil.rmtree(home, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
    subprocess.run([str(home / "bin" / "pip"), "install", "-q", "--no-deps", str(wheel), "numpy"], check=True)
    run = home / "run"
    run.mkdir()
    env = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", SAVES], check=True, cwd=run, env=env, stderr=subprocess.DEVNULL)
    command = [str(home / "bin" / "fusedsplit"), "predict", "model.fs", "x.npy", "z.npy"]
    tool = subprocess.run(command, check=False, capture_output=True, text=True, cwd=run)
    if tool.returncode:
        return ("none", "none", "-", "-", f"fails: {tool.stderr.strip()}")
    # Of three, the first of which reads everything from disk.
    tries = []
    for _ in range(3):
        python = [str(home / "bin" / "python"), "-I", "-c", PREDICTS, str(time.time())]
        tries.append(subprocess.run(python, check=True, capture_output=True, text=True, cwd=run).stdout.strip())
    version, outcome = tries[-1].split("|")
    return ("none", "none", version, "-", outcome)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="*", help="which rows of ROWS, by their place")
    parser.add_argument("--tests", nargs="+", default=TESTS, help="files below tests/")
    args = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    wheel = build_wheel(sys.executable)
    print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.2f} MB")
    print("| TensorFlow | Keras | NumPy | op | tests |\n|---|---|---|---|---|")
    line = run_numpy_alone(wheel)
    print("| " + " | ".join(line) + " |", flush=True)
    failed = "fails" in line[-1]
    for row in ROWS if args.rows is None else [ROWS[i] for i in args.rows]:
        line = run_row(row, wheel, tuple(args.tests))
        failed |= "failed" in line[-1] or "error" in line[-1] or "import" in line[-2]
        print("| " + " | ".join(line) + " |", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
