"""_registration.py: the layers register themselves with Keras whenever it comes, and never in its way.

On small stand-ins for Keras and TensorFlow; `tests/layers/test_keras.py` loads models by the real ones.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import fusedsplit

ORDERS = ("import fusedsplit, keras", "import keras, fusedsplit")
# Says when the layers would be registered, instead of registering them.
SPY = "import fusedsplit._registration as r; r.register = lambda: print('registered')\n"
NEEDED = "fusedsplit needs the TensorFlow backend of Keras: set KERAS_BACKEND=tensorflow before Keras is imported."


@pytest.fixture
def run(tmp_path):
    """Runs code where Keras is a stand-in, and TensorFlow, if anybody imports it, raises; gives the output."""
    (tmp_path / "keras").mkdir()
    (tmp_path / "keras" / "config.py").write_text("import os\ndef backend(): return os.environ['KERAS_BACKEND']\n")
    (tmp_path / "keras" / "layers.py").write_text("class Layer: pass\nclass Dense(Layer): pass\n")
    (tmp_path / "tensorflow.py").write_text("raise RuntimeError('no such luck')\n")

    def run(code: str, keras: str = "", backend: str = "tensorflow", warnings: str = "error") -> str:
        (tmp_path / "keras" / "__init__.py").write_text(f"__version__ = '0'\nfrom keras import config, layers\n{keras}")
        paths = [str(tmp_path), str(Path(fusedsplit.__file__).resolve().parents[1])]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "KERAS_BACKEND": backend}
        command = [sys.executable, "-W", warnings, "-c", code]
        result = subprocess.run(command, capture_output=True, text=True, env=env, timeout=60)
        assert result.returncode == 0, result.stderr
        return result.stdout.strip() + result.stderr.strip()

    return run


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_another_backend_of_keras_is_left_alone_and_every_layer_says_what_it_needs(run, order, backend):
    code = f"""{order}
import sys, fusedsplit as fs
for name in set(fs.__all__) - fs._ANYWHERE - {{"__version__"}}:
    try:
        getattr(fs, name)
    except ImportError as error:
        assert str(error) == "{NEEDED} Received: backend '{backend}'", error
    else:
        raise AssertionError(name)
try:
    import fusedsplit.backends.dispatch
except ImportError as error:
    assert "{NEEDED}" in str(error)
else:
    raise AssertionError("dispatch")
fs.SplitSpec, fs.merges.get
assert all("{NEEDED}" in reason for reason in fs.info().backends.values()), fs.info()
assert fs.info().problems == {{}}
assert "tensorflow" not in sys.modules
print("done")
"""
    assert run(code, backend=backend) == "done"


@pytest.mark.parametrize("order", ORDERS)
def test_a_registration_that_fails_is_a_warning_and_stands_in_info(run, order):
    code = f"{order}\nimport fusedsplit as fs; print('imported', fs.info().problems, fs.info().backends['op'])"
    said = run(code, warnings="always")
    assert "imported" in said
    assert said.count("RuntimeWarning: fusedsplit cannot register its layers") == 1
    problem = "RuntimeError: no such luck"
    assert f"'registration with Keras': 'failed when Keras was imported: {problem}'" in said
    assert f"}} {problem}" in said


@pytest.mark.parametrize("order", ORDERS)
def test_a_registration_that_fails_ends_no_import_where_warnings_are_errors(run, order):
    assert run(f"{order}; print('imported')") == "imported"


def test_keras_own_failure_is_its_own(run):
    code = """import fusedsplit
for attempt in range(2):
    try:
        import keras
    except ZeroDivisionError:
        print("failed")
"""
    assert run(code, keras="1 / 0") == "failed\nfailed"


def test_a_second_attempt_to_import_keras_registers(run):
    code = f"""import builtins, fusedsplit
{SPY}
builtins.attempts = 0
try:
    import keras
except ZeroDivisionError:
    import keras
"""
    assert run(code, keras="import builtins; builtins.attempts += 1; 1 / (builtins.attempts - 1)") == "registered"


def test_asking_whether_there_is_a_keras_loses_nothing(run):
    code = f"""import importlib.util, sys, fusedsplit
{SPY}
assert importlib.util.find_spec("keras") is not None
assert importlib.util.find_spec("keras.config") is not None  # which imports keras
import keras
assert type(keras.__spec__.loader) is type(keras.__loader__) is type(keras.config.__loader__)
assert not [finder for finder in sys.meta_path if type(finder).__module__.startswith("fusedsplit")]
"""
    assert run(code) == "registered"


def test_a_package_that_is_imported_twice_finds_keras_once(run):
    code = f"""import sys, fusedsplit
for name in [name for name in sys.modules if name.startswith("fusedsplit")]:
    del sys.modules[name]
import fusedsplit
{SPY}
import keras
"""
    assert "registered" in run(code)


def test_only_keras_itself_is_looked_for(run):
    code = """import fusedsplit._registration as r
finder = r._KerasFinder()
print([finder.find_spec(name, None) for name in ("tf_keras", "keras.layers", "tensorflow.keras")])
"""
    assert run(code) == "[None, None, None]"


def test_another_thread_that_imports_keras_is_waited_for(run):
    code = """import sys, threading, time
thread = threading.Thread(target=lambda: __import__("keras"))
thread.start()
while "keras" not in sys.modules:
    time.sleep(0.001)
import fusedsplit
assert sys.modules["keras"].complete
print(fusedsplit._registration.problem)
"""
    assert run(code, keras="import time; time.sleep(0.3); complete = True") == "RuntimeError: no such luck"


def test_a_keras_that_imports_us_itself_is_imported(run):
    assert run("import keras; print(keras.complete)", keras="import fusedsplit; complete = True") == "True"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_fork_registers_as_its_parent_does(run):
    code = f"""import os, fusedsplit
{SPY}
child = os.fork()
if child:
    assert os.waitpid(child, 0)[1] == 0
import keras
"""
    assert run(code) == "registered\nregistered"
