"""Plans computed with NumPy, forward and backward, and random plans to compute.

Written apart from every executor of the package: what the native code is held against.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import special

from fusedsplit.plan import (
    ACTIVATIONS,
    Activation,
    Const,
    Dense,
    Live,
    Merge,
    Mix,
    Param,
    Plan,
    Range,
    Row,
    Value,
)

SELU_SCALE, SELU_ALPHA = 1.0507009873554805, 1.6732632423543772
GELU_SCALE, GELU_CUBE = np.sqrt(2 / np.pi), 0.044715


def sigmoid(z):
    return special.expit(z)


def activate(activation: Activation, z):
    name, alpha = activation
    with np.errstate(over="ignore"):
        return {
            "linear": lambda: z,
            "relu": lambda: np.where(z < 0, 0, z),
            "relu6": lambda: np.clip(z, 0, 6),
            "leaky_relu": lambda: np.where(z > 0, z, alpha * z),
            "elu": lambda: np.where(z > 0, z, alpha * np.expm1(z)),
            "selu": lambda: SELU_SCALE * np.where(z > 0, z, SELU_ALPHA * np.expm1(z)),
            "gelu": lambda: z * special.ndtr(z),
            "gelu_tanh": lambda: 0.5 * z * (1 + np.tanh(GELU_SCALE * (z + GELU_CUBE * z**3))),
            "silu": lambda: z * sigmoid(z),
            "sigmoid": lambda: sigmoid(z),
            "hard_sigmoid": lambda: np.clip(z / 6 + 0.5, 0, 1),
            "tanh": lambda: np.tanh(z),
            "softplus": lambda: np.maximum(z, 0) + np.log1p(np.exp(-np.abs(z))),
            "softsign": lambda: z / (1 + np.abs(z)),
            "exponential": lambda: np.exp(z),
        }[name]().astype(z.dtype)


def slope(activation: Activation, z):
    """The derivative of `activate` at z."""
    name, alpha = activation
    inner = GELU_SCALE * (z + GELU_CUBE * z**3)
    with np.errstate(over="ignore"):
        return {
            "linear": lambda: np.ones_like(z),
            "relu": lambda: (z > 0) * 1.0,
            "relu6": lambda: ((z > 0) & (z < 6)) * 1.0,
            "leaky_relu": lambda: np.where(z > 0, 1.0, alpha),
            "elu": lambda: np.where(z > 0, 1.0, alpha * np.exp(z)),
            "selu": lambda: SELU_SCALE * np.where(z > 0, 1.0, SELU_ALPHA * np.exp(z)),
            "gelu": lambda: special.ndtr(z) + z * np.exp(-z * z / 2) / np.sqrt(2 * np.pi),
            "gelu_tanh": lambda: (
                0.5 * (1 + np.tanh(inner)) + 0.5 * z * GELU_SCALE * (1 + 3 * GELU_CUBE * z * z) / np.cosh(inner) ** 2
            ),
            "silu": lambda: sigmoid(z) * (1 + z * (1 - sigmoid(z))),
            "sigmoid": lambda: sigmoid(z) * (1 - sigmoid(z)),
            "hard_sigmoid": lambda: ((z > -3) & (z < 3)) / 6.0,
            "tanh": lambda: 1 - np.tanh(z) ** 2,
            "softplus": lambda: sigmoid(z),
            "softsign": lambda: 1 / (1 + np.abs(z)) ** 2,
            "exponential": lambda: np.exp(z),
        }[name]().astype(z.dtype)


class Run:
    """One forward run in the dtype of its arrays, and the gradients of it."""

    def __init__(self, plan: Plan, inputs, params, points=()):
        self.plan, self.params, self.points = plan, params, points
        self.rows = inputs[0].shape[0]
        self.dtype = inputs[0].dtype
        self.values = [np.full((self.rows, v.width), np.nan, self.dtype) for v in plan.values]
        for v, x in zip(plan.inputs, inputs):
            self.values[v][:] = x
        self.pre = []
        for step in plan.steps:
            self.put(step.dst, self.forward(step))
        self.outputs = [self.values[v] for v in plan.outputs]

    def at(self, r: Range):
        return self.values[r.value][:, r.start : r.stop]

    def put(self, r: Range, x) -> None:
        self.values[r.value][:, r.start : r.stop] = x

    def live(self, step: Dense, x):
        """`x`, with zeros in the columns of the step's source that do not count."""
        if step.live is None:
            return x
        point = np.broadcast_to(np.asarray(self.points[step.live.point]), (self.rows,))[:, None]
        columns = np.arange(step.src.width)[None]
        return np.where(columns < point if step.live.side == "leading" else columns >= point, x, 0)

    def operand(self, operand, default):
        if operand is None:
            return self.dtype.type(default)
        return self.dtype.type(operand.value) if isinstance(operand, Const) else self.params[operand]

    def terms(self, step: Merge):
        shape = (self.rows, step.dst.width)
        terms = [np.broadcast_to(self.at(r) * self.dtype.type(scale), shape) for r, scale in step.srcs]
        return terms or [np.zeros(shape, self.dtype)]  # a sum of nothing

    def forward(self, step):
        if isinstance(step, Dense):
            z = self.live(step, self.at(step.src)) @ self.params[step.kernel]
            z = z if step.bias is None else z + self.params[step.bias]
            self.pre.append(z)
            return activate(step.activation, z)
        if isinstance(step, Merge):
            fold = {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}[step.op]
            total, *rest = self.terms(step)
            for term in rest:
                total = fold(total, term)
            z = self.operand(step.gain, 1) * total + self.operand(step.shift, 0)
            self.pre.append((total, z))
            return activate(step.activation, z)
        self.pre.append(None)
        if isinstance(step, Row):
            return self.row(step)
        gate = self.at(step.gate)
        return sum(gate[:, e : e + 1] * self.at(r) for e, r in enumerate(step.experts))

    def row(self, step: Row):
        x = self.at(step.src)
        if step.op == "softmax":
            e = np.exp(x - x.max(axis=1, keepdims=True))
            return e / e.sum(axis=1, keepdims=True)
        if step.op == "normalize":
            return self.normalized(step)[0]
        return {"mean": np.mean, "max": np.max}[step.op](x, axis=1, keepdims=True)

    def normalized(self, step: Row):
        """The normalized columns, and what the centred ones were multiplied by."""
        centred = self.at(step.src) - self.at(step.src).mean(axis=1, keepdims=True)
        scale = 1 / np.sqrt((centred**2).mean(axis=1, keepdims=True) + self.dtype.type(step.epsilon))
        return centred * scale, scale

    def gradients(self, output_grads):
        """The gradients of (inputs, params)."""
        plan = self.plan
        self.grads = [np.zeros_like(v) for v in self.values]
        self.param_grads = [np.zeros_like(p) for p in self.params]
        for v, dy in zip(plan.outputs, output_grads):
            self.grads[v] += 0 if dy is None else dy
        for step, pre in reversed(list(zip(plan.steps, self.pre))):
            dy = self.grads[step.dst.value][:, step.dst.start : step.dst.stop]
            {Dense: self.dense_grad, Merge: self.merge_grad, Row: self.row_grad, Mix: self.mix_grad}[type(step)](
                step, pre, dy
            )
        return [self.grads[v] for v in plan.inputs], self.param_grads

    def add(self, r: Range, dx) -> None:
        if r.width == 1 and dx.shape[1] != 1:
            dx = dx.sum(axis=1, keepdims=True)
        self.grads[r.value][:, r.start : r.stop] += dx

    def dense_grad(self, step: Dense, z, dy) -> None:
        dz = dy * slope(step.activation, z)
        self.param_grads[step.kernel] += self.live(step, self.at(step.src)).T @ dz
        if step.bias is not None:
            self.param_grads[step.bias] += dz.sum(axis=0)
        self.add(step.src, self.live(step, dz @ self.params[step.kernel].T))

    def merge_grad(self, step: Merge, pre, dy) -> None:
        total, z = pre
        dz = dy * slope(step.activation, z)
        if isinstance(step.gain, int):
            self.param_grads[step.gain] += (dz * total).sum(axis=0)
        if isinstance(step.shift, int):
            self.param_grads[step.shift] += dz.sum(axis=0)
        dfold = dz * self.operand(step.gain, 1)
        terms = self.terms(step)
        shares = self.shares(step.op, terms)
        for (r, scale), share in zip(step.srcs, shares):
            self.add(r, dfold * share * self.dtype.type(scale))

    @staticmethod
    def shares(op: str, terms):
        """How much of the fold's gradient each term gets."""
        if op == "add":
            return [np.ones_like(t) for t in terms]
        if op == "mul":
            rest = [[t for j, t in enumerate(terms) if j != i] for i in range(len(terms))]
            return [np.prod(others, axis=0) if others else np.ones_like(terms[0]) for others in rest]
        keeps = np.greater_equal if op == "max" else np.less_equal
        best, shares = terms[0], [np.ones_like(terms[0])]
        for term in terms[1:]:
            stays = keeps(best, term)
            shares = [share * stays for share in shares] + [np.where(stays, 0, 1).astype(term.dtype)]
            best = np.where(stays, best, term)
        return shares

    def row_grad(self, step: Row, pre, dy) -> None:
        x = self.at(step.src)
        if step.op == "softmax":
            y = self.at(step.dst)
            dx = y * (dy - (y * dy).sum(axis=1, keepdims=True))
        elif step.op == "normalize":
            y, scale = self.normalized(step)
            along_y = y * (dy * y).mean(axis=1, keepdims=True)
            dx = (dy - dy.mean(axis=1, keepdims=True) - along_y) * scale
        elif step.op == "mean":
            dx = np.repeat(dy / x.shape[1], x.shape[1], axis=1)
        else:
            ties = x == x.max(axis=1, keepdims=True)
            dx = ties * dy / ties.sum(axis=1, keepdims=True)
        self.grads[step.src.value][:, step.src.start : step.src.stop] += dx.astype(self.dtype)

    def mix_grad(self, step: Mix, pre, dy) -> None:
        gate = self.at(step.gate)
        shares = []
        for e, r in enumerate(step.experts):
            self.add(r, gate[:, e : e + 1] * dy)
            shares.append((dy * self.at(r)).sum(axis=1, keepdims=True))
        self.grads[step.gate.value][:, step.gate.start : step.gate.stop] += np.concatenate(shares, axis=1)


