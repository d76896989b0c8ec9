"""Tests of how options of the command line become an experiment and its data."""

import gzip
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
import typer

from tsslbp.cli.options import numbers, with_options
from tsslbp.errors import InvalidInput
from tsslbp.run import Run

from .conftest import RECIPE, Program, accuracies, arrays

pytestmark = pytest.mark.usefixtures("folder")


def test_options_reach_the_run(program: Program) -> None:
    code, output, _ = program(
        *("train", "mine.toml", "--set", "rule.warm_up=always", "--set", "tau_m=4"),
        *("--seed", "7", "--epochs", "1", "--protocol", "published"),
    )
    assert code == 0
    run = Run.open(Path("runs/mine-seed7"))
    table = run.experiment.to_table()
    assert table["rule"]["warm_up"] == "always"
    assert (table["tau_m"], table["seed"], table["epochs"]) == (4.0, 7, 1)
    assert table["protocol"] == "published"
    assert Path(table["data"]).is_absolute()
    assert "63 training, 7 test" in output
    # Without held-out images this accuracy is absent, not zero.
    assert accuracies(output)["epoch chosen on validation images"] == ["-", "-", "-"]


def test_a_recipe_finds_its_data_from_any_folder(
    program: Program, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    assert program("train", "../mine.toml", "--epochs", "1", "--out", "run")[0] == 0
    monkeypatch.chdir(folder)
    assert program("evaluate", "elsewhere/run")[0] == 0


@pytest.mark.parametrize(
    ("key", "spoil", "expected"),
    [
        ("labels", lambda labels: np.where(labels == 1, -1, labels), "is -1 at index 1"),
        ("labels", lambda labels: labels[1:], "70 images, but 'labels' has 69 labels"),
        ("labels", lambda labels: labels / 2, "must be integers"),
        ("images", lambda images: images[:, 0], "got 2 dimensions"),
        ("images", lambda images: np.where(images > 190, np.nan, images / 255), "NaN or infinity"),
        ("images", lambda images: images[:, :2, :2], "4C3"),
    ],
)
def test_bad_images(
    key: str,
    spoil: Callable[[np.ndarray], np.ndarray],
    expected: str,
    refused: Callable[..., str],
) -> None:
    good = arrays()
    np.savez("mine.npz", **good | {key: spoil(good[key])})
    assert expected in refused("train", "mine.toml")
    assert not Path("runs").exists()


def test_bad_recipe_file(refused: Callable[..., str]) -> None:
    Path("mine.toml").write_text(RECIPE + "learning_rat = 1")
    assert "mine.toml: unknown key 'learning_rat' (did you mean" in refused("train", "mine.toml")
    Path("mine.toml").write_text("data = ")
    assert "mine.toml is not valid TOML" in refused("train", "mine.toml")


def write_idx(path: Path, values: np.ndarray) -> None:
    header = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    path.write_bytes(gzip.compress(header + values.astype(np.uint8).tobytes()))


def test_bad_data_files(refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert "the folder nowhere is missing" in refused("train", "mnist", "--data-dir", "nowhere")
    files = Path("sets/mnist")
    files.mkdir(parents=True)
    error = refused("train", "mnist", "--data-dir", "sets")
    assert f"{files}/train-images-idx3-ubyte.gz is missing" in error
    write_idx(files / "train-images-idx3-ubyte.gz", np.zeros((3, 28, 28)))
    write_idx(files / "train-labels-idx1-ubyte.gz", np.zeros(3))
    assert "has MD5 sum" in refused("train", "mnist", "--data-dir", "sets")
    images = files / "train-images-idx3-ubyte.gz"
    images.write_bytes(images.read_bytes()[:-9])
    monkeypatch.setenv("TSSLBP_DATA", "sets")
    assert "cut short" in refused("train", "mnist")


@dataclass(frozen=True)
class Size:
    """Options that two commands could share."""

    width: Annotated[int, typer.Option(min=1)] = 3
    height: Annotated[int | None, typer.Option()] = None


def test_option_classes_are_options_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    """A class's fields become options with defaults and bounds; the command gets a whole object."""
    given: list[tuple[str, Size, bool]] = []

    @with_options
    def greet(name: Annotated[str, typer.Argument()], *, size: Size, loud: bool = False) -> None:
        """Help of the command."""
        given.append((name, size, loud))

    app = typer.Typer()
    app.command()(greet)
    command = typer.main.get_command(app)
    command.main(["a"], standalone_mode=False)
    command.main(["b", "--height", "2", "--width", "5", "--loud"], standalone_mode=False)
    assert given == [("a", Size(3, None), False), ("b", Size(5, 2), True)]
    with pytest.raises(typer.BadParameter.__base__, match="x>=1"):
        command.main(["c", "--width", "0"], standalone_mode=False)
    command.main(["--help"], standalone_mode=False)
    output = capsys.readouterr().out
    assert "Help of the command." in output and "--width" in output and "--size" not in output


@pytest.mark.parametrize(
    ("text", "kind", "expected"), [("1,2", int, (1, 2)), ("0.5", float, (0.5,))]
)
def test_lists_of_numbers(text: str, kind: Callable[[str], Any], expected: tuple[Any, ...]) -> None:
    assert numbers("--steps", text, kind) == expected
    assert numbers("--steps", None, kind) == ()
    with pytest.raises(InvalidInput, match="--steps expects numbers such as"):
        numbers("--steps", f"{text},x", kind)
