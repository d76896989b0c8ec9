"""Hyperparameter search with Optuna (extra ``study``), by any number of processes.

A sweep consists of a folder, in which every trial is a run, and an Optuna study, which is in the
folder or in a database that many machines share. The process that runs a trial (see
`tsslbp.studies.driver`) holds the trial's lock file in the folder. The system frees the locks of a
process that is killed, and the next process that looks for work in the folder takes over the trial.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import optuna

from .. import experiment as experiments
from ..checked import check_whole
from ..errors import InvalidInput, RunError, nearest, shown
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

# Names of entries in a study and its trials.
SETTINGS, FOLDER_ID, FOLDER = "tsslbp", "tsslbp.folder-id", "tsslbp.folder"
SEED, REASON = "tsslbp.seed", "tsslbp.reason"
KILLED = "tsslbp.killed"  # number of processes that ended since the trial's last epoch
_IDENTITY = "sweep.json"
_LOCK = ".sweep.lock"
MOST_TRIALS = 100_000


@dataclass(frozen=True)
class Sweep:
    """A search: what to search, how, and where. All processes of a search use the same one.

    Attributes:
        experiment: the recipe from which the trials start.
        space: what differs between the trials.
        trials: total number of trials.
        folder: folder of the trials' runs, ``trial-0000`` and so on.
        objective: ``"validation"``: the best validation accuracy of a trial's epochs;
            ``"test"``: the best test accuracy, as in the published protocol.
        sampler: ``"gp"`` (Gaussian process, expected improvement), ``"tpe"`` (tree-structured
            Parzen estimator), both after a quarter of the trials at random, or ``"random"``.
        pruner: ``"none"``; ``"median"``: a trial ends if its best epoch so far is below the median
            of the other trials at that epoch; ``"halving"``: successive halving.
        storage: URL of a database, or path of a journal file, which ends in .log or .journal; by
            default ``study.db`` in the folder.

    Raises:
        InvalidInput: a name is unknown, or the space does not fit the experiment.
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
                    f"{name} must be one of {', '.join(names)}, got {shown(value)}"
                    f"{nearest(value, names)}"
                )
        object.__setattr__(self, "trials", check_whole("trials", self.trials, most=MOST_TRIALS))
        protocol = "validated" if self.objective == "validation" else "published"
        experiment = Experiment.from_table(self.experiment.to_table() | {"protocol": protocol})
        object.__setattr__(self, "experiment", experiment)
        object.__setattr__(self, "space", self.space.fitted(experiment))

    @property
    def startup_trials(self) -> int:
        """Number of trials drawn at random before the sampler knows enough."""
        return min(10, max(3, self.trials // 4))

    def settings(self) -> dict[str, Any]:
        """Return all settings that must be equal for two processes to share a search."""
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
    """The outcome of one trial."""

    number: int  # from 0
    values: Mapping[str, Any]  # by key of the space
    state: str  # one of `STATES`' values
    accuracy: float | None  # the objective, 0 to 1, of a finished or pruned trial
    seed: int | None
    folder: str  # of the run, as named by the process that started it
    reason: str  # why it failed, or ""


class Search:
    """A sweep with its opened study, which is created if there is none.

    Raises:
        InvalidInput: Optuna is not installed, the storage cannot be used, or its study or the
            folder belongs to a sweep with other settings.
        RunError: the folder cannot be written.
    """

    def __init__(self, sweep: Sweep) -> None:
        self.sweep, self.folder = sweep, sweep.folder
        self.shown_storage = optuna_study.without_password(sweep.storage or "study.db")
        self.locks: dict[int, ExitStack] = {}  # of this process's trials, by number
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        recipe = self.folder / RECIPE
        # Waits for other sweeps; other commands lock the folder until they end.
        with hold(self.folder / _LOCK, wait=True), hold_folder(self.folder):
            identity = self._identity()
            self.folder_id: str = identity["id"]
            self.study = self._open_study(identity["study"])
            write_json(self.folder / _IDENTITY, identity)  # after the storage has been verified
            experiments.save(sweep.experiment, recipe)
            self.sweep = replace(sweep, experiment=with_copy(sweep.experiment, recipe))

    def claim(self) -> optuna.Trial | None:
        """Return a trial that this process runs until `release`; None if there is none now.

        A new trial is first added and then claimed like a trial whose process has ended, so that a
        kill in between loses none. Only one process of the folder looks at a time. If machines that
        share only the database add too many trials, the last ones wait until more are requested.
        """
        with hold(self.folder / _LOCK, wait=True):
            trial = self._take()
            if trial is None and len(self.study.get_trials(deepcopy=False)) < self.sweep.trials:
                state, marks = optuna.trial.TrialState.RUNNING, {FOLDER_ID: self.folder_id}
                self.study.add_trial(optuna.trial.create_trial(state=state, user_attrs=marks))
                trial = self._take()
            return self._suggest(trial) if trial else None

    def release(self, *numbers: int) -> None:
        """Release claimed trials: they have ended, or another process may run them."""
        for number in numbers:
            self.locks.pop(number).close()

    def under_way(self) -> list[optuna.trial.FrozenTrial]:
        """Return the trials of this folder that have not ended, in any process."""
        return [
            trial
            for trial in self.study.get_trials(deepcopy=False)[: self.sweep.trials]
            if trial.state.name == "RUNNING" and trial.user_attrs.get(FOLDER_ID) == self.folder_id
        ]

    def trial(self, optuna_trial: optuna.Trial) -> Trial:
        """Return the run of a trial; raise `InvalidInput` if its values contradict each other."""
        values = self._values(optuna_trial.params)
        experiment = replace(
            apply(self.sweep.experiment, values), seed=optuna_trial.user_attrs[SEED]
        )
        folder = self._run_folder(optuna_trial.number)
        return Trial(self.folder / RECIPE, folder, experiment, self.folder, settings(values))

    def outcome(self, number: int) -> Outcome:
        """Return the outcome of a trial."""
        return self._outcome(self.study.get_trials(deepcopy=False)[number])

    def outcomes(self) -> list[Outcome]:
        """Return all trials, the best first."""
        with storage_errors(self.shown_storage, RunError):
            trials = self.study.get_trials(deepcopy=False)
        counted = [t for t in trials if t.number < self.sweep.trials or t.state.is_finished()]
        order = list(STATES.values())
        return sorted(
            map(self._outcome, counted),
            key=lambda one: (order.index(one.state), -(one.accuracy or 0.0), one.number),
        )

    def _identity(self) -> dict[str, str]:
        """Return this folder's identity in the study and the study's name; it may be moved."""
        path = self.folder / _IDENTITY
        if not os.path.exists(path):
            if os.path.exists(self.folder / RECIPE):
                raise RunError(
                    f"{self.folder} contains the {RECIPE} of other runs and no sweep: choose "
                    "another --out"
                )
            name = self.folder.resolve().name
            return {"id": uuid.uuid4().hex, "study": name, "storage": self.shown_storage}
        identity = read_identity(path)
        if identity["storage"] != self.shown_storage:
            raise InvalidInput(
                f"the sweep in {self.folder} is stored in {identity['storage']}, not in "
                f"{self.shown_storage}: give that --storage, or choose another --out"
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
            kept = study.user_attrs[SETTINGS]
        if not isinstance(kept, dict):
            raise self._damage(f"its settings are {kept!r:.40}")
        there = {_current(key): one for key, one in kept.items()}
        there = {key: one for key, one in _defaults().items() if key in asked} | there
        if there != asked:
            raise InvalidInput(
                f"{self.shown_storage} holds a sweep {name!r} with other settings "
                f"({'; '.join(table_differences(there, asked))}): use the same settings, or choose "
                "another --out"
            )
        return study

    def _take(self) -> optuna.trial.FrozenTrial | None:
        """Return the first trial of this folder that has not ended and that no process runs."""
        for number, trial in ((one.number, one) for one in self.under_way()):
            with suppress(RunError), ExitStack() as lock:  # raised if a process holds it
                lock.enter_context(hold(self.folder / f".trial-{number:04d}.lock"))
                if os.path.exists(folder := self._run_folder(number)):
                    with Run(folder, self.sweep.experiment).hold():
                        pass  # verifies that no process of a killed driver still trains it
                if number in [one.number for one in self.under_way()]:  # still
                    self.locks[number] = lock.pop_all()
                    return trial
        return None

    def _suggest(self, frozen: optuna.trial.FrozenTrial) -> optuna.Trial:
        """Set a trial's values and seed, or read those that it has."""
        before, sweep = self.study.get_trials(deepcopy=False)[: frozen.number], self.sweep
        # One sampler per trial, so its random numbers do not depend on the process or the time.
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
        marks = trial.user_attrs
        if (state := STATES.get(trial.state.name)) is None:
            raise self._damage(f"trial {trial.number} is {trial.state.name}")
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
        """Convert Optuna's values to those of the space."""
        parameters = self.sweep.space.parameters
        if unknown := stored.keys() - parameters.keys():
            raise self._damage(f"a trial has values of {min(unknown)!r}, which is not searched")
        return {key: optuna_study.value_of(parameters[key], stored[key]) for key in stored}

    def _damage(self, what: str) -> RunError:
        return RunError(
            f"cannot read the study in {self.shown_storage}: {what}; was it changed by another "
            "program?"
        )


def _defaults() -> dict[str, Any]:
    """Return the defaults of a recipe, for studies that are older than some keys."""
    fields = Experiment(data="-", network="-").to_table()
    return {f"recipe: {key}": json.loads(json.dumps(fields[key])) for key in fields}


def read_identity(path: Path) -> dict[str, str]:
    """Return a sweep folder's id, the name of its study and its storage, from ``sweep.json``.

    Raises:
        RunError: the file cannot be read, or a part is missing.
    """
    table = read_table(path)
    identity = {key: table.get(key) for key in ("id", "study", "storage")}
    for key, value in identity.items():
        if not isinstance(value, str):
            raise RunError(f"cannot read {path}: it has no text {key!r}")
    return cast(dict[str, str], identity)


def _current(key: str) -> str:
    """Return the present name of a setting, which may have had another name before."""
    start, dot, field = key.rpartition(".")
    return f"{start}{dot}{EARLIER_NAMES.get(field, field)}"