@dataclasses.dataclass
class Case:
    """A plan and arrays that fit it."""

    plan: Plan
    inputs: list
    params: list
    points: list
    output_grads: list

    def cast(self, dtype) -> Case:
        def cast(arrays):
            return [None if a is None else a.astype(dtype) for a in arrays]

        return Case(self.plan, cast(self.inputs), cast(self.params), self.points, cast(self.output_grads))

    def rows(self, start: int, stop: int) -> Case:
        def cut(arrays):
            return [None if a is None else a[start:stop] for a in arrays]

        points = [p if p.ndim == 0 else p[start:stop] for p in self.points]
        return Case(self.plan, cut(self.inputs), self.params, points, cut(self.output_grads))


def fill(plan: Plan, rows: int, rng: np.random.Generator) -> Case:
    """Random float64 arrays for a plan, of sizes that keep every value of the order of one."""
    inputs = [rng.standard_normal((rows, plan.values[v].width)) for v in plan.inputs]
    params = [rng.standard_normal(p.shape) / np.sqrt(p.shape[0] if len(p.shape) == 2 else 4) for p in plan.params]
    points = []
    for i in range(plan.points):
        shape = () if i % 2 == 0 else (rows,)
        points.append(np.asarray(rng.integers(-2, 40, shape), np.int32))
    output_grads = [rng.standard_normal((rows, plan.values[v].width)) for v in plan.outputs]
    return Case(plan, inputs, params, points, output_grads)


