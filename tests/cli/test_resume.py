"""Tests of tsslbp resume, and of runs whose folder or data have been moved."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import tsslbp
from tsslbp import data, training
from tsslbp.errors import DataError, RunError
from tsslbp.experiment import Experiment
from tsslbp.run import Run

from .conftest import Program, accuracies, arrays, records

pytestmark = pytest.mark.usefixtures("folder")
CHANGED = ["--set", "learning_rate=0.02", "--seed", "3"]


def test_a_run_goes_on_with_what_its_folder_says(program: Program) -> None:
    """A resumed run equals an uninterrupted one, also if --set has changed settings."""
    assert program("train", "mine.toml", *CHANGED, "--epochs", "3", "--out", "whole")[0] == 0
    assert program("train", "mine.toml", *CHANGED, "--epochs", "2", "--out", "run")[0] == 0
    code, output, error = program("resume", "run", "--epochs", "3")
    assert (code, error) == (0, "")
    assert "run folder  run, resumed after epoch 2" in output
    assert records("run") == records("whole")
    weights = [Run.open(Path(one)).load_checkpoint("last")[0] for one in ("run", "whole")]
    assert all(bool((weights[0][key] == weights[1][key]).all()) for key in weights[1])
    assert len(Run.open(Path("run")).environment["resumed"]) == 1


def test_a_finished_run_says_how_it_is_trained_further(program: Program) -> None:
    program("train", "mine.toml", "--epochs", "1", "--out", "run")
    code, output, _ = program("resume", "run")
    assert code == 0
    assert "run has finished its 1 epoch; a larger --epochs trains it further" in output


def test_a_run_that_patience_has_ended_says_so(program: Program) -> None:
    still = ["--set", "learning_rate=1e-12", "--set", "patience=1"]
    program("train", "mine.toml", *still, "--epochs", "5", "--out", "run")
    done = len(records("run"))
    assert done < 5
    code, output, _ = program("resume", "run", "--epochs", "9")
    assert code == 0 and len(records("run")) == done
    said = (
        f"run ended after epoch {done}, since its accuracy had not improved for 1 epoch (patience)"
    )
    assert said in " ".join(output.split())


def test_mistakes_as_typed(program: Program, refused: Callable[..., str]) -> None:
    program("train", "mine.toml", *CHANGED, "--epochs", "1", "--out", "a run")
    error = refused("train", "mine.toml", "--out", "a run", "--resume", "--epochs", "2")
    assert "learning_rate is 0.02 there, 0.01 here" in error
    command = "tsslbp resume 'a run' --epochs 2 continues it with its own"
    assert command in error
    assert program("resume", "a run", "--epochs", "2")[0] == 0
    for typed in ("a run", "a run/"):
        assert "a run is a run folder: resume the run with tsslbp resume a run" in refused(
            "train", typed, "--resume"
        )
    assert "nowhere is not a run folder: it does not exist" in refused("resume", "nowhere")
    Path("study").mkdir()
    Path("a run").rename("study/a run")
    assert "but study/a run is one" in refused("resume", "study")
    Path("study/a run").rename("a run")
    assert "--set takes only data=PATH here, got 'epochs=3'" in refused(
        "resume", "a run", "--set", "epochs=3"
    )


def test_a_conversion_is_resumed_by_its_own_command(
    program: Program, refused: Callable[..., str]
) -> None:
    program("convert", "mine.toml", "--epochs", "1", "--time-steps", "2", "--out", "relu")
    assert "relu is a run of tsslbp convert: give that command again" in refused("resume", "relu")


@pytest.fixture
def moved(program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with a run that was moved, and with the run's own data in `data`."""
    assert program("train", "mine.toml", "--epochs", "1", "--out", "run")[0] == 0
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.move("run", elsewhere / "run")
    (elsewhere / "data").mkdir()
    shutil.move("mine.npz", elsewhere / "data" / "mine.npz")
    monkeypatch.chdir(elsewhere)
    return elsewhere


