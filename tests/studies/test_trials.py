"""Tests of a recipe trained with several seeds: planned, missing and finished runs."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tsslbp.cli import progress
from tsslbp.errors import RunError
from tsslbp.experiment import Experiment, load_recipe
from tsslbp.run import Run
from tsslbp.studies import trials


def plan(experiment: Experiment, count: int, protocols: Any, folder: Path) -> list[trials.Trial]:
    trials.prepare(experiment, folder)
    return trials.planned(experiment, count, protocols, folder)


def test_plan(tmp_path: Path) -> None:
    digits = replace(load_recipe("digits"), seed=7)
    planned = plan(digits, 2, ["published", "validated"], tmp_path / "out")
    assert [trial.folder.name for trial in planned] == [
        "published-seed7",
        "published-seed8",
        "validated-seed7",
        "validated-seed8",
    ]
    assert load_recipe(planned[0].recipe) == digits
    for trial in planned:
        assert replace(trial.experiment, seed=7, protocol="validated") == digits
        assert trial.result() is None
    more = plan(replace(digits, epochs=60), 3, ["validated"], tmp_path / "out")
    assert [trial.experiment.epochs for trial in more] == [60] * 3
    with pytest.raises(RunError, match=r"other settings \(learning_rate is 0.002 there, 0.1 here"):
        plan(replace(digits, learning_rate=0.1), 1, ["validated"], tmp_path / "out")


def test_result_of_a_trial(tmp_path: Path) -> None:
    digits = replace(load_recipe("digits"), epochs=2)
    (trial,) = plan(digits, 1, ["validated"], tmp_path)
    run = Run.create(trial.folder, digits)
    assert trial.result() is None
    record = {"train_accuracy": 0.5, "test_accuracy": 0.5, "seconds": 1.0}
    for epoch in (1, 2):
        run.append_epoch({"epoch": epoch} | record)
    result = trial.result()
    assert result is not None and result.finished
    longer = replace(trial, experiment=replace(digits, epochs=3)).result()
    assert longer is not None and not longer.finished
    with pytest.raises(RunError, match="other settings"):
        replace(trial, experiment=replace(digits, tau_s=4.0)).result()


@pytest.mark.parametrize("name", ["a", "fashion-mnist-mlp-published"])
def test_rows_are_as_wide_as_the_longest_name(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    planned = plan(load_recipe("digits"), 1, ["published"], tmp_path / name)
    record = {"train_accuracy": 0.5, "test_accuracy": 0.5, "seconds": 1.0}
    for trial in planned:
        Run.create(trial.folder, trial.experiment).append_epoch({"epoch": 1} | record)
    with progress.TrialsDisplay(planned) as watch:
        watch.ended(planned[0].job(), None)
    heading, row = capsys.readouterr().out.splitlines()
    assert row.startswith(f"{name}/published-seed0 ")
    assert len(heading) == len(row)


def test_names_of_trials(tmp_path: Path) -> None:
    """A run's name begins at its recipe's folder, or at the folder of a study of many recipes."""
    place = tmp_path / "a" / "b" / "c"
    (short,) = trials.planned(load_recipe("digits"), 1, ["validated"], place)
    (long,) = trials.planned(load_recipe("digits"), 1, ["validated"], place, tmp_path)
    assert short.name == "c/validated-seed0"
    assert long.name == "a/b/c/validated-seed0"
    assert short.job().arguments == long.job().arguments
    assert short.divergence() is None


def test_wall_clock() -> None:
    assert trials.wall_clock([3.0, 1.0, 1.0, 1.0], 1) == 6.0
    assert trials.wall_clock([3.0, 1.0, 1.0, 1.0], 2) == 3.0
    assert trials.wall_clock([1.0, 1.0, 3.0], 2) == 4.0
