"""Tests of the study of a sweep: who owns a trial, which trials are run, and errors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest

from tsslbp.errors import InvalidInput
from tsslbp.run import Run
from tsslbp.storage import hold
from tsslbp.studies.space import Choice, Space
from tsslbp.studies.sweep import Search, Sweep

Planned = Callable[..., Sweep]


def claimed(search: Search) -> int | None:
    """Claim a trial, and return its number or None."""
    trial = search.claim()
    return None if trial is None else trial.number


def end(search: Search, number: int, value: float = 0.5) -> None:
    search.study.tell(number, value)
    search.release(number)


@pytest.mark.parametrize(("trials", "startup"), [(4, 3), (12, 3), (20, 5), (500, 10)])
def test_start_up_leaves_most_trials_to_the_sampler(
    planned: Planned, trials: int, startup: int
) -> None:
    assert planned(trials=trials).startup_trials == startup


def test_trials_are_claimed_once(planned: Planned) -> None:
    first, second = Search(planned(trials=2)), Search(planned(trials=2))
    assert [claimed(one) for one in (first, second, first, second)] == [0, 1, None, None]
    end(second, 1)
    assert claimed(second) is None
    assert [trial.number for trial in first.under_way()] == [0]


def test_a_trial_whose_process_is_gone_is_claimed_again(planned: Planned) -> None:
    first, second = Search(planned(trials=2)), Search(planned(trials=2))
    trial = first.claim()
    assert trial is not None
    values, seed = first.trial(trial).experiment, trial.user_attrs["tsslbp.seed"]
    first.release(0)  # as the system does when a process ends
    again = second.claim()
    assert again is not None and again.number == 0
    assert second.trial(again).experiment == values
    assert again.user_attrs["tsslbp.seed"] == seed
    assert again.user_attrs["tsslbp.killed"] == 1


def test_a_trial_whose_command_lives_on_is_left_alone(planned: Planned) -> None:
    """A trial of a killed process is not claimed while a command that it left trains the run.

    The process that trains a run holds the run's lock.
    """
    search, other = Search(planned(trials=1)), Search(planned(trials=1))
    trial = search.claim()
    assert trial is not None
    run = Run.create(search.trial(trial).folder, search.trial(trial).experiment)
    search.release(0)
    with hold(run.folder / ".lock"):
        assert other.claim() is None
        assert [one.number for one in other.under_way()] == [0]
    assert claimed(other) == 0


def test_a_trial_that_ends_between_two_looks_is_not_claimed(
    planned: Planned, monkeypatch: pytest.MonkeyPatch
) -> None:
    search, other = Search(planned(trials=1)), Search(planned(trials=1))
    assert claimed(search) == 0
    stale = other.under_way()
    end(search, 0)
    looks = iter([stale, []])
    monkeypatch.setattr(other, "under_way", lambda: next(looks))
    assert claimed(other) is None


def test_a_trial_without_values_is_not_lost(
    planned: Planned, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trial whose process was killed before it chose values is claimed again and gets them."""
    search = Search(planned(trials=1))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("tsslbp.studies.optuna_study.suggest", killed)
        with pytest.raises(KeyboardInterrupt):
            search.claim()
    assert search.study.get_trials()[0].params == {}
    search.release(0)
    other = Search(planned(trials=1))
    trial = other.claim()
    assert trial is not None and len(trial.params) == 3
    assert "tsslbp.killed" not in trial.user_attrs


def test_a_trial_of_another_folder_is_left_alone(planned: Planned) -> None:
    """A trial is claimed only from its own folder, since locks do not reach other file systems."""
    options = {"storage": f"sqlite:///{Path('shared.db').resolve()}", "trials": 2}
    here, there = (Search(planned(f"{name}/same", **options)) for name in ("here", "there"))
    assert claimed(here) == 0
    here.release(0)
    assert claimed(there) == 1
    end(there, 1)
    assert claimed(there) is None and not there.under_way()
    states = {outcome.number: (outcome.state, outcome.folder) for outcome in there.outcomes()}
    folders = [
        str(Path(name, "same", trial))
        for name, trial in (("here", "trial-0000"), ("there", "trial-0001"))
    ]
    assert states == {0: ("running", folders[0]), 1: ("finished", folders[1])}
    assert claimed(here) == 0


def test_two_machines_at_once_do_not_make_one_too_many(planned: Planned) -> None:
    """A trial that exceeds the number requested waits until more trials are requested."""
    options = {"storage": f"sqlite:///{Path('shared.db').resolve()}", "trials": 1}
    here, there = (Search(planned(f"{name}/same", **options)) for name in ("here", "there"))
    add_trial = there.study.add_trial

    def later(trial: Any) -> None:
        assert claimed(here) == 0  # the other machine adds a trial just before this one does
        add_trial(trial)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(there.study, "add_trial", later)
        assert claimed(there) is None
    assert len(here.study.get_trials()) == 2
    assert [outcome.number for outcome in there.outcomes()] == [0]
    assert not there.under_way()
    more = Search(planned("there/same", **(options | {"trials": 2})))
    assert claimed(more) == 1


