"""How branch outputs become one value: Keras' merges, and the named ones that real models use.

Each merge is one class that says three things: the width it gives (and what it refuses), the plan steps it lowers to,
and the same thing unfused, in plain TensorFlow. Where a merge takes a value with a special role, it is the last branch
that gives it (the gate of `mixture` and `highway`) or the first (the state value of `dueling`).
"""

from __future__ import annotations

import abc
import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

from fusedsplit.plan import Const, PlanBuilder, Range

# What a callable `merge` is: a function of the list of branch outputs.
MergeFunction = Callable[[list[Any]], Any]


@dataclasses.dataclass(frozen=True)
class NamedMerge(abc.ABC):
    """A merge that lowers to plan steps."""

    @abc.abstractmethod
    def output_width(self, widths: Sequence[int], input_width: int) -> int:
        """The width of the merged value.

        Raises:
            ValueError: naming the widths, if they do not fit.
        """

    def places(self, dst: Range, widths: Sequence[int]) -> list[Range | None]:
        """For each branch, where in `dst` its output may be written at once; None where it has to stand elsewhere."""
        return [None] * len(widths)

    @abc.abstractmethod
    def lower(self, build: PlanBuilder, parts: Sequence[Range], source: Range, dst: Range) -> None:
        """Appends the steps that write `dst`, given the branch outputs and the layer's (first) input."""

    @abc.abstractmethod
    def unfused(self, parts: Sequence[Any], source: Any) -> Any:
        """The same on tensors, without a plan."""

    def magnitude(self, parts: Sequence[Any], source: Any) -> Any:
        """On non-negative tensors, the sum of the sizes of the terms that are added up at each element."""
        return self.unfused(parts, source)

    def get_config(self) -> dict[str, Any]:
        """The arguments that make this merge again."""
        return {"merge": type(self).__name__, **{f.name: getattr(self, f.name) for f in dataclasses.fields(self)}}


def _same_width(merge: str, widths: Sequence[int]) -> int:
    if len(set(widths)) > 1:
        raise ValueError(f"merge={merge!r}: expected branch outputs of one width. Received: widths {list(widths)}")
    return widths[0]


@dataclasses.dataclass(frozen=True)
class Weighted(NamedMerge):
    """`concat([w_1 y_1, ..., w_n y_n])`."""

    weights: tuple[float, ...]

    def output_width(self, widths: Sequence[int], input_width: int) -> int:
        if len(widths) != len(self.weights):
            raise ValueError(
                f"merge=weighted({list(self.weights)}): expected {len(self.weights)} branches. "
                f"Received: widths {list(widths)}"
            )
        return sum(widths)

    def places(self, dst: Range, widths: Sequence[int]) -> list[Range | None]:
        return [r if w == 1 else None for r, w in zip(_side_by_side(dst, widths), self.weights)]

    def lower(self, build: PlanBuilder, parts: Sequence[Range], source: Range, dst: Range) -> None:
        for place, part, weight in zip(_side_by_side(dst, [p.width for p in parts]), parts, self.weights):
            if part != place:
                build.merge("add", ((part, weight),), place)

    def unfused(self, parts: Sequence[Any], source: Any) -> Any:
        import tensorflow as tf

        return tf.concat([part * weight for part, weight in zip(parts, self.weights)], axis=-1)

    def magnitude(self, parts: Sequence[Any], source: Any) -> Any:
        return Weighted(tuple(map(abs, self.weights))).unfused(parts, source)


@dataclasses.dataclass(frozen=True)
class Concat(NamedMerge):
    """`concat([y_1, ..., y_n])`: every branch writes its columns of the merged value, nothing is copied."""

    def output_width(self, widths: Sequence[int], input_width: int) -> int:
        return sum(widths)

    def places(self, dst: Range, widths: Sequence[int]) -> list[Range | None]:
        return list(_side_by_side(dst, widths))

    def lower(self, build: PlanBuilder, parts: Sequence[Range], source: Range, dst: Range) -> None:
        pass

    def unfused(self, parts: Sequence[Any], source: Any) -> Any:
        return _keras_merge("Concatenate", parts)


@dataclasses.dataclass(frozen=True)
class Elementwise(NamedMerge):
    """Keras' Add, Subtract (the first minus the others), Multiply, Average, Maximum and Minimum."""

    name: str

    def output_width(self, widths: Sequence[int], input_width: int) -> int:
        return _same_width(self.name, widths)

    def lower(self, build: PlanBuilder, parts: Sequence[Range], source: Range, dst: Range) -> None:
        op, first, rest = _ELEMENTWISE[self.name]
        if self.name == "average":
            first = rest = 1.0 / len(parts)
        scales = [first, *[rest] * (len(parts) - 1)]
        build.merge(op, list(zip(parts, scales)), dst)

    def unfused(self, parts: Sequence[Any], source: Any) -> Any:
        if self.name == "subtract":
            return functools.reduce(lambda x, y: _keras_merge("Subtract", [x, y]), parts)
        return _keras_merge(self.name.capitalize(), parts)

    def magnitude(self, parts: Sequence[Any], source: Any) -> Any:
        # A maximum may be any of them; a minimum of absolute values bounds nothing.
        return parts[0] if len(parts) == 1 else sum(parts) if self.name in _SIGNED else self.unfused(parts, source)


