"""Tests of the commands that make many runs: trials and reproduce."""

import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tsslbp.cli import progress, trainings
from tsslbp.errors import InvalidInput
from tsslbp.report import published
from tsslbp.run import Run, count_epochs, results

from .conftest import Program

pytestmark = pytest.mark.usefixtures("folder")


@pytest.mark.parametrize("where", ["here", pytest.param("processes", marks=pytest.mark.slow)])
def test_trials(where: str, program: Program, request: pytest.FixtureRequest) -> None:
    """One failed run does not stop the others; the same command makes only what is missing."""
    if where == "here":
        request.getfixturevalue("jobs_here")
    blocked = Path("out/validated-seed1/thesis.tex")
    blocked.parent.mkdir(parents=True)
    blocked.write_text("")
    command = ("trials", "mine.toml", "--seeds", "2", "--protocol", "both", "--out", "out")
    code, output, error = program(*command, "--workers", "2")
    assert code == 2
    assert "1 of 4 runs failed (out/validated-seed1:" in error
    assert "thesis.tex" in error
    assert output.count("\nout/") == 3
    blocked.unlink()
    written = {path: path.stat().st_mtime_ns for path in Path("out").glob("*/metrics.jsonl")}
    assert len(written) == 3
    code, output, error = program(*command)
    assert (code, error) == (0, "")
    assert "4 runs, 3 of them finished" in output
    for path, modified in written.items():
        assert path.stat().st_mtime_ns == modified
    found, problems = results.read_all([Path("out")])
    assert not problems
    assert [len(group.results) for group in results.group(found)] == [2, 2]
    for result in found:
        assert result.finished
        assert result.environment["threads"] >= 1
        assert "resumed" not in result.environment
    assert "seeds 0, 1" in output
    values = results.group(found)[1].accuracies("best-validation")
    assert f"{100 * values.mean():.2f} ± {100 * values.std(ddof=1):.2f} %" in output


@pytest.mark.slow
def test_trials_on_a_cluster_are_the_same(program: Program) -> None:
    pytest.importorskip("submitit")
    options = ("--seeds", "1", "--set", "epochs=1", "--track", "tensorboard")
    assert program("trials", "mine.toml", *options, "--out", "here", "--workers", "1")[0] == 0
    settings = ("--cluster", "local", "--cluster-set", "cpus_per_task=1")
    code, _, error = program("trials", "mine.toml", *options, "--out", "there", *settings)
    assert (code, error) == (0, "")
    here, there = (Run.open(Path(name) / "validated-seed0") for name in ("here", "there"))
    assert (there.folder / "tensorboard").is_dir()
    assert here.epochs()[0]["test_accuracy"] == there.epochs()[0]["test_accuracy"]


