"""ONNX Runtime and OpenVINO, on the same ONNX model."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from race.inference import onnx_graph
from race.inference.peer import Bound, Peer, on_rows


class _OnnxPeer(Peer):
    module: str

    def __init__(self) -> None:
        super().__init__()
        self.library: Any = importlib.import_module(self.module)

    def model(self, rows: int) -> bytes:
        return onnx_graph.model(self.subject, rows)


class OnnxRuntime(_OnnxPeer):
    """With input and output bound before."""

    module = "onnxruntime"

    def bind(self, inputs: Sequence[np.ndarray]) -> dict[str, Bound]:
        ort = self.library
        rows = on_rows(inputs)
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self.threads, 1
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        session = ort.InferenceSession(self.model(len(rows[0])), options, ["CPUExecutionProvider"])
        binding = session.io_binding()
        held = [ort.OrtValue.ortvalue_from_numpy(x) for x in rows]
        for i, x in enumerate(held):
            binding.bind_ortvalue_input(f"x{i}", x)
        for y in session.get_outputs():
            binding.bind_ortvalue_output(y.name, ort.OrtValue.ortvalue_from_shape_and_type(y.shape, np.float32))
        call = session.run_with_iobinding
        return {"onnxruntime": Bound(lambda: call(binding), lambda _: binding.copy_outputs_to_cpu())}


class OpenVino(_OnnxPeer):
    """In float32, which is not its default on this kind of CPU; with input and output in its own tensors."""

    module = "openvino"

    def bind(self, inputs: Sequence[np.ndarray]) -> dict[str, Bound]:
        ov = self.library
        rows = on_rows(inputs)
        core = ov.Core()
        settings = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": self.threads,
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
        }
        compiled = core.compile_model(core.read_model(self.model(len(rows[0]))), "CPU", settings)
        request = compiled.create_infer_request()
        for i, x in enumerate(rows):
            request.get_input_tensor(i).data[:] = x
        outputs = range(len(self.subject.outputs))
        call = functools.partial(request.infer, {}, share_inputs=True, share_outputs=True)
        return {"openvino": Bound(call, lambda _: [request.get_output_tensor(i).data for i in outputs])}
