"""The bits of a fit are those of its data and seeds, whatever threads there are."""

import os
from pathlib import Path

import fusedsplit
from tests import children

PROGRAM = """
import hashlib
import keras, numpy as np, fusedsplit as fs
from keras.layers import Concatenate, Dense, Dropout, Input

keras.utils.set_random_seed(1)
a = Input((20,))
h = Dense(64)(a)
left, right = Dense(40, activation="relu")(h[:, :32]), Dense(48, activation="tanh")(h[:, 32:])
model = keras.Model(a, Dense(3, activation="softmax")(Dropout(0.2)(Concatenate()([left, right]))))
model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
model = fs.fuse(model, loop="native")
rng = np.random.default_rng(0)
x, y = rng.normal(size=(3000, 20)).astype("float32"), rng.integers(0, 3, 3000)
digest = hashlib.sha256()
for batch, epochs in ((32, 1), (700, 3), (3000, 2)):
    history = model.fit(x, y, batch_size=batch, epochs=epochs, validation_split=0.2, verbose=0).history
    digest.update(repr(sorted(history.items())).encode())
for v in (*model.variables, *model.optimizer.variables):
    digest.update(np.asarray(v.value).tobytes())
times = Input((4, 5))
h = Dropout(0.2)(Dense(64, activation="relu")(times))
model_of_times = fs.fuse(keras.Model(times, Dense(3, activation="softmax")(h)), loop="native")
model_of_times.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
history = model_of_times.fit(x.reshape(3000, 4, 5), np.stack([y] * 4, 1), batch_size=100, verbose=0).history
digest.update(repr(sorted(history.items())).encode())
digest.update(model.predict(x, verbose=0).tobytes() + repr(model.evaluate(x, y, verbose=0)).encode())
print(fs.info().core["threads"], digest.hexdigest())
"""


def test_bits_do_not_depend_on_the_number_of_threads():
    root = str(Path(fusedsplit.__file__).parents[1])
    env = {**os.environ, "PYTHONPATH": root}
    running = [children.start(PROGRAM, env={**env, "FUSEDSPLIT_NUM_THREADS": str(n)}) for n in (1, 2, 4)]
    found = [end().stdout.split() for end in running]
    assert len({digest for _, digest in found}) == 1, found
    assert len({threads for threads, _ in found}) > 1
