"""The progress of trainings, trials, sweeps and downloads: bars on terminals, lines everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from ..run import count_epochs
from ..run.results import MEASURES
from ..studies.jobs import Job
from ..studies.trials import Trial
from ..training.history import StepResult
from ..wording import duration, percent
from . import printing
from .printing import SWEEP_ROW, complain, print_outcome, say

if TYPE_CHECKING:
    from ..studies.sweep import Outcome, Search

TRIAL_ROW = "{:<{width}}{:>12}{:>12}{:>12}{:>13}"  # 79 characters, unless a name is longer
EPOCH_ROW = "{:>9}{:>10}{:>11}{:>13}{:>11}{:>12}{:>10}"  # 76 characters


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


class _RunBars:
    """Bars on a terminal: one for all runs, and one for each that is under way.

    How far a run is it reads from the run's folder, wherever that is written.
    """

    def __init__(self, what: str, total: int, unit: str) -> None:
        self.progress = _progress(
            600,
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.completed}/{task.total} {task.fields[unit]}"),
            TimeRemainingColumn(),
        )
        self.all = self.progress.add_task(what, total=total, unit=unit)
        self.bars: dict[str, TaskID] = {}

    def show(self, trials: Sequence[Trial], completed: int) -> None:
        """Show how far the trials are that are under way, and how much of all is done."""
        for name in self.bars.keys() - {trial.name for trial in trials}:
            self.progress.remove_task(self.bars.pop(name))
        for trial in trials:
            if trial.name not in self.bars:
                total = trial.experiment.epochs
                self.bars[trial.name] = self.progress.add_task(
                    trial.name, total=total, unit="epochs"
                )
            self.progress.update(self.bars[trial.name], completed=count_epochs(trial.folder))
        self.progress.update(self.all, completed=completed)


class TrialsDisplay:
    """Progress of many runs: on a terminal a bar for all and for each, a line a run everywhere."""

    def __init__(self, trials: Sequence[Trial]) -> None:
        self.trials = {trial.name: trial for trial in trials}
        self.width = max(30, *map(len, self.trials)) if trials else 30
        self.done = {trial.name: count_epochs(trial.folder) for trial in trials}
        self.bars = _RunBars("all runs", sum(trial.experiment.epochs for trial in trials), "epochs")

    def __enter__(self) -> TrialsDisplay:
        if self.trials:
            titles = ("run", "last epoch", "validation", "best test", "time")
            say(TRIAL_ROW.format(*titles, width=self.width), "bold")
        self.bars.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.progress.stop()

    def running(self, jobs: Sequence[Job]) -> None:
        trials = [self.trials[job.name] for job in jobs]
        self.done |= {trial.name: count_epochs(trial.folder) for trial in trials}
        self.bars.show(trials, sum(self.done.values()))

    def ended(self, job: Job, failure: str | None) -> None:
        result = None if failure else self.trials[job.name].result()
        if result is None:
            complain("failed", f"{job.name}: {failure or 'no epoch was recorded'}")
            return
        shares = (percent(result.accuracy.get(name)) for name in MEASURES)
        seconds = duration(result.seconds)
        say(TRIAL_ROW.format(job.name, *shares, seconds, width=self.width))


class SweepDisplay:
    """Progress of a sweep: on a terminal a bar for all trials and for each, a line a trial."""

    def __init__(self, search: Search) -> None:
        self.search, self.ended_trials = search, _count_ended(search)
        self.bars = _RunBars("all trials", search.sweep.trials, "trials")

    def __enter__(self) -> SweepDisplay:
        objective = self.search.sweep.objective
        say(SWEEP_ROW.format("trial", "state", objective, "settings"), "bold")
        self.bars.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.progress.stop()

    def running(self, trials: Sequence[Trial]) -> None:
        self.bars.show(trials, self.ended_trials)

    def ended(self, outcome: Outcome) -> None:
        self.ended_trials = _count_ended(self.search)
        print_outcome(outcome)


def _count_ended(search: Search) -> int:
    return sum(outcome.state != "running" for outcome in search.outcomes())


class Download:
    """A bar for the download of one file, on terminals only; see `tsslbp.data.files.download`."""

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
