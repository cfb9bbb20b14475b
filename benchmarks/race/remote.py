"""A contestant in a process of its own, which lives through the whole race and works only when it is asked to.

So no contestant's threads, allocator or imports are another one's burden, and one that dies takes none along.
"""

from __future__ import annotations

import multiprocessing.connection
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fusedsplit.bench.program import ProviderUnavailable

# Where `race` lies, and the package that is measured.
_PATHS = (Path(__file__).resolve().parents[1], Path(__file__).resolve().parents[2])


class Remote:
    """The object `target` ("module:Class") in its own process.

    Args:
        target: what is made there, without arguments.
        environment: variables that its process gets on top of this one's.
        patience: seconds that it may take for an answer.

    Raises:
        ProviderUnavailable: if it cannot be made there, with the reason.
    """

    def __init__(self, target: str, environment: Mapping[str, str] | None = None, patience: float = 120.0):
        self.target, self.patience = target, patience
        ours, theirs = socket.socketpair()
        paths = os.pathsep.join([*map(str, _PATHS), os.environ.get("PYTHONPATH", "")])
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "race.serve", str(theirs.fileno()), target],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": paths, **(environment or {})},
            )
        self._connection = multiprocessing.connection.Connection(ours.detach())
        self._receive()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, method: str, *args: Any) -> Any:
        """What `method(*args)` gives there.

        Raises:
            ProviderUnavailable: if it raises, dies, or takes longer than `patience`; the message is the reason. In the
                last two cases the process is gone.
        """
        try:
            self._connection.send((method, args))
        except OSError:
            self.close()
            raise ProviderUnavailable("its process has ended") from None
        return self._receive()

    def _receive(self) -> Any:
        try:
            if not self._connection.poll(self.patience):
                self.close()
                raise ProviderUnavailable(f"it takes more than {self.patience:g} s")
            good, value = self._connection.recv()
        except (EOFError, OSError):
            status = self._process.wait()
            self.close()
            raise ProviderUnavailable(f"its process ended with status {status}") from None
        if not good:
            raise ProviderUnavailable(value)
        return value

    def close(self) -> None:
        """Ends the process."""
        self._connection.close()
        self._process.kill()
        self._process.wait()
