"""Tests of the command convert: its run, its record and its output."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tsslbp import cli
from tsslbp.cli import printing
from tsslbp.run import Run

Program = Callable[..., tuple[int, str]]


RECIPE = """
data = "mine.npz"
network = "4C3-P2-8"
validation_images = 12
epochs = 2
batch_size = 16
learning_rate = 0.01
"""


@pytest.fixture
def program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Program:
    """Return a function that runs convert on a small recipe and returns exit code and output."""
    monkeypatch.chdir(tmp_path)
    Path("mine.toml").write_text(RECIPE)
    pixels = np.random.RandomState(0).randint(0, 256, (70, 8, 8)).astype(np.uint8)
    np.savez("mine.npz", images=pixels, labels=np.arange(70) % 2)

    def run(*arguments: str) -> tuple[int, str]:
        code = cli.main(["convert", *arguments])
        return code, "".join(capsys.readouterr())

    return run


def test_the_verb_writes_a_record_and_prints_it(program: Program) -> None:
    code, output = program("mine.toml", "--time-steps", "4,1,4", "--seed", "3")
    assert code == 0
    path = Path("runs/mine-relu-seed3/conversion.json")
    record = json.loads(path.read_text())
    assert record["experiment"]["seed"] == 3
    assert {"commit", "torch", "command"} <= set(record["environment"])
    assert record["images"] == {"training": 51, "validation": 12, "test": 7}
    assert [one["epoch"] for one in record["epochs"]] == [1, 2]
    assert list(record["calibrated"]) == ["1", "4"]
    assert record["note"].startswith("tested on 7 of the 70 images") and "note  " in output
    assert f"record saved in {path}" in output
    (row,) = (line.split() for line in output.splitlines() if line.split()[:1] == ["4"])
    run = Run.open(path.parent)
    assert (run.experiment.activation, run.experiment.seed) == ("relu", 3)
    assert record["epochs"] == run.epochs()
    for found, cells in ((record["plain"], row[1:4]), (record["calibrated"]["4"], row[4:7])):
        assert cells[0] == f"{100 * found['test_accuracy_by_step'][3]:.2f}"
        assert cells[2] == f"{found['spikes_per_image_by_step'][3]:,.0f}"


def test_the_verb_keeps_what_is_there(program: Program) -> None:
    Path("there").mkdir()
    Path("there/conversion.json").write_text("{}")
    code, output = program("mine.toml", "--out", "there")
    assert code == 2 and "holds a conversion already" in output
    assert Path("there/conversion.json").read_text() == "{}"


def test_the_verb_goes_on_with_its_run(program: Program) -> None:
    """More epochs are trained from the checkpoint; a finished training is converted again."""
    options = ("mine.toml", "--time-steps", "2", "--out")
    program(*options, "whole", "--epochs", "3")
    program(*options, "parts", "--epochs", "1")
    assert program(*options, "parts", "--epochs", "3")[0] == 2  # without --resume
    code, output = program(*options, "parts", "--epochs", "3", "--resume")
    assert code == 0 and "resumed after epoch 1" in output
    whole, parts = (
        json.loads(Path(f"{name}/conversion.json").read_text()) for name in ("whole", "parts")
    )
    assert parts["calibrated"] == whole["calibrated"] and parts["plain"] == whole["plain"]
    code, output = program(*options, "parts", "--resume", "--time-steps", "1,3")
    assert code == 0 and "has finished its 3 epochs" in output
    again = json.loads(Path("parts/conversion.json").read_text())
    assert again["epochs"] == parts["epochs"] and list(again["calibrated"]) == ["1", "3"]


def test_the_program_says_what_the_run_is(program: Program, capsys) -> None:
    program("mine.toml", "--time-steps", "2", "--out", "relu")
    for command in ("evaluate", "draw"):
        assert cli.main([command, "relu"]) == 2
        assert (
            "a network without spikes, which only `tsslbp convert` trains"
            in capsys.readouterr().err
        )
    assert cli.main(["report", "relu", "--out", "report.html"]) == 0
    text = Path("report.md").read_text()
    assert "activation = 'relu'" in text


def test_the_record_of_an_earlier_version_reads(capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(__file__).parents[2] / "results/rules/convert-mnist/conversion.json"
    printing.print_conversion(json.loads(path.read_text()))
    assert "ReLU network" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--time-steps", "0,2"), "at least 1, got '0,2'"),
        (("--time-steps", "2,x"), "expects numbers such as 1,2,5"),
        (("--set", "neunorm=true"), "neunorm=false"),
    ],
)
def test_the_verb_refuses(program: Program, arguments: tuple[str, ...], words: str) -> None:
    code, output = program("mine.toml", *arguments)
    assert code == 2 and words in output
