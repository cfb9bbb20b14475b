"""The native op's scorecard: how close it comes to what the machine can do, number by number.

    python benchmarks/scorecard.py                    everything, some minutes
    python benchmarks/scorecard.py ceiling memory     some sections

Every figure is measured in this run, and every ratio between calls that were timed in the same rounds. Where the
machine or the build cannot tell a figure, that is said instead.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow as tf
from rich.console import Console
from rich.table import Table

from fusedsplit.bench import cases, ceilings, conditions, fused, harness, ladder, providers
from fusedsplit.bench.cases import Branch, Case
from fusedsplit.bench.program import ProviderUnavailable
from fusedsplit.native import library


class Score(NamedTuple):
    """One number, what it should reach, and whether more or less of it is better."""

    name: str
    value: float | None
    target: float | None = None
    unit: str = ""
    at_most: bool = False
    note: str = ""

    @property
    def verdict(self) -> str:
        if self.value is None or self.target is None:
            return ""
        return "ok" if (self.value <= self.target if self.at_most else self.value >= self.target) else "short"


_UNFUSED = ("lambda", "lambda-xla", "hand", "hand-xla")
# A cell counts as slower where it is by more than this harness' own noise.
_NOISE = 0.97


def _eager_call(name: str, case: Case, batch: int) -> Callable[[], object]:
    program = providers.make(name, case, case.weights())
    x = tf.constant(case.rows(batch))
    return lambda: program.call(x)


def _functional_call(case: Case, batch: int) -> Callable[[], object]:
    """fs.split_dense on plain tensors, the shortest way to the op."""
    layers = providers.dense_layers(case)
    layer = fused.split_dense_layer(case, layers, "op")
    providers.build_and_assign(case, layers, case.weights())
    call, x = fused.functional(layer, "op", frozen=True), tf.constant(case.rows(batch))
    return lambda: call(x)


def _gradient_call(case: Case, batch: int) -> Callable[[], object]:
    program = providers.make("op", case, case.weights())
    function = providers.gradients(program, case)
    x, dy = tf.constant(case.rows(batch)), tf.constant(case.upstream(batch))
    return lambda: function(x, dy)


def ceiling() -> Iterator[Score]:
    """Fractions of the best product of this machine, all in the same rounds."""
    forward = {("med", 4096): 1.0, ("wide", 4096): 0.95, ("large", 4096): 0.94}
    forward |= {("med", 512): 0.92, ("wide", 512): 0.90, ("large", 512): 0.92, ("large", 32): 0.745}
    gradients = {("med", 4096): 0.93, ("wide", 4096): 0.80, ("large", 4096): 0.87}
    calls = ceilings.products()
    calls |= {f"{c} {b}": _functional_call(cases.CASES[c], b) for c, b in forward}
    calls |= {f"{c} {b} gradients": _gradient_call(cases.CASES[c], b) for c, b in gradients}
    for case, batch in [*forward]:
        if f"{case}_relu" in cases.CASES:
            calls[f"{case}_relu {batch}"] = _functional_call(cases.CASES[f"{case}_relu"], batch)
    timings = harness.interleave(calls, rounds=11)
    rates = ceilings.rates(timings, ceilings.fma_rate())
    for name, rate in rates.items():
        yield Score(f"denominator, {name}", rate / 1e9, unit="GF/s")
    best = max(rates.values())
    for (case, batch), target in forward.items():
        for name, goal in ((case, target), (f"{case}_relu", None)):
            flops = cases.CASES[name].flops() * batch
            share = flops / timings[f"{name} {batch}"].median / best
            yield Score(f"forward, eager op, {name} {batch}", share, goal, "of the ceiling")
    for (case, batch), target in gradients.items():
        flops = cases.CASES[case].gradient_flops() * batch
        share = flops / timings[f"{case} {batch} gradients"].median / best
        yield Score(f"forward + gradients, {case} {batch}", share, target, "of the ceiling")


def versus() -> Iterator[Score]:
    """The ladder in concrete functions, plain or compiled by XLA, of the op against the best unfused program."""
    cells = []
    for name in cases.LADDER:
        contest = ladder.Contest(cases.CASES[name], (*_UNFUSED, *providers.OP))
        for batch in cases.BATCHES:
            cells += contest.measure(batch, ladder.MODES[:2])
    for mode, mean in (("forward", 1.45), ("gradients", 1.3)):
        chosen = [cell for cell in cells if cell.mode == mode]
        pairs = []
        for cell in chosen:
            form = min(
                (n for n in providers.OP if n in cell.timings), key=lambda name, cell=cell: cell.timings[name].median
            )
            own = cell.timings[form].median
            best = min(_UNFUSED, key=lambda name, cell=cell: cell.timings[name].median)
            target = 1 / 1.3 if mode == "gradients" and cell.batch == 1 else _NOISE
            ratio = cell.timings[best].median / own
            others = [
                f"{n} {cell.timings[best].median / cell.timings[n].median:.2f}" for n in cell.timings if n != form
            ]
            problems = [cell.problems[n] for n in providers.OP if n in cell.timings]
            note = "; ".join(filter(None, (f"{form} over {best}; the others: {', '.join(others)}", *problems)))
            yield Score(f"{mode}, {cell.case} {cell.batch}", ratio, target, "x the best unfused", note=note)
            pairs.append(min(cell.timings[name].median for name in _UNFUSED[:2]) / own)
        mean_ratio = harness.geometric_mean(pairs)
        yield Score(f"{mode}, geometric mean", mean_ratio, mean, "x the better of the Lambda pair")


def eager() -> Iterator[Score]:
    """What an eager call costs beside the Lambda model's."""
    case = cases.CASES["seed2"]
    for batch in (1, 32):
        calls = {name: _eager_call(name, case, batch) for name in ("lambda", "op")}
        timings = harness.interleave({**calls, "functional": _functional_call(case, batch)})
        base = timings["lambda"].median
        for name, what, target in (("op", "layer(x)", 20), ("functional", "fs.split_dense", 120)):
            note = f"{1e6 * timings[name].median:.1f} us; Lambda model {1e6 * base:.0f} us"
            yield Score(f"eager, seed2 {batch}, {what}", base / timings[name].median, target, "x Lambda", note=note)


