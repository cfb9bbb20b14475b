"""`fs.info()`: versions, ISA, threads, and which backends are usable and why not."""

from __future__ import annotations

import dataclasses
import platform
import sys
from typing import Any

from fusedsplit import __version__, _registration, config
from fusedsplit.tools.tables import table

try:
    from fusedsplit.native import library
except ModuleNotFoundError:  # native/ was removed
    _library: Any = None
else:
    _library = library


@dataclasses.dataclass(frozen=True)
class Info:
    """What this installation is and can do; prints as a table.

    Attributes:
        versions: package -> version.
        build: what the install recorded of the native build.
        core: the core's ISA, the ISAs that the machine has, threads, and whether XLA can call the op; empty if it is
            unusable.
        backends: backend -> why it is unusable, "" where it is usable.
        problems: what else is not as it should be -> what is lost by it.
    """

    versions: dict[str, str]
    build: dict[str, Any]
    core: dict[str, Any]
    backends: dict[str, str]
    problems: dict[str, str]

    def __str__(self) -> str:
        rows = [*self.versions.items()]
        rows += [(f"core {key}", _text(value)) for key, value in self.core.items()]
        rows += [(f"build {key}", _text(value)) for key, value in self.build.items()]
        rows += [(f"backend {name}", reason or "usable") for name, reason in self.backends.items()]
        rows += self.problems.items()
        return table(("what", "value"), rows)


def _text(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def info() -> Info:
    """Versions, ISA, threads, and which backends are usable. Answers whatever is wrong with them.

    Example:

    >>> import fusedsplit as fs
    >>> sorted(fs.info().backends)
    ['op', 'reference', 'tf', 'xla']

    Returns:
        An `Info`, which prints as a table.
    """
    import keras  # and by it TensorFlow, where that is its backend
    import numpy

    versions = {
        "fusedsplit": __version__,
        "tensorflow": getattr(sys.modules.get("tensorflow"), "__version__", "not imported"),
        "keras": keras.__version__,
        "numpy": numpy.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
    }
    problems = {}
    if _registration.problem is not None:
        problems["registration with Keras"] = f"failed when Keras was imported: {_registration.problem}"
    try:
        from fusedsplit.backends import _tf_private, dispatch
        from fusedsplit.backends.base import CallContext
    except Exception as error:
        backends = dict.fromkeys(config.BACKENDS, f"{type(error).__name__}: {error}")
        return Info(versions, _build(), _core(), backends, problems)
    against = dispatch.reasons_against(None, CallContext("float32"), ())
    backends = {name: "; ".join(reasons) for name, reasons in against.items()}
    problems |= {f"without {missing.name}": f"lost: {'; '.join(missing.lost)}" for missing in _tf_private.missing()}
    core = _core()
    if core and not backends["op"]:
        core |= _op_library()
    return Info(versions, _build(), core, backends, problems)


def _build() -> dict[str, Any]:
    return {} if _library is None else dict(_library.build_info())


def _core() -> dict[str, Any]:
    if _library is None:
        return {}
    try:
        core = _library.core()
    except _library.NativeError:
        return {}
    return {"isa": core.isa(), "isas": core.isas(), "threads": core.threads()}


def _op_library() -> dict[str, Any]:
    """Once loaded, the op library has the core follow TensorFlow's setting of threads."""
    from fusedsplit.backends.op import library_info, xla_problem

    return {"threads": library_info()["threads"], "inside XLA": xla_problem() or "usable"}