_SIGNED = ("subtract", "maximum", "minimum")
# Name -> the plan's op, the scale of the first source, the scale of each other one.
_ELEMENTWISE = {
    "add": ("add", 1.0, 1.0),
    "subtract": ("add", 1.0, -1.0),
    "multiply": ("mul", 1.0, 1.0),
    "average": ("add", math.nan, math.nan),
    "maximum": ("max", 1.0, 1.0),
    "minimum": ("min", 1.0, 1.0),
}


@dataclasses.dataclass(frozen=True)
class Mixture(NamedMerge):
    """`sum_e softmax(gate)[e] * y_e`, the gate being the last branch."""

    softmax: bool = True

    def output_width(self, widths: Sequence[int], input_width: int) -> int:
        *experts, gate = widths
        if not experts or len(set(experts)) > 1 or gate != len(experts):
            raise ValueError(
                "merge=mixture(): expected experts of one width and, as the last branch, a gate as wide as there are "
                f"experts. Received: widths {list(widths)}"
            )
        return experts[0]

    def lower(self, build: PlanBuilder, parts: Sequence[Range], source: Range, dst: Range) -> None:
        *experts, gate = parts
        if self.softmax:
            logits, gate = gate, build.hidden(gate.width)
            build.row("softmax", logits, gate)
        build.mix(gate, experts, dst)

    def unfused(self, parts: Sequence[Any], source: Any) -> Any:
        import tensorflow as tf

        *experts, gate = parts
        gate = tf.nn.softmax(gate) if self.softmax else gate
        return tf.reduce_sum(tf.stack(experts, axis=-2) * gate[..., None], axis=-2)

    def magnitude(self, parts: Sequence[Any], source: Any) -> Any:
        *experts, gate = parts
        # The softmax itself is at most 1, and its slope at most that of the logits and their mean.
        return Mixture(softmax=False).unfused((*experts, 1 + gate + _row_mean(gate)), source)


@dataclasses.dataclass(frozen=True)
class Dueling(NamedMerge):
    """`V + A - mean(A)`, `V + A - max(A)` or, naively, `V + A`: V is the first branch, one column, A the second."""

    baseline: str

    def output_width(self, widths: Sequence[int], input_width: int) -> int:
        if len(widths) != 2 or widths[0] != 1:
            raise ValueError(
                "merge=dueling(): expected two branches, the state value (one column) and the advantages. "
                f"Received: widths {list(widths)}"
            )
        return widths[1]

    def lower(self, build: PlanBuilder, parts: Sequence[Range], source: Range, dst: Range) -> None:
        value, advantage = parts
        terms = [(advantage, 1.0), (value, 1.0)]
        if self.baseline != "naive":
            baseline = build.hidden(1)
            build.row(self.baseline, advantage, baseline)
            terms.append((baseline, -1.0))
        build.merge("add", terms, dst)

    def unfused(self, parts: Sequence[Any], source: Any) -> Any:
        import tensorflow as tf

        value, advantage = parts
        if self.baseline == "naive":
            return value + advantage
        reduce = {"mean": tf.reduce_mean, "max": tf.reduce_max}[self.baseline]
        return value + advantage - reduce(advantage, axis=-1, keepdims=True)

    def magnitude(self, parts: Sequence[Any], source: Any) -> Any:
        value, advantage = parts
        return value + advantage + advantage.shape[-1] * _row_mean(advantage)


@dataclasses.dataclass(frozen=True)
class Highway(NamedMerge):
    """`T * H + (1 - T) * x`: H is the first branch, the gate T the second, x the layer's input."""

    def output_width(self, widths: Sequence[int], input_width: int) -> int:
        if len(widths) != 2 or set(widths) != {input_width}:
            raise ValueError(
                f"merge=highway(): expected two branches as wide as the layer's input, {input_width}. "
                f"Received: widths {list(widths)}"
            )
        return input_width

    def lower(self, build: PlanBuilder, parts: Sequence[Range], source: Range, dst: Range) -> None:
        value, gate = parts
        carry, transformed, carried = (build.hidden(dst.width) for _ in range(3))
        build.merge("add", ((gate, -1.0),), carry, shift=Const(1.0))
        build.merge("mul", ((gate, 1.0), (value, 1.0)), transformed)
        build.merge("mul", ((carry, 1.0), (source, 1.0)), carried)
        build.merge("add", ((transformed, 1.0), (carried, 1.0)), dst)

    def unfused(self, parts: Sequence[Any], source: Any) -> Any:
        value, gate = parts
        return gate * value + (1 - gate) * source

    def magnitude(self, parts: Sequence[Any], source: Any) -> Any:
        value, gate = parts
        return gate * value + (1 + gate) * source


