"""A trained model's answer to some rows: the subjects, and one class for each way of computing it.

subjects   what is computed: the ladder's cases and the architectures, with their weights
plans      a plan computed by any framework's operations
peer       what a contestant is;  numpy_peer, jax_peer, …: the contestants;  PEERS names them all
contest    outputs checked, then interleaved rounds;  tables, plots: what is shown
"""

from __future__ import annotations

from race.field import Target

# By name, in the order of the tables.
PEERS: dict[str, Target] = {
    "predictor": ("race.inference.predictor_peer:PredictorPeer", {}),
    "tensorflow": ("race.inference.tensorflow_peer:TensorFlow", {}),
    "litert": ("race.inference.litert_peer:LiteRT", {}),
    "onnxruntime": ("race.inference.onnx_peers:OnnxRuntime", {}),
    "openvino": ("race.inference.onnx_peers:OpenVino", {}),
    "jax": ("race.inference.jax_peer:Jax", {}),
    "torch": ("race.inference.torch_peer:Torch", {}),
    "torch-compiled": ("race.inference.torch_peer:TorchCompiled", {}),
    "numpy": ("race.inference.numpy_peer:NumPy", {}),
}
# The forms that are the package's own, best first by design; every other one is a peer's.
PREDICTOR, FOLDED = "predictor", "predictor-fold"
OURS = (PREDICTOR, FOLDED, "op-eager", "op-graph", "op-concrete", "op-xla")
# What a tolerance is measured by: Keras' own program in a concrete function.
YARDSTICK = "keras"
