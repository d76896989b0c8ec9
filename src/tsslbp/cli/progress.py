"""Progress of trainings, trials, sweeps and downloads: bars on terminals, lines everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .. import run as run_folder
from ..errors import printable
from ..training import progress as bars
from ..wording import duration, percent
from . import printing
from .printing import SWEEP_ROW, complain, print_outcome, say

if TYPE_CHECKING:
    from rich.progress import TaskID

    from ..studies.jobs import Job
    from ..studies.sweep import Outcome, Search
    from ..studies.trials import Trial

TRIAL_ROW = "{:<{width}}{:>12}{:>12}{:>12}{:>13}"  # 79 characters, unless a name is longer


class Display(bars.Display):
    """Progress of a training of so many epochs, on the program's console."""

    def __init__(self, epochs: int) -> None:
        super().__init__(epochs, printing.console)


class _RunBars(bars.Bars):
    """A bar for all runs, and one for each run in progress, from the epochs in its folder."""

    def __init__(self, what: str, total: int, unit: str, heading: str) -> None:
        super().__init__(
            600, "{task.completed}/{task.total} {task.fields[unit]}", heading, printing.console
        )
        self.all = self.progress.add_task(what, total=total, unit=unit)
        self.bars: dict[str, TaskID] = {}

    def show(self, trials: Sequence[Trial], completed: int) -> None:
        """Update the bars of the trials in progress, and the bar of all."""
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
    """Progress of many runs, with a line for each run that has ended."""

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


class Download(bars.Bars):
    """A bar for the download of one file; see `tsslbp.data.files.download`."""

    def __init__(self, name: str) -> None:
        super().__init__(30, console=printing.console)
        self.task = self.progress.add_task(name, total=None)
        self.total = 0

    def update(self, count: int) -> None:
        self.progress.update(self.task, total=self.total, advance=count)

    def reset(self) -> None:
        self.progress.reset(self.task)

    def close(self) -> None:
        pass
