"""tests/children.py: a program is as if it had a process of its own from the beginning."""

import os

from tests import children

SEEN = "import os, sys; print(__name__, sys.argv[1:], os.environ.get('A'), os.getcwd(), os.getpid())"


def test_a_program_has_its_arguments_environment_directory_and_process(tmp_path):
    done = children.run(SEEN, "x", "y z", env={**os.environ, "A": "b"}, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    *seen, process = done.stdout.split(" ")
    assert " ".join(seen) == f"__main__ ['x', 'y z'] b {tmp_path.resolve()}"
    assert int(process) != os.getpid()
    assert "A" not in os.environ and children.run(SEEN).stdout.split(" ")[2] == "None"


def test_it_begins_with_tensorflow_and_nothing_of_this_project():
    done = children.run("import sys; print([n for n in sys.modules if n in ('fusedsplit', 'tests', 'tensorflow')])")
    assert done.stdout == "['tensorflow']\n"


def test_modules_are_found_in_the_directory_and_on_the_path(tmp_path):
    (tmp_path / "here.py").write_text("x = 1")
    (tmp_path / "path").mkdir()
    (tmp_path / "path/there.py").write_text("x = 2")
    code = "import here, there; print(here.x, there.x)"
    done = children.run(code, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path / "path")})
    assert done.stdout == "1 2\n", done.stderr


def test_errors_are_seen():
    done = children.run("print('before'); raise ValueError('expected')")
    assert done.returncode == 1 and done.stdout == "before\n" and "ValueError: expected" in done.stderr
    assert children.run("raise SystemExit(3)").returncode == 3
    assert children.run("import os; os.abort()").returncode < 0


def test_several_run_at_a_time():
    ends = [children.start(f"print({i})") for i in range(3)]
    assert [end().stdout for end in ends] == ["0\n", "1\n", "2\n"]
