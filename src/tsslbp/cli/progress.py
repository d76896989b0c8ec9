"""The progress of trainings, trials, sweeps and downloads: bars on terminals, lines everywhere."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from ..run import Run, count_epochs
from ..run.results import MEASURES
from ..studies.jobs import Job
from ..studies.sweep import Outcome, Search
from ..studies.trials import Trial
from ..training import Observer
from ..training.history import StepResult
from ..training.trackers import trackers
from ..wording import duration, percent
from . import printing
from .printing import SWEEP_ROW, complain, print_outcome, say

TRIAL_ROW = "{:<{width}}{:>12}{:>12}{:>12}{:>13}"  # 79 characters, unless a name is longer
EPOCH_ROW = "{:>9}{:>10}{:>11}{:>13}{:>11}{:>12}{:>10}"  # 76 characters
SWEEP_SECONDS = 2.0  # between two looks at a sweep that other processes make


def _progress(seconds: float, *columns: ProgressColumn) -> Progress:
    """A bar that appears on terminals only; the time left follows the last `seconds`."""
    return Progress(
        *columns,
        console=printing.console,
        transient=True,
        expand=True,
        disable=not printing.console.is_terminal,
        speed_estimate_period=seconds,
    )


class Display:
    """Progress of a training: a bar on a terminal, a line an epoch everywhere.

    The bar and the time left are those of the whole run.

    Args:
        epochs: of the whole training.
        lines: whether to print a line an epoch.
    """

    def __init__(self, epochs: int, lines: bool = True) -> None:
        self.epochs, self.lines = epochs, lines
        self.seen = self.correct = 0  # in this epoch, by this process
        self.progress = _progress(
            300,
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[train]}"),
            TimeRemainingColumn(),
        )
        self.task = self.progress.add_task(
            "starting (first use compiles the kernels, once)", total=None, train=""
        )

    def __enter__(self) -> Display:
        if self.lines:
            titles = ("epoch", "loss", "train", "validation", "test", "time", "images/s")
            say(EPOCH_ROW.format(*titles), "bold")
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def on_step(self, epoch: int, step: int, steps: int, result: StepResult) -> None:
        self.seen += result.images
        self.correct += result.correct
        doing = f"step {step}/{steps}" if step < steps else "testing"
        self.progress.update(
            self.task,
            description=f"epoch {epoch}/{self.epochs} {doing}",
            completed=(epoch - 1) * steps + step,
            total=self.epochs * steps,
            train=f"train {percent(self.correct / self.seen)}",
        )

    def on_epoch(self, record: dict[str, Any]) -> None:
        self.seen = self.correct = 0
        if not self.lines:
            return
        splits = ("train", "validation", "test")
        say(
            EPOCH_ROW.format(
                f"{record['epoch']}/{self.epochs}",
                f"{record['loss']:.4f}",
                *(percent(record.get(f"{split}_accuracy")) for split in splits),
                duration(record["seconds"]),
                f"{record['images_per_second']:,.0f}",
            )
        )


class TrialsDisplay:
    """Progress of many runs: on a terminal a bar for all and for each, a line a run everywhere.

    How far a run is it reads from the run's folder, wherever that is written.
    """

    def __init__(self, trials: Sequence[Trial]) -> None:
        self.trials = {trial.name: trial for trial in trials}
        self.width = max(30, *map(len, self.trials)) if trials else 30
        self.progress = _progress(
            600,
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.completed}/{task.total} epochs"),
            TimeRemainingColumn(),
        )
        total = sum(trial.experiment.epochs for trial in trials)
        self.all = self.progress.add_task("all runs", total=total)
        self.done = {trial.name: count_epochs(trial.folder) for trial in trials}
        self.bars: dict[str, TaskID] = {}

    def __enter__(self) -> TrialsDisplay:
        if self.trials:
            titles = ("run", "last epoch", "validation", "best test", "time")
            say(TRIAL_ROW.format(*titles, width=self.width), "bold")
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def running(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            trial = self.trials[job.name]
            if job.name not in self.bars:
                total = trial.experiment.epochs
                self.bars[job.name] = self.progress.add_task(job.name, total=total)
            self.done[job.name] = count_epochs(trial.folder)
            self.progress.update(self.bars[job.name], completed=self.done[job.name])
        self.progress.update(self.all, completed=sum(self.done.values()))

    def ended(self, job: Job, failure: str | None) -> None:
        if job.name in self.bars:
            self.progress.remove_task(self.bars.pop(job.name))
        trial = self.trials[job.name]
        result = None if failure else trial.result()
        if result is None:
            complain("failed", f"{job.name}: {failure or 'no epoch was recorded'}")
            return
        shares = (percent(result.accuracy.get(name)) for name in MEASURES)
        seconds = duration(result.seconds)
        say(TRIAL_ROW.format(job.name, *shares, seconds, width=self.width))


class SweepDisplay:
    """Progress of a sweep: a bar for each run on a terminal, a line a trial everywhere.

    Args:
        objective: of the sweep.
        images: that a run trains on.
        track: names of trackers, see `tsslbp.training.trackers`.
    """

    def __init__(self, objective: str, images: int, track: Sequence[str] = ()) -> None:
        self.images, self.track = images, track
        say(SWEEP_ROW.format("trial", "state", objective, "settings"), "bold")

    @contextmanager
    def observe(self, run: Run) -> Iterator[Observer]:
        with (
            Display(run.experiment.epochs, lines=False) as shown,
            trackers(
                self.track, run, -(-self.images // run.experiment.batch_size), shown
            ) as observer,
        ):
            yield observer or shown

    def ended(self, outcome: Outcome) -> None:
        print_outcome(outcome)


class WorkersDisplay:
    """Progress of a sweep that other processes make: a bar on a terminal, a line a trial."""

    def __init__(self, search: Search) -> None:
        self.search, self.looked = search, -math.inf
        self.shown = {one.number for one in search.outcomes() if one.state != "running"}
        self.progress = _progress(
            600,
            TextColumn("{task.completed}/{task.total} trials"),
            BarColumn(bar_width=None),
            TimeRemainingColumn(),
        )
        self.task = self.progress.add_task("", total=search.sweep.trials)

    def __enter__(self) -> WorkersDisplay:
        objective = self.search.sweep.objective
        say(SWEEP_ROW.format("trial", "state", objective, "settings"), "bold")
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()
        self._look()

    def running(self, jobs: Sequence[Job]) -> None:
        if time.monotonic() - self.looked > SWEEP_SECONDS:
            self._look()

    def ended(self, job: Job, failure: str | None) -> None:
        if failure:
            complain("failed", f"{job.name}: {failure}; log in {job.log}")

    def _look(self) -> None:
        self.looked = time.monotonic()
        ended = [one for one in self.search.outcomes() if one.state != "running"]
        for outcome in sorted(ended, key=lambda one: one.number):
            if outcome.number not in self.shown:
                self.shown.add(outcome.number)
                print_outcome(outcome)
        self.progress.update(self.task, completed=len(self.shown))


class Download:
    """A bar for the download of one file, on terminals only; see `tsslbp.data.files.Progress`."""

    def __init__(self, name: str) -> None:
        self.progress = _progress(
            30,
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            DownloadColumn(),
            TimeRemainingColumn(),
        )
        self.task = self.progress.add_task(name, total=None)
        self.total = 0

    def __enter__(self) -> Download:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def update(self, count: int) -> None:
        self.progress.update(self.task, total=self.total, advance=count)

    def reset(self) -> None:
        self.progress.reset(self.task)

    def close(self) -> None:
        pass
