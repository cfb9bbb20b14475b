"""`fs.info()`: versions, ISA, threads, and which backends are usable and why not."""

from __future__ import annotations

import dataclasses
import platform
from typing import Any

from fusedsplit import __version__
from fusedsplit.native import library
from fusedsplit.tools.tables import table


@dataclasses.dataclass(frozen=True)
class Info:
    """What this installation is and can do; prints as a table.

    Attributes:
        versions: package -> version.
        build: what the install recorded of the native build.
        core: the core's ISA, the ISAs that the machine has, threads, and whether XLA can call the op; empty if it is
            unusable.
        backends: backend -> why it is unusable, "" where it is usable.
    """

    versions: dict[str, str]
    build: dict[str, Any]
    core: dict[str, Any]
    backends: dict[str, str]

    def __str__(self) -> str:
        rows = [*self.versions.items()]
        rows += [(f"core {key}", _text(value)) for key, value in self.core.items()]
        rows += [(f"build {key}", _text(value)) for key, value in self.build.items()]
        rows += [(f"backend {name}", reason or "usable") for name, reason in self.backends.items()]
        return table(("what", "value"), rows)


def _text(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def info() -> Info:
    """Versions, ISA, threads, and which backends are usable.

    Example:

    >>> import fusedsplit as fs
    >>> sorted(fs.info().backends)
    ['op', 'reference', 'tf', 'xla']

    Returns:
        An `Info`, which prints as a table.
    """
    import keras
    import numpy
    import tensorflow

    from fusedsplit.backends import dispatch
    from fusedsplit.backends.base import CallContext

    versions = {
        "fusedsplit": __version__,
        "tensorflow": tensorflow.__version__,
        "keras": keras.__version__,
        "numpy": numpy.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
    }
    against = dispatch.reasons_against(None, CallContext("float32"), ())
    backends = {name: "; ".join(reasons) for name, reasons in against.items()}
    return Info(versions, library.build_info(), _core(), backends)


def _core() -> dict[str, Any]:
    from fusedsplit.backends import dispatch
    from fusedsplit.backends.base import CallContext

    try:
        core = library.core()
    except library.NativeError:
        return {}
    found = {"isa": core.isa(), "isas": core.isas(), "threads": core.threads()}
    op = dispatch.BACKENDS["op"]
    if not op.not_supported_reasons(None, CallContext("float32")):
        # Once loaded, the op library has the core follow TensorFlow's setting of threads.
        from fusedsplit.backends.op import library_info, xla_problem

        found |= {"threads": library_info()["threads"], "inside XLA": xla_problem() or "usable"}
    return found