def random_activation(rng: np.random.Generator) -> Activation:
    name = ACTIVATIONS[rng.integers(len(ACTIVATIONS))]
    return Activation(name, {"leaky_relu": 0.2, "elu": 0.7}.get(name, 0.0))


class RandomPlan:
    """A valid plan of every kind of step, made value by value."""

    def __init__(self, rng: np.random.Generator, max_width: int = 40):
        self.rng, self.max_width = rng, max_width
        self.values: list[Value] = []
        self.params: list[Param] = []
        self.steps: list = []
        self.points = 0

    def make(self) -> Plan:
        rng = self.rng
        for _ in range(rng.integers(1, 4)):
            self.values.append(Value(self.width(), "input"))
        for _ in range(rng.integers(0, 5)):
            self.value("hidden")
        for _ in range(rng.integers(1, 3)):
            self.value("output")
        return Plan(tuple(self.values), tuple(self.params), tuple(self.steps), self.points).validate()

    def width(self) -> int:
        return int(self.rng.integers(1, self.max_width + 1))

    def value(self, role: str) -> None:
        known = len(self.values)
        parts = [self.width() for _ in range(self.rng.integers(1, 4))]
        at = 0
        for part in parts:
            self.steps.append(self.step(known, Range(known, at, at + part)))
            at += part
        self.values.append(Value(at, role))

    def step(self, known: int, dst: Range):
        kind = self.rng.choice(["dense", "dense", "merge", "row", "mix"])
        step = getattr(self, kind)(known, dst)
        return step if step is not None else self.dense(known, dst)

    def any_range(self, known: int, width: int | None = None) -> Range | None:
        fits = [v for v in range(known) if width is None or self.values[v].width >= width]
        if not fits:
            return None
        v = int(self.rng.choice(fits))
        width = int(self.rng.integers(1, self.values[v].width + 1)) if width is None else width
        start = int(self.rng.integers(0, self.values[v].width - width + 1))
        return Range(v, start, start + width)

    def param(self, shape: tuple[int, ...]) -> int:
        same = [i for i, p in enumerate(self.params) if p.shape == shape]
        if same and self.rng.random() < 0.5:
            return same[0]  # shared: its gradients add
        self.params.append(Param(shape))
        return len(self.params) - 1

    def dense(self, known: int, dst: Range) -> Dense:
        src = self.any_range(known)
        kernel = self.param((src.width, dst.width))
        bias = self.param((dst.width,)) if self.rng.random() < 0.7 else None
        live = None
        if self.rng.random() < 0.25:
            self.points += 1
            live = Live(self.points - 1, self.rng.choice(["leading", "trailing"]).item())
        return Dense(src, kernel, bias, random_activation(self.rng), dst, live)

    def operand(self, width: int):
        kind = self.rng.integers(3)
        return [None, Const(float(self.rng.normal())), None][kind] if kind < 2 else self.param((width,))

    def merge(self, known: int, dst: Range) -> Merge | None:
        srcs = []
        for _ in range(self.rng.integers(1, 5)):
            r = self.any_range(known, dst.width if self.rng.random() < 0.8 else 1)
            if r is None:
                return None
            srcs.append((r, float(self.rng.choice([1.0, 1.0, -1.0, 0.5]))))
        op = self.rng.choice(["add", "mul", "max", "min"]).item()
        gain, shift = self.operand(dst.width), self.operand(dst.width)
        return Merge(op, tuple(srcs), gain, shift, random_activation(self.rng), dst)

    def row(self, known: int, dst: Range) -> Row | None:
        # Epsilons that keep the gradient of nearly equal columns of the order of one.
        epsilon = float(self.rng.choice([0.1, 1.0]))
        op = self.rng.choice(["mean", "max", "softmax", "normalize"] if dst.width == 1 else ["softmax", "normalize"])
        src = self.any_range(known, None if op in ("mean", "max") else dst.width)
        return None if src is None else Row(op.item(), src, dst, epsilon if op == "normalize" else 0.0)

    def mix(self, known: int, dst: Range) -> Mix | None:
        experts = [self.any_range(known, dst.width) for _ in range(self.rng.integers(1, 5))]
        gate = self.any_range(known, len(experts))
        if gate is None or None in experts:
            return None
        return Mix(gate, tuple(experts), dst)


def split_dense_plan(d: int, sizes, units, stem: Activation, branch: Activation, bias: bool = True) -> Plan:
    """Dense -> split -> one Dense for each branch -> concat."""
    values = (Value(d, "input"), Value(sum(sizes), "hidden"), Value(sum(units), "output"))
    params = [Param((d, sum(sizes)))] + ([Param((sum(sizes),))] if bias else [])
    steps = [Dense(Range(0, 0, d), 0, 1 if bias else None, stem, Range(1, 0, sum(sizes)))]
    at, to = 0, 0
    for size, width in zip(sizes, units):
        kernel = len(params)
        params += [Param((size, width))] + ([Param((width,))] if bias else [])
        dst = Range(2, to, to + width)
        steps.append(Dense(Range(1, at, at + size), kernel, kernel + 1 if bias else None, branch, dst))
        at, to = at + size, to + width
    return Plan(values, tuple(params), tuple(steps)).validate()
