"""`fs.Trainer`: the native step by hand."""

import keras
import numpy as np
import pytest
from keras.layers import Dense, Input

import fusedsplit as fs
from tests.loops.side_by_side import (
    IS_OLD,
    ROWS,
    W,
    X,
    Y,
    branches,
    classes,
    close,
    deep,
    run,
    two_outputs,
    with_dropout,
    with_normalization,
)


def adam():
    return {"optimizer": keras.optimizers.Adam(0.02), "loss": "mse"}


def by_batches(model):
    return [float(np.ravel(model.train_on_batch(X[i : i + 9], Y[i : i + 9]))[0]) for i in range(0, ROWS, 9)]


def by_hand(model):
    with fs.Trainer(model) as trainer:
        return [trainer.step(X[i : i + 9], Y[i : i + 9]) for i in range(0, ROWS, 9)]


@pytest.mark.parametrize("make", [branches, deep])
def test_a_step_is_train_on_batch(make):
    a, b = run(make, adam, by_batches, "keras"), run(make, adam, by_hand, "native")
    if not IS_OLD:  # before, the loss is the mean since the last reset
        close(a.result, b.result, 1e-9)
    for x, y in zip(a.weights + a.optimizer, b.weights + b.optimizer):
        close(x, y, 1e-9)


def test_data_of_other_kinds():
    model = fs.fuse(two_outputs())
    model.compile("sgd", ["mse", "sparse_categorical_crossentropy"])
    with fs.Trainer(model) as trainer:
        loss = trainer.step({"x": X, "z": X[:, :3]}, [Y, classes(3)], sample_weight=[W, W])
        assert loss > 0 and type(loss) is float
        numbers, kinds = trainer.predict([X, X[:, :3]])
    assert numbers.shape == (ROWS, 1) and kinds.shape == (ROWS, 3)


def test_predict_has_the_weights_of_the_last_step():
    model = fs.fuse(branches())
    model.compile(**adam())
    trainer = fs.Trainer(model)
    before = trainer.predict(X)
    close(before, model.predict(X, verbose=0), 1e-12)
    trainer.step(X, Y)
    ahead = trainer.predict(X)
    assert not np.allclose(before, ahead)
    close(model.predict(X, verbose=0), before, 1e-12)
    trainer.sync()
    close(model.predict(X, verbose=0), ahead, 1e-12)


def test_dropout_only_while_training():
    model = fs.fuse(with_dropout())
    model.compile(**adam())
    with fs.Trainer(model) as trainer:
        trainer.step(X, Y)
        assert (trainer.predict(X) == trainer.predict(X)).all()


def test_an_exception_within_the_block_loses_nothing():
    model = fs.fuse(branches())
    model.compile(**adam())
    with pytest.raises(KeyboardInterrupt), fs.Trainer(model) as trainer:
        trainer.step(X, Y)
        after = trainer.predict(X)
        raise KeyboardInterrupt
    close(model.predict(X, verbose=0), after, 1e-12)
    assert int(model.optimizer.iterations.numpy()) == 1


def test_read_takes_what_was_changed():
    model = fs.fuse(branches())
    model.compile(**adam())
    with fs.Trainer(model) as trainer:
        trainer.step(X, Y)
        trainer.sync()
        model.set_weights([w * 0 for w in model.get_weights()])
        trainer.read()
        assert (trainer.predict(X) == 0).all()
        trainer.step(X, Y)
    assert np.abs(model.get_weights()[-1]).max() <= 0.03


def test_a_schedule_is_followed():
    def compiled():
        rate = keras.optimizers.schedules.ExponentialDecay(0.1, 2, 0.5)
        return {"optimizer": keras.optimizers.SGD(rate), "loss": "mse"}

    a, b = run(branches, compiled, by_batches, "keras"), run(branches, compiled, by_hand, "native")
    for x, y in zip(a.weights, b.weights):
        close(x, y, 1e-9)


def test_errors():
    with pytest.raises(TypeError, match="FusedModel"):
        fs.Trainer(branches())
    with pytest.raises(ValueError, match="compile"):
        fs.Trainer(fs.fuse(branches()))
    model = fs.fuse(with_normalization())
    model.compile(**adam())
    with pytest.raises(ValueError, match="norm"):
        fs.Trainer(model)
    model = fs.fuse(branches())
    model.compile(**adam())
    with pytest.raises(ValueError, match="given data, that the core trains.*: a target of shape"):
        fs.Trainer(model).step(X, np.ones((ROWS, 3)))
    model.compile(keras.optimizers.Adamax(), "mse")
    with pytest.raises(ValueError, match="Adamax"):
        fs.Trainer(model).step(X, Y)


class Corridor:
    """Six places in a row; the end on the right pays 1."""

    places = 6

    def reset(self):
        self.at = 0
        return self._seen()

    def step(self, action):
        self.at = max(0, min(self.places - 1, self.at + (1 if action else -1)))
        done = self.at == self.places - 1
        return self._seen(), float(done), done

    def _seen(self):
        return np.eye(self.places)[self.at]


def values():
    x = Input((Corridor.places,))
    h = Dense(16, activation="relu")(x)
    state, advantage = Dense(8, activation="relu")(h[:, :8]), Dense(8, activation="relu")(h[:, 8:])
    advantage = Dense(2)(advantage)
    return keras.Model(x, Dense(1)(state) + advantage - keras.ops.mean(advantage, axis=-1, keepdims=True))


def test_q_learning_with_a_replay_buffer_and_two_networks():
    """A dueling network learns to walk to the right; the targets come from a copy that follows now and then."""
    keras.utils.set_random_seed(1)
    rng = np.random.default_rng(0)
    online, target = fs.fuse(values()), fs.fuse(values())
    online.compile(keras.optimizers.Adam(0.01), "mse")
    target.set_weights(online.get_weights())
    world, memory = Corridor(), []
    with fs.Trainer(online) as trainer:
        state = world.reset()
        for step in range(600):
            greedy = int(trainer.predict(state[np.newaxis])[0].argmax())
            action = greedy if rng.random() > 0.3 else int(rng.integers(2))
            after, reward, done = world.step(action)
            memory.append((state, action, reward, after, done))
            state = world.reset() if done else after
            if len(memory) < 32:
                continue
            taken = [memory[i] for i in rng.integers(0, len(memory), 32)]
            states, actions, rewards, afters, dones = (np.array(part) for part in zip(*taken))
            wanted = trainer.predict(states)
            best = target.predict_on_batch(afters).max(1)
            wanted[np.arange(32), actions] = rewards + 0.9 * best * (1 - dones)
            trainer.step(states, wanted)
            if step % 25 == 0:
                trainer.sync()
                target.set_weights(online.get_weights())
    assert (online.predict(np.eye(6)[:5], verbose=0).argmax(1) == 1).all()