# As many operands as `large` and no work: what a call of that op costs by itself.
_EMPTY = Case("empty", 1, (Branch(1, (1,)),) * 8, "eight branches of one column")


def latency() -> Iterator[Score]:
    """One row of `large`: bound by reading the kernels once."""
    large = cases.CASES["large"]
    calls = {"large": _functional_call(large, 1), "empty": _functional_call(_EMPTY, 1)}
    timings = harness.interleave(calls, rounds=15)
    kernel = timings["large"].median - timings["empty"].median
    size = 4 * sum(shape.rows * shape.columns for shape in large.dense_shapes())
    reading = ceilings.read_seconds(size)
    note = f"{1e6 * kernel:.1f} us without the call, {1e6 * timings['empty'].median:.1f} us"
    if reading is None:
        yield Score("large 1, kernel time", 1e6 * kernel, None, "us", True, note + "; the core times no reading")
    else:
        yield Score("large 1, kernel time", kernel / reading, 1.3, f"x reading {size} bytes", True, note)


def threads() -> Iterator[Score]:
    """Two threads against one."""
    op_library = library.OpLibrary(library.op_path())
    allowed = int(op_library.info()["threads"])
    if allowed < 2:
        yield Score("two threads against one", None, 1.8, "x", note=f"only {allowed} usable here")
        return

    def limited(call: Callable[[], object], count: int) -> Callable[[], object]:
        def run() -> None:
            op_library.set_threads(count)
            call()

        return run

    try:
        for name in ("med", "large"):
            call = _eager_call("op", cases.CASES[name], 4096)
            timings = harness.interleave({str(n): limited(call, n) for n in (1, 2)}, rounds=11)
            ratio = timings["1"].median / timings["2"].median
            yield Score(f"two threads against one, {name} 4096", ratio, 1.8, "x")
    finally:
        library.set_threads(0)


@contextlib.contextmanager
def _busy() -> Iterator[None]:
    """TensorFlow's threads at work for somebody else."""
    over = threading.Event()
    a = tf.random.normal([512, 512])

    def work() -> None:
        while not over.is_set():
            tf.matmul(a, a)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def busy() -> Iterator[Score]:
    """The op beside the Lambda program in a graph while another thread keeps TensorFlow's pool busy with products."""
    for name, batch in (("med", 512), ("large", 512)):
        contest = ladder.Contest(cases.CASES[name], ("lambda", "op"))
        x, dy, _ = contest.batch(batch, ("forward",))
        calls = contest.calls("forward", x, dy)
        quiet = harness.interleave(calls, rounds=11)
        with _busy():
            loaded = harness.interleave(calls, rounds=11)
        before, after = (t["lambda"].median / t["op"].median for t in (quiet, loaded))
        note = f"{1e6 * loaded['op'].median:.0f} us; without: {before:.2f} x Lambda, {1e6 * quiet['op'].median:.0f} us"
        yield Score(f"busy pool, {name} {batch}", after, 1.0, "x Lambda", note=note)


