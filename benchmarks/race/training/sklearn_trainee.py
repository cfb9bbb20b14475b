"""scikit-learn's multilayer perceptron, which fits iris: layer behind layer, no splits."""

from __future__ import annotations

from sklearn.neural_network import MLPClassifier

from race.training.task import RATE, Iris
from race.training.trainee import EPOCH, Trainee


class Mlp(Trainee):
    def iris(self, task: Iris) -> None:
        x, y = task.data()
        model = MLPClassifier((16,), solver="adam", alpha=0.0, batch_size=task.batch, learning_rate_init=RATE)
        model.partial_fit(x, y, classes=[0, 1, 2])
        self.calls = {EPOCH: lambda: model.partial_fit(x, y)}
        self.units = {}
