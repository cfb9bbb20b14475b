"""Files of predictors, damaged in every way: an error that says what was expected, or what the file said before."""

from __future__ import annotations

import dataclasses
import json
import os
import struct

import numpy as np
import pytest

from fusedsplit.native import file_format, library
from fusedsplit.native.file_format import Content, FileFormatError
from fusedsplit.native.predictor import Predictor
from fusedsplit.native.structure import Leaf, Node
from fusedsplit.plan import Const, Merge, Plan, Range, Value
from tests.csrc.numpy_plan import RandomPlan, fill
from tests.plan.test_plan import pieces

if library.core_problem() is not None:
    pytest.skip(f"the core is not usable: {library.core_problem()}", allow_module_level=True)

# `make sanitize-files` asks for 100,000 in the two tests together.
TRIES = int(os.environ.get("FUSEDSPLIT_FILE_TRIES", "3000"))
HEADER = 128


def content_of(plan: Plan, seed: int = 0, dtype: str = "float32") -> Content:
    case = fill(plan, 3, np.random.default_rng(seed)).cast(np.dtype(dtype))
    points = [seed % 7] * plan.points
    inputs, outputs = (
        Node("list", tuple(Leaf(i, (plan.values[v].width,)) for i, v in enumerate(values)))
        for values in (plan.inputs, plan.outputs)
    )
    return Content(plan, case.params, points, inputs, outputs, [], [], np.dtype(dtype))


def predictor_of(content: Content) -> Predictor:
    made = Predictor.__new__(Predictor)
    made._make(content, None)
    return made


def outputs_of(predictor: Predictor, seed: int = 1) -> bytes:
    rng = np.random.default_rng(seed)
    plan = predictor.plan
    given = [rng.normal(size=(4, plan.values[v].width)).astype(predictor.dtype) for v in plan.inputs]
    return b"".join(y.tobytes() for y in predictor(given))


@pytest.fixture(scope="module")
def files() -> list[bytes]:
    """Files of random plans, small enough to be damaged often."""
    plans = [RandomPlan(np.random.default_rng(seed), 3 + seed).make() for seed in range(12)]
    return [predictor_of(content_of(p, i, ("float32", "float64")[i % 2])).to_bytes() for i, p in enumerate(plans)]


def resealed(data: bytes) -> bytes:
    """With the size and the digest that fit, as whoever forges a file would write them."""
    if len(data) < HEADER:
        return data
    data = data[:16] + struct.pack("<Q", len(data)) + data[24:]
    return file_format.with_digest(data[:HEADER], [data[HEADER:]]) + data[HEADER:]


def damaged(data: bytes, others: list[bytes], rng: np.random.Generator) -> bytes:
    kind, at = rng.integers(6), int(rng.integers(len(data)))
    if kind == 0:
        return data[:at]
    if kind == 1:
        return data + bytes(rng.integers(0, 256, rng.integers(1, 200), dtype=np.uint8))
    changed = bytearray(data)
    if kind == 2:
        changed[at] ^= 1 << int(rng.integers(8))
    elif kind == 3:  # one integer, of the header or the plan for the most part
        at = min(at, int(rng.integers(HEADER, 1500))) // 8 * 8
        value = int(rng.choice([-1, 0, 1, 2, 1 << 20, 1 << 31, (1 << 63) - 1, -(1 << 63)])) + int(rng.integers(3)) - 1
        changed[at : at + 8] = struct.pack("<q", min(max(value, -(1 << 63)), (1 << 63) - 1))
        changed = changed[: len(data)]
    elif kind == 4:
        other = others[rng.integers(len(others))]
        length = int(rng.integers(1, 400))
        changed[at : at + length] = other[at : at + length]
    else:
        end = min(len(data), at + int(rng.integers(1, 400)))
        del changed[at:end]
    return bytes(changed)


def test_damaged_files_are_refused(files):
    rng = np.random.default_rng(0)
    for i in range(TRIES):
        data = files[i % len(files)]
        bad = damaged(data, files, rng)
        if bad in files:
            continue
        with pytest.raises(ValueError, match="expected"):
            Predictor.from_bytes(bad)


def test_forged_files_are_refused_or_run(files):
    """Behind the digest every length, every index and every structure is checked by itself."""
    rng = np.random.default_rng(1)
    refused = 0
    for i in range(TRIES):
        bad = resealed(damaged(files[i % len(files)], files, rng))
        try:
            predictor = Predictor.from_bytes(bad)
        except ValueError as error:
            assert "expected" in str(error)
            refused += 1
        else:
            again = Predictor.from_bytes(predictor.to_bytes())
            assert outputs_of(again) == outputs_of(predictor)
    assert refused > TRIES // 4


def test_files_are_the_same_bytes_again(files):
    for data in files:
        loaded = Predictor.from_bytes(data)
        assert loaded.to_bytes() == data
        assert outputs_of(loaded) == outputs_of(Predictor.from_bytes(loaded.to_bytes()))


