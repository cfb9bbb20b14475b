"""A contestant's process: `python -m race.serve FD module:Class` answers what is asked on the socket FD."""

from __future__ import annotations

import importlib
import logging
import multiprocessing.connection
import sys
import warnings
from typing import Any


def _reason(error: Exception) -> str:
    """The first line of what went wrong; a missing package is named, which is reason enough."""
    if isinstance(error, ModuleNotFoundError):
        return f"{error.name} is not installed"
    lines = [line for line in str(error).splitlines() if line.strip()]
    kind = "" if type(error).__name__ == "ProviderUnavailable" else f"{type(error).__name__}: "
    return kind + (lines[0] if lines else "no message")


def serve(connection: Any, target: str) -> None:
    """Makes the target and answers until the other side hangs up."""
    try:
        module, _, name = target.partition(":")
        contestant = getattr(importlib.import_module(module), name)()
    except Exception as error:  # whatever it is, it is the answer
        connection.send((False, _reason(error)))
        return
    connection.send((True, None))
    while True:
        try:
            method, args = connection.recv()
        except EOFError:
            return
        try:
            answer = (True, getattr(contestant, method)(*args))
        except Exception as error:
            answer = (False, _reason(error))
        connection.send(answer)


def main() -> None:
    warnings.simplefilter("ignore")  # what peers say about one another's versions
    logging.disable(logging.WARNING)
    serve(multiprocessing.connection.Connection(int(sys.argv[1])), sys.argv[2])


if __name__ == "__main__":
    main()
