"""The native libraries: where they are, how they were built, and why one of them cannot be used.

Importing this module loads nothing and needs neither TensorFlow nor NumPy.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import json
import platform
import struct
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from fusedsplit import config
from fusedsplit.plan import PLAN_VERSION

PACKAGE = Path(__file__).resolve().parent.parent
# What the op library and `fusedsplit._core` share, and find beside them.
SHARED_LIBRARY = "libfusedsplit_core.so"
# ELF's e_machine of the machines that there is code for.
_ELF_MACHINES = {"x86_64": 62, "amd64": 62, "aarch64": 183, "arm64": 183}
_ELF_HEADER = struct.Struct("<4sBBBB8xHHIQQQIHHHHHH")
_MACHO_64 = b"\xcf\xfa\xed\xfe"


class NativeError(RuntimeError):
    """A native library that cannot be used, and why."""


@functools.cache
def build_info() -> dict[str, Any]:
    """What the install recorded: compiler, flags, ISA units, version; or "reason", why nothing was built."""
    path = PACKAGE / "_build_info.json"
    try:
        info: dict[str, Any] = json.loads(path.read_text())
        return info
    except (OSError, ValueError) as error:
        return {"built": False, "reason": f"the record of the native build cannot be read: {error}"}


def settings_problem() -> str | None:
    """Why neither library may run: a setting that they would not understand, and so ignore."""
    try:
        config.max_isa(), config.num_threads()
    except ValueError as error:
        return str(error)
    return None


def op_path() -> Path:
    return PACKAGE / "_op.so"


def file_problem(path: Path) -> str | None:
    """Why the op library or `fusedsplit._core` must not be loaded: something about it or the library that both share.

    Found without loading either: a truncated one would end the process.
    """
    return _file_problem(path) or _file_problem(path.with_name(SHARED_LIBRARY))


def _file_problem(path: Path) -> str | None:
    if not path.exists():
        return str(build_info().get("reason", f"{path.name} is missing: install fusedsplit again"))
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(_ELF_HEADER.size)
    except OSError as error:
        return f"{path.name} cannot be read: {error}"
    if sys.platform == "darwin":
        return None if head[:4] == _MACHO_64 else f"{path.name} is damaged: it is not a 64-bit Mach-O file"
    if len(head) < _ELF_HEADER.size or head[:4] != b"\x7fELF":
        return f"{path.name} is damaged: it is not an ELF file"
    fields = _ELF_HEADER.unpack(head)
    bits, endian, machine = fields[1], fields[2], fields[6]
    if (bits, endian, machine) != (2, 1, _ELF_MACHINES.get(platform.machine().lower())):
        return f"{path.name} is for another architecture than {platform.machine()}"
    # The table of sections stands at the end of the file, so it tells a truncated file.
    sections_at, section_size, sections = fields[10], fields[15], fields[16]
    if sections_at + section_size * sections > size:
        return f"{path.name} is damaged: {size} bytes of {sections_at + section_size * sections}"
    return None


@functools.cache
def core() -> ModuleType:
    """The pybind11 module `fusedsplit._core`.

    Raises:
        NativeError: with the reason, if it is missing, damaged, for another machine or another plan version, or would
            not understand a setting.
    """
    candidates = sorted(PACKAGE.glob("_core.*.so"))
    problem = settings_problem() or file_problem(candidates[0] if candidates else PACKAGE / "_core.so")
    if problem is not None:
        raise NativeError(problem)
    try:
        module = importlib.import_module("fusedsplit._core")
    except ImportError as error:
        raise NativeError(f"fusedsplit._core cannot be imported: {error}") from error
    _check_plan_version("fusedsplit._core", module.plan_version)
    return module


def core_problem() -> str | None:
    """Why `core` would raise; None where it does not."""
    try:
        core()
    except NativeError as error:
        return str(error)
    return None


def _check_plan_version(name: str, version: int) -> None:
    if version != PLAN_VERSION:
        raise NativeError(
            f"{name}: expected plan version {PLAN_VERSION}. Received: version {version}, from another "
            "release: install fusedsplit again"
        )


class OpLibrary:
    """The op library, already loaded by TensorFlow: the functions of its own that it exports."""

    def __init__(self, path: Path):
        try:
            self._library = ctypes.CDLL(str(path))
            status = self._library.fusedsplit_op_status
            self._info = self._library.fusedsplit_op_info
            self._set_threads = self._library.fusedsplit_op_set_threads
            self._saved_bytes = self._library.fusedsplit_op_saved_bytes
        except (OSError, AttributeError) as error:
            raise NativeError(f"{path.name} is not an op library of this release: {error}") from error
        status.restype = ctypes.c_char_p
        self._info.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
        self._set_threads.argtypes = [ctypes.c_int]
        self._saved_bytes.argtypes = [ctypes.POINTER(ctypes.c_int64), ctypes.c_size_t, ctypes.c_int]
        self._saved_bytes.restype = ctypes.c_int64
        reason = status().decode()
        if reason:
            raise NativeError(reason)
        _check_plan_version(path.name, self.info()["plan_version"])

    def info(self) -> dict[str, Any]:
        """Version, plan version, active ISA, number of threads, and `xla`: why XLA cannot call the op, or ""."""
        text = ctypes.create_string_buffer(1024)
        self._info(text, len(text))
        info: dict[str, Any] = json.loads(text.value)
        return info

    def set_threads(self, threads: int) -> None:
        """The most threads that a call of the op may use, its caller included."""
        self._set_threads(threads)

    def saved_bytes(self, code: Sequence[int], dtype: str) -> int:
        """Bytes for each row that the forward op saves for backward, given an encoded plan."""
        size: int = self._saved_bytes((ctypes.c_int64 * len(code))(*code), len(code), dtype == "float64")
        if size < 0:
            raise NativeError(f"expected the code of a plan. Received: {len(code)} integers that are none")
        return size
