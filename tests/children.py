"""Programs of tests, each in a process of its own that has TensorFlow and Keras imported, and nothing of this project.

The processes are forked from a server in which nothing has run: importing TensorFlow takes longer than most of them.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
import types
from collections.abc import Callable, Mapping
from pathlib import Path

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["keras", "tensorflow"])
_ROOT = Path(__file__).resolve().parents[1]


def _main(code: str, arguments: list[str], environment: dict[str, str], directory: str, paths: list[str]) -> None:
    """What the child does: it becomes `python -c code *arguments`, whose output goes into two files."""
    for descriptor, path in enumerate(paths, 1):
        os.dup2(os.open(path, os.O_WRONLY), descriptor)
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    given = environment.get("PYTHONPATH", "")
    # This project is found where the program would find it by itself, not where the tests did.
    own = [path for path in sys.path if path and Path(path).resolve() != _ROOT]
    sys.path[:] = ["", *filter(None, given.split(os.pathsep)), *own]
    for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
        del sys.modules[name]
    sys.argv = ["-c", *arguments]
    sys.modules["__main__"] = main = types.ModuleType("__main__")
    exec(compile(code, "<string>", "exec"), main.__dict__)


def start(
    code: str, *arguments: str, env: Mapping[str, str] | None = None, cwd: str | Path | None = None
) -> Callable[[], subprocess.CompletedProcess]:
    """Starts `python -c code *arguments`; calling what it gives waits for the end.

    Args:
        code: the program. Its modules are those of `cwd`, of PYTHONPATH and of the installation.
        *arguments: its sys.argv[1:].
        env: its environment, else this process' own.
        cwd: its directory, else this process' own.
    """
    folder = tempfile.TemporaryDirectory()
    paths = [Path(folder.name) / name for name in ("stdout", "stderr")]
    for path in paths:
        path.touch()
    given = dict(os.environ if env is None else env)
    process = _CONTEXT.Process(
        target=_main, args=(code, list(arguments), given, str(cwd or os.getcwd()), list(map(str, paths))), daemon=False
    )
    process.start()

    def finish() -> subprocess.CompletedProcess:
        with folder:
            process.join(300)
            if process.exitcode is None:
                process.kill()
                process.join()
            out, err = (path.read_text() for path in paths)
            return subprocess.CompletedProcess(["-c", code], process.exitcode, out, err)

    return finish


def run(
    code: str, *arguments: str, env: Mapping[str, str] | None = None, cwd: str | Path | None = None
) -> subprocess.CompletedProcess:
    """`start`, and the end."""
    return start(code, *arguments, env=env, cwd=cwd)()
