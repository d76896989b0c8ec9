"""What a sweep takes from Optuna: samplers that search, storages, and values that come back."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest

from tsslbp import cli
from tsslbp.errors import InvalidInput, RunError
from tsslbp.experiment import load_recipe
from tsslbp.experiment.seeding import derive
from tsslbp.studies import optuna_study
from tsslbp.studies.space import Choice, Range, load_space
from tsslbp.studies.sweep import Search, Sweep

Planned = Callable[..., Sweep]


def test_the_search_is_bayesian_with_few_trials() -> None:
    """On the published space and an objective of its kind, 12 trials beat 12 random ones."""
    space, trials = load_space("published").fitted(load_recipe("mnist")), 12
    parameters = space.parameters.items()
    choices = [one.inside() for _, one in parameters]

    def truth(epochs: int, rate: float, steps: int, best: float) -> float:
        return -1.2 * (math.log10(rate) - best) ** 2 + 0.15 * math.log2(epochs * steps**0.7)

    def regret(sampler: str, seed: int) -> float:
        """How far the trial that looks best is below the best of the space, with noise."""
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
    ("storage", "words"),
    [
        ("sqlite:////none/study.db", "unable to open database file"),
        ("none/study.log", "No such file or directory"),
        ("unknown://host/x", "Can't load plugin"),
        ("study.txt", "storage must be a database's URL"),
    ],
)
def test_a_storage_that_cannot_be_used(planned: Planned, storage: str, words: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Search(planned(storage=storage))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    Search(planned())  # the folder is not spoilt


@pytest.mark.parametrize(
    ("storage", "shown"),
    [
        ("postgresql://me:secret@host:5432/x", "postgresql://me:***@host:5432/x"),
        ("postgresql://me:sec@ret@host/x", "postgresql://me:***@host/x"),
        ("postgresql://me@host:5432/x", "postgresql://me@host:5432/x"),
        ("sqlite:////a/study.db", "sqlite:////a/study.db"),
        ("runs/mine.log", "runs/mine.log"),
    ],
)
def test_passwords_are_not_shown(storage: str, shown: str) -> None:
    assert optuna_study.without_password(storage) == shown


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
