"""tf.distribute: replicas and workers train as one process does on the same global batch."""

import json
import os
import socket
import subprocess
from collections.abc import Callable

import numpy as np
import pytest

from tests import children

PROGRAM = """
import json, os, sys
import numpy as np, tensorflow as tf, keras, fusedsplit as fs
from keras.layers import Dense

tf.get_logger().setLevel("ERROR")
kind, backend = sys.argv[1:]
if kind == "mirrored":
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
elif kind == "workers":
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
else:
    strategy = tf.distribute.get_strategy()
rng = np.random.default_rng(0)
x = rng.normal(size=(96, 10)).astype("float32")
y = x[:, :1] ** 2 + x[:, 1:2]
keras.utils.set_random_seed(5)
with strategy.scope():
    layer = fs.SplitDense(
        Dense(8, activation="tanh"), [Dense(4, activation="relu"), Dense(6)], head=Dense(1), backend=backend
    )
    layer.build((None, 10))
    optimizer = keras.optimizers.SGD(0.1)
    optimizer.build(layer.trainable_variables)
data = tf.data.Dataset.from_tensor_slices((x, y)).batch(32)
options = tf.data.Options()
options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
data = strategy.experimental_distribute_dataset(data.with_options(options))


@tf.function
def step(inputs):
    def replica(x, y):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum((layer(x) - y) ** 2) / 32
        variables = layer.trainable_variables
        gradients = tape.gradient(loss, [v.value for v in variables])
        gradients = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        for variable, gradient in zip(variables, gradients):
            variable.assign(variable - 0.1 * gradient)
        return loss

    return strategy.reduce(tf.distribute.ReduceOp.SUM, strategy.run(replica, inputs), axis=None)


losses = [float(step(batch)) for _ in range(4) for batch in data]
print("LOSSES", json.dumps(losses))
"""


def losses_of(end: Callable[[], subprocess.CompletedProcess]) -> list[float]:
    done = end()
    lines = [line for line in done.stdout.splitlines() if line.startswith("LOSSES")]
    assert done.returncode == 0 and lines, done.stderr[-2000:]
    return json.loads(lines[-1].removeprefix("LOSSES"))


def start(kind: str, backend: str, **environment: str) -> Callable[[], subprocess.CompletedProcess]:
    env = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "", **environment}
    return children.start(PROGRAM, kind, backend, env=env)


def free_ports(n: int) -> list[int]:
    sockets = [socket.socket() for _ in range(n)]
    try:
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]
    finally:
        for s in sockets:
            s.close()


@pytest.fixture(scope="module")
def alone() -> list[float]:
    return losses_of(start("alone", "auto"))


def test_training_alone_converges(alone):
    assert alone[-1] < alone[0]


def test_mirrored_on_two_virtual_cpus(alone):
    np.testing.assert_allclose(losses_of(start("mirrored", "auto")), alone, rtol=1e-4)


def test_two_workers(alone):
    workers = [f"127.0.0.1:{port}" for port in free_ports(2)]
    processes = []
    for index in range(2):
        config = {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}
        processes.append(start("workers", "auto", TF_CONFIG=json.dumps(config)))
    for losses in [losses_of(p) for p in processes]:
        np.testing.assert_allclose(losses, alone, rtol=1e-4)
