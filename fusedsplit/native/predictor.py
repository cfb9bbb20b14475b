"""`fs.Predictor`: a trained model that runs by itself, NumPy in and NumPy out."""

from __future__ import annotations

import dataclasses
import importlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fusedsplit.native import file_format, library, structure
from fusedsplit.native.file_format import Content, FileFormatError
from fusedsplit.native.structure import Leaf
from fusedsplit.plan import Plan
from fusedsplit.plan.fold import fold as fold_plan

Array = npt.NDArray[Any]
# What another instruction set may make of the test rows: far more than rounding, far less than a wrong weight matters.
_TOLERANCE = {4: 1e-3, 8: 1e-9}
_TEST_ROWS = 4


class Predictor:
    """A trained model in the form that runs fastest: weights copied, folded, and packed once.

    It needs no TensorFlow: neither to run, nor to be loaded from a file. Many threads may call it at once, and it
    travels to other processes (joblib, Dask, Spark) as its file does.

    Example:

    >>> import numpy as np, fusedsplit as fs
    >>> from keras.layers import Dense
    >>> layer = fs.SplitDense(Dense(8), [Dense(4, activation="relu"), Dense(6, activation="relu")])
    >>> layer.build((None, 10))
    >>> predictor = fs.Predictor(layer)
    >>> x = np.ones((3, 10), "float32")
    >>> bool(np.allclose(predictor(x), layer(x), atol=1e-5))
    True

    Args:
        model: a built fused layer, or a functional or Sequential Keras model, fused or not, all of which runs as one
            region at inference. What it was trained to at this moment is what it predicts: later changes of its
            weights are not seen.
        fold: whether to multiply out what weights alone decide: a linear stem into its branches where that saves work,
            BatchNormalization and scales into kernels, products of one source into one. Results then differ from the
            model's as another order of summation does: `fs.check(model)` says by how much, and holds it to the same
            bound as every backend. With `fold=False` they are those of the op, bit for bit.
        threads: the most that a call uses; None for as many as the process uses otherwise.

    Raises:
        TypeError: if `model` is nothing that can be frozen.
        ValueError: if not all of it runs as one region, or not in float32 or float64; with the reasons, which
            `fs.explain` lists.
        NativeError: if the native core cannot be used, with the reason.
    """

    __slots__ = ("_content", "_frozen", "_threads", "__weakref__")

    def __init__(self, model: Any, *, fold: bool = True, threads: int | None = None):
        # Where there is a model, there is TensorFlow: in no other case is anything of it imported.
        content: Content = importlib.import_module("fusedsplit.models.freeze").freeze(model)
        if fold:
            plan, params = fold_plan(content.plan, content.params)
            content = dataclasses.replace(content, plan=plan, params=params)
        self._make(content, threads)

    def _make(self, content: Content, threads: int | None) -> None:
        if threads is not None and (not isinstance(threads, int) or isinstance(threads, bool) or threads < 1):
            raise ValueError(f"`threads`: expected a number from 1 on, or None. Received: {threads!r}")
        self._threads = threads
        self._content = content
        self._frozen = _freeze(content, threads)
        if not content.rows:
            self._content = _tested(content, self._frozen)

    # Predicting.

    def __call__(self, x: Any, out: Any = None) -> Any:
        """What `predict` does."""
        return self._frozen(x, out)

    def predict(self, x: Any, out: Any = None) -> Any:
        """The outputs for inputs `x`, at inference.

        Fastest on an array of the predictor's dtype, contiguous: it is read in place.

        Args:
            x: an array of shape (..., columns), with any leading axes; or the list or dict of arrays that the model
                takes, with equal leading axes. Integers, bools and floats of other sizes are converted.
            out: where to write: an array of the output's shape and dtype, or a structure of them.

        Returns:
            The output, or the structure of outputs that the model gives: new arrays, or `out`.

        Raises:
            ValueError: if `x` or `out` do not have such structures and shapes.
            TypeError: if one of them is no array of numbers, or `out` has another dtype.
        """
        return self._frozen(x, out)

    # What is known of it.

    @property
    def plan(self) -> Plan:
        """What is computed, after folding."""
        return self._content.plan

    @property
    def dtype(self) -> str:
        """float32 or float64: of weights, inputs and outputs."""
        return self._content.dtype.name

    @property
    def inputs(self) -> structure.Structure:
        """What it is called with: one `Leaf`, whose `row` is the shape behind the leading axes, or a `Node` of them."""
        return self._content.inputs

    @property
    def outputs(self) -> structure.Structure:
        """What it gives."""
        return self._content.outputs

    def __repr__(self) -> str:
        shown = [
            ", ".join(str((..., *leaf.row)).replace("Ellipsis", "...") for leaf in structure.leaves(tree))
            for tree in (self.inputs, self.outputs)
        ]
        return f"<Predictor {shown[0]} -> {shown[1]}, {self.dtype}, {len(self.plan.steps)} steps>"

    # Files.

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes it to a file, which `Predictor.load` reads on any machine; see `fusedsplit/native/file_format.py`."""
        target = Path(path)
        beside = target.with_name(f".{target.name}-{os.getpid()}")
        try:
            beside.write_bytes(self.to_bytes())
            os.replace(beside, target)
        finally:
            beside.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, threads: int | None = None) -> Predictor:
        """The predictor in a file, once it gives for the file's test rows what the file says.

        Args:
            path: of a file that `save` wrote.
            threads: as in `Predictor`.

        Raises:
            ValueError: saying what was expected, if it is no such file, or damaged.
            OSError: if it cannot be read.
        """
        return cls.from_bytes(Path(path).read_bytes(), threads=threads)

    def to_bytes(self) -> bytes:
        """The bytes of its file."""
        return file_format.encode(self._content)

    @classmethod
    def from_bytes(cls, data: bytes, *, threads: int | None = None) -> Predictor:
        """As `load`, from the bytes of a file."""
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"expected the bytes of a predictor's file. Received: {data!r}")
        content = file_format.decode(bytes(data))
        predictor = cls.__new__(cls)
        predictor._make(content, threads)
        _check_results(content, predictor._frozen)
        return predictor

    def __reduce__(self) -> tuple[Callable[..., Predictor], tuple[bytes, int | None]]:
        return _from_bytes, (self.to_bytes(), self._threads)


def _from_bytes(data: bytes, threads: int | None) -> Predictor:
    return Predictor.from_bytes(data, threads=threads)


def _freeze(content: Content, threads: int | None) -> Any:
    """The callable of the core."""
    inputs, outputs = (tuple(structure.leaves(tree)) for tree in (content.inputs, content.outputs))
    single = isinstance(content.inputs, Leaf) and isinstance(content.outputs, Leaf)
    params = [_aligned(p, content.dtype) for p in content.params]
    return library.core().frozen(
        code=content.plan.encode(),
        is_double=content.dtype.itemsize == 8,
        params=params,
        points=list(content.points),
        threads=threads or 0,
        input_row=list(inputs[0].row) if single else [],
        output_row=list(outputs[0].row) if single else [],
        otherwise=_Call(content).run,
    )


def _aligned(x: Array, dtype: np.dtype[Any]) -> Array:
    """Such as the core reads in place."""
    return np.require(x, dtype, ["C", "A"])


def _tested(content: Content, frozen: Any) -> Content:
    """With test rows and their results."""
    rng = np.random.default_rng(0)
    plan = content.plan
    rows = [rng.standard_normal((_TEST_ROWS, plan.values[v].width)).astype(content.dtype) for v in plan.inputs]
    return dataclasses.replace(content, rows=rows, results=_results(content, frozen, rows))


def _results(content: Content, frozen: Any, rows: Sequence[Array]) -> list[Array]:
    count = len(rows[0])
    results = [np.empty((count, content.plan.values[v].width), content.dtype) for v in content.plan.outputs]
    frozen.run(count, [_aligned(x, content.dtype) for x in rows], results)
    return results


def _check_results(content: Content, frozen: Any) -> None:
    """Raises FileFormatError if the test rows do not give their results."""
    for i, (found, expected) in enumerate(zip(_results(content, frozen, content.rows), content.results)):
        scale = max(1.0, float(np.max(np.abs(expected), initial=0, where=np.isfinite(expected))))
        tolerance = _TOLERANCE[content.dtype.itemsize] * scale
        if not np.allclose(found, expected, rtol=0, atol=tolerance, equal_nan=True):
            raise FileFormatError(
                f"expected output {i} of the test rows as the file has it. Received: other numbers, such as "
                f"{found.flat[0]!s} in the place of {expected.flat[0]!s}"
            )


class _Call:
    """A call that the core hands back: structures, other dtypes and layouts, and every error."""

    def __init__(self, content: Content):
        self._dtype = content.dtype
        self._inputs, self._outputs = content.inputs, content.outputs
        self._widths = [content.plan.values[v].width for v in content.plan.outputs]

    def run(self, frozen: Any, x: Any, out: Any) -> Any:
        leading: tuple[int, ...] | None = None
        rows: dict[int, Array] = {}
        for leaf, given in zip(structure.leaves(self._inputs), structure.flatten(self._inputs, x, "x")):
            array = self._input(given)
            front = array.shape[: array.ndim - len(leaf.row)]
            if array.ndim < len(leaf.row) or array.shape[len(front) :] != leaf.row:
                raise ValueError(f"`x`: expected shape {_shape_text(leaf)}. Received: shape {array.shape}")
            if leading is not None and front != leading:
                raise ValueError(f"`x`: expected equal leading axes. Received: {leading} and {front}")
            leading = front
            rows[leaf.at] = array
        assert leading is not None
        count = int(np.prod(leading, dtype=np.int64))
        targets = None if out is None else self._targets(out, leading)
        results = [np.empty((count, width), self._dtype) for width in self._widths]
        frozen.run(count, [rows[i] for i in sorted(rows) if i >= 0], results)
        leaves = list(structure.leaves(self._outputs))
        if targets is None:
            return structure.pack(
                self._outputs, iter([results[leaf.at].reshape(leading + leaf.row) for leaf in leaves])
            )
        for leaf, target in zip(leaves, targets):
            target[...] = results[leaf.at].reshape(leading + leaf.row)
        return out

    def _input(self, given: Any) -> Array:
        array = np.asarray(given)
        if array.dtype.kind not in "biuf":
            raise TypeError(f"`x`: expected an array of numbers. Received: dtype {array.dtype}")
        return np.require(array, self._dtype, ["C", "A"])

    def _targets(self, out: Any, leading: tuple[int, ...]) -> list[Array]:
        targets = structure.flatten(self._outputs, out, "out")
        for leaf, target in zip(structure.leaves(self._outputs), targets):
            shape = leading + leaf.row
            if not isinstance(target, np.ndarray) or target.dtype != self._dtype:
                received = f"dtype {target.dtype}" if isinstance(target, np.ndarray) else type(target).__name__
                raise TypeError(f"`out`: expected an array of dtype {self._dtype}. Received: {received}")
            if target.shape != shape:
                raise ValueError(f"`out`: expected shape {shape}. Received: shape {target.shape}")
            if not target.flags.writeable:
                raise ValueError("`out`: expected an array that may be written. Received: a read-only one")
        return targets


def _shape_text(leaf: Leaf) -> str:
    return f"(..., {', '.join(map(str, leaf.row))})"
