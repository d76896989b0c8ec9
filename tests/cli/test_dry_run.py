"""Tests of the plans of many runs: estimated time and disk space, and how to stop."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tsslbp.cli import trainings
from tsslbp.report import published

from .conftest import Program

pytestmark = pytest.mark.usefixtures("folder", "jobs_here")
NOTHING = "dry run: nothing is trained or written"
SPACE = "trials = 3\n[parameters]\nlearning_rate = [0.01, 0.02]\n"


def test_a_comparison(program: Program) -> None:
    rules = ("compare", "mine.toml", "--rules", "TSSLBP, SLAYER", "--learning-rates", "0.01,0.02")
    code, output, error = program(*rules, "--seeds", "2", "--dry-run")
    assert (code, error) == (0, "")
    assert "= 6 runs, 6 of them to make" in output and NOTHING in output
    assert "disk        about " in output and "B\n" in output
    *names, others = output.split("runs to make:\n")[1].splitlines()
    assert [name.strip() for name in names] == [
        f"{rule}/T3/lr-{rate}/validated-seed0"
        for rule in ("TSSLBP", "SLAYER")
        for rate in ("0.01", "0.02")
    ]
    assert others == "then 2 runs with other seeds, at the learning rates chosen by these"
    assert not Path("runs").exists()


def test_a_sweep(program: Program) -> None:
    Path("space.toml").write_text(SPACE)
    code, output, error = program("sweep", "mine.toml", "--space", "space.toml", "--dry-run")
    assert (code, error) == (0, "")
    assert output.startswith("3 trials, ") and NOTHING in output
    assert not Path("runs").exists()


def test_a_published_table(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    row = replace(published.find("mnist")[0], recipes=("digits",))
    monkeypatch.setattr(published, "find", lambda _: (row,))
    code, output, error = program("reproduce", "--seeds", "2", "--epochs", "1", "--dry-run")
    assert (code, error) == (0, "")
    assert NOTHING in output
    assert output.split("runs to make:\n")[1].split() == [
        "digits/validated-seed0",
        "digits/validated-seed1",
    ]
    assert not Path("runs").exists()


def test_a_long_plan_says_how_to_stop(capsys: pytest.CaptureFixture[str]) -> None:
    trainings.say_plan(3500.0, 10**6, dry_run=False)
    assert "Ctrl-C" not in capsys.readouterr().out
    trainings.say_plan(44 * 3600.0, 10**6, dry_run=False)
    assert "Ctrl-C stops at any time, and the same command continues" in capsys.readouterr().out
    trainings.say_plan(44 * 3600.0, 10**6, dry_run=True)
    assert NOTHING in capsys.readouterr().out


def test_tables_alone_on_the_standard_output(program: Program) -> None:
    """For a comparison and a sweep, all other output goes to the standard error stream."""
    rules = ("compare", "mine.toml", "--rules", "TSSLBP, SLAYER", "--learning-rates", "0.01")
    code, output, error = program(*rules, "--seeds", "1", "--epochs", "1", "--json")
    assert code == 0 and "2 of them to make" in error
    first, second = json.loads(output)
    assert (first["rule"], second["rule"]) == ("TSSLBP", "SLAYER")
    assert first["seeds"] == 1 and 0 <= first["test_accuracy"] <= 1 and first["p"] is None
    Path("space.toml").write_text(SPACE)
    sweep = ("sweep", "mine.toml", "--space", "space.toml", "--epochs", "1", "--trials", "2")
    code, output, error = program(*sweep, "--csv")
    assert code == 0 and "best trial" in error
    head, *rows = output.splitlines()
    assert head == "trial,state,validation_accuracy,learning_rate,seed,run,reason"
    assert len(rows) == 2 and all(",finished," in row for row in rows)
    again = program(*sweep, "--latex")[1]
    assert again.startswith("\\begin{tabular}{l") and "learning\\_rate" in again
