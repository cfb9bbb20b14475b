"""`fusedsplit explain` and `fusedsplit convert`: models in files."""

from __future__ import annotations

import os
import re
import zipfile
from pathlib import Path
from typing import Any

import keras

from fusedsplit.models import graph
from fusedsplit.models.fused_model import FusedModel, fuse, unfuse
from fusedsplit.tools.call_names import count
from fusedsplit.tools.explain import explain

SUFFIX = ".keras"
PREDICTOR_SUFFIX = ".fs"
_LONGEST = 300  # of Keras' own messages


class FileError(ValueError):
    """A file that cannot be read as a model, or must not be written."""


def load(path: str | os.PathLike[str], unsafe: bool = False, compiled: bool = False) -> keras.Model:
    """The model in a `.keras` file.

    Args:
        path: of the file.
        unsafe: whether to run Python code that the file holds, of Lambdas.
        compiled: whether to compile it as it was, with the state of its optimizer.

    Raises:
        FileError: if there is no such file, it is none of Keras', or Keras cannot load it, with what can be done.
    """
    path = Path(path)
    if not path.is_file():
        raise FileError(f"expected a {SUFFIX} file. Received: {str(path)!r}, which is no file")
    if path.suffix != SUFFIX or not _is_archive(path):
        raise FileError(f"expected a {SUFFIX} file, as model.save writes it. Received: {str(path)!r}, which is none")
    try:
        return keras.models.load_model(path, compile=compiled, safe_mode=not unsafe)
    except Exception as error:  # whatever the layers in the file raise
        raise FileError(f"Keras cannot load {str(path)!r}: {_first_lines(error)}{_advice(error, unsafe)}") from error


def _is_archive(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return "config.json" in archive.namelist()


def _first_lines(error: Exception) -> str:
    text = re.sub(r"\x1b\[\d*m", "", " ".join(str(error).split()))
    text = text.rpartition("Exception encountered: ")[2]  # what Keras says last is what went wrong first
    return f"{type(error).__name__}: {text[:_LONGEST]}{' ...' if len(text) > _LONGEST else ''}"


def _advice(error: Exception, unsafe: bool) -> str:
    text = str(error)
    where = "in the program that made it, call fs.explain(model) or fs.fuse(model)"
    if not unsafe and "safe_mode" in text:
        return "\nThe file holds Python code, which loading runs: where you trust it, give --unsafe."
    if "Lambda" in text or isinstance(error, NameError):
        return f"\nA Lambda's code in a file may have lost the names that it refers to, such as tf: {where}."
    if "Could not locate" in text or "Unknown layer" in text:
        return f"\nA class of your own is not known here: {where}."
    return ""


def explain_file(path: str, unsafe: bool = False) -> str:
    """What `fs.explain` says of the model in a file.

    Raises:
        FileError: if there is no model that can be explained.
    """
    model = load(path, unsafe)
    try:
        return str(explain(model))
    except ValueError as error:
        raise FileError(f"{path}: {error}") from error


def convert(source: str, target: str, unsafe: bool = False, force: bool = False, fold: bool = True) -> str:
    """Writes the fused form of a plain model's file, and the plain form of a fused one's; or, where the target's name
    ends in .fs, a predictor's file, for which `fold` counts.

    What the model was compiled with comes along, and the state of its optimizer. `target` is there whole, or not.

    Returns:
        What was done.

    Raises:
        FileError: if `source` holds no model that can be converted, or `target` must not be written.
    """
    path = Path(target)
    if path.suffix not in (SUFFIX, PREDICTOR_SUFFIX):
        raise FileError(f"expected to write a {SUFFIX} or {PREDICTOR_SUFFIX} file. Received: {target!r}")
    if path.exists() and not force:
        raise FileError(f"expected to write a new file. Received: {target!r}, which exists (--force overwrites it)")
    if not path.absolute().parent.is_dir():
        raise FileError(f"expected to write into a directory. Received: {target!r}, and there is none")
    if path.suffix == PREDICTOR_SUFFIX:
        return _write_predictor(source, path, unsafe, fold)
    model = load(source, unsafe, compiled=True)
    try:
        converted = unfuse(model) if isinstance(model, FusedModel) else fuse(model)
    except ValueError as error:
        raise FileError(f"{source}: {error}") from error
    _save(converted, path)
    return _what_was_done(source, target, converted)


def _write_predictor(source: str, target: Path, unsafe: bool, fold: bool) -> str:
    from fusedsplit.native.library import NativeError  # here: models can be converted without native/
    from fusedsplit.native.predictor import Predictor

    model = load(source, unsafe)
    try:
        predictor = Predictor(model, fold=fold)
        predictor.save(target)
    except (ValueError, NativeError) as error:
        raise FileError(f"{source}: {error}") from error
    return f"{source} -> {target}: {model.name!r} as {predictor!r}, which needs NumPy alone"


def _save(model: keras.Model, path: Path) -> None:
    beside = path.with_name(f".{path.stem}-{os.getpid()}{SUFFIX}")
    try:
        model.save(beside)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def _what_was_done(source: str, target: str, model: Any) -> str:
    lines = [f"{source} -> {target}: {model.name!r}"]
    if isinstance(model, FusedModel):
        lines[0] += " is now a fused model, which loads where fusedsplit is installed"
        for training, when in ((False, "at inference"), (True, "while training")):
            schedule = model.schedule(training)
            left = len(schedule.reasons)
            regions = count(len(schedule.regions), "region")
            lines.append(f"{when}: {regions}, {left} of {count(len(model.graph.calls), 'call')} left to Keras")
    else:
        own = [
            call.path for call in graph.read(model).calls if type(call.operation).__module__.startswith("fusedsplit.")
        ]
        lines[0] += " is now a plain Keras model, "
        lines[0] += f"whose {', '.join(own)} still need fusedsplit" if own else "which loads without fusedsplit"
    if model.compiled and model.optimizer is not None:
        slots = count(len(model.optimizer.variables), "variable")
        lines.append(f"compiled as it was, with {type(model.optimizer).__name__} and its {slots}")
    else:
        lines.append("not compiled, as it was not")
    return "\n".join(lines)
