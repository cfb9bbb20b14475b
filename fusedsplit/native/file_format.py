"""The file of a `Predictor`: a plan, its weights, and rows by which whoever loads it can tell that it works.

Everything is little-endian. Version 1:

    offset  bytes
         0      8   89 66 73 70 6c 69 74 0a: "\\x89fsplit\\n"
         8      4   u32, the version of the format: 1
        12      4   u32, the bytes of a float: 4 or 8, of the weights, inputs and outputs
        16      8   u64, the bytes of the file
        24      8   u64, p: the integers of the encoded plan (csrc/core/plan/decode.cc, fusedsplit/plan/code.py)
        32      8   u64, s: the bytes of the structure
        40      8   u64, r: the test rows
        48     32   SHA-256 of bytes 0 to 47 and of all bytes from 80 on
        80     48   zeros
       128     8p   i64 each, the plan
                s   UTF-8, JSON: {"inputs": structure, "outputs": structure} (fusedsplit/native/structure.py)
               4n   i32 each, the points of the plan, of which it has n
                    for each param of the plan: its elements, row by row
                    for each input of the plan: r rows of its width
                    for each output of the plan: r rows of its width, what the plan gives for them

Each of these begins at the next multiple of 64; what lies between is zero. There are no other offsets and no lengths of
arrays in it: all of them follow from the header and the plan, and have to end where the file does. No path, no code and
no name of a class is in it; of names only the keys of dicts that the model takes or gives.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fusedsplit.native import structure
from fusedsplit.native.structure import Structure
from fusedsplit.plan import Plan, PlanError, sources
from fusedsplit.plan.steps import MIN_PIECE

MAGIC = b"\x89fsplit\n"
VERSION = 1
_HEADER = struct.Struct("<8sIIQQQQ32s48x")
_DIGEST = slice(48, 80)
_ALIGN = 64
# More would be no test but data.
_MOST_ROWS = 64
# Hidden columns, and sources of steps, for each byte of a file. What is made of a plan is in proportion to them, and so
# to the file: a few bytes cannot ask for gigabytes.
_MOST_PER_BYTE = 16

Array = npt.NDArray[Any]


class FileFormatError(ValueError):
    """Bytes that are no file of a Predictor, or a damaged one."""


@dataclasses.dataclass(frozen=True)
class Content:
    """What a file holds.

    Attributes:
        plan: what is computed.
        params: its weights, of one floating dtype.
        points: its points, which are fixed.
        inputs: what it is called with.
        outputs: what it gives.
        rows: test rows: an array for each input of the plan.
        results: what it gives for them: an array for each of its outputs.
    """

    plan: Plan
    params: Sequence[Array]
    points: Sequence[int]
    inputs: Structure
    outputs: Structure
    rows: Sequence[Array]
    results: Sequence[Array]
    dtype: np.dtype[Any]


def encode(content: Content) -> bytes:
    """The bytes of a file."""
    code = content.plan.encode()
    text = json.dumps({name: structure.to_json(getattr(content, name)) for name in ("inputs", "outputs")})
    dtype = content.dtype.newbyteorder("<")
    arrays = (*content.params, *content.rows, *content.results)
    sections = [
        struct.pack(f"<{len(code)}q", *code),
        text.encode(),
        struct.pack(f"<{len(content.points)}i", *content.points),
        *(np.ascontiguousarray(a, dtype).tobytes() for a in arrays),
    ]
    parts, size = [], _HEADER.size
    for section in sections:
        padded = section + bytes(-len(section) % _ALIGN)
        parts.append(padded)
        size += len(padded)
    rows = len(content.rows[0])
    _check_proportion(content.plan, size)
    header = _HEADER.pack(MAGIC, VERSION, dtype.itemsize, size, len(code), len(sections[1]), rows, bytes(32))
    return b"".join([with_digest(header, parts), *parts])


def with_digest(header: bytes, parts: Sequence[bytes]) -> bytes:
    """The header with the digest of all the others."""
    digest = hashlib.sha256(header[: _DIGEST.start] + header[_DIGEST.stop :])
    for part in parts:
        digest.update(part)
    return header[: _DIGEST.start] + digest.digest() + header[_DIGEST.stop :]


def decode(data: bytes) -> Content:
    """What a file holds, every length of it checked; arrays are views of `data`.

    Raises:
        FileFormatError: saying what was expected, if `data` is not such a file, or not as it was written.
    """
    dtype, counts = _header(data)
    reader = _Reader(data)
    try:
        code = reader.take("the plan", np.dtype("<i8"), counts[0])
        plan = Plan.decode(code.tolist())
        _check_proportion(plan, len(data))
        text = reader.take("the structure", np.dtype("u1"), counts[1])
        inputs, outputs = _structures(text.tobytes(), plan)
        points = reader.take("the points", np.dtype("<i4"), plan.points)
        params = [
            reader.take(f"param {i}", dtype, math.prod(p.shape)).reshape(p.shape) for i, p in enumerate(plan.params)
        ]
        rows, results = (
            [
                reader.take(f"the test rows of {name} {i}", dtype, counts[2] * plan.values[v].width).reshape(
                    counts[2], plan.values[v].width
                )
                for i, v in enumerate(values)
            ]
            for name, values in (("input", plan.inputs), ("output", plan.outputs))
        )
        reader.end()
    except PlanError as error:
        raise FileFormatError(f"plan: {error}") from None
    return Content(plan, params, points.tolist(), inputs, outputs, rows, results, dtype.newbyteorder("="))


def _header(data: bytes) -> tuple[np.dtype[Any], tuple[int, int, int]]:
    if len(data) < _HEADER.size or data[: len(MAGIC)] != MAGIC:
        raise FileFormatError(f"expected the file of a Predictor, which begins with {MAGIC!r}. Received: other bytes")
    _, version, itemsize, size, integers, text, rows, digest = _HEADER.unpack_from(data)
    if version != VERSION:
        raise FileFormatError(f"expected version {VERSION} of the format. Received: version {version}")
    if size != len(data):
        raise FileFormatError(f"expected {size} bytes. Received: {len(data)}")
    if digest != hashlib.sha256(data[: _DIGEST.start] + data[_DIGEST.stop :]).digest():
        raise FileFormatError("expected the bytes that were written. Received: others, by their SHA-256")
    if data[_DIGEST.stop : _HEADER.size].strip(b"\0"):
        raise FileFormatError("expected zeros at the end of the header")
    if itemsize not in (4, 8):
        raise FileFormatError(f"expected floats of 4 or 8 bytes. Received: {itemsize}")
    if not 1 <= rows <= _MOST_ROWS:
        raise FileFormatError(f"expected 1 to {_MOST_ROWS} test rows. Received: {rows}")
    return np.dtype(f"<f{itemsize}"), (integers, text, rows)


def _check_proportion(plan: Plan, size: int) -> None:
    hidden = sum(value.width for value in plan.values if value.role == "hidden")
    read = sum(len(sources(step)) * (1 + step.dst.width // MIN_PIECE) for step in plan.steps)
    if hidden + read > _MOST_PER_BYTE * size:
        raise FileFormatError(
            f"plan: expected at most {_MOST_PER_BYTE} hidden columns and sources of steps for each byte of the file. "
            f"Received: {hidden + read} of them in {size} bytes"
        )


def _structures(text: bytes, plan: Plan) -> tuple[Structure, Structure]:
    try:
        found = json.loads(text.decode())
    except (ValueError, RecursionError):
        raise FileFormatError("structure: expected JSON in UTF-8. Received: other bytes") from None
    try:
        if not isinstance(found, dict) or set(found) != {"inputs", "outputs"}:
            raise ValueError("expected inputs and outputs")
        inputs, outputs = (
            structure.from_json(found[name], [plan.values[v].width for v in values])
            for name, values in (("inputs", plan.inputs), ("outputs", plan.outputs))
        )
    except ValueError as error:
        raise FileFormatError(f"structure: {error}") from None
    for name, tree, values in (("input", inputs, plan.inputs), ("output", outputs, plan.outputs)):
        used = {leaf.at for leaf in structure.leaves(tree)}
        if name == "output" and -1 in used or used - {-1} != set(range(len(values))):
            raise FileFormatError(f"structure: expected each {name} of the plan. Received: {sorted(used)}")
    return inputs, outputs


class _Reader:
    """Takes arrays off a file, each from the next multiple of 64 bytes on."""

    def __init__(self, data: bytes):
        self._data = data
        self._at = _HEADER.size

    def take(self, what: str, dtype: np.dtype[Any], count: int) -> Array:
        begin, end = self._at, self._at + count * dtype.itemsize
        self._at = end + -end % _ALIGN
        if self._at > len(self._data):
            raise FileFormatError(f"{what}: expected {self._at} bytes. Received: a file of {len(self._data)}")
        if self._data[end : self._at].strip(b"\0"):
            raise FileFormatError(f"{what}: expected zeros behind it")
        return np.frombuffer(self._data, dtype, count, begin)

    def end(self) -> None:
        if self._at != len(self._data):
            raise FileFormatError(f"expected a file of {self._at} bytes. Received: {len(self._data)}")