def test_a_study_of_an_earlier_version_goes_on(planned: Planned) -> None:
    """Finished trials of the older study count, and its unfinished trial is claimed again."""
    one = planned("out", 3)
    first = Search(one)
    for number in (0, 1):
        assert claimed(first) == number
    end(first, 0, 0.75)
    first.release(1)
    names = {name for trial in first.study.get_trials() for name in trial.user_attrs}
    assert names == {"tsslbp.folder-id", "tsslbp.seed", "tsslbp.folder"}
    settings = first.study.user_attrs["tsslbp"]  # earlier versions called the current PSP
    earlier = {key.replace("warm_up_psc", "warm_up_psp"): one for key, one in settings.items()}
    assert earlier.keys() != settings.keys()
    first.study.set_user_attr("tsslbp", earlier)
    Path("out/recipe.toml").unlink()  # earlier versions wrote no recipe
    second = Search(one)
    assert Path("out/recipe.toml").exists()
    assert [outcome.accuracy for outcome in second.outcomes()] == [0.75, None]
    assert [claimed(second) for _ in range(3)] == [1, 2, None]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"space": Space({"time_steps": Choice((2, 3))})}, "space: time_steps is [2, 3, 5] there"),
        ({"objective": "test"}, "objective is 'validation' there, 'test' here"),
        ({"sampler": "random"}, "sampler is 'gp' there, 'random' here"),
        ({"pruner": "median"}, "pruner is 'none' there, 'median' here"),
        ({"storage": "other.log"}, "is stored in study.db, not in other.log"),
    ],
)
def test_a_sweep_of_other_settings_is_refused(
    planned: Planned, changes: dict[str, Any], words: str
) -> None:
    Search(planned())
    with pytest.raises(InvalidInput) as caught:
        Search(planned(**changes))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_another_recipe_is_refused_but_not_for_what_is_searched(planned: Planned) -> None:
    one = planned()
    Search(one)
    Search(replace(one, experiment=replace(one.experiment, learning_rate=1.0)))
    with pytest.raises(InvalidInput, match=r"recipe: tau_m is 5\.0 there, 4\.0 here"):
        Search(replace(one, experiment=replace(one.experiment, tau_m=4.0)))


def test_a_folder_may_be_moved(planned: Planned) -> None:
    search = Search(planned(trials=2))
    assert claimed(search) == 0
    end(search, 0)
    before = search.outcomes()
    Path("out").rename("moved")
    moved = Search(planned("moved", 2))
    assert moved.outcomes() == before
    assert claimed(moved) == 1


def test_the_best_stands_first(planned: Planned) -> None:
    search = Search(planned(trials=3))
    for value in (0.2, 0.9, 0.4):
        trial = search.claim()
        assert trial is not None
        end(search, trial.number, value)
    assert [outcome.number for outcome in search.outcomes()] == [1, 2, 0]
    assert len(Search(planned(trials=1)).outcomes()) == 3  # although only one is requested now


@pytest.mark.parametrize("name", ["objective", "sampler", "pruner"])
def test_unknown_names(planned: Planned, name: str) -> None:
    with pytest.raises(InvalidInput, match=f"{name} must be one of .*, got 'tst'"):
        planned(**{name: "tst"})


def test_studies_are_optunas(planned: Planned) -> None:
    """Optuna's own functions can load the study."""
    search = Search(planned(trials=1))
    assert claimed(search) == 0
    end(search, 0, 0.5)
    storage = optuna.storages.RDBStorage("sqlite:///out/study.db")
    assert optuna.load_study(study_name="out", storage=storage).best_value == 0.5
    storage.engine.dispose()  # Optuna does not do this itself


def test_a_study_that_is_older_than_a_key_goes_on(planned: Planned) -> None:
    """A key that the older study does not mention is taken to have its default value."""
    search = Search(planned(trials=2))
    there = search.study.user_attrs["tsslbp"]
    assert there["recipe: optimizer"] == "adamw"
    older = {key: value for key, value in there.items() if key != "recipe: optimizer"}
    search.study.set_user_attr("tsslbp", older)
    Search(planned(trials=2))
    changed = planned(trials=2)
    changed = replace(changed, experiment=replace(changed.experiment, optimizer="sgd"))
    with pytest.raises(InvalidInput, match="recipe: optimizer is 'adamw' there, 'sgd' here"):
        Search(changed)
