"""For programs that tests start: TensorFlow is imported once, and each of several questions has a process of its own.

It imports nothing of this project, so that a program which finds it on its path finds nothing else by it.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any


def in_child(function: Callable[..., Any], *args: Any) -> Any:
    """What a function gives, by JSON, in a child forked now; what it raises is printed, and ends the program."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        try:
            with os.fdopen(write, "w") as file:
                json.dump(function(*args), file)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    os.close(write)
    with os.fdopen(read) as file:
        answer = file.read()
    if os.waitpid(child, 0)[1]:
        raise SystemExit("a child failed")
    return json.loads(answer)
