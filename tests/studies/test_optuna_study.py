"""Tests of what a sweep uses of Optuna: samplers, storages, and values read back from trials."""

from __future__ import annotations

import errno
import io
import itertools
import json
import math
import os
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest
from tests.conftest import disk_of

from tsslbp import cli, storage
from tsslbp.errors import Error, InvalidInput, RunError
from tsslbp.experiment import load_recipe
from tsslbp.experiment.seeding import derive
from tsslbp.studies import optuna_study
from tsslbp.studies.optuna_study import storage_errors
from tsslbp.studies.space import Choice, Range, load_space
from tsslbp.studies.sweep import Search, Sweep

Planned = Callable[..., Sweep]


@pytest.mark.slow
def test_the_search_is_bayesian_with_few_trials() -> None:
    """On the published space, 12 trials of a Bayesian sampler beat 12 random ones.

    The objective is a noisy formula that resembles accuracy over the space.
    """
    space, trials = load_space("published").fitted(load_recipe("mnist")), 12
    parameters = space.parameters.items()
    choices = [one.inside() for _, one in parameters]

    def truth(epochs: int, rate: float, steps: int, best: float) -> float:
        return -1.2 * (math.log10(rate) - best) ** 2 + 0.15 * math.log2(epochs * steps**0.7)

    def regret(sampler: str, seed: int) -> float:
        """Return how far the trial that looks best is below the optimum of the space."""
        random = np.random.RandomState(seed)
        optimum = random.uniform(-3.7, -2.3)
        startup = Sweep(load_recipe("mnist"), space, trials, Path()).startup_trials
        study = optuna.create_study(direction="maximize")
        found = []
        for number in range(trials):
            drawn = derive(seed, "sweep", number) % 2**32
            study.sampler = optuna_study.make_sampler(sampler, drawn, startup)
            trial = study.ask()
            for key, parameter in parameters:
                optuna_study.suggest(trial, key, parameter)
            values = [
                optuna_study.value_of(space.parameters[key], trial.params[key])
                for key in trial.params
            ]
            real = truth(*values, optimum)
            seen = real + 0.08 * random.randn()
            study.tell(trial, seen)
            found.append((seen, real))
        return (
            max(truth(*values, optimum) for values in itertools.product(*choices)) - max(found)[1]
        )

    means = {
        name: np.mean([regret(name, seed) for seed in range(8)]) for name in ("gp", "tpe", "random")
    }
    assert means["gp"] < 0.5 * means["random"]
    assert means["tpe"] < means["random"]


@pytest.mark.parametrize(
    ("parameter", "expected"),
    [
        (Choice((2, 3, 5)), {2, 3, 5}),
        (Choice(("neuron", "always")), {"neuron", "always"}),
        (Choice(([1], [0, 1])), {"[1]", "[0, 1]"}),
        (Range(2, 6, step=2), {2, 4, 6}),
    ],
)
def test_values_are_those_of_the_space(parameter: Choice | Range, expected: set[object]) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(0))
    drawn = set()
    for _ in range(30):
        trial = study.ask()
        optuna_study.suggest(trial, "key", parameter)
        drawn.add(optuna_study.value_of(parameter, trial.params["key"]))
    assert drawn == expected


