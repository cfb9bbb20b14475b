"""Reading and writing Keras' variables."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from fusedsplit.backends import _tf_private
from fusedsplit.loops import variables


def some():
    values = [np.arange(6, dtype="float32").reshape(2, 3), np.array(2.5), np.arange(4, dtype="int64"), np.zeros((0, 3))]
    return values, [tf.Variable(value) for value in values]


@pytest.mark.parametrize("lost", [None, "fast_path_execute", "context"])
def test_read_all(lost, monkeypatch):
    if lost is not None:
        monkeypatch.setattr(_tf_private, lost, None)
    expected, held = some()
    found = variables.read_all(held)
    assert len(found) == len(expected)
    for a, b in zip(found, expected):
        assert a.dtype == b.dtype and a.shape == b.shape and (a == b).all()
    assert variables.read_all([]) == []


def test_what_was_read_stays_when_a_variable_is_changed():
    expected, held = some()
    before = variables.read_all(held)
    for change in (lambda v: v.assign_add(tf.ones_like(v)), lambda v: v.assign(tf.zeros_like(v))):
        for v in held:
            change(v)
        assert all((a == b).all() for a, b in zip(before, expected))
        assert all((a == v.numpy()).all() for a, v in zip(variables.read_all(held), held))


def test_a_variable_that_holds_nothing_says_so():
    _, held = some()
    with tf.init_scope():
        empty = tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=(2,), shared_name="holds_nothing")
    held[1]._handle = empty
    with pytest.raises(tf.errors.OpError, match="holds_nothing|uninitialized|not exist"):
        variables.read_all(held)


def test_a_written_array_is_not_shared():
    held = keras.Variable(np.zeros(64, "float32"))
    buffer = np.ones(64 + 16, "float32")
    aligned = buffer[(-buffer.ctypes.data % 64) // 4 :][:64]
    variables.write(held, aligned)
    aligned[:] = 5
    assert (held.numpy() == 1).all()