def forged(data: bytes, **header: int) -> bytes:
    """With other numbers in the header."""
    fields = {
        "version": (8, "<I"),
        "itemsize": (12, "<I"),
        "integers": (24, "<Q"),
        "text": (32, "<Q"),
        "rows": (40, "<Q"),
    }
    changed = bytearray(data)
    for name, value in header.items():
        struct.pack_into(fields[name][1], changed, fields[name][0], value)
    return resealed(bytes(changed))


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"version": 2}, "expected version 1 of the format. Received: version 2"),
        ({"itemsize": 2}, "expected floats of 4 or 8 bytes. Received: 2"),
        ({"rows": 0}, "expected 1 to 64 test rows. Received: 0"),
        ({"rows": 1 << 40}, "expected 1 to 64 test rows"),
        ({"rows": 64}, "expected .* bytes. Received: a file of"),
        ({"integers": 1 << 60}, "the plan: expected .* bytes. Received: a file of"),
        ({"integers": 3}, "expected"),
        ({"text": 1 << 63}, "the structure: expected .* bytes. Received: a file of"),
        ({"text": 0}, "expected"),
    ],
    ids=str,
)
def test_headers_that_say_something_else(files, header, message):
    with pytest.raises(FileFormatError, match=message):
        file_format.decode(forged(files[0], **header))


def with_structure(content: Content, text: object) -> bytes:
    data = file_format.encode(content)
    old = struct.unpack_from("<Q", data, 32)[0]
    at = HEADER + -(-8 * struct.unpack_from("<Q", data, 24)[0] // 64) * 64
    new = (text if isinstance(text, str) else json.dumps(text)).encode()
    behind = at + -(-old // 64) * 64
    changed = data[:at] + new + bytes(-len(new) % 64) + data[behind:]
    return resealed(changed[:32] + struct.pack("<Q", len(new)) + changed[40:])


LEAF = {"at": 0, "row": [3]}


@pytest.mark.parametrize(
    "inputs",
    [
        None,
        3,
        [],
        ["set", [LEAF]],
        ["list", LEAF],
        ["list", []],
        ["dict", [["a", LEAF], ["a", LEAF]]],
        ["dict", [[1, LEAF]]],
        {"at": 1, "row": [3]},
        {"at": True, "row": [3]},
        {"at": -2, "row": [3]},
        {"at": 0, "row": [4]},
        {"at": 0, "row": []},
        {"at": 0, "row": [1] * 20 + [3]},
        {"at": 0, "row": [-1, -3]},
        {"at": 0, "row": [3.0]},
        {"at": 0, "row": [3], "more": 1},
        "[" * 100_000,
    ],
    ids=lambda value: str(value)[:40],
)
def test_structures_that_are_none(inputs):
    plan = Plan(
        (Value(3, "input"), Value(3, "output")),
        (),
        (Merge("add", ((Range(0, 0, 3), 1.0),), Const(2.0), None, ("relu", 0.0), Range(1, 0, 3)),),
    )
    plan = dataclasses.replace(plan, steps=(dataclasses.replace(plan.steps[0], activation=_linear()),)).validate()
    content = predictor_of(content_of(plan))._content
    good = {"inputs": LEAF, "outputs": LEAF}
    assert Predictor.from_bytes(with_structure(content, good)) is not None
    text = inputs if isinstance(inputs, str) else {**good, "inputs": inputs}
    with pytest.raises(FileFormatError, match="structure: "):
        file_format.decode(with_structure(content, text))


def _linear():
    from fusedsplit.plan import LINEAR

    return LINEAR


def test_weights_that_do_not_give_the_test_rows(files):
    content = file_format.decode(files[3])
    wrong = dataclasses.replace(content, results=[y + 1 for y in content.results])
    with pytest.raises(FileFormatError, match="expected output 0 of the test rows"):
        Predictor.from_bytes(file_format.encode(wrong))


def test_any_bytes_are_taken_and_nothing_else(files):
    for kind in (bytearray, memoryview):
        assert Predictor.from_bytes(kind(files[0])).to_bytes() == files[0]
    with pytest.raises(TypeError, match=r"expected the bytes of a predictor's file. Received: 'model.fs'"):
        Predictor.from_bytes("model.fs")


def test_few_bytes_ask_for_no_gigabytes():
    """A plan within the rules of plans, of which the core would make more than the file has any use for."""
    wide = Plan(
        (Value(1, "input"), Value(1 << 24, "hidden"), Value(1, "output")),
        (),
        (
            Merge("add", ((Range(0, 0, 1), 1.0),), None, None, _linear(), Range(1, 0, 1 << 24)),
            Merge("add", ((Range(1, 0, 1), 1.0),), None, None, _linear(), Range(2, 0, 1)),
        ),
    ).validate()
    for plan in (wide, pieces(4_096, 1_000)):
        content = dataclasses.replace(
            content_of(plan),
            rows=[np.zeros((1, plan.values[v].width), "float32") for v in plan.inputs],
            results=[np.zeros((1, plan.values[v].width), "float32") for v in plan.outputs],
        )
        with pytest.raises(FileFormatError, match="for each byte of the file"):
            file_format.encode(content)
