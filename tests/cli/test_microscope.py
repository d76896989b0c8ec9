"""Tests of the command microscope: its output, its files and its errors."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("scipy")
pytest.importorskip("matplotlib")

from tsslbp import cli, experiment, training
from tsslbp.analysis.microscope import AGREEMENT, Cosine, LayerCosines
from tsslbp.run import Run
from tsslbp.stats import Interval

RECIPE = """
data = "mine.npz"
network = "3C3-P2"
time_steps = 3
weight_scale = 4
validation_images = 8
batch_size = 6
epochs = 1
"""
COMMAND = ("microscope", "--rules", "TSSLBP, TSSLBP.published", "--widths", "0.1,0.3")


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    random = np.random.RandomState(0)
    images = random.randint(0, 256, (40, 6, 6)).astype(np.uint8)
    np.savez(tmp_path / "mine.npz", images=images, labels=np.arange(40) % 3)
    path = tmp_path / "mine.toml"
    path.write_text(RECIPE)
    return path


def test_command(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [*COMMAND, "mine.toml", "--rounds", "4", "--out", "new/seen.svg"]
    assert cli.main(command) == 0
    output = capsys.readouterr().out
    assert "control, smooth neurons" in output
    record = json.loads(Path("new/seen.json").read_text())
    assert record["rules"] == ["TSSLBP", "TSSLBP.published"]
    assert (record["images"], record["widths"], record["rounds"]) == (6, [0.1, 0.3], 4)
    assert record["weights"] == "initial weights"
    assert record["environment"]["command"]
    assert [layer["name"] for layer in record["layers"]] == ["conv1", "output"]
    for layer in record["layers"]:
        assert layer["control"]["value"] > AGREEMENT
        for row in layer["truth"].values():
            for one in row:
                low, high = one["interval"]
                assert low < one["value"] < high
                assert f"{one['value']:.3f} ± {(high - low) / 2:.3f}" in output
    picture = Path("new/seen.svg").read_text()
    assert "TSSLBP.published" in re.sub(r"<[^>]*>", "", picture)
    assert cli.main([*command[:-1], "again/seen.svg"]) == 0
    assert json.loads(Path("again/seen.json").read_text())["layers"] == record["layers"]
    assert Path("again/seen.svg").read_text() == picture


def test_command_on_a_run(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command uses the run's weights: if they are zero, there is no gradient."""
    run = Run.create(Path("run"), experiment.load_recipe("mine.toml"))
    net = training.build_network(run.experiment, (1, 6, 6), 3)
    zeros = {f"weights.{key}": 0 * value for key, value in net.state_dict().items()}
    run.save_checkpoint("last", zeros, {"epoch": 1, "input_shape": (1, 6, 6), "classes": 3})
    assert cli.main([*COMMAND, "run", "--rounds", "4", "--directions", "16"]) == 0
    record = json.loads(Path("microscope.json").read_text())
    assert (record["weights"], record["directions"]) == ("checkpoint last", 16)
    for layer in record["layers"]:
        assert layer["firing_rate"] == 0
        assert layer["truth"]["TSSLBP"][0]["value"] is None
    assert "caution: the control of conv1 is no gradient" in capsys.readouterr().err
    assert cli.main([*COMMAND, "run", "--set", "network=5"]) == 2
    assert "belongs to another network" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rules", "TSSLBP, TSLBP"], "did you mean 'TSSLBP'"),
        (["--rules", "TSSLBP, TSSLBP"], "different learning rules"),
        (["--rules", " , "], "different learning rules"),
        (["--widths", "0.1;0.3"], "expects numbers such as 0.001,0.01"),
        (["--out", "seen.gif"], "must end in .svg, .pdf, .png"),
        (["--set", "network=99"], "at most 2,000 weights"),
    ],
)
def test_command_refuses(
    recipe: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert cli.main([*COMMAND, "mine.toml", *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(recipe.parent.glob("*.svg"))


def test_a_folder_that_holds_no_run(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*COMMAND, str(recipe.parent)]) == 2
    assert "is not a run folder" in capsys.readouterr().err


def test_a_control_that_fails_is_said(
    recipe: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_, **__) -> list[LayerCosines]:
        right = Cosine(0.5, Interval(0.4, 0.6))
        wrong = Cosine(0.9, Interval(0.85, 0.95))
        return [LayerCosines("output", 5, 0.1, {"TSSLBP": [right] * 2}, np.eye(1), wrong)]

    monkeypatch.setattr("tsslbp.analysis.microscope.examine", failing)
    assert cli.main([*COMMAND, "mine.toml"]) == 0
    assert "caution: the control of output is 0.9000 ± 0.0500" in capsys.readouterr().err


def test_a_recipe_that_starts_from_weights(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The gradients of a recipe with weights are those of the run that trained the weights."""
    assert cli.main(["train", "mine.toml", "--out", "first"]) == 0
    few = [*COMMAND, "--rounds", "4", "--directions", "16", "--out"]
    assert cli.main([*few, "run.svg", "first"]) == 0
    assert cli.main([*few, "weights.svg", "mine.toml", "--set", "weights=first"]) == 0
    assert f"weights of {Path('first').resolve()}" in capsys.readouterr().out
    names = "run.json", "weights.json"
    one, other = (json.loads(Path(name).read_text())["layers"] for name in names)
    assert one == other