def weighted(weights: Sequence[float]) -> Weighted:
    """`concat([w_1 y_1, ..., w_n y_n])`.

    Example:

    >>> import fusedsplit as fs
    >>> from keras.layers import Dense
    >>> layer = fs.MergeDense([Dense(64), Dense(32)], merge=fs.merges.weighted([1, 2]))

    Args:
        weights: one finite number for each branch.

    Raises:
        ValueError: if they are not finite numbers.
    """
    try:
        numbers = tuple(float(w) for w in weights)
    except (TypeError, ValueError):
        numbers = ()
    if not numbers or not all(math.isfinite(w) for w in numbers):
        raise ValueError(f"`weights`: expected a list of finite numbers. Received: {weights!r}")
    return Weighted(numbers)


def mixture(softmax: bool = True) -> Mixture:
    """`sum_e softmax(gate)[e] * y_e`: the mixture of experts of MMoE.

    The last branch gives the gate, as wide as there are other branches.

    Example:

    >>> import fusedsplit as fs
    >>> from keras.layers import Dense
    >>> experts = [Dense(64, activation="relu") for _ in range(3)]
    >>> layer = fs.MergeDense([*experts, Dense(3)], merge=fs.merges.mixture(), head=Dense(1))

    Args:
        softmax: whether the gate branch gives logits. False where it ends in a softmax (or another gate) of its own.

    Source: Ma et al., "Modeling Task Relationships in Multi-task Learning with Multi-gate Mixture-of-Experts", 2018.
    """
    return Mixture(bool(softmax))


def dueling(baseline: str = "mean") -> Dueling:
    """`V + A - mean(A)`, with the state value V as the first branch and the advantages A as the second.

    Example:

    >>> import fusedsplit as fs
    >>> from keras.layers import Dense
    >>> layer = fs.MergeDense([Dense(1), Dense(4)], merge=fs.merges.dueling("mean"))

    Args:
        baseline: "mean", "max" (`V + A - max(A)`) or "naive" (`V + A`).

    Raises:
        ValueError: if it is another one.

    Source: Wang et al., "Dueling Network Architectures for Deep Reinforcement Learning", 2016, equations 7 to 9.
    """
    if baseline not in ("mean", "max", "naive"):
        raise ValueError(f"`baseline`: expected 'mean', 'max' or 'naive'. Received: {baseline!r}")
    return Dueling(baseline)


def highway() -> Highway:
    """`T * H + (1 - T) * x`, with H as the first branch, the gate T as the second and x the layer's input.

    Example:

    >>> import fusedsplit as fs
    >>> from keras.layers import Dense
    >>> branches = [Dense(10, activation="relu"), Dense(10, activation="sigmoid")]
    >>> layer = fs.MergeDense(branches, merge=fs.merges.highway())

    Source: Srivastava et al., "Highway Networks", 2015, equation 3.
    """
    return Highway()


ELEMENTWISE = tuple(_ELEMENTWISE)
NAMES = ("concat", *ELEMENTWISE)
_CLASSES: dict[str, Callable[..., NamedMerge]] = {
    cls.__name__: cls for cls in (Concat, Elementwise, Weighted, Mixture, Dueling, Highway)
}


def get(identifier: Any) -> NamedMerge | MergeFunction | None:
    """The merge that a layer's `merge` argument means.

    Args:
        identifier: a name, a merge of this module, its config, a callable, or None.

    Raises:
        ValueError: if it is none of these.
    """
    if identifier is None or isinstance(identifier, NamedMerge):
        return identifier
    if identifier == "concat":
        return Concat()
    if isinstance(identifier, str) and identifier in ELEMENTWISE:
        return Elementwise(identifier)
    if isinstance(identifier, dict) and identifier.get("merge") in _CLASSES:
        arguments = {k: tuple(v) if isinstance(v, list) else v for k, v in identifier.items() if k != "merge"}
        return _CLASSES[identifier["merge"]](**arguments)
    if callable(identifier):
        function: MergeFunction = identifier
        return function
    raise ValueError(
        f"`merge`: expected one of {NAMES}, one of fusedsplit.merges, a callable, or None. Received: {identifier!r}"
    )


def _side_by_side(dst: Range, widths: Sequence[int]) -> list[Range]:
    places = []
    at = dst.start
    for width in widths:
        places.append(Range(dst.value, at, at + width))
        at += width
    return places


def _row_mean(x: Any) -> Any:
    import tensorflow as tf

    return tf.reduce_mean(x, axis=-1, keepdims=True)


def _keras_merge(layer: str, parts: Sequence[Any]) -> Any:
    """One of Keras' own merge layers on several parts; a single part is itself."""
    import keras

    if len(parts) == 1:
        return parts[0]
    dtype = keras.backend.standardize_dtype(parts[0].dtype)  # or the merge layer would cast to its default
    return getattr(keras.layers, layer)(dtype=dtype)(list(parts))
