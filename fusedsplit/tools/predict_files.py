"""`fusedsplit predict`: a predictor's file on .npy files, larger than memory if need be. Imports no TensorFlow."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fusedsplit.native import structure
from fusedsplit.native.file_format import FileFormatError
from fusedsplit.native.predictor import Predictor

# Bytes of inputs and outputs that go at a time.
_CHUNK = 32 << 20

Array = npt.NDArray[Any]


class PredictError(ValueError):
    """Files that cannot be predicted from, or must not be written."""


def predict_files(
    model: str, files: Sequence[str], *, threads: int | None = None, force: bool = False, chunk: int = _CHUNK
) -> str:
    """Predicts from arrays in files into arrays in files.

    Inputs are mapped into memory, and taken some rows at a time; outputs are written beside their places and renamed
    when all of them are whole.

    Args:
        model: a predictor's file.
        files: .npy files: one for each input, in the model's order, and then one for each output.
        threads: as in `Predictor`.
        force: whether to overwrite outputs that exist.
        chunk: bytes of inputs and outputs at a time.

    Returns:
        What was done.

    Raises:
        PredictError: if `model` is no predictor's file, or the files are not what it takes, or must not be written.
        OSError: if a file cannot be read or written.
    """
    predictor = _loaded(model, threads)
    takes, gives = (list(structure.leaves(tree)) for tree in (predictor.inputs, predictor.outputs))
    if len(files) != len(takes) + len(gives):
        raise PredictError(
            f"expected {len(takes)} files of inputs and {len(gives)} of outputs. Received: {len(files)} files"
        )
    inputs = [_mapped(path) for path in files[: len(takes)]]
    fronts = [_leading(x, leaf, path) for x, leaf, path in zip(inputs, takes, files)]
    if len(set(fronts)) > 1:
        raise PredictError(f"expected equal leading axes. Received: {', '.join(map(str, fronts))}")
    targets = [Path(path) for path in files[len(takes) :]]
    for target in targets:
        _check_target(target, force)
    shapes = [fronts[0] + leaf.row for leaf in gives]
    started = time.perf_counter()
    _write(predictor, inputs, targets, shapes, chunk)
    seconds = time.perf_counter() - started
    rows = int(np.prod(fronts[0], dtype=np.int64))
    written = ", ".join(f"{target} {shape}" for target, shape in zip(targets, shapes))
    return f"{rows:,} rows in {seconds:.2f} s -> {written}, {predictor.dtype}"


def _loaded(model: str, threads: int | None) -> Predictor:
    try:
        return Predictor.load(model, threads=threads)
    except FileFormatError as error:
        cure = "; `fusedsplit convert` makes one from it" if model.endswith(".keras") else ""
        raise PredictError(f"{model}: {error}{cure}") from None


def _mapped(path: str) -> Array:
    try:
        array: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise PredictError(f"expected a .npy file of numbers. Received: {path!r}: {error}") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
        received = f"dtype {array.dtype}" if isinstance(array, np.ndarray) else "several arrays"
        raise PredictError(f"expected a .npy file of numbers. Received: {path!r}, {received}")
    return array


def _leading(x: Array, leaf: structure.Leaf, path: str) -> tuple[int, ...]:
    front = x.shape[: x.ndim - len(leaf.row)]
    if x.ndim < len(leaf.row) or x.shape[len(front) :] != leaf.row:
        row = ", ".join(map(str, leaf.row))
        raise PredictError(f"{path}: expected an array of shape (..., {row}). Received: shape {x.shape}")
    return front


def _check_target(target: Path, force: bool) -> None:
    if target.suffix != ".npy":
        raise PredictError(f"expected to write a .npy file. Received: {str(target)!r}")
    if target.exists() and not force:
        raise PredictError(
            f"expected to write a new file. Received: {str(target)!r}, which exists (--force overwrites)"
        )
    if not target.absolute().parent.is_dir():
        raise PredictError(f"expected to write into a directory. Received: {str(target)!r}, and there is none")


def _write(
    predictor: Predictor,
    inputs: Sequence[Array],
    targets: Sequence[Path],
    shapes: Sequence[tuple[int, ...]],
    chunk: int,
) -> None:
    beside = [target.with_name(f".{target.name}-{os.getpid()}") for target in targets]
    try:
        outputs = [np.lib.format.open_memmap(path, "w+", predictor.dtype, shape) for path, shape in zip(beside, shapes)]
        _predict(predictor, inputs, outputs, chunk)
        for output in outputs:
            output.flush()
        del outputs
        for path, target in zip(beside, targets):
            os.replace(path, target)
    finally:
        for path in beside:
            path.unlink(missing_ok=True)


def _predict(predictor: Predictor, inputs: Sequence[Array], outputs: Sequence[Array], chunk: int) -> None:
    if any(x.size == 0 for x in inputs):
        return
    # By the first axis, where there is one in front of the rows.
    first = next(structure.leaves(predictor.inputs))
    count = inputs[0].shape[0] if inputs[0].ndim > len(first.row) else 0
    if count == 0:
        _run(predictor, [x[...] for x in inputs], [y[...] for y in outputs])
        return
    each = sum(a.nbytes for a in (*inputs, *outputs)) // count
    step = max(1, chunk // max(1, each))
    with _progress(count) as advance:
        for begin in range(0, count, step):
            part = slice(begin, begin + step)
            _run(predictor, [x[part] for x in inputs], [y[part] for y in outputs])
            advance(min(step, count - begin))


def _run(predictor: Predictor, inputs: Sequence[Array], outputs: Sequence[Array]) -> None:
    x = structure.pack(predictor.inputs, iter([np.asarray(a) for a in inputs]))
    predictor.predict(x, structure.pack(predictor.outputs, iter([np.asarray(a) for a in outputs])))


@contextlib.contextmanager
def _progress(count: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, of rich where that is installed; elsewhere nothing."""
    if not sys.stderr.isatty():
        yield lambda rows: None
        return
    try:
        from rich.console import Console
        from rich.progress import Progress
    except ImportError:
        with _plain_progress(count) as advance:
            yield advance
        return
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("predict", total=count)
        yield lambda rows: progress.update(task, advance=rows)


@contextlib.contextmanager
def _plain_progress(count: int) -> Iterator[Callable[[int], None]]:
    done = 0

    def advance(rows: int) -> None:
        nonlocal done
        done += rows
        filled = 40 * done // count
        print(
            f"\r[{'#' * filled}{'.' * (40 - filled)}] {100 * done // count:3d} %", end="", file=sys.stderr, flush=True
        )

    try:
        yield advance
    finally:
        print(file=sys.stderr)
