"""Every name that TensorFlow does not make public, and what is lost in a release that no longer has it.

No other module of the package imports from `tensorflow.python` or `tensorflow.compiler`. What is missing here costs
just the form that needs it, with that reason; the forms `tf` and `reference` need none of these names.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

# Forms that may be lost. Anything else that is lost is speed.
EAGER = "the op in eager mode"
GRAPH = "the op in graphs"
IN_XLA = "the op inside XLA"
LAMBDAS = "reading a Lambda"
# What is only slower.
READS = "the native loops' reading of all variables at once"


class Name(NamedTuple):
    """A private name and what is lost without it."""

    name: str
    lost: tuple[str, ...]
    found: bool


NAMES: list[Name] = []


def _find(module: str, attribute: str, *lost: str, instead: Any = None) -> Any:
    """What the name stands for, or `instead` where there is no such name."""
    try:
        value = functools.reduce(getattr, attribute.split("."), importlib.import_module(module))
        found = True
    except (ImportError, AttributeError):
        value, found = instead, False
    NAMES.append(Name(f"{module}.{attribute}", lost, found))
    return value


# Whether a graph is traced to be saved, to be compiled by XLA, or as the branch of a conditional.
in_save_context = _find(
    "tensorflow.python.saved_model.save_context", "in_save_context", GRAPH, IN_XLA, instead=lambda: False
)
graph_is_in_xla = _find(
    "tensorflow.python.ops.control_flow_util",
    "GraphOrParentsInXlaContext",
    GRAPH,
    IN_XLA,
    "under XLA, equal branches as one batched product in `tf`",
    instead=lambda graph: False,
)
CondBranchFuncGraph = _find(
    "tensorflow.python.ops.control_flow_v2_func_graphs", "CondBranchFuncGraph", IN_XLA, instead=()
)
# What `tf.device` says to a graph.
device_scopes = _find(
    "tensorflow",
    "Graph._device_function_stack.fget",
    "on a machine with GPUs, what `tf.device` says around what is traced",
)

# An eager tensor's type, known without starting the eager runtime.
EagerTensor = _find(
    "tensorflow.python.framework.ops", "EagerTensor", "eager calls that go around Keras' own `Layer.__call__`"
)

# Running an op in eager mode without the Python that TensorFlow generates for it, and its errors.
context = _find("tensorflow.python.eager.context", "context", EAGER, LAMBDAS, READS)
fast_path_execute = _find("tensorflow.python.pywrap_tfe", "TFE_Py_FastPathExecute", EAGER, READS)
raise_from_not_ok_status = _find("tensorflow.python.framework.ops", "raise_from_not_ok_status", EAGER)
FallbackException = _find(
    "tensorflow.python.eager.core",
    "_FallbackException",
    "up to TensorFlow 2.17, variables among what the op reads in eager mode",
    instead=(),
)

# What tapes and forward accumulators record.
could_possibly_record = _find("tensorflow.python.eager.record", "could_possibly_record", EAGER)
should_record_backprop = _find("tensorflow.python.eager.record", "should_record_backprop", EAGER)
record_operation = _find("tensorflow.python.eager.record", "record_operation", EAGER)
stop_recording = _find("tensorflow.python.eager.record", "stop_recording", EAGER, IN_XLA)
pack_jvps = _find("tensorflow.python.pywrap_tfe", "TFE_Py_PackJVPs", EAGER)
must_record_gradient = _find("tensorflow.python.eager.execute", "must_record_gradient", IN_XLA)
record_gradient = _find("tensorflow.python.eager.execute", "record_gradient", IN_XLA)

# Computing a node of a graph at once.
quick_execute = _find("tensorflow.python.eager.execute", "quick_execute", LAMBDAS)

# A function's graph, and changing a node of one that is being traced.
FuncGraph = _find(
    "tensorflow.python.framework.func_graph",
    "FuncGraph",
    LAMBDAS,
    "in graphs, what the op's forward saves for its backward, which computes it again",
    instead=(),
)
set_attribute = _find(
    "tensorflow",
    "Operation._set_attr",
    IN_XLA,
    "in graphs, what the op's forward saves for its backward, which computes it again",
)

# The node that calls a foreign function from a program that XLA compiles.
xla_call_module = _find("tensorflow.compiler.tf2xla.ops.gen_xla_ops", "xla_call_module", IN_XLA)


def read_variables(variables: Sequence[Any]) -> Sequence[Any] | None:
    """What tf.Variables hold, by one operation, which TensorFlow registers but makes no function for; None where it
    does not run it, as where they lie on several devices."""
    if fast_path_execute is None or context is None:
        return None
    handles = [variable.handle for variable in variables]
    dtypes = [variable.dtype.as_datatype_enum for variable in variables]
    try:
        tensors: Sequence[Any] = fast_path_execute(context(), "_ReadVariablesOp", None, handles, "dtypes", dtypes)
    except Exception:  # read one by one they say themselves what is wrong
        return None
    return tensors


def missing() -> list[Name]:
    """The names that this TensorFlow does not have."""
    return [name for name in NAMES if not name.found]


def reasons(form: str) -> list[str]:
    """Why a form is lost; empty where it is not."""
    return [
        f"TensorFlow {tf.__version__} has no {name}, which {form} needs"
        for name, lost, found in NAMES
        if not found and form in lost
    ]