def avx2() -> Iterator[Score]:
    """The AVX2 unit against the best that this machine does in AVX2."""
    module = ceilings.core()
    if module is None or "avx2" not in module.isas():
        yield Score("AVX2 unit, med 4096", None, 0.92, note="there is no AVX2 unit here")
        return
    case, usual = cases.CASES["med"], module.isa()
    layer = fused.split_dense_layer(case, providers.dense_layers(case), "op")
    program = module.Program32(fused.plan(layer).encode())
    x, weights = case.rows(4096), case.weights()
    module.set_isa("avx2")
    try:
        calls = {"med": lambda: program.forward([x], weights), "product: core": ceilings.core_product(module)}
        timings = harness.interleave(calls, rounds=11)
        rates = ceilings.rates(timings, ceilings.fma_rate())
    finally:
        module.set_isa(usual)
    rate = case.flops() * 4096 / timings["med"].median
    note = ", ".join(f"{name} {value / 1e9:.0f} GF/s" for name, value in rates.items())
    yield Score("AVX2 unit, med 4096", rate / max(rates.values()), 0.92, "of the AVX2 rate", note=note)


def _resident(key: str) -> int:
    """A figure of /proc/self/status in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(key)))


def memory() -> Iterator[Score]:
    """How much a forward over 262,144 rows of `med` adds to what its input and output take."""
    case, batch = cases.CASES["med"], 262_144
    _functional_call(case, 1024)()  # What the first call sets up once is no part of this.
    call = _functional_call(case, batch)
    try:
        # Writing 5 resets the peak to what is resident now.
        Path("/proc/self/clear_refs").write_text("5")
        before = _resident("VmRSS")
        y = call()
        grown = _resident("VmHWM") - before - y.shape.num_elements() * 4
        yield Score("memory beyond input and output, med 262144", grown / 2**20, 8, "MiB", True)
    except OSError as error:
        yield Score("memory beyond input and output", None, 8, "MiB", True, f"this system does not tell: {error}")
    module = ceilings.core()
    if module is None:
        return
    for name in cases.LADDER:
        shape = cases.CASES[name]
        layer = fused.split_dense_layer(shape, providers.dense_layers(shape), "op")
        scratch = module.Program32(fused.plan(layer).encode()).scratch_bytes
        yield Score(f"scratch of a thread, {name}", scratch / 2**20, 1, "MiB", True)


def off_ladder() -> Iterator[Score]:
    """Other shapes and batches: GFLOP/s, and whether a cell falls below half of the next smaller batch's."""
    batches = sorted((*cases.BATCHES, *cases.ODD_BATCHES))
    for name in (*cases.LADDER, "odd", "thin100", "one3000", "deep3"):
        case = cases.CASES[name]
        timings = harness.interleave({str(b): _eager_call("op", case, b) for b in batches})
        previous = 0.0
        for batch in batches:
            rate = case.flops() * batch / timings[str(batch)].median / 1e9
            yield Score(f"{name}, batch {batch}", rate, previous / 2 or None, "GF/s")
            previous = rate


SECTIONS: dict[str, Callable[[], Iterator[Score]]] = {
    "ceiling": ceiling,
    "versus": versus,
    "eager": eager,
    "latency": latency,
    "threads": threads,
    "busy": busy,
    "avx2": avx2,
    "memory": memory,
    "off_ladder": off_ladder,
}


def _number(value: float | None) -> str:
    if value is None or math.isnan(value):
        return "-"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def table(name: str, scores: Sequence[Score]) -> Table:
    """A section as a table."""
    result = Table(title=f"{name}: {SECTIONS[name].__doc__}")
    for column in ("what", "measured", "unit", "to reach", "", "note"):
        result.add_column(column, justify="right" if column in ("measured", "to reach") else "left")
    styles = {"ok": "green", "short": "red"}
    for score in scores:
        sign = "" if score.target is None else "<= " if score.at_most else ">= "
        goal = "" if score.target is None else sign + _number(score.target)
        row: list[Any] = [score.name, _number(score.value), score.unit, goal, score.verdict, score.note]
        result.add_row(*row, style=styles.get(score.verdict, ""))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"some of {', '.join(SECTIONS)}")
    names = parser.parse_args().sections or list(SECTIONS)
    unknown = [name for name in names if name not in SECTIONS]
    if unknown:
        parser.error(f"expected some of {', '.join(SECTIONS)}. Received: {', '.join(unknown)}")
    console = Console()
    if not console.is_terminal:
        console = Console(width=140)
    found = conditions.collect()
    console.print(conditions.title(found))
    for text in conditions.warnings(found):
        console.print(f"Note: {text}", style="yellow", markup=False)
    scores: list[Score] = []
    for name in names:
        try:
            section = list(SECTIONS[name]())
        except (ProviderUnavailable, library.NativeError) as error:
            console.print(f"{name}: not measured: {error}", style="yellow", markup=False)
            continue
        console.print(table(name, section))
        scores += section
    judged = [score for score in scores if score.verdict]
    console.print(f"{sum(s.verdict == 'ok' for s in judged)} of {len(judged)} numbers reached.")


if __name__ == "__main__":
    main()
