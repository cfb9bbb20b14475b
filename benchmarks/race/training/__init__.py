"""A step of training by every program that there is for it.

task       what is trained: F(U) on the flights, iris;  its data as files, so that nobody parses them twice
trainee    what a contestant is;  keras_trainees, jax_trainees, …: the contestants;  TRAINEES names them all
contest    final losses compared, then interleaved rounds;  tables: what is shown
"""

from __future__ import annotations

from race.field import Target

# By name, in the order of the tables.
TRAINEES: dict[str, Target] = {
    "keras": ("race.training.keras_trainees:LambdaFit", {}),
    "keras-64-jit": ("race.training.keras_trainees:PackedFit", {}),
    "fused-keras": ("race.training.keras_trainees:FusedFit", {}),
    "fused-native": ("race.training.keras_trainees:NativeFit", {}),
    "keras-jax": ("race.training.keras_trainees:JaxFit", {"KERAS_BACKEND": "jax"}),
    "jax-step": ("race.training.jax_trainees:Step", {}),
    "jax-scan": ("race.training.jax_trainees:Scan", {}),
    "torch": ("race.training.torch_trainee:TorchLoop", {}),
    "scikit-learn": ("race.training.sklearn_trainee:Mlp", {}),
}
WHAT = {
    "keras": "Keras' fit of the Lambda program",
    "keras-64-jit": "the same with steps_per_execution=64 and jit_compile",
    "fused-keras": 'fs.fuse(model, loop="keras")',
    "fused-native": 'fs.fuse(model, loop="native")',
    "keras-jax": "Keras' fit on JAX",
    "jax-step": "JAX by hand, a jitted step with donated buffers; batches laid out before, no shuffling",
    "jax-scan": "JAX by hand, an epoch in one lax.scan; batches laid out before, no shuffling",
    "torch": "a PyTorch loop with fused Adam, rows gathered in a random order",
    "scikit-learn": "MLPClassifier (iris alone: it has no splits)",
}
BASELINE, NATIVE, SCAN = "keras", "fused-native", "jax-scan"