@pytest.mark.parametrize(
    "place",
    [
        ["--data-dir", "data"],
        ["--set", "data=data/mine.npz"],
        "run/mine.npz",
        "mine.npz",
    ],
)
def test_a_moved_run_finds_its_data(
    place: list[str] | str, moved: Path, program: Program, refused: Callable[..., str]
) -> None:
    options = place if isinstance(place, list) else []
    for command in ("evaluate", "resume", "draw", "cost"):
        assert "the data of run were not found (tried " in refused(command, "run")
    if isinstance(place, str):
        shutil.copy("data/mine.npz", place)
    code, output, error = program("evaluate", "run", *options)
    assert (code, error) == (0, "")
    share = f"{100 * Run.open(Path('run')).epochs()[-1]['test_accuracy']:.2f} %"
    assert accuracies(output)["last epoch"][-1] == share
    assert program("cost", "run", *options)[0] == 0
    assert program("resume", "run", "--epochs", "2", *options)[0] == 0
    assert len(Run.open(Path("run")).epochs()) == 2


def test_a_moved_run_is_drawn(moved: Path, program: Program) -> None:
    assert program("draw", "run", "--format", "pdf", "--data-dir", "data")[0] == 0
    assert Path("run/figures/training.pdf").read_bytes().startswith(b"%PDF-")


def test_other_data_are_refused(moved: Path, refused: Callable[..., str]) -> None:
    """The recorded digest decides, not the name of the file; the correct data are accepted."""
    np.savez("mine.npz", **(arrays() | {"labels": 1 - arrays()["labels"]}))
    digest = Run.open(Path("run")).data_digest()
    assert digest is not None and re.fullmatch("[0-9a-f]{64}", digest)
    for command in ("evaluate", "resume"):
        error = refused(command, "run")
        assert (
            f"differs from the data on which run was trained, whose SHA-256 is {digest[:12]}"
            in error
        )
    run = Run.open(Path("run"))
    found = training.load_run_data(run, moved / "data")  # although other data are found, too
    assert found.train_labels[0] == 0
    with pytest.raises(DataError, match="differs from the data"):
        training.load_run_data(run, at="mine.npz")
    with pytest.raises(RunError, match="run was trained on different data"):
        run.record_data("0" * 64)


def test_data_that_a_script_has_given(refused: Callable[..., str]) -> None:
    """The commands say why they cannot load such data, and Python returns the network."""
    images, labels = torch.rand(60, 1, 8, 8), torch.arange(60) % 3
    pairs = torch.utils.data.TensorDataset(images, labels)
    settings = Experiment(data="pairs", network="4", epochs=1, validation_images=10)
    training.fit(Run.create(Path("own"), settings), data.DataSet.from_torch("pairs", pairs))
    for command in ("resume", "evaluate", "draw", "cost"):
        error = refused(command, "own")
        assert "own was trained by a script on the data set 'pairs' of its own" in error
        assert "tsslbp.load('own') returns the trained network" in error
    assert isinstance(tsslbp.load("own"), tsslbp.Network)


def test_an_unknown_format(moved: Path, refused: Callable[..., str]) -> None:
    assert "--format must be pdf or png, got 'jpeg'" in refused("draw", "run", "--format", "jpeg")


def test_a_set_of_the_catalogue_is_no_path(program: Program, refused: Callable[..., str]) -> None:
    assert program("train", "digits", "--epochs", "1", "--out", "digits")[0] == 0
    assert Run.open(Path("digits")).data_digest() is None
    error = refused("evaluate", "digits", "--set", "data=mine.npz")
    assert "digits was trained on the data set digits" in error


def test_an_older_run_has_no_digest(program: Program) -> None:
    program("train", "mine.toml", "--epochs", "1", "--out", "run")
    Path("run/data.json").unlink()
    assert program("evaluate", "run")[0] == 0
