"""The progress of trainings, trials, sweeps and downloads: bars on terminals, lines everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

from .. import run as run_folder
from ..errors import printable
from ..wording import duration, percent
from . import printing
from .printing import SWEEP_ROW, complain, print_outcome, say

if TYPE_CHECKING:
    from rich.progress import TaskID

    from ..studies.jobs import Job
    from ..studies.sweep import Outcome, Search
    from ..studies.trials import Trial
    from ..training.history import StepResult

TRIAL_ROW = "{:<{width}}{:>12}{:>12}{:>12}{:>13}"  # 79 characters, unless a name is longer
EPOCH_ROW = "{:>9}{:>10}{:>11}{:>13}{:>11}{:>12}{:>10}"  # 76 characters


class _Bars:
    """A heading, and bars on terminals only, whose time left follows the last `seconds`."""

    def __init__(self, seconds: float, text: str = "", heading: str = "") -> None:
        """`text` is behind a bar; without it there is how much has been downloaded."""
        from rich import progress as bars

        self.heading = heading
        self.progress = bars.Progress(
            bars.TextColumn("{task.description}", markup=False),
            bars.BarColumn(bar_width=None),
            bars.TextColumn(text, markup=False) if text else bars.DownloadColumn(),
            bars.TimeRemainingColumn(),
            console=printing.console,
            transient=True,
            expand=True,
            disable=not printing.console.is_terminal,
            speed_estimate_period=seconds,
        )

    def __enter__(self) -> Self:
        if self.heading:
            say(self.heading, "bold")
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()


class Display(_Bars):
    """Progress of a training of so many epochs: a bar for the whole run, and a line an epoch."""

    def __init__(self, epochs: int) -> None:
        titles = ("epoch", "loss", "train", "validation", "test", "time", "images/s")
        super().__init__(300, "{task.fields[train]}", EPOCH_ROW.format(*titles))
        self.epochs = epochs
        self.seen = self.correct = 0  # in this epoch, by this process
        self.task = self.progress.add_task("starting", total=None, train="")

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


class _RunBars(_Bars):
    """A bar for all runs, and one for each under way, which reads the epochs from its folder."""

    def __init__(self, what: str, total: int, unit: str, heading: str) -> None:
        super().__init__(600, "{task.completed}/{task.total} {task.fields[unit]}", heading)
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
                    printable(trial.name), total=total, unit="epochs"
                )
            self.progress.update(
                self.bars[trial.name], completed=run_folder.count_epochs(trial.folder)
            )
        self.progress.update(self.all, completed=completed)


class TrialsDisplay(_RunBars):
    """Progress of many runs, with a line for each that has ended."""

    def __init__(self, trials: Sequence[Trial]) -> None:
        self.trials = {trial.name: trial for trial in trials}
        self.width = max(30, *map(len, self.trials), 0)
        self.done = {trial.name: run_folder.count_epochs(trial.folder) for trial in trials}
        titles = ("run", "last epoch", "validation", "best test", "time")
        heading = TRIAL_ROW.format(*titles, width=self.width) if trials else ""
        super().__init__(
            "all runs", sum(one.experiment.epochs for one in trials), "epochs", heading
        )

    def running(self, jobs: Sequence[Job]) -> None:
        trials = [self.trials[job.name] for job in jobs]
        self.done |= {trial.name: run_folder.count_epochs(trial.folder) for trial in trials}
        self.show(trials, sum(self.done.values()))

    def ended(self, job: Job, failure: str | None) -> None:
        result = None if failure else self.trials[job.name].result()
        if result is None:
            complain("failed", f"{job.name}: {failure or 'no epoch was recorded'}")
            return
        shares = (percent(result.accuracy.get(name)) for name in run_folder.results.MEASURES)
        seconds = duration(result.seconds)
        say(TRIAL_ROW.format(job.name, *shares, seconds, width=self.width))


class SweepDisplay(_RunBars):
    """Progress of a sweep, with a line for each trial that has ended."""

    def __init__(self, search: Search) -> None:
        heading = SWEEP_ROW.format("trial", "state", search.sweep.objective, "settings")
        super().__init__("all trials", search.sweep.trials, "trials", heading)
        self.search = search
        self._count_ended()

    def running(self, trials: Sequence[Trial]) -> None:
        self.show(trials, self.ended_trials)

    def ended(self, outcome: Outcome) -> None:
        self._count_ended()
        print_outcome(outcome)

    def _count_ended(self) -> None:
        outcomes = self.search.outcomes()
        self.ended_trials = sum(outcome.state != "running" for outcome in outcomes)


class Download(_Bars):
    """A bar for the download of one file; see `tsslbp.data.files.download`."""

    def __init__(self, name: str) -> None:
        super().__init__(30)
        self.task = self.progress.add_task(name, total=None)
        self.total = 0

    def update(self, count: int) -> None:
        self.progress.update(self.task, total=self.total, advance=count)

    def reset(self) -> None:
        self.progress.reset(self.task)

    def close(self) -> None:
        pass
