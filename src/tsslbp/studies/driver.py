"""What makes the trials of a sweep: it starts their commands, and tells the study how they go."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import optuna

from ..errors import InvalidInput, RunError
from ..experiment import Experiment
from ..run import Run, count_epochs
from . import jobs
from .jobs import Engine, Job, Task
from .optuna_study import storage_errors
from .sweep import KILLED, OBJECTIVES, REASON, Outcome, Search
from .trials import Trial

KILLS = 5  # processes that train a trial without getting on by an epoch, until it has failed
REFUSED = 2  # exit status of a command that has printed what a user can correct
PAUSE = 10  # looks at the trials under way, between two looks for another one


class SweepWatch(Protocol):
    """Is told of the trials under way, several times a second, and of each that has ended."""

    def running(self, trials: Sequence[Trial]) -> None: ...

    def ended(self, outcome: Outcome) -> None: ...


@dataclass
class _Training:
    """A trial under way, in the study and as a run."""

    told: optuna.Trial
    trial: Trial
    epoch: int  # the last that the study knows
    is_pruned: bool = False


@dataclass
class Driver:
    """Makes trials of a sweep, as many at once as an engine has workers."""

    search: Search
    engine: Engine  # starts the commands
    watch: SweepWatch  # is told how the trials go
    check: Callable[[Experiment], None]  # raises `InvalidInput` where a trial does not fit the data
    options: Sequence[str] = ()  # of ``tsslbp train``, such as ``("--device", "cuda")``

    def __post_init__(self) -> None:
        self.workers, self.threads = self.engine.workers, self.engine.threads
        self._key = OBJECTIVES[self.search.sweep.objective]
        self._under_way: dict[str, _Training] = {}  # by the name of the job
        self._tasks: dict[str, Task] = {}
        self._refused: set[str] = set()

    def work(self) -> None:
        """Make trials until all of this folder have ended, those of other processes included.

        A trial fails if it diverges, if its values do not go together, or if its command ends
        early again and again (it may take too much memory).

        Raises:
            RunError: the storage or the folder cannot be used, or a command says why it cannot
                train; the next driver goes on with the trial.
        """
        with storage_errors(self.search.shown_storage, RunError):
            try:
                jobs.run(self._jobs(), self, self, self._is_done)
            except (KeyboardInterrupt, RunError):
                for training in self._under_way.values():
                    training.told.set_user_attr(KILLED, -1)  # that was not the trial's doing
                raise
            finally:
                self.search.release(*self.search.locks)

    def start(self, job: Job) -> Task:
        task = self._tasks[job.name] = self.engine.start(job)
        return task

    def running(self, current: Sequence[Job]) -> None:
        trainings = [self._under_way[job.name] for job in current]
        for training in trainings:
            self._report(training)
        self.watch.running([training.trial for training in trainings])

    def ended(self, job: Job, failure: str | None) -> None:
        training = self._under_way[job.name]
        self._report(training)
        told, trial = training.told, training.trial
        if training.is_pruned:
            self._tell(told, "PRUNED")
        elif failure is None:
            records = Run.open(trial.folder).epochs()
            self._tell(told, "COMPLETE", max(record[self._key] for record in records))
        elif reason := trial.divergence():
            self._fail(told, reason)
        else:
            self._put_back(training, failure)
        del self._under_way[job.name]

    def _is_done(self, job: Job) -> bool:
        return self._under_way[job.name].trial.is_finished()

    def _jobs(self) -> Iterator[Job | None]:
        """A job for each trial; None while others make those that are left."""
        while True:
            if told := self.search.claim():
                if job := self._job(told):
                    yield job
            elif not self.search.under_way():
                return
            else:
                yield from [None] * PAUSE

    def _job(self, told: optuna.Trial) -> Job | None:
        """The command of a trial; None where the trial fails without one."""
        try:
            if told.user_attrs.get(KILLED, 0) >= KILLS:
                last = told.user_attrs.get(REASON, "killed with its driver")
                raise InvalidInput(f"{KILLS} processes that trained it ended early; last: {last}")
            trial = self.search.trial(told)
            self.check(trial.experiment)
        except InvalidInput as error:
            self._fail(told, str(error))
            return None
        known = self.search.study.get_trials(deepcopy=False)[told.number].intermediate_values
        self._under_way[trial.name] = _Training(told, trial, max(known, default=0))
        return trial.job(self.options)

    def _report(self, training: _Training) -> None:
        """Tell the study of new epochs; stop the command where the pruner says so."""
        told, trial = training.told, training.trial
        if training.is_pruned or count_epochs(trial.folder) <= training.epoch:
            return
        for record in Run.open(trial.folder).epochs():
            if record["epoch"] <= training.epoch:
                continue
            training.epoch = record["epoch"]
            told.report(record[self._key], training.epoch)
            if told.user_attrs.get(KILLED):
                told.set_user_attr(KILLED, 0)
            if training.epoch < trial.experiment.epochs and told.should_prune():
                training.is_pruned = True
                self._tasks[trial.name].terminate()
                return

    def _put_back(self, training: _Training, failure: str) -> None:
        """Let the next claim go on with a trial whose command has ended early."""
        told, trial = training.told, training.trial
        if self._tasks[trial.name].poll() == REFUSED:
            # Once may mean that a killed driver has left a process behind that trains it.
            if trial.name in self._refused:
                raise RunError(f"{trial.name}: {failure}; log in {trial.log}")
            self._refused.add(trial.name)
        told.set_user_attr(REASON, failure)
        self.search.release(told.number)

    def _fail(self, told: optuna.Trial, reason: str) -> None:
        told.set_user_attr(REASON, reason)
        self._tell(told, "FAIL")

    def _tell(self, told: optuna.Trial, state: str, value: float | None = None) -> None:
        """Tell the study, and who watches, how a trial has ended."""
        told.study.tell(told, value, optuna.trial.TrialState[state])
        self.search.release(told.number)
        self.watch.ended(self.search.outcome(told.number))
