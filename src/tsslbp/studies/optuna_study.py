"""What a sweep uses of Optuna: the storage of its study, samplers, pruners, and their values."""

from __future__ import annotations

import json
import re
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import optuna
import sqlalchemy
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

from ..errors import Error, InvalidInput, RunError, printable
from ..storage import append_lines, writing
from .space import Choice, Range, as_text

optuna.logging.set_verbosity(optuna.logging.ERROR)  # its warnings address programmers

SAMPLERS = ("gp", "tpe", "random")
PRUNERS = ("none", "median", "halving")
JOURNALS = (".log", ".journal")
DIGITS = 4  # significant digits of a number that is drawn from a range
SQLITE_SECONDS = 60  # for which a process waits for others to write
JOURNAL_SECONDS = 10  # after which a writer is assumed to have been killed


def open_study(name: str, storage: str | Path, pruner: optuna.pruners.BasePruner) -> optuna.Study:
    """Open or create a study in a database (by URL or SQLite path) or in a journal file."""
    if isinstance(storage, Path):
        storage = sqlalchemy.URL.create("sqlite", database=str(storage)).render_as_string()
    opened: optuna.storages.BaseStorage
    if "://" in storage:
        options: dict[str, Any] = {"pool_pre_ping": True}  # connections may end during a trial
        if storage.startswith("sqlite"):  # a file, which is closed after each use
            wait = {"timeout": SQLITE_SECONDS}
            options = {"poolclass": sqlalchemy.NullPool, "connect_args": wait}
        opened = optuna.storages.RDBStorage(storage, engine_kwargs=options)
    elif storage.endswith(JOURNALS):
        opened = _JournalStorage(_Journal(storage))
    else:
        raise InvalidInput(
            "storage must be the URL of a database, such as postgresql://user@host/name, or a file "
            f"that ends in {' or '.join(JOURNALS)}, got {storage!r}"
        )
    return optuna.create_study(
        study_name=name, storage=opened, pruner=pruner, direction="maximize", load_if_exists=True
    )


class _Journal(JournalFileBackend):
    """Optuna's journal; an incomplete last line, left by a kill or a full disk, is cut off."""

    def __init__(self, path: str) -> None:
        self._place, self._turn = Path(path), JournalFileSymlinkLock(path, JOURNAL_SECONDS)
        super().__init__(path, self._turn)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        lines = [json.dumps(log, separators=(",", ":")) + "\n" for log in logs]
        with writing(self._place):
            self._turn.acquire()
        try:
            append_lines(self._place, "".join(lines).encode())
        finally:
            self._turn.release()


class _JournalStorage(optuna.storages.JournalStorage):
    """Optuna's storage in a journal; where a line is damaged, Optuna raises errors of any type."""

    def _sync_with_backend(self) -> None:
        try:
            super()._sync_with_backend()
        except optuna.exceptions.OptunaError:
            raise
        except Exception as error:
            place = cast(_Journal, self._backend)._place
            kind = "" if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: "
            reason = printable(f"{kind}{error}")[:200]
            raise RunError(f"cannot read the journal {place}: {reason}") from error


def without_password(storage: str) -> str:
    """Return a storage URL without its password, for display."""
    return re.sub("(://[^:/]*):.*@", r"\1:***@", storage)


@contextmanager
def storage_errors(storage: str, kind: type[InvalidInput] | type[RunError]) -> Iterator[None]:
    """Report in one line why a storage cannot be used; `InvalidInput` when it is opened."""
    known = (optuna.exceptions.StorageInternalError, sqlalchemy.exc.SQLAlchemyError)
    opening = (ImportError, OSError, RuntimeError) if kind is InvalidInput else ()
    try:
        yield
    except (*known, *opening) as error:
        cause = error.__cause__ or error
        reason = " ".join(str(getattr(cause, "orig", None) or cause).split())
        raise kind(f"cannot use the storage {storage}: {reason}") from error
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, Error) or not _is_raised_in_storage(error):
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise kind(
            f"cannot use the storage {storage}: {reason}; is its name right, and is it intact?"
        ) from error


def _is_raised_in_storage(error: BaseException) -> bool:
    """Whether Optuna's code for storages raised an error, and not our code that it called.

    Where a study is damaged, Optuna raises errors of many types.
    """
    found = False
    for frame, _ in traceback.walk_tb(error.__traceback__):
        name = str(frame.f_globals.get("__name__"))
        found = name.startswith("optuna.storages") or (found and not name.startswith("tsslbp."))
    return found


def make_sampler(name: str, seed: int, startup_trials: int) -> optuna.samplers.BaseSampler:
    """Return one of `SAMPLERS`, which draws the first `startup_trials` trials at random."""
    options: dict[str, Any] = {"seed": seed, "n_startup_trials": startup_trials}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if name == "random":
            return optuna.samplers.RandomSampler(seed)
        if name == "tpe":
            return optuna.samplers.TPESampler(**options, multivariate=True, constant_liar=True)
        return optuna.samplers.GPSampler(**options, warn_independent_sampling=False)


def has_failed_last(trials: Sequence[optuna.trial.FrozenTrial]) -> bool:
    """Whether the last trial has failed; samplers would then propose the same values again."""
    ended = [(trial.datetime_complete, trial.state.name) for trial in trials]
    return max(((when, state) for when, state in ended if when), default=(None, ""))[1] == "FAIL"


def make_pruner(name: str, epochs: int, startup_trials: int) -> optuna.pruners.BasePruner:
    """Return one of `PRUNERS`, for trials of about `epochs` epochs."""
    if name == "median":
        return optuna.pruners.MedianPruner(startup_trials, n_warmup_steps=max(1, epochs // 10))
    if name == "halving":
        return optuna.pruners.SuccessiveHalvingPruner()
    return optuna.pruners.NopPruner()


def suggest(trial: optuna.Trial, key: str, parameter: Choice | Range) -> None:
    """Let the study's sampler choose a trial's value for a key, unless it already has one."""
    if isinstance(parameter, Choice):
        if parameter.ordered:
            trial.suggest_int(key, 0, len(parameter.values) - 1)
        else:  # Optuna stores no tables, but `space.apply` accepts their text
            tables = (list, dict)
            plain = [as_text(one) if isinstance(one, tables) else one for one in parameter.values]
            trial.suggest_categorical(key, plain)
    elif isinstance(parameter.low, int) and isinstance(parameter.high, int):
        bounds = parameter.low, parameter.high
        trial.suggest_int(key, *bounds, step=parameter.step, log=parameter.log)
    else:
        trial.suggest_float(key, parameter.low, parameter.high, log=parameter.log)


def value_of(parameter: Choice | Range, stored: Any) -> Any:
    """Return the recipe's value for one stored by Optuna; numbers are rounded to few digits."""
    if isinstance(parameter, Choice):
        return parameter.values[stored] if parameter.ordered else stored
    if isinstance(parameter.low, int):
        return stored
    return min(max(float(f"{stored:.{DIGITS}g}"), parameter.low), parameter.high)
