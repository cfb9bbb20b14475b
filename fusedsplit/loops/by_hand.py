"""`fs.Trainer`: training steps by hand, for reinforcement learning and loops of one's own."""

from __future__ import annotations

from typing import Any

import numpy as np

from fusedsplit.loops import _keras_private as private
from fusedsplit.loops import choice
from fusedsplit.loops.fit import trained
from fusedsplit.loops.predict import Forward
from fusedsplit.loops.reasons import NotNative


class Trainer:
    """The native training step of a compiled fused model, by hand.

    While it is open, the weights and the optimizer's state are its own: the model has them again after `sync`, or when
    the `with` block is left, also by an exception. Call `sync` before the model's own `fit`, which goes on from what
    the model has, and `read` after it.

    Example:

    >>> import keras, numpy as np, fusedsplit as fs
    >>> from keras.layers import Dense, Input
    >>> x = Input((4,))
    >>> h = Dense(8, activation="relu")(x)
    >>> model = fs.fuse(keras.Model(x, Dense(2)(h)))
    >>> model.compile("adam", "mse")
    >>> states, values = np.zeros((32, 4), "float32"), np.zeros((32, 2), "float32")
    >>> with fs.Trainer(model) as trainer:
    ...     for _ in range(10):
    ...         loss = trainer.step(states, values)
    ...     now = trainer.predict(states[:1])

    Args:
        model: a compiled `FusedModel` whose whole graph is one region while training.

    Raises:
        TypeError: if it is no FusedModel.
        ValueError: with the reasons, if the core does not train it (at the first step, where they are the data's).
    """

    def __init__(self, model: Any):
        if not hasattr(model, "why_not_whole"):
            raise TypeError(f"`model`: expected a fusedsplit.FusedModel; fs.fuse makes one. Received: {model!r}")
        private.assert_compiled(model, "fit")
        self._model = model
        try:
            self._whole = choice.whole(model, training=True)
            self._forward = Forward(choice.whole(model, training=False))
        except NotNative as reason:
            raise self._refused(reason) from None
        self._training: Any = None
        self._compiled: Any = None
        self._ahead = False
        self._single: Any = None
        self._params: list[np.ndarray] | None = None

    def _refused(self, reason: NotNative) -> ValueError:
        return ValueError(
            f"expected a model, compiled and given data, that the core trains. Received: {self._model.name!r}: {reason}"
        )

    def __enter__(self) -> Trainer:
        return self

    def __exit__(self, *exception: Any) -> None:
        self.sync()

    def step(self, x: Any, y: Any, sample_weight: Any = None) -> float:
        """One step of the optimizer on a batch; returns its loss, regularizers included, as `train_on_batch` does.

        Args:
            x: as in `train_on_batch`; NumPy arrays in the model's dtype are read as they lie.
            y: likewise.
            sample_weight: likewise.

        Raises:
            ValueError: on data that the core does not take; nothing has changed then.
        """
        try:
            if self._training is None:
                self._open(x, y, sample_weight)
            inputs, targets, weights = self._quick(x, y, sample_weight) or self._given(x, y, sample_weight)
        except NotNative as reason:
            raise self._refused(reason) from None
        native = self._training.trainer
        rates = self._training.rates.of(native.iterations, 1)
        self._params, self._ahead = None, True
        losses = native.run(inputs, targets, weights, None, len(inputs[0]), rates).losses
        return float(losses[0, 0])

    def _open(self, x: Any, y: Any, sample_weight: Any) -> None:
        self._compiled, self._training = trained(self._model, x, y, sample_weight)
        self._training.read()
        self._single = next(iter(self._compiled.shapes()), None)

    def _quick(self, x: Any, y: Any, sample_weight: Any) -> Any:
        """Arrays of a model of one input and one output that need no look; None where they do."""
        known = self._single
        if known is None or type(x) is not np.ndarray or type(y) is not np.ndarray or sample_weight is not None:
            return None
        dtype, width, target, out = known
        if x.dtype != dtype or x.ndim != 2 or x.shape[1] != width or not x.flags.c_contiguous or y.dtype != target:
            return None
        if y.shape[1:] != out or len(y) != len(x) or not y.flags.c_contiguous or not len(x):
            return None
        return [x], [y], [None]

    def _given(self, x: Any, y: Any, sample_weight: Any) -> Any:
        batch = self._compiled.batch(x, y, sample_weight)
        return batch.inputs, batch.targets, batch.weights

    def predict(self, x: Any) -> Any:
        """What the model gives with the weights as they are here, at inference; as `predict_on_batch`."""
        try:
            flat = self._forward.inputs.flat(x)
            outputs = self._forward(flat, self._now())
        except NotNative as reason:
            raise self._refused(reason) from None
        return self._forward.packed(outputs)

    def _now(self) -> list[np.ndarray]:
        """The params of the inference plan."""
        if self._training is None or not self._ahead:
            return self._forward.params()
        if self._params is None:
            values = dict(zip(self._training.keys, self._training.trainer.params))
            self._params = self._forward.params_from(values)
        return self._params

    def sync(self) -> None:
        """Gives the model the weights and the optimizer its state; steps go on from there.

        What was changed in the model since the Trainer was made is overwritten.
        """
        if self._ahead:
            self._training.write()
            self._ahead = False

    def read(self) -> None:
        """Takes the weights, the optimizer's state and the learning rate from the model, where they were changed."""
        self._ahead, self._params = False, None
        if self._training is not None:
            self._training.read()
