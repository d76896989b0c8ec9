"""Tests of the evidence of a report: a run counts once, and only finished runs count."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tsslbp.errors import InvalidInput, RunError
from tsslbp.report.evidence import gather
from tsslbp.run import Run
from tsslbp.studies import compare
from tsslbp.studies.compare import RuleStudy


def test_a_run_counts_once(tmp_path: Path, make_run: Callable, recipe: Callable) -> None:
    for seed in (0, 1):
        make_run(tmp_path / "runs" / str(seed), recipe("digits", seed), 0.9)
    shutil.copytree(tmp_path / "runs" / "0", tmp_path / "runs" / "copy")
    evidence = gather([tmp_path / "runs", tmp_path / "runs" / "1"])
    (problem,) = evidence.problems
    assert "copy has the settings and seed of" in problem
    assert [one.folder.name for one in evidence.results] == ["0", "1"]
    (group,) = evidence.groups
    assert group.seeds == (0, 1)


def test_a_finished_run_counts_before_an_unfinished_copy(
    tmp_path: Path, make_run: Callable, recipe: Callable
) -> None:
    make_run(tmp_path / "a", recipe("digits", epochs=5), 0.9, epochs=2)
    make_run(tmp_path / "b", recipe("digits", epochs=5), 0.9)
    evidence = gather([tmp_path])
    (problem,) = evidence.problems
    assert "a has the settings and seed of" in problem
    assert [one.folder.name for one in evidence.results] == ["b"]


def test_unfinished_runs_are_in_no_group_that_counts(
    tmp_path: Path, make_run: Callable, recipe: Callable
) -> None:
    make_run(tmp_path / "a", recipe("digits", 0), 0.9)
    make_run(tmp_path / "b", recipe("digits", 1), 0.9, epochs=2)
    evidence = gather([tmp_path])
    assert [group.seeds for group in evidence.groups] == [(0, 1)]
    assert [group.seeds for group in evidence.finished] == [(0,)]
    assert [group.seeds for group in evidence.others] == [(0,)]
    assert [one.folder.name for one in evidence.unfinished] == ["b"]
    assert list(evidence.names.values()) == ["a", "b"]


def test_runs_of_a_study_of_rules_are_apart(
    tmp_path: Path, make_run: Callable, recipe: Callable
) -> None:
    """Runs at the chosen learning rate are evidence; runs that only helped to choose it are not."""
    study = RuleStudy(recipe("digits", epochs=3), ("TSSLBP",), (5,), (0.001, 0.002), 2)
    compare.prepare(study, tmp_path / "rules")
    low, high = (study.runs(tmp_path / "rules", "TSSLBP", 5, rate) for rate in (0.001, 0.002))
    make_run(low[0].folder, low[0].experiment, 0.5)
    for trial in high:
        make_run(trial.folder, trial.experiment, 0.9)
    make_run(tmp_path / "other", recipe("digits"), 0.9)
    evidence = gather([tmp_path])
    assert (len(evidence.results), evidence.tuning, len(evidence.studies)) == (4, 1, 1)
    counted = [one.folder for group in evidence.finished for one in group.results]
    assert counted == [tmp_path / "other", *(trial.folder for trial in high)]
    assert [one.folder.name for group in evidence.others for one in group.results] == ["other"]
    assert not evidence.unfinished


def test_groups_are_compared_with_a_folder_alone(
    tmp_path: Path, make_run: Callable, recipe: Callable
) -> None:
    for seed in range(3):
        for rate in (0.1, 0.2, 0.3):
            experiment = recipe("digits", seed, learning_rate=rate)
            make_run(tmp_path / str(rate) / str(seed), experiment, 0.9 + rate * seed / 100)
    every, against = gather([tmp_path]), gather([tmp_path], tmp_path / "0.2")
    assert (len(every.comparisons), len(against.comparisons)) == (3, 2)
    assert {one.second.experiment.learning_rate for one in against.comparisons} == {0.2}
    with pytest.raises(InvalidInput, match="no finished run of the report is at or below"):
        gather([tmp_path], tmp_path / "none")


def test_without_a_run_there_is_no_report(tmp_path: Path, recipe: Callable) -> None:
    with pytest.raises(RunError, match="no run to report on"):
        gather([])
    Run.create(tmp_path / "run", recipe("digits"))
    with pytest.raises(RunError, match=r"no run to report on: .*not finished an epoch"):
        gather([tmp_path])
