"""LiteRT (TensorFlow Lite), converted from the plan in TensorFlow's operations for a fixed number of rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from race.inference.peer import Bound, Peer, on_rows
from race.inference.tensorflow_peer import Vocabulary


class LiteRT(Peer):
    """With its input in its own buffer, and once more with arrays handed in and out."""

    def converted(self, rows: int) -> bytes:
        subject, v = self.subject, Vocabulary()
        params = [v.param(p) for p in subject.params]
        widths = [width for _, width in subject.input_shapes]
        specs = [tf.TensorSpec([rows, width], tf.float32, f"x{i}") for i, width in enumerate(widths)]

        @tf.function(autograph=False, input_signature=specs)
        def program(*xs: Any) -> Any:
            return {f"y{i}": y for i, y in enumerate(subject.compute(v, xs, params))}

        module = tf.Module()
        module.program = program  # which gives the converted model a signature, and that its names
        function = program.get_concrete_function()
        return tf.lite.TFLiteConverter.from_concrete_functions([function], module).convert()

    def bind(self, inputs: Sequence[np.ndarray]) -> dict[str, Bound]:
        rows = on_rows(inputs)
        # The interpreter reads these bytes as long as it lives, and keeps them.
        interpreter = Interpreter(model_content=self.converted(len(rows[0])), num_threads=self.threads)
        places, results = _places(interpreter)
        interpreter.allocate_tensors()
        for place, x in zip(places, rows):
            interpreter.set_tensor(place, x)

        def arrays() -> Any:
            for place, x in zip(places, rows):
                interpreter.set_tensor(place, x)
            interpreter.invoke()
            return [interpreter.get_tensor(i) for i in results]

        return {
            "litert": Bound(interpreter.invoke, lambda _: [interpreter.get_tensor(i) for i in results]),
            "litert-arrays": Bound(arrays, list),
        }


def _places(interpreter: Any) -> tuple[list[int], list[int]]:
    """Where inputs and outputs lie, in order. (While a signature's runner lives, the interpreter may not run.)"""
    runner = interpreter.get_signature_runner()
    given, found = runner.get_input_details(), runner.get_output_details()
    return tuple([d[f"{name}{i}"]["index"] for i in range(len(d))] for d, name in ((given, "x"), (found, "y")))
