"""Where and with what a run was measured: without this, its numbers mean nothing."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import fusedsplit
from fusedsplit.bench import fused


def _cpu_line(key: str) -> str:
    """The first value of a key in Linux' /proc/cpuinfo; empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), "")


def _isa() -> str:
    flags = set(_cpu_line("flags").split())
    for isa, needed in (
        ("avx512", {"avx512f", "avx512vl", "avx512dq", "avx512bw"}),
        ("avx2", {"avx2", "fma"}),
    ):
        if needed <= flags:
            return isa
    return "neon" if platform.machine() in ("aarch64", "arm64") else "baseline"


def usable_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def collect() -> dict[str, Any]:
    """Machine, threads, versions and settings, as plain values."""
    cpus = usable_cpus()
    op = fused.op_status()
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "cpu": _cpu_line("model name") or platform.processor() or platform.machine(),
        "isa": _isa(),
        "usable_cpus": cpus,
        # 0 means TensorFlow's own choice: as many as there are CPUs.
        "tensorflow_threads": tf.config.threading.get_intra_op_parallelism_threads() or cpus,
        "op": op,
        "onednn": os.environ.get("TF_ENABLE_ONEDNN_OPTS", "default"),
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
        "fusedsplit": fusedsplit.__version__,
        "dtype": "float32",
    }


def title(conditions: dict[str, Any]) -> str:
    """The conditions in one line."""
    op = conditions["op"]
    native = f"op {op.get('isa', '?')} x {op.get('threads', '?')} threads" if "reason" not in op else "no op"
    return (
        f"{conditions['cpu']} ({conditions['isa']}), {conditions['usable_cpus']} CPUs, "
        f"TensorFlow {conditions['tensorflow']} x {conditions['tensorflow_threads']} threads, "
        f"Keras {conditions['keras']}, {native}, {conditions['dtype']}"
    )


def warnings(conditions: dict[str, Any]) -> list[str]:
    """What makes these numbers less than a fair comparison."""
    found = []
    op = conditions["op"]
    if "reason" in op:
        found.append(f"the compiled op is not measured: {op['reason']}")
    elif op.get("threads") not in (None, conditions["tensorflow_threads"]):
        found.append(f"threads differ: TensorFlow has {conditions['tensorflow_threads']}, the op {op['threads']}")
    load = conditions["load_average"]
    if load and load[0] > 0.5:
        found.append(f"other work runs on this machine (load average {load[0]:.1f}): trust ratios, not times")
    return found
