"""cli.py: the `fusedsplit` command."""

import subprocess
import sys

import pytest

import fusedsplit
from fusedsplit.cli import main


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