@pytest.mark.usefixtures("jobs_here")
def test_trials_are_told_of_data_that_they_do_not_inherit(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recorded commands name a folder of data only if it was an option, not the environment's."""
    monkeypatch.setenv("TSSLBP_DATA", "there")
    for name, extra in (("inherited", ()), ("told", ("--data-dir", "here"))):
        options = ("--seeds", "1", "--epochs", "1", "--out", name, *extra)
        assert program("trials", "mine.toml", *options)[0] == 0
        command = Run.open(Path(name) / "validated-seed0").environment["command"]
        assert ("--data-dir here" in command) == (name == "told")
        assert "there" not in command


@pytest.mark.slow
def test_an_interrupted_study_goes_on(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an interruption in the midst of a run, the same command continues that run."""

    class Interrupting(progress.TrialsDisplay):
        def running(self, jobs: object) -> None:
            if count_epochs(Path("out/validated-seed0")):
                raise KeyboardInterrupt

    command = ("trials", "mine.toml", "--seeds", "1", "--epochs", "40", "--out", "out")
    with monkeypatch.context() as patch:
        patch.setattr(progress, "TrialsDisplay", Interrupting)
        code, _, error = program(*command)
    assert code == 130
    assert "the same command continues" in error
    run = Run.open(Path("out/validated-seed0"))
    assert 0 < len(run.epochs()) < 40
    with monkeypatch.context() as patch:
        patch.setattr(trainings, "run_jobs", lambda *_: {"out/validated-seed0": "no memory"})
        code, output, error = program(*command)
    assert code == 2 and "no memory" in error
    assert "epoch chosen on validation images" not in output  # unfinished runs have no table
    code, output, _ = program(*command)
    assert code == 0, output
    assert [record["epoch"] for record in run.epochs()] == list(range(1, 41))
    assert len(run.environment["resumed"]) == 1


@pytest.mark.usefixtures("jobs_here")
def test_reproduce(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command estimates the cost of a table's recipes, runs their trials and reports them."""
    (row,) = published.find("cifar10-cnn1")
    fake = replace(row, recipes=("digits",)), replace(row, title="Other", recipes=())
    monkeypatch.setattr(published, "find", lambda name: fake if name == "x" else ())
    options = ("--seeds", "2", "--epochs", "1", "--out", "out")
    code, output, error = program("reproduce", "x", *options)
    assert (code, error) == (0, "")
    assert "Other, T = 5: omitted, there is no recipe yet" in output
    cost = output.index("about ")
    assert re.search(r"digits +2 +\d+\.\d s +\d+\.\d s\n", output[:cost])
    assert cost < output.index("digits/validated-seed0") < output.index("report saved in")
    assert "digits, epochs = 1" in Path("out/report.html").read_text()
    code, output, _ = program("reproduce", "x", *options)
    assert code == 0
    assert re.search(r"digits +0 +- +0\.0 s\n", output)


def test_nothing_is_trained_that_could_not_be_reported(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    (row,) = published.find("mnist")
    with monkeypatch.context() as patch:
        patch.setattr(published, "find", lambda name: (replace(row, recipes=()),))
        code, _, error = program("reproduce", "mnist")
    assert (code, error) == (
        2,
        "error: nothing to reproduce: no row of the table has a recipe\n",
    )
    monkeypatch.setitem(sys.modules, "jinja2", None)
    code, _, error = program("reproduce", "mnist")
    assert code == 2 and "pip install 'tsslbp[study]'" in error
    assert not Path("runs").exists()


def test_tables_to_reproduce() -> None:
    assert [row.name for row in published.find("mnist")] == ["mnist"]
    assert {row.name for row in published.find("cifar10")} == {"cifar10-cnn1", "cifar10-cnn2"}
    assert len(published.find("cifar10-cnn2")) == 1
    assert published.find(None) == published.rows()
    with pytest.raises(InvalidInput, match=r"unknown table 'minst' \(did you mean 'mnist'"):
        published.find("minst")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--protocol", "all"), "--protocol must be one of published, validated or both"),
        (("--cluster-set", "a=1"), "--cluster-set needs --cluster"),
        (("--cluster", "local", "--cluster-set", "a"), "expects KEY=VALUE, got 'a'"),
        (("--cluster", "slrum"), "did you mean 'slurm'?"),
        (("--track", "tensorbord"), "did you mean 'tensorboard'?"),
        (("--device", "gpu"), "device must be 'cpu', 'cuda' or 'cuda:N'"),
        (("--set", "precision=tf32"), "needs a GPU"),
        (("--seeds", "0"), "seeds"),
        (("--set", "epoch=3"), "did you mean 'epochs'?"),
        (("--set", "validation_images=80"), "validation_images must be between"),
    ],
)
def test_bad_input(program: Program, options: tuple[str, ...], message: str) -> None:
    code, _, error = program("trials", "mine.toml", *options)
    assert code == 2
    assert not Path("runs").exists() or not list(Path("runs").rglob("*.toml"))
    assert message in error
    assert error.count("\n") == 1