def test_numbers_of_a_range_are_readable_and_inside() -> None:
    assert optuna_study.value_of(Range(0.001, 0.1), 0.0123456) == 0.01235
    assert optuna_study.value_of(Range(0.00100004, 0.1), 0.00100004) == 0.00100004
    assert optuna_study.value_of(Range(1.0, 2.00004), 2.00004) == 2.0


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("sqlite:////none/study.db", "unable to open database file"),
        ("none/study.log", "No such file or directory"),
        ("unknown://host/x", "Can't load plugin"),
        ("study.txt", "storage must be the URL of a database"),
    ],
)
def test_a_storage_that_cannot_be_used(planned: Planned, where: str, words: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Search(planned(storage=where))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    Search(planned())  # the folder is not spoilt


@pytest.mark.parametrize(
    ("where", "shown"),
    [
        ("postgresql://me:secret@host:5432/x", "postgresql://me:***@host:5432/x"),
        ("postgresql://me:sec@ret@host/x", "postgresql://me:***@host/x"),
        ("postgresql://me@host:5432/x", "postgresql://me@host:5432/x"),
        ("sqlite:////a/study.db", "sqlite:////a/study.db"),
        ("runs/mine.log", "runs/mine.log"),
    ],
)
def test_passwords_are_not_shown(where: str, shown: str) -> None:
    assert optuna_study.without_password(where) == shown


def test_passwords_are_not_in_errors(planned: Planned) -> None:
    with pytest.raises(InvalidInput) as caught:
        Search(planned(storage="nonesuch://me:secret@host/x"))
    assert "secret" not in str(caught.value)


def test_a_storage_that_goes_away(planned: Planned) -> None:
    search = Search(planned())
    Path("out/study.db").write_bytes(b"not a database" * 100)
    with pytest.raises(RunError, match=r"cannot use the storage study\.db: "):
        search.outcomes()


def test_without_optuna(
    planned: Planned, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert cli.main(["sweep", "mine.toml", "--space", "space.toml"]) == 2
    error = capsys.readouterr().err
    assert (
        error.startswith("error: a sweep needs optuna") and "pip install 'tsslbp[study]'" in error
    )


def test_a_database_in_a_folder_of_any_name(planned: Planned) -> None:
    one = planned("100 % sure?/a#b", 1)
    Search(one)
    assert (one.folder / "study.db").exists()
    assert Search(replace(one, trials=2)).outcomes() == []


# Journals: torn by kills, full disks, and damage of other kinds


def opened(path: Path) -> optuna.Study:
    return optuna_study.open_study("a", str(path), optuna.pruners.NopPruner())


def grown(path: Path, trials: int) -> optuna.Study:
    study = opened(path)
    for number in range(trials):
        trial = study.ask()
        trial.suggest_float("x", 0, 1)
        trial.set_user_attr("number", number)
        study.tell(trial, number / 10)
    return study


def test_a_journal_torn_anywhere_goes_on(tmp_path: Path) -> None:
    """The complete lines of a torn journal are kept, and the next writer removes the rest."""
    path = tmp_path / "study.log"
    grown(path, 3)
    content = path.read_bytes()
    starts = [0, *(place + 1 for place, byte in enumerate(content) if byte == 10)]
    first = content.index(b"\n") + 1  # the first line creates the study
    for end in range(first, len(content), 13):
        path.write_bytes(content[:end])
        study = opened(path)
        known = len(study.get_trials(deepcopy=False))
        study.set_user_attr("again", end)
        whole = max(start for start in starts if start <= end)
        written = path.read_bytes()
        assert written[:whole] == content[:whole]
        assert written.endswith(b"\n") and all(map(json.loads, written.splitlines()))
        again = opened(path)
        assert again.user_attrs["again"] == end
        assert len(again.get_trials(deepcopy=False)) == known
        again.ask()


def test_a_full_disk_does_not_end_a_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A journal goes on after a full disk or a kill, however much of a line has been written."""
    path = tmp_path / "study.log"
    study = grown(path, 2)
    for fits in range(0, 60, 7):
        before = path.read_bytes()

        def full(file: io.FileIO, lines: bytes, fits: int = fits) -> None:
            file.write(lines[:fits])
            raise OSError(errno.ENOSPC, "No space left on device")

        def killed(file: io.FileIO, lines: bytes, fits: int = fits) -> None:
            file.write(lines[:fits])
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(storage, "_append", full)
            with pytest.raises(RunError, match=r"study\.log: No space left .*the disk is full"):
                study.set_user_attr("lost", fits)
        assert path.read_bytes() == before
        with monkeypatch.context() as patch:
            patch.setattr(storage, "_append", killed)
            with pytest.raises(KeyboardInterrupt):
                study.set_user_attr("lost", fits)
        assert path.read_bytes() == before + path.read_bytes()[len(before) :][:fits]
        opened(path).set_user_attr("found", fits)
        assert opened(path).user_attrs == {"found": fits}
        study = opened(path)
    assert len(study.get_trials(deepcopy=False)) == 2


@pytest.mark.parametrize("damage", ["middle", "folder", "lock"])
def test_a_journal_that_cannot_be_read_is_told_in_one_line(
    planned: Planned, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    """The error has one line and names the journal, both at the start of a sweep and during it."""
    one = planned(storage=str(Path("study.log").resolve()))
    search = Search(one)
    path = Path("study.log")
    if damage == "middle":
        path.write_bytes(b"{torn" + path.read_bytes())
    elif damage == "folder":
        path.unlink()
        path.mkdir()
    else:
        monkeypatch.setattr(os, "symlink", lambda *_: full_disk())
    for use in (lambda: search.study.set_user_attr("a", 1), lambda: Search(one)):
        with pytest.raises(Error) as caught:
            use()
        assert "study.log" in str(caught.value) and "\n" not in str(caught.value)


def full_disk() -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def fill(search: Search) -> None:
    with storage_errors("study.db", RunError):
        for number in range(100):
            search.study.set_user_attr(f"key {number}", "text" * 1000)


def test_a_full_disk_does_not_end_a_database(planned: Planned) -> None:
    """SQLite rolls its change back, and the sweep goes on."""
    search = Search(planned())
    assert search.claim() is not None
    search.release(0)
    size = Path("out/study.db").stat().st_size
    with disk_of(size), pytest.raises(RunError, match=r"cannot use the storage study\.db: "):
        fill(search)
    search.study.set_user_attr("key", "text")
    assert Search(planned()).claim() is not None


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        ("trial_params", "distribution_json", "{"),
        ("trial_params", "distribution_json", '{"name": "a"}'),
        ("trial_params", "param_value", 99.0),
        ("trial_user_attributes", "value_json", "{"),
        ("study_user_attributes", "value_json", "{"),
        ("study_user_attributes", "value_json", "1"),
        ("trials", "state", "LOST"),
    ],
)
def test_a_damaged_database_is_told_in_one_line(
    planned: Planned, table: str, column: str, value: object
) -> None:
    """The error has one line and names the database, whatever Optuna raises."""
    search = Search(planned())
    assert search.claim() is not None
    search.study.set_user_attr("a", 1)
    with closing(sqlite3.connect("out/study.db")) as database, database:
        assert database.execute(f"UPDATE {table} SET {column} = ?", (value,)).rowcount
    with pytest.raises(Error) as caught, storage_errors("study.db", RunError):
        Search(planned()).claim()
    assert "study.db" in str(caught.value) and "\n" not in str(caught.value)


def test_what_another_program_did_to_the_study(planned: Planned) -> None:
    search = Search(planned())
    assert search.claim() is not None
    search.study.enqueue_trial({"learning_rate": 0.1})
    with pytest.raises(RunError, match=r"study in study\.db: trial 1 is WAITING; was it changed"):
        search.outcomes()
    with closing(sqlite3.connect("out/study.db")) as database, database:
        database.execute("UPDATE trials SET state = 'RUNNING'")
        changed = "param_name = 'colour' WHERE param_name = 'learning_rate'"
        assert database.execute(f"UPDATE trial_params SET {changed}").rowcount
    with pytest.raises(RunError, match="a trial has values of 'colour', which is not searched"):
        Search(planned()).outcomes()


def test_errors_of_our_own_are_not_those_of_a_storage() -> None:
    with pytest.raises(KeyError), storage_errors("study.db", RunError):
        {}["key"]
    with pytest.raises(InvalidInput, match="is its name right"), storage_errors("x", InvalidInput):
        optuna_study.open_study(
            "a", "postgresql://u@h:abc/n", optuna_study.make_pruner("none", 3, 1)
        )
