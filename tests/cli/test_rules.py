"""Tests of the command compare: plan, both stages, table, report and errors."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tsslbp import cli, training
from tsslbp.cli import drawing
from tsslbp.experiment import Experiment
from tsslbp.losses import Loss
from tsslbp.rules import TSSLBP
from tsslbp.studies import compare
from tsslbp.training import cost

RULES = ("TSSLBP", "TSSLBP(warm_up=always)")
Program = Callable[..., tuple[int, str, str]]
RECIPE = """
data = "mine.npz"
network = "4C3-P2-8"
weight_scale = 4
validation_images = 12
epochs = 1
batch_size = 16
learning_rate = 0.01
loss = "softmax"
"""
LOST = 0.02  # the learning rate at which TSSLBP(warm_up=always) is made to diverge


@pytest.fixture
def program(
    jobs_here: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Program:
    """Return a function that runs the program with jobs in this process; one rate diverges.

    The function returns exit code, output and error output. The folder has a small recipe.
    """
    monkeypatch.chdir(tmp_path)
    images = np.random.RandomState(0).randint(0, 256, (70, 8, 8)).astype(np.uint8)
    np.savez("mine.npz", images=images, labels=np.arange(70) % 2)
    Path("mine.toml").write_text(RECIPE)
    loss_of = training.build_loss

    def build_loss(experiment: Experiment) -> Loss:
        if (experiment.learning_rate, experiment.rule) == (LOST, TSSLBP(warm_up="always")):
            return lambda psc, labels: psc.sum() * math.nan
        return loss_of(experiment)

    for module in (training.step, cost):
        monkeypatch.setattr(module, "build_loss", build_loss)
    monkeypatch.setattr(drawing, "draw_picture", lambda *_: None)  # it takes most of a run's time

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = cli.main(arguments)
        return code, *capsys.readouterr()

    return run


def test_compare(program: Program) -> None:
    """A comparison is planned, trained and reported; with more seeds, only new runs are made.

    One rule diverges at one of the learning rates.
    """
    pytest.importorskip("jinja2")
    command = ["compare", "mine.toml", "--rules", ", ".join(RULES), "--time-steps", "1,2"]
    command += ["--learning-rates", f"0.01,{LOST}", "--out", "out"]
    code, output, error = program(*command, "--seeds", "2")
    assert code == 0, error
    plan = "2 rules x 2 T x (2 learning rates with the first seed + 1 more seed at the chosen rate)"
    assert f"{plan} = 12 runs, 12 of them to make\n" in output
    assert re.search(r"TSSLBP\(warm_up=always\), T = 2 +3 +[\d.]+ s", output)
    assert output.index("about ") < output.index("TSSLBP/T1/lr-0.01/validated-seed0")
    written = {path: path.stat().st_mtime_ns for path in Path("out").rglob("metrics.jsonl")}
    assert len(written) == 12
    lost = {path.parent for path in Path("out").rglob("diverged.json")}
    assert {path for path in written if not path.read_text()} == {
        folder / "metrics.jsonl" for folder in lost
    }
    assert len(lost) == 2
    found = compare.read_results(planned := compare.read(Path("out")), Path("out"))
    for one in found:
        assert len(one.results) == 2 and not one.missing
        assert set(one.diverged) == ({LOST} if "always" in one.rule else set())
        mean, sd = 100 * one.accuracies.mean(), 100 * one.accuracies.std(ddof=1)
        assert f"{mean:.2f} ± {sd:.2f} %" in output
    assert planned.seeds == 2
    assert error.count("diverged at learning rate 0.02 (epoch 1, step 1: training div") == 2
    assert "is the lowest or highest of those tried" in error
    assert re.search(
        r"TSSLBP\(warm_up=always\), T = 1, compared with TSSLBP: .* points .*: \w+", output
    )
    assert "Learning rules side by side" in Path("out/report.html").read_text()

    _, output, _ = program(*command, "--seeds", "3", "--dry-run")
    names = output.split("runs to make:\n")[1].splitlines()  # the rates are chosen already
    assert len(names) == 4 and all(name.endswith("/validated-seed2") for name in names)
    code, output, error = program(*command, "--seeds", "3")
    assert code == 0, error
    assert " = 16 runs, 4 of them to make\n" in output
    for path, modified in written.items():
        assert path.stat().st_mtime_ns == modified
    assert len(list(Path("out").rglob("metrics.jsonl"))) == 16

    code, _, error = program(*command, "--set", "tau_s=4")
    assert code == 2 and "out holds a comparison with other settings (tau_s is 3.0" in error


def test_a_run_that_fails_otherwise_is_made_again(program: Program) -> None:
    pytest.importorskip("jinja2")
    command = ["compare", "mine.toml", "--rules", "TSSLBP, NA", "--learning-rates", "0.01"]
    command += ["--seeds", "1", "--out", "out", "--set", "time_steps=2"]
    blocked = Path("out/NA/T2/lr-0.01/validated-seed0/thesis.tex")
    blocked.parent.mkdir(parents=True)
    blocked.write_text("")
    code, output, error = program(*command)
    assert code == 2
    assert "1 of 2 runs failed (NA/T2/lr-0.01/validated-seed0: " in error
    assert "NA, T = 2: 0 of 1 learning rates tried" in error
    blocked.unlink()
    code, output, error = program(*command)
    assert (code, error) == (0, "")
    assert "NA, T = 2, compared with TSSLBP: undecided, a test needs two seeds of each" in output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--rules", "TSSLBP, X"), "unknown learning rule 'X'"),
        (("--rules", "TSSLBP", "--time-steps", "1,a"), "--time-steps expects numbers such as 1,2"),
        (("--rules", "TSSLBP", "--learning-rates", ""), "--learning-rates expects numbers"),
        (("--rules", "TSSLBP", "--set", "validation_images=80"), "validation_images must be"),
        (("--rules", "TSSLBP", "--set", "rule.warm_up=never"), "--set rule has no effect"),
        ((), "--rules"),
    ],
)
def test_bad_input(program: Program, options: tuple[str, ...], message: str) -> None:
    code, _, error = program("compare", "mine.toml", *options)
    assert code == 2
    assert message in error and error.count("\n") == 1
    assert not Path("runs").exists()
