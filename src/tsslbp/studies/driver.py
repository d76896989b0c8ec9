"""Runs the trials of a sweep: starts their commands and reports their progress to the study."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import optuna

from ..errors import InvalidInput, RunError
from ..experiment import Experiment
from ..run import Run, count_epochs, read_epochs
from . import jobs
from .jobs import Engine, Job, Task
from .optuna_study import storage_errors
from .sweep import KILLED, OBJECTIVES, REASON, Outcome, Search
from .trials import Trial

KILLS = 5  # processes that may end without finishing an epoch before their trial has failed
REFUSED = 2  # exit status of a command that has printed an error that the user can correct
PAUSE = 10  # looks at running trials between two looks for a new one


class SweepWatch(Protocol):
    """Receives the running trials several times a second, and each trial that has ended."""

    def running(self, trials: Sequence[Trial]) -> None:
        """Called several times a second with the running trials."""

    def ended(self, outcome: Outcome) -> None:
        """Called when a trial has ended, with its outcome."""


@dataclass
class _Training:
    """A running trial, in the study and as a run."""

    optuna_trial: optuna.Trial
    trial: Trial
    epoch: int  # the last epoch that the study knows
    is_pruned: bool = False


@dataclass
class Driver:
    """Runs trials of a sweep, as many at once as the engine has workers."""

    search: Search
    engine: Engine  # starts the commands
    watch: SweepWatch  # receives the progress of the trials
    check: Callable[[Experiment], None]  # raises `InvalidInput` if a trial does not fit the data
    options: Sequence[str] = ()  # of ``tsslbp train``, such as ``("--device", "cuda")``

    def __post_init__(self) -> None:
        self.workers, self.threads = self.engine.workers, self.engine.threads
        self._key = OBJECTIVES[self.search.sweep.objective]
        self._under_way: dict[str, _Training] = {}  # by the name of the job
        self._tasks: dict[str, Task] = {}
        self._refused: set[str] = set()

    def work(self) -> None:
        """Run trials until all trials of this folder have ended, including other processes'.

        A trial fails if it diverges, if its values contradict each other, or if its command ends
        early repeatedly (for example because it needs too much memory).

        Raises:
            RunError: the storage or the folder cannot be used, or a command reports why it cannot
                train; the next driver continues the trial.
        """
        with storage_errors(self.search.shown_storage, RunError):
            try:
                jobs.run(self._jobs(), self, self, self._is_done)
            except (KeyboardInterrupt, RunError):
                for training in self._under_way.values():
                    training.optuna_trial.set_user_attr(KILLED, -1)  # not caused by the trial
                raise
            finally:
                self.search.release(*self.search.locks)

    def start(self, job: Job) -> Task:
        """Start a trial's command by the engine, and return the task."""
        task = self._tasks[job.name] = self.engine.start(job)
        return task

    def running(self, current: Sequence[Job]) -> None:
        """Report new epochs of the running trials to the study, and the trials to the watch."""
        trainings = [self._under_way[job.name] for job in current]
        for training in trainings:
            self._report(training)
        self.watch.running([training.trial for training in trainings])

    def ended(self, job: Job, failure: str | None) -> None:
        """Enter the outcome of a trial in the study, and report it to the watch."""
        training = self._under_way[job.name]
        self._report(training)
        optuna_trial, trial = training.optuna_trial, training.trial
        if training.is_pruned:
            self._tell(optuna_trial, "PRUNED")
        elif failure is None:
            records = read_epochs(Run.open(trial.folder))
            self._tell(optuna_trial, "COMPLETE", max(record[self._key] for record in records))
        elif reason := trial.divergence():
            self._fail(optuna_trial, reason)
        else:
            self._put_back(training, failure)
        del self._under_way[job.name]

    def _is_done(self, job: Job) -> bool:
        return self._under_way[job.name].trial.is_finished()

    def _jobs(self) -> Iterator[Job | None]:
        """Yield a job for each trial, or None while other processes run the remaining ones."""
        while True:
            if optuna_trial := self.search.claim():
                if job := self._job(optuna_trial):
                    yield job
            elif not self.search.under_way():
                return
            else:
                yield from [None] * PAUSE

    def _job(self, optuna_trial: optuna.Trial) -> Job | None:
        """Return the command of a trial; None if the trial fails without one."""
        try:
            if optuna_trial.user_attrs.get(KILLED, 0) >= KILLS:
                last = optuna_trial.user_attrs.get(REASON, "killed with its driver")
                raise InvalidInput(
                    f"{KILLS} processes that trained it ended early, the last one: {last}"
                )
            trial = self.search.trial(optuna_trial)
            self.check(trial.experiment)
        except InvalidInput as error:
            self._fail(optuna_trial, str(error))
            return None
        trials = self.search.study.get_trials(deepcopy=False)
        known = trials[optuna_trial.number].intermediate_values
        self._under_way[trial.name] = _Training(optuna_trial, trial, max(known, default=0))
        return trial.job(self.options)

    def _report(self, training: _Training) -> None:
        """Report new epochs to the study; stop the command if the pruner says so."""
        optuna_trial, trial = training.optuna_trial, training.trial
        if training.is_pruned or count_epochs(trial.folder) <= training.epoch:
            return
        for record in read_epochs(Run.open(trial.folder)):
            if record["epoch"] <= training.epoch:
                continue
            training.epoch = record["epoch"]
            optuna_trial.report(record[self._key], training.epoch)
            if optuna_trial.user_attrs.get(KILLED):
                optuna_trial.set_user_attr(KILLED, 0)
            if training.epoch < trial.experiment.epochs and optuna_trial.should_prune():
                training.is_pruned = True
                self._tasks[trial.name].terminate()
                return

    def _put_back(self, training: _Training, failure: str) -> None:
        """Let the next claim continue a trial whose command has ended early."""
        optuna_trial, trial = training.optuna_trial, training.trial
        if self._tasks[trial.name].poll() == REFUSED:
            # The first time may mean that a killed driver's process still trains the trial.
            if trial.name in self._refused:
                raise RunError(f"{trial.name}: {failure}; see the log {trial.log}")
            self._refused.add(trial.name)
        optuna_trial.set_user_attr(REASON, failure)
        self.search.release(optuna_trial.number)

    def _fail(self, optuna_trial: optuna.Trial, reason: str) -> None:
        optuna_trial.set_user_attr(REASON, reason)
        self._tell(optuna_trial, "FAIL")

    def _tell(self, optuna_trial: optuna.Trial, state: str, value: float | None = None) -> None:
        """Report to the study and to the watch how a trial has ended."""
        optuna_trial.study.tell(optuna_trial, value, optuna.trial.TrialState[state])
        self.search.release(optuna_trial.number)
        self.watch.ended(self.search.outcome(optuna_trial.number))
