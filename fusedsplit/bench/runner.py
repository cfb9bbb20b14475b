"""One run of the suite: checks, training on real data, the ladder, the merges; then tables, picture and JSON file."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from fusedsplit.bench import cases as cases_module
from fusedsplit.bench import conditions, fused, ladder, merge_cases, models, plot, training
from fusedsplit.bench.cases import Case
from fusedsplit.bench.merge_cases import MergeCase
from fusedsplit.bench.report import Results, show

PICTURE, DATA = "bench.png", "bench.json"


@dataclasses.dataclass(frozen=True)
class Options:
    """What to run, and where the files go."""

    cases: Sequence[Case]
    batches: Sequence[int]
    eager_batches: Sequence[int]
    merges: Sequence[MergeCase]
    models: Sequence[str]
    out: Path
    quick: bool = False
    timed_epochs: int = 3


def options(quick: bool, out: str, names: str | None) -> Options:
    """The options of a run as the command line gives them."""
    if names:
        chosen, merges = select(names)
    else:
        chosen = cases_module.select(cases_module.QUICK if quick else cases_module.DEFAULT)
        merges = [merge_cases.MERGES[name] for name in (merge_cases.QUICK if quick else merge_cases.DEFAULT)]
    batches = (32, 4096) if quick else cases_module.BATCHES
    # Eager calls differ by their overhead, which is the same at every batch: two batches show it.
    whole = () if names else models.DEFAULT[:1] if quick else models.DEFAULT
    return Options(chosen, batches, (32,) if quick else (1, 512), merges, whole, Path(out), quick)


def select(names: str) -> tuple[list[Case], list[MergeCase]]:
    """The named cases of the ladder and of the merges.

    Args:
        names: comma-separated; "all" stands for every one.
    """
    chosen = cases_module.select(names, {**cases_module.CASES, **merge_cases.MERGES})
    return [c for c in chosen if isinstance(c, Case)], [c for c in chosen if isinstance(c, MergeCase)]


class _Display:
    """Progress of the stages, drawn between measurements only: a thread would disturb them."""

    def __init__(self, console: Console):
        columns = (
            TextColumn("{task.description:<34}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        self.progress = Progress(*columns, console=console, auto_refresh=False)
        self.plain = not console.is_terminal

    def stage(self, name: str, total: int) -> TaskID:
        if self.plain:
            self.progress.console.print(f"{name} …")
        return self.progress.add_task(name, total=total)

    def step(self, task: TaskID, what: str, advance: int = 1) -> None:
        self.progress.update(task, description=what, advance=advance)
        self.progress.refresh()


def _check(results: Results, chosen: Sequence[Case], display: _Display) -> None:
    task = display.stage("check", len(chosen))
    for case in chosen:
        report = fused.check(case)
        results.checks[case.name] = (report.ok, str(report))
        display.step(task, f"check {case.name}")


def _train(results: Results, options: Options, display: _Display) -> None:
    tasks = training.tasks(options.quick)
    task = display.stage("train", len(tasks))
    for job in tasks:
        what = f"train {job.name}, batch {job.batch}"
        for outcome in training.train(job, options.timed_epochs):
            display.step(task, what, advance=0)
            if outcome is not None:
                results.training.append(outcome)
                results.missing |= outcome.missing
        display.step(task, what)


def _climb(results: Results, options: Options, display: _Display) -> None:
    task = display.stage("ladder", len(options.cases) * len(options.batches))
    for case in options.cases:
        contest = ladder.Contest(case)
        results.missing |= contest.missing
        for batch in options.batches:
            # What an eager call costs does not depend on the stem's activation either.
            eager = batch in options.eager_batches and case.name not in cases_module.TWINS
            modes = ladder.MODES if eager else ladder.MODES[:2]
            results.cells += contest.measure(batch, modes)
            display.step(task, f"ladder {case.name}, batch {batch}")


def _merge(results: Results, options: Options, display: _Display) -> None:
    task = display.stage("merges", len(options.merges))
    for case in options.merges:
        contest = ladder.MergeContest(case)
        results.missing |= contest.missing
        for batch in merge_cases.BATCHES:
            results.merges += contest.measure(batch, merge_cases.MODES)
        display.step(task, f"merges {case.name}")


def _fuse(results: Results, options: Options, display: _Display) -> None:
    task = display.stage("models", len(options.models))
    for name in options.models:
        contest = models.ModelContest(name)
        for batch in models.BENCH_BATCHES:
            results.models += contest.measure(batch)
        display.step(task, f"models {name}")


def run(options: Options, console: Console | None = None) -> Results:
    """Runs everything, prints the report and writes the files."""
    console = console or Console()
    if not console.is_terminal:
        console = Console(file=console.file, width=150)
    start = time.perf_counter()
    results = Results(conditions.collect())
    display = _Display(console)
    with display.progress:
        _check(results, options.cases, display)
        _train(results, options, display)
        results.floors = ladder.floors()
        _climb(results, options, display)
        _merge(results, options, display)
        _fuse(results, options, display)
    results.seconds = time.perf_counter() - start
    show(results, console)
    write(results, options.out, console)
    return results


def write(results: Results, out: Path, console: Console) -> None:
    """The JSON file and the picture."""
    out.mkdir(parents=True, exist_ok=True)
    results.save(out / DATA)
    plot.save(results, out / PICTURE)
    console.print(f"{results.seconds:.0f} s. Written: {out / DATA}, {out / PICTURE}")
