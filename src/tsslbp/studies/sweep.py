"""Hyperparameter search with Optuna (extra ``study``), by many processes at once.

A sweep is a folder, in which every trial is a run, and an Optuna study: in the folder, or in a
database that many machines share. A worker takes a trial, trains it and tells its accuracy, until
there are as many trials as were asked for. Whoever trains a trial holds a lock file in the folder,
which the system takes from a process that is killed; the next worker of the folder that looks for
work then goes on with the trial from its checkpoint.
"""

from __future__ import annotations

import json
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from .. import training
from ..data import DataSet
from ..errors import Diverged, InvalidInput, RunError, nearest
from ..experiment import Experiment
from ..experiment.seeding import derive
from ..network.description import plan
from ..run import Run, write_json
from ..run.results import flat, table_differences
from ..storage import hold
from ..training import Observer
from ..training.device import configure
from ..training.history import StepResult
from .space import Choice, Range, Space, apply, as_text

if TYPE_CHECKING:
    import optuna

OBJECTIVES = {"validation": "validation_accuracy", "test": "test_accuracy"}
SAMPLERS = ("gp", "tpe", "random")
PRUNERS = ("none", "median", "halving")
STATES = {"COMPLETE": "finished", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running"}
JOURNALS = (".log", ".journal")
DIGITS = 4  # of a number that is drawn from a range
SQLITE_SECONDS = 60  # that a process waits for others to write
KILLS = 5  # without an epoch in between, after which a trial is given up
JOURNAL_SECONDS = 10  # after which one that was killed while it wrote is taken for that

# Names of what is kept in a study and its trials.
_SETTINGS, _FOLDER_ID, _FOLDER = "tsslbp", "tsslbp.folder-id", "tsslbp.folder"
_SEED, _REASON, _WITHDRAWN = "tsslbp.seed", "tsslbp.reason", "tsslbp.withdrawn"
_KILLED = "tsslbp.killed"  # how many processes since the last epoch that was finished
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
        protocol = "validated" if self.objective == "validation" else "published"
        experiment = Experiment.from_table(self.experiment.to_table() | {"protocol": protocol})
        object.__setattr__(self, "experiment", experiment)
        object.__setattr__(self, "space", self.space.fitted(experiment))

    def check(self, data: DataSet, device: str = "cpu") -> None:
        """Raise `InvalidInput` where the data, or the device, do not fit a value of the space."""
        shape = data.input_shape
        for one in (self.experiment, *self.space.variants(self.experiment)):
            configure(device, one.precision)
            training.check_data(one, data)
            plan(one.network, shape, data.classes, one.padding)

    @property
    def startup_trials(self) -> int:
        """Trials drawn at random before the sampler knows enough."""
        return min(10, max(3, self.trials // 4))

    def settings(self) -> dict[str, Any]:
        """All that makes the accuracies and choices of two processes belong together."""
        table = flat(self.experiment.to_table())
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
    """What has become of one trial.

    Attributes:
        number: of the trial, from 0.
        values: of the space's keys.
        state: one of `STATES`' values.
        accuracy: the objective, 0 to 1, of a finished or pruned trial.
        seed: of the run.
        folder: of the run, as the process that began it named it.
        reason: why it failed, or "".
    """

    number: int
    values: Mapping[str, Any]
    state: str
    accuracy: float | None
    seed: int | None
    folder: str
    reason: str


class Watch(Protocol):
    """Is told how the trials go."""

    def observe(self, run: Run) -> AbstractContextManager[Observer]:
        """Called when a run begins or goes on; the observer is told of its steps and epochs."""

    def ended(self, outcome: Outcome) -> None:
        """Called when a trial has ended."""


class Search:
    """A sweep's study, opened; made where there is none.

    Raises:
        InvalidInput: Optuna is missing, the storage cannot be used, or its study or the folder
            belongs to a sweep of other settings.
        RunError: the folder cannot be written.
    """

    def __init__(self, sweep: Sweep) -> None:
        _check_optuna()
        self.sweep, self.folder = sweep, sweep.folder
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"cannot make {self.folder}: {error.strerror or error}") from error
        with hold(self.folder / _LOCK, wait=True):
            identity = self._identity()
            self.folder_id: str = identity["id"]
            self.study = self._study(identity["study"])
            write_json(self.folder / _IDENTITY, identity)

    def work(self, data: DataSet, watch: Watch, device: str = "cpu") -> None:
        """Make trials until there are as many as asked for, those of other workers included.

        A trial that diverges, whose values do not go together, or in which one process after the
        other is killed (it may take too much memory), counts as failed. Any other error ends the
        work; the trial can be continued.

        Raises:
            RunError: the storage or the folder cannot be used.
        """
        with _storage_errors(self._storage, RunError):
            while True:
                with self._claim() as trial:
                    if trial is None:
                        return
                    self._train(trial, data, watch, device)
                watch.ended(self._outcome(self.study.get_trials(deepcopy=False)[trial.number]))

    def outcomes(self) -> list[Outcome]:
        """All trials, the best first."""
        with _storage_errors(self._storage, RunError):
            found = [self._outcome(trial) for trial in self._counted()]
        order = list(STATES.values())
        return sorted(
            found, key=lambda one: (order.index(one.state), -(one.accuracy or 0.0), one.number)
        )

    @property
    def _storage(self) -> str:
        """The storage as it may be shown."""
        return _shown(self.sweep.storage) if self.sweep.storage else "study.db"

    def _identity(self) -> dict[str, str]:
        """Who this folder is among those of a study, and the study's name; a folder may be moved.

        Written when the storage has been opened, so that a mistaken one can be corrected.
        """
        path = self.folder / _IDENTITY
        if not path.exists():
            name = self.folder.resolve().name
            return {"id": uuid.uuid4().hex, "study": name, "storage": self._storage}
        try:
            read = json.loads(path.read_bytes())
            identity = {key: str(read[key]) for key in ("id", "study", "storage")}
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise RunError(f"cannot read {path}: {error!r}") from error
        if identity["storage"] != self._storage:
            raise InvalidInput(
                f"the sweep in {self.folder} is kept in {identity['storage']}, not in "
                f"{self._storage}: give its --storage, or another --out"
            )
        return identity

    def _study(self, name: str) -> optuna.Study:
        import optuna

        with _storage_errors(self._storage, InvalidInput):
            study = optuna.create_study(
                study_name=name,
                storage=_open_storage(self.sweep.storage, self.folder / "study.db"),
                pruner=_pruner(self.sweep),
                direction="maximize",
                load_if_exists=True,
            )
            asked = json.loads(json.dumps(self.sweep.settings()))
            if _SETTINGS not in study.user_attrs:
                study.set_user_attr(_SETTINGS, asked)
            there = study.user_attrs[_SETTINGS]
        if there != asked:
            raise InvalidInput(
                f"{self._storage} holds a sweep {name!r} of other settings "
                f"({'; '.join(table_differences(there, asked))}): ask for the same, or give "
                "another --out"
            )
        return study

    @contextmanager
    def _claim(self) -> Iterator[optuna.Trial | None]:
        """A trial that this process owns while the context lasts; None: there are enough.

        One process of the folder at a time looks for one, so that none is taken that another has
        just made and not locked yet, and that they are counted exactly.
        """
        with ExitStack() as owned:
            with hold(self.folder / _LOCK, wait=True):
                trial = self._orphan(owned) or self._new(owned)
            yield trial

    def _orphan(self, owned: ExitStack) -> optuna.Trial | None:
        """A trial of this folder whose process is gone."""
        for trial in self._counted():
            if trial.state.name != "RUNNING" or trial.user_attrs.get(_FOLDER_ID) != self.folder_id:
                continue
            try:
                owned.enter_context(hold(self._lock(trial.number)))
            except RunError:
                continue  # somebody trains it
            # It may have ended between the two looks.
            if self.study.get_trials(deepcopy=False)[trial.number].state.name == "RUNNING":
                ours = self._suggest(trial)
                ours.set_user_attr(_KILLED, trial.user_attrs.get(_KILLED, 0) + 1)
                return ours
            owned.close()
        return None

    def _new(self, owned: ExitStack) -> optuna.Trial | None:
        import optuna

        if len(self._counted()) >= self.sweep.trials:
            return None
        # Not `ask`: this way the trial is known as the folder's from its first moment.
        marks = {_FOLDER_ID: self.folder_id}
        self.study.add_trial(
            optuna.trial.create_trial(state=optuna.trial.TrialState.RUNNING, user_attrs=marks)
        )
        counted = self._counted()
        ours = [
            rank
            for rank, trial in enumerate(counted)
            if trial.user_attrs.get(_FOLDER_ID) == self.folder_id
        ]
        trial = counted[ours[-1]]
        if ours[-1] >= self.sweep.trials:  # a machine with a folder of its own came first
            self._known(trial).set_user_attr(_WITHDRAWN, True)
            self.study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
            return None
        owned.enter_context(hold(self._lock(trial.number)))
        return self._suggest(trial)

    def _suggest(self, frozen: optuna.trial.FrozenTrial) -> optuna.Trial:
        """Give a trial its values and seed, or read those that it has."""
        before = [trial for trial in self._counted() if trial.number < frozen.number]
        self.study.sampler = _sampler(self.sweep, frozen.number, _failed_last(before))
        trial = self._known(frozen)
        for key, parameter in self.sweep.space.parameters.items():
            _suggest(trial, key, parameter)
        if _SEED not in frozen.user_attrs:
            times = sum(other.params == trial.params for other in before)
            trial.set_user_attr(_SEED, self.sweep.experiment.seed + times)
            trial.set_user_attr(_FOLDER, str(self._folder(frozen.number)))
        return trial

    def _train(self, trial: optuna.Trial, data: DataSet, watch: Watch, device: str) -> None:
        import optuna

        key = OBJECTIVES[self.sweep.objective]
        try:
            if trial.user_attrs.get(_KILLED, 0) >= KILLS:
                raise _GivenUp(f"{KILLS} processes that trained it were killed: short of memory?")
            run = self._run(trial)
            configure(device, run.experiment.precision)
            with watch.observe(run) as observer:
                reporter = _Reporter(self.study, trial, key, run.experiment.epochs, observer)
                for record in run.epochs():  # of a process that was killed before it told
                    reporter.report(record)
                training.fit(run, data, reporter, device=device)
            self.study.tell(trial, max(record[key] for record in run.epochs()))
        except optuna.TrialPruned:
            self.study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        except KeyboardInterrupt:
            trial.set_user_attr(_KILLED, -1)  # that was not the trial's doing
            raise
        except (Diverged, InvalidInput, _GivenUp) as error:
            trial.set_user_attr(_REASON, str(error))
            self.study.tell(trial, state=optuna.trial.TrialState.FAIL)

    def _run(self, trial: optuna.Trial) -> Run:
        """The trial's run, new or that of a process that was killed."""
        folder, values = self._folder(trial.number), self._values(trial.params)
        seed = trial.user_attrs[_SEED]
        wanted = replace(apply(self.sweep.experiment, values), seed=seed)
        if not (folder / "config.toml").exists():
            return Run.create(folder, wanted)
        run = Run.open(folder)
        there = run.experiment
        if replace(there, description=wanted.description, data=wanted.data) != wanted:
            raise RunError(f"{folder} holds a run of other settings: move it away")
        run.record_resume()
        return run

    def _outcome(self, trial: optuna.trial.FrozenTrial) -> Outcome:
        state, marks = STATES[trial.state.name], trial.user_attrs
        best = max(trial.intermediate_values.values(), default=None)
        return Outcome(
            trial.number,
            self._values(trial.params),
            state,
            {"finished": trial.value, "pruned": best}.get(state),
            marks.get(_SEED),
            marks.get(_FOLDER, ""),
            marks.get(_REASON, ""),
        )

    def _values(self, stored: Mapping[str, Any]) -> dict[str, Any]:
        """Values as the space has them, from Optuna's."""
        parameters = self.sweep.space.parameters
        return {key: _value(parameters[key], value) for key, value in stored.items()}

    def _counted(self) -> list[optuna.trial.FrozenTrial]:
        """All trials in their order, without those that were one too many."""
        trials = self.study.get_trials(deepcopy=False)
        return [trial for trial in trials if _WITHDRAWN not in trial.user_attrs]

    def _known(self, trial: optuna.trial.FrozenTrial) -> optuna.Trial:
        import optuna

        return optuna.Trial(self.study, trial._trial_id)

    def _folder(self, number: int) -> Path:
        return self.folder / f"trial-{number:04d}"

    def _lock(self, number: int) -> Path:
        return self.folder / f".trial-{number:04d}.lock"


class _GivenUp(Exception):
    """A trial is not tried any more."""


class _Reporter:
    """Hands on what a training tells its observer, and each epoch's accuracy to the study."""

    def __init__(
        self, study: optuna.Study, trial: optuna.Trial, key: str, epochs: int, observer: Observer
    ) -> None:
        self.trial, self.key, self.epochs, self.observer = trial, key, epochs, observer
        self.reported = set(study.get_trials(deepcopy=False)[trial.number].intermediate_values)

    def report(self, record: Mapping[str, Any]) -> None:
        epoch = record["epoch"]
        if epoch not in self.reported:
            self.trial.report(record[self.key], epoch)
            self.reported.add(epoch)

    def on_step(self, epoch: int, step: int, steps: int, result: StepResult) -> None:
        self.observer.on_step(epoch, step, steps, result)

    def on_epoch(self, record: dict[str, Any]) -> None:
        import optuna

        self.observer.on_epoch(record)
        self.report(record)
        if self.trial.user_attrs.get(_KILLED):
            self.trial.set_user_attr(_KILLED, 0)
        if record["epoch"] < self.epochs and self.trial.should_prune():
            raise optuna.TrialPruned


def _check_optuna() -> None:
    try:
        import optuna
        import scipy  # noqa: F401 (of the Gaussian process)
    except ImportError:
        raise InvalidInput("a sweep needs Optuna: pip install 'tsslbp[study]'") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # its warnings are advice to programmers


def _open_storage(storage: str | None, default: Path) -> optuna.storages.BaseStorage:
    import optuna
    import sqlalchemy
    from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

    if storage is None:
        storage = sqlalchemy.URL.create("sqlite", database=str(default)).render_as_string()
    if "://" in storage:
        options: dict[str, Any] = {"pool_pre_ping": True}  # connections may end during a trial
        if storage.startswith("sqlite"):
            options["connect_args"] = {"timeout": SQLITE_SECONDS}
        return optuna.storages.RDBStorage(storage, engine_kwargs=options)
    if storage.endswith(JOURNALS):
        lock = JournalFileSymlinkLock(storage, JOURNAL_SECONDS)
        return optuna.storages.JournalStorage(JournalFileBackend(storage, lock))
    raise InvalidInput(
        f"storage must be a database's URL, such as postgresql://user@host/name, or a file that "
        f"ends in {' or '.join(JOURNALS)}, got {storage!r}"
    )


def _shown(storage: str) -> str:
    """Return a storage without the password that it may hold."""
    import sqlalchemy

    try:
        return sqlalchemy.make_url(storage).render_as_string() if "://" in storage else storage
    except sqlalchemy.exc.ArgumentError:
        return storage


@contextmanager
def _storage_errors(storage: str, kind: type[InvalidInput] | type[RunError]) -> Iterator[None]:
    """Tell in one line what the storage says when it cannot be used."""
    import optuna
    import sqlalchemy

    known: tuple[type[Exception], ...] = (
        optuna.exceptions.StorageInternalError,
        sqlalchemy.exc.SQLAlchemyError,
    )
    if kind is InvalidInput:  # while it is opened: no driver, no file, not one of Optuna's
        known += (ImportError, OSError, RuntimeError)
    try:
        yield
    except known as error:
        cause = error.__cause__ or error
        reason = " ".join(str(getattr(cause, "orig", None) or cause).split())
        raise kind(f"cannot use the storage {storage}: {reason}") from error


def _sampler(sweep: Sweep, number: int, after_failure: bool) -> optuna.samplers.BaseSampler:
    """Return a sampler for one trial: its random numbers do not depend on who asks, or when.

    Optuna's samplers know nothing of failed trials, and would propose the same again; so the trial
    after one is drawn at random.
    """
    import optuna

    seed = derive(sweep.experiment.seed, "sweep", number) % 2**32
    startup = sweep.startup_trials
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if sweep.sampler == "random" or after_failure:
            return optuna.samplers.RandomSampler(seed=seed)
        if sweep.sampler == "tpe":
            return optuna.samplers.TPESampler(
                seed=seed, n_startup_trials=startup, multivariate=True, constant_liar=True
            )
        return optuna.samplers.GPSampler(
            seed=seed, n_startup_trials=startup, warn_independent_sampling=False
        )


def _failed_last(trials: Sequence[optuna.trial.FrozenTrial]) -> bool:
    """Whether the trial that ended last has failed."""
    ended = [(trial.datetime_complete, trial.state.name) for trial in trials]
    return max(((when, state) for when, state in ended if when), default=(None, ""))[1] == "FAIL"


def _pruner(sweep: Sweep) -> optuna.pruners.BasePruner:
    import optuna

    if sweep.pruner == "median":
        warm_up = max(1, sweep.experiment.epochs // 10)
        return optuna.pruners.MedianPruner(sweep.startup_trials, warm_up)
    if sweep.pruner == "halving":
        return optuna.pruners.SuccessiveHalvingPruner()
    return optuna.pruners.NopPruner()


def _suggest(trial: optuna.Trial, key: str, parameter: Choice | Range) -> None:
    if isinstance(parameter, Choice):
        if parameter.ordered:
            trial.suggest_int(key, 0, len(parameter.values) - 1)
        else:
            trial.suggest_categorical(key, [_plain(value) for value in parameter.values])
    elif isinstance(parameter.low, int) and isinstance(parameter.high, int):
        step, log = parameter.step, parameter.log
        trial.suggest_int(key, parameter.low, parameter.high, step=step, log=log)
    else:
        trial.suggest_float(key, parameter.low, parameter.high, log=parameter.log)


def _plain(value: Any) -> Any:
    """Return a value in a form that Optuna can keep, and that `apply` takes as well."""
    return as_text(value) if isinstance(value, (list, dict)) else value


def _value(parameter: Choice | Range, stored: Any) -> Any:
    """Return the value that the recipe is given for Optuna's; of numbers, readable digits."""
    if isinstance(parameter, Choice):
        return parameter.values[stored] if parameter.ordered else stored
    if isinstance(parameter.low, int):
        return stored
    return min(max(float(f"{stored:.{DIGITS}g}"), parameter.low), parameter.high)
