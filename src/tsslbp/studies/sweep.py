"""Hyperparameter search with Optuna (extra ``study``), by any number of processes.

A sweep is a folder, in which every trial is a run, and an Optuna study: in the folder, or in a
database that many machines share. Whoever makes a trial (see `tsslbp.studies.driver`) holds its
lock file in the folder. The system frees the locks of a process that is killed, and the next one
that looks for work in the folder takes over the trial.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna

from .. import experiment as experiments
from ..checked import check_whole
from ..errors import InvalidInput, RunError, nearest
from ..experiment import Experiment
from ..experiment.seeding import derive
from ..reading import read_table
from ..rules import EARLIER_NAMES
from ..run import Run, write_json
from ..run.results import table_differences
from ..storage import hold, hold_folder, writing
from ..toml_files import flat
from . import optuna_study
from .optuna_study import PRUNERS, SAMPLERS, storage_errors
from .space import Space, apply, settings
from .trials import RECIPE, Trial, with_copy

OBJECTIVES = {"validation": "validation_accuracy", "test": "test_accuracy"}
STATES = {"COMPLETE": "finished", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running"}

# Names of what is kept in a study and its trials.
SETTINGS, FOLDER_ID, FOLDER = "tsslbp", "tsslbp.folder-id", "tsslbp.folder"
SEED, REASON = "tsslbp.seed", "tsslbp.reason"
KILLED = "tsslbp.killed"  # how many processes that trained it, since its last epoch
_IDENTITY = "sweep.json"
_LOCK = ".sweep.lock"


@dataclass(frozen=True)
class Sweep:
    """A search: what, how and where. All processes of one search are given the same.

    Attributes:
        experiment: what the trials start from.
        space: what differs between them.
        trials: how many to make in all.
        folder: of the trials' runs, ``trial-0000`` and on.
        objective: ``"validation"``: the best validation accuracy of a trial's epochs;
            ``"test"``: the best test accuracy, as the published protocol has it.
        sampler: ``"gp"`` (Gaussian process, expected improvement), ``"tpe"`` (tree-structured
            Parzen estimator), both after a quarter of the trials at random, or ``"random"``.
        pruner: ``"none"``; ``"median"``: a trial ends whose best epoch so far is below the
            others' median at that epoch; ``"halving"``: successive halving.
        storage: URL of a database, or path of a journal file, which ends in .log or .journal; by
            default ``study.db`` in the folder.

    Raises:
        InvalidInput: an unknown name, or a space that does not fit the experiment.
    """

    experiment: Experiment
    space: Space
    trials: int
    folder: Path
    objective: str = "validation"
    sampler: str = "gp"
    pruner: str = "none"
    storage: str | None = None

    def __post_init__(self) -> None:
        known = {"objective": tuple(OBJECTIVES), "sampler": SAMPLERS, "pruner": PRUNERS}
        for name, names in known.items():
            if (value := getattr(self, name)) not in names:
                raise InvalidInput(
                    f"{name} must be one of {', '.join(names)}, got {value!r}"
                    f"{nearest(value, names)}"
                )
        object.__setattr__(self, "trials", check_whole("trials", self.trials))
        protocol = "validated" if self.objective == "validation" else "published"
        experiment = Experiment.from_table(self.experiment.to_table() | {"protocol": protocol})
        object.__setattr__(self, "experiment", experiment)
        object.__setattr__(self, "space", self.space.fitted(experiment))

    @property
    def startup_trials(self) -> int:
        """Trials drawn at random before the sampler knows enough."""
        return min(10, max(3, self.trials // 4))

    def settings(self) -> dict[str, Any]:
        """All that makes the accuracies and choices of two processes belong together."""
        table = flat(experiments.settings_table(self.experiment))
        table["data"] = Path(table["data"]).name
        for key in ("description", *self.space.parameters):
            table.pop(key, None)
        parameters = self.space.parameters.items()
        return {
            **{f"recipe: {key}": value for key, value in table.items()},
            **{f"space: {key}": parameter.to_json() for key, parameter in parameters},
            **{name: getattr(self, name) for name in ("objective", "sampler", "pruner")},
        }


@dataclass(frozen=True)
class Outcome:
    """What has become of one trial."""

    number: int  # from 0
    values: Mapping[str, Any]  # of the space's keys
    state: str  # one of `STATES`' values
    accuracy: float | None  # the objective, 0 to 1, of a finished or pruned trial
    seed: int | None
    folder: str  # of the run, as the process that began it named it
    reason: str  # why it failed, or ""


class Search:
    """A sweep's study, opened; made where there is none.

    Raises:
        InvalidInput: Optuna is missing, the storage cannot be used, or its study or the folder
            belongs to a sweep of other settings.
        RunError: the folder cannot be written.
    """

    def __init__(self, sweep: Sweep) -> None:
        self.sweep, self.folder = sweep, sweep.folder
        self.shown_storage = optuna_study.without_password(sweep.storage or "study.db")
        self.locks: dict[int, ExitStack] = {}  # of the trials that this process makes, by number
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        recipe = self.folder / RECIPE
        # Other sweeps are waited for, other commands keep the folder to their ends.
        with hold(self.folder / _LOCK, wait=True), hold_folder(self.folder):
            identity = self._identity()
            self.folder_id: str = identity["id"]
            self.study = self._open_study(identity["study"])
            write_json(self.folder / _IDENTITY, identity)  # only now: the storage is the right one
            experiments.save(sweep.experiment, recipe)
            self.sweep = replace(sweep, experiment=with_copy(sweep.experiment, recipe))

    def claim(self) -> optuna.Trial | None:
        """A trial that this process makes until `release`; None where there is none to make now.

        A new trial is first added and then taken like one whose process is gone, so that a kill in
        between loses none. One process of the folder at a time looks. Where machines that share
        only the database add too many, the last ones wait until more are asked for.
        """
        with hold(self.folder / _LOCK, wait=True):
            trial = self._take()
            if trial is None and len(self.study.get_trials(deepcopy=False)) < self.sweep.trials:
                state, marks = optuna.trial.TrialState.RUNNING, {FOLDER_ID: self.folder_id}
                self.study.add_trial(optuna.trial.create_trial(state=state, user_attrs=marks))
                trial = self._take()
            return self._suggest(trial) if trial else None

    def release(self, *numbers: int) -> None:
        """Let trials that were claimed go: they have ended, or another process may make them."""
        for number in numbers:
            self.locks.pop(number).close()

    def under_way(self) -> list[optuna.trial.FrozenTrial]:
        """Trials of this folder that have not ended, whoever makes them."""
        return [
            trial
            for trial in self.study.get_trials(deepcopy=False)[: self.sweep.trials]
            if trial.state.name == "RUNNING" and trial.user_attrs.get(FOLDER_ID) == self.folder_id
        ]

    def trial(self, told: optuna.Trial) -> Trial:
        """The run of a trial; `InvalidInput` where its values do not go together."""
        values = self._values(told.params)
        experiment = replace(apply(self.sweep.experiment, values), seed=told.user_attrs[SEED])
        folder = self._run_folder(told.number)
        return Trial(self.folder / RECIPE, folder, experiment, self.folder, settings(values))

    def outcome(self, number: int) -> Outcome:
        """What has become of a trial."""
        return self._outcome(self.study.get_trials(deepcopy=False)[number])

    def outcomes(self) -> list[Outcome]:
        """All trials, the best first."""
        with storage_errors(self.shown_storage, RunError):
            trials = self.study.get_trials(deepcopy=False)
        counted = [t for t in trials if t.number < self.sweep.trials or t.state.is_finished()]
        order = list(STATES.values())
        return sorted(
            map(self._outcome, counted),
            key=lambda one: (order.index(one.state), -(one.accuracy or 0.0), one.number),
        )

    def _identity(self) -> dict[str, str]:
        """Who this folder is among a study's, and the study's name; a folder may be moved."""
        path = self.folder / _IDENTITY
        if not path.exists():
            if (self.folder / RECIPE).exists():
                raise RunError(
                    f"{self.folder} holds {RECIPE} of other runs, and no sweep: give another --out"
                )
            name = self.folder.resolve().name
            return {"id": uuid.uuid4().hex, "study": name, "storage": self.shown_storage}
        try:
            read = read_table(path)
            identity = {key: str(read[key]) for key in ("id", "study", "storage")}
        except KeyError as error:
            raise RunError(f"cannot read {path}: it holds no {error}") from error
        if identity["storage"] != self.shown_storage:
            raise InvalidInput(
                f"the sweep in {self.folder} is kept in {identity['storage']}, not in "
                f"{self.shown_storage}: give its --storage, or another --out"
            )
        return identity

    def _open_study(self, name: str) -> optuna.Study:
        sweep = self.sweep
        storage = sweep.storage or self.folder / "study.db"
        pruner = optuna_study.make_pruner(
            sweep.pruner, sweep.experiment.epochs, sweep.startup_trials
        )
        asked = json.loads(json.dumps(sweep.settings()))
        with storage_errors(self.shown_storage, InvalidInput):
            study = optuna_study.open_study(name, storage, pruner)
            if SETTINGS not in study.user_attrs:
                study.set_user_attr(SETTINGS, asked)
            there = {_current(key): one for key, one in study.user_attrs[SETTINGS].items()}
        there = {key: one for key, one in _defaults().items() if key in asked} | there
        if there != asked:
            raise InvalidInput(
                f"{self.shown_storage} holds a sweep {name!r} of other settings "
                f"({'; '.join(table_differences(there, asked))}): ask for the same, or give "
                "another --out"
            )
        return study

    def _take(self) -> optuna.trial.FrozenTrial | None:
        """The first trial of this folder that has not ended and that no process makes."""
        for number, trial in ((one.number, one) for one in self.under_way()):
            with suppress(RunError), ExitStack() as lock:  # the error: a process holds it
                lock.enter_context(hold(self.folder / f".trial-{number:04d}.lock"))
                if (folder := self._run_folder(number)).exists():
                    with Run(folder, self.sweep.experiment).hold():
                        pass  # and a killed driver has left no process behind that trains it
                if number in [one.number for one in self.under_way()]:  # still
                    self.locks[number] = lock.pop_all()
                    return trial
        return None

    def _suggest(self, frozen: optuna.trial.FrozenTrial) -> optuna.Trial:
        """Give a trial its values and seed, or read those that it has."""
        before, sweep = self.study.get_trials(deepcopy=False)[: frozen.number], self.sweep
        # One sampler a trial: its random numbers do not depend on who asks, or when.
        seed = derive(sweep.experiment.seed, "sweep", frozen.number) % 2**32
        name = "random" if optuna_study.has_failed_last(before) else sweep.sampler
        self.study.sampler = optuna_study.make_sampler(name, seed, sweep.startup_trials)
        trial = optuna.Trial(self.study, frozen._trial_id)
        for key, parameter in sweep.space.parameters.items():
            optuna_study.suggest(trial, key, parameter)
        if SEED in frozen.user_attrs:
            trial.set_user_attr(KILLED, frozen.user_attrs.get(KILLED, 0) + 1)
        else:
            times = sum(other.params == trial.params for other in before)
            trial.set_user_attr(SEED, sweep.experiment.seed + times)
            trial.set_user_attr(FOLDER, str(self._run_folder(frozen.number)))
        return trial

    def _run_folder(self, number: int) -> Path:
        return self.folder / f"trial-{number:04d}"

    def _outcome(self, trial: optuna.trial.FrozenTrial) -> Outcome:
        state, marks = STATES[trial.state.name], trial.user_attrs
        best = max(trial.intermediate_values.values(), default=None)
        return Outcome(
            trial.number,
            self._values(trial.params),
            state,
            {"finished": trial.value, "pruned": best}.get(state),
            marks.get(SEED),
            marks.get(FOLDER, ""),
            marks.get(REASON, "") if state == "failed" else "",
        )

    def _values(self, stored: Mapping[str, Any]) -> dict[str, Any]:
        """Values as the space has them, from Optuna's."""
        parameters = self.sweep.space.parameters
        return {key: optuna_study.value_of(parameters[key], stored[key]) for key in stored}


def _defaults() -> dict[str, Any]:
    """Settings of a recipe that says nothing, for studies that are older than some keys."""
    fields = Experiment(data="-", network="-").to_table()
    return {f"recipe: {key}": json.loads(json.dumps(fields[key])) for key in fields}


def _current(key: str) -> str:
    """A setting's name as this version has it."""
    start, dot, field = key.rpartition(".")
    return f"{start}{dot}{EARLIER_NAMES.get(field, field)}"
