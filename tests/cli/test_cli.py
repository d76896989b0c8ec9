"""The program, from the command line to the files it writes and the lines it prints."""

import gzip
import hashlib
import io
import math
import os
import pickle
import re
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from tsslbp import cli, data, experiment, training
from tsslbp.cli import printing, progress
from tsslbp.data import DataSet, Frames, Images, catalogue
from tsslbp.data.images import cifar10
from tsslbp.run import CHECKPOINTS, Run, count_epochs, results

RECIPE = """
data = "mine.npz"
network = "4C3-P2-8"
time_steps = 3
validation_images = 12
epochs = 2
batch_size = 16
learning_rate = 0.01
"""
ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
TIMES = ("seconds", "images_per_second", "peak_memory")

Program = Callable[..., tuple[int, str, str]]


def arrays(count: int = 70) -> dict[str, np.ndarray]:
    """Images of 8 x 8 pixels with a bright left or right half, and their two classes."""
    labels = np.arange(count) % 2
    images = np.random.RandomState(0).randint(0, 100, (count, 8, 8)).astype(np.uint8)
    images[labels == 0, :, :4] += 100
    images[labels == 1, :, 4:] += 100
    return {"images": images, "labels": labels}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a recipe of the user's own and its images."""
    for variable in ("TSSLBP_DATA", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").write_text(RECIPE)
    np.savez(tmp_path / "mine.npz", **arrays())
    return tmp_path


@pytest.fixture
def program(capsys: pytest.CaptureFixture[str]) -> Program:
    """Run the program; returns exit code, standard output and standard error."""

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = cli.main(arguments)
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def refused(program: Program) -> Callable[..., str]:
    """Run the program, which must end with one line of error and exit code 2; returns the line."""

    def run(*arguments: str) -> str:
        code, _, error = program(*arguments)
        assert code == 2
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        assert "Traceback" not in error
        return error

    return run


def records(run: str | Path) -> list[dict[str, Any]]:
    """The records of a run's epochs, without what differs between two equal runs."""
    epochs = Run.open(Path(run)).epochs()
    return [{key: value for key, value in one.items() if key not in TIMES} for one in epochs]


def accuracies(output: str) -> dict[str, list[str]]:
    """Epoch, validation and test accuracy of each row of the last table in `output`."""
    rows = {}
    for line in output.splitlines():
        title, *cells = re.split(r"  +", line.strip())
        if title in results.MEASURES.values():
            rows[title] = cells
    return rows


def test_train_writes_a_run_and_reports_three_accuracies(program: Program) -> None:
    code, output, error = program("train", "mine.toml")
    assert (code, error) == (0, "")
    run = Path("runs/mine-seed0")
    files = {path.name for path in run.iterdir()}
    assert files == {
        "config.toml",
        "environment.json",
        "metrics.jsonl",
        "steps.npz",
        "checkpoints",
        "picture.png",
        ".lock",
    }
    assert (run / "picture.png").read_bytes().startswith(b"\x89PNG")
    assert "mine.npz: 51 training, 12 validation, 7 test" in output
    assert f"run folder  {run}\n" in output
    caveat = "note        tested on 7 of the 70 images"
    assert output.count(caveat) == 2  # at the start, and below the accuracies
    assert caveat in output[output.index(results.MEASURES["best-test"]) :]
    last = Run.open(run).epochs()[-1]
    assert last["note"].startswith("tested on 7 of the 70 images")
    rows = accuracies(output)
    assert list(rows) == list(results.MEASURES.values())
    shares = [f"{100 * last[f'{split}_accuracy']:.2f} %" for split in ("validation", "test")]
    assert rows["last epoch"] == ["2", *shares]
    (line,) = (line for line in output.splitlines() if line.strip().startswith("2/2"))
    assert shares[0] in line and shares[1] in line


def test_output_into_a_file_is_plain_and_unbroken(program: Program) -> None:
    out = "/".join(["a-rather-long-name"] * 6)
    _, output, _ = program("train", "mine.toml", "--out", out)
    assert "\x1b" not in output and "\r" not in output
    assert f"run folder  {out}\n" in output
    epoch_lines = [line for line in output.splitlines() if "/2" in line]
    assert len(epoch_lines) == 2


def test_output_on_a_terminal_fits(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=80, highlight=False)
    monkeypatch.setattr(printing, "console", terminal)
    assert program("train", "mine.toml")[0] == 0
    output = ANSI.sub("", screen.getvalue())
    lines = re.split(r"[\r\n]+", output)
    assert max(map(len, lines)) <= 80
    assert any("first use compiles the kernels" in line for line in lines)
    assert any("epoch 2/2 testing" in line for line in lines)
    assert accuracies(output).keys() == set(results.MEASURES.values())


def test_epoch_line_fits_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    record = {"epoch": 100, "loss": 1234.5678, "seconds": 3599.0, "images_per_second": 12345.6}
    splits = ("train", "validation", "test")
    record |= {f"{split}_accuracy": 1.0 for split in splits}
    progress.Display(100).on_epoch(record)
    line = capsys.readouterr().out
    expected = "100/100 1234.5678 100.00 % 100.00 % 100.00 % 59 min 59 s 12,346"
    assert " ".join(line.split()) == expected
    assert len(line) <= 80


def test_running_accuracy_is_that_of_the_epoch(program: Program) -> None:
    """51 images in batches of 16: the last batch of three counts as three."""
    seen = []

    class Spy(progress.Display):
        def on_epoch(self, record: dict[str, Any]) -> None:
            seen.append((self.correct / self.seen, record["train_accuracy"]))
            super().on_epoch(record)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress, "Display", Spy)
        assert program("train", "mine.toml")[0] == 0
    assert len(seen) == 2
    assert all(ours == pytest.approx(theirs) for ours, theirs in seen)


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
    # Without held-out images that accuracy is absent, not zero.
    assert accuracies(output)["epoch chosen on validation images"] == ["-", "-", "-"]


def test_a_recipe_finds_its_data_from_any_folder(
    program: Program, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    assert program("train", "../mine.toml", "--epochs", "1", "--out", "run")[0] == 0
    monkeypatch.chdir(folder)
    assert program("evaluate", "elsewhere/run")[0] == 0


def test_evaluate_agrees_with_the_records(program: Program) -> None:
    _, trained, _ = program("train", "mine.toml", "--epochs", "3", "--out", "run")
    code, output, error = program("evaluate", "run")
    assert (code, error) == (0, "")
    assert output.count("note        tested on 7 of the 70 images") == 1
    chosen = results.measures(records("run"))
    expected = {
        results.MEASURES[name]: [
            str(one["epoch"]),
            *(f"{100 * one[f'{split}_accuracy']:.2f} %" for split in ("validation", "test")),
        ]
        for name, one in chosen.items()
    }
    assert accuracies(output) == accuracies(trained) == expected
    assert len(expected) == 3


def test_resume_to_more_epochs_equals_one_run(program: Program) -> None:
    program("train", "mine.toml", "--epochs", "3", "--out", "whole")
    program("train", "mine.toml", "--epochs", "1", "--out", "parts")
    code, output, _ = program("train", "mine.toml", "--epochs", "3", "--out", "parts", "--resume")
    assert code == 0
    assert "resumed after epoch 1" in output
    assert records("parts") == records("whole")
    assert len(Run.open(Path("parts")).environment["resumed"]) == 1


def test_resume_starts_a_run_that_is_not_there(program: Program) -> None:
    code, output, _ = program("train", "mine.toml", "--epochs", "1", "--resume")
    assert code == 0
    assert "resumed" not in output
    assert len(records("runs/mine-seed0")) == 1


def test_a_finished_run_resumed_reports_again(program: Program) -> None:
    _, first, _ = program("train", "mine.toml")
    code, again, _ = program("train", "mine.toml", "--resume")
    assert code == 0
    assert accuracies(again) == accuracies(first)
    assert len(records("runs/mine-seed0")) == 2


def test_an_existing_run_is_not_overwritten(program: Program, refused: Callable[..., str]) -> None:
    program("train", "mine.toml", "--epochs", "1")
    before = records("runs/mine-seed0")
    error = refused("train", "mine.toml", "--epochs", "1")
    assert "runs/mine-seed0 holds a run already" in error and "--resume" in error
    assert records("runs/mine-seed0") == before


def test_resume_with_other_settings_names_them(
    program: Program, refused: Callable[..., str]
) -> None:
    program("train", "mine.toml", "--epochs", "1")
    error = refused(
        *("train", "mine.toml", "--resume", "--set", "learning_rate=0.5"),
        *("--set", "rule.warm_up=never"),
    )
    assert "learning_rate is 0.01 there, 0.5 here" in error
    assert "rule.warm_up is 'neuron' there, 'never' here" in error
    assert "tau_m" not in error


@pytest.mark.parametrize("name", experiment.recipe_names())
def test_every_recipe_trains(name: str, program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps with the recipe's own network and settings, on random images or frames.

    The largest networks are made thinner: their checkpoints are hundreds of megabytes.
    """
    recipe = experiment.load_recipe(name)
    is_large = "cifar10" in name or "dvs" in name
    network = re.sub(r"\d{2,}", "8", recipe.network) if is_large else recipe.network
    held_out = 2 if recipe.protocol == "validated" else 0
    known = data.known_shape(recipe.data, recipe.binning)
    assert known is not None
    shape, _ = known
    count = 14 + held_out
    images: Images = torch.randint(0, 256, (count, *shape), dtype=torch.uint8)
    if data.holds_events(recipe.data):
        events = torch.rand(count, recipe.time_steps, *shape) < 0.05
        images = Frames.from_dense(events)
    labels = torch.arange(14 + held_out) % 10
    small = DataSet(recipe.data, images[:-4], labels[:-4], images[-4:], labels[-4:], 10)
    monkeypatch.setattr(data, "load", lambda *_: small)
    code, _, error = program(
        *("train", name, "--epochs", "1", "--out", "run"),
        *("--set", "batch_size=5", "--set", "validation_images=2", "--set", f"network={network}"),
    )
    assert (code, error) == (0, "")
    run = Run.open(Path("run"))
    losses = run.steps()["loss"]
    assert len(losses) == 2 and np.isfinite(losses).all() and (losses > 0).all()
    assert run.experiment == replace(
        recipe, network=network, epochs=1, batch_size=5, validation_images=2
    )


@pytest.mark.parametrize("name", ["cifar10", "cifar10-reencoded"])
def test_cifar10_from_its_files(
    name: str, program: Program, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two steps on files in the official layout; results on the re-encoded copy always say so."""
    records = np.random.RandomState(0).randint(0, 256, (6, 4, 3073)).astype(np.uint8)
    records[:, :, 0] = np.arange(24).reshape(6, 4) % 10
    folder = Path("sets/cifar10") / cifar10.FOLDER
    folder.mkdir(parents=True)
    for file, part in zip(cifar10.FILES, records, strict=True):
        (folder / file).write_bytes(part.tobytes())
    train = ("train", "cifar10-cnn1", "--data-dir", "sets", "--set", f"data={name}")
    train += ("--set", "batch_size=10", "--set", "network=2C3-2C3-P2-2C3-P2-2C3-2C3-8-8")
    assert "data_batch_1.bin has SHA1 sum" in refused(*train, "--epochs", "1")
    sums = {path.name: hashlib.sha1(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    monkeypatch.setitem(catalogue.entries(), name, replace(catalogue.find(name), sha1=sums))
    code, output, error = program(*train, "--epochs", "1", "--out", "run")
    assert (code, error) == (0, "")
    assert f"images      {name}: 20 training, 4 test" in output
    run = Run.open(Path("run"))
    assert len(run.steps()["loss"]) == 2
    evaluated = program("evaluate", "run", "--data-dir", "sets")[1]
    caveat = "measured on CIFAR-10 (111 of 60,000 images re-encoded)"
    is_copy = name == "cifar10-reencoded"
    assert [caveat in text for text in (output, evaluated)] == [is_copy, is_copy]
    assert [one.get("note") for one in run.epochs()] == [caveat if is_copy else None]
    assert run.experiment.data == name


def test_recipes_lists_all(program: Program) -> None:
    code, output, _ = program("recipes")
    assert code == 0
    for name in experiment.recipe_names():
        recipe = experiment.load_recipe(name)
        assert f"{name}  {recipe.network}, T = {recipe.time_steps}\n" in output
        for line in recipe.description.strip().splitlines():
            assert f"  {line}\n" in output


def test_recipes_on_a_narrow_terminal(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(printing, "console", Console(file=screen, force_terminal=True, width=60))
    program("recipes")
    assert max(len(ANSI.sub("", line)) for line in screen.getvalue().splitlines()) <= 60


def test_info_counts_parameters_as_published(program: Program) -> None:
    code, output, _ = program("info", "15C5-P2-40C5-P2-300")
    assert code == 0
    assert "210,375" in output
    options = ("--input-shape", "3x9x9", "--classes", "7", "--time-steps", "2", "--padding", "1,0")
    code, output, _ = program("info", "4C3-8C3", *options)
    assert code == 0
    assert "time_steps=2" in output and "3 x 9 x 9" in output and "padding 0" in output
    assert "3,140" in output  # 3 * 4 * 9 + 4 * 8 * 9 + 8 * 7 * 7 * 7


def test_info_of_a_recipe(program: Program) -> None:
    """The network with its settings, in a form that --set and a recipe file read."""
    code, output, _ = program("info", "fashion-mnist-cnn")
    assert code == 0
    assert "padding 2" in output
    assert re.search(r"total +3,273,504\b", output)
    recipe = experiment.load_recipe("fashion-mnist-cnn")
    settings = [line for line in output.splitlines() if re.match(r"[a-z_.]+ = ", line)]
    copy = experiment.with_settings(experiment.load_recipe("digits"), settings)
    assert copy.to_table() | {"description": ""} == recipe.to_table() | {"description": ""}


def test_info_of_a_users_recipe_takes_its_data(program: Program) -> None:
    code, output, _ = program("info", "mine.toml")
    assert code == 0
    assert re.search(r"input +1 x 8 x 8", output)
    assert re.search(r"output +linear +2 ", output)


def test_version_and_help(program: Program) -> None:
    assert program("--version")[1].startswith("tsslbp ")
    code, output, _ = program()
    assert code == 0
    for word in ("train", "evaluate", "draw", "recipes", "info", "--traceback"):
        assert word in output
    code, output, _ = program("train", "--help")
    assert code == 0
    for option in ("--set", "--seed", "--epochs", "--protocol", "--data-dir", "--out", "--resume"):
        assert option in output


def test_termination_is_an_interruption() -> None:
    """Schedulers send SIGTERM; the run can be continued then, too."""
    command = [sys.executable, "-m", "tsslbp", "train", "mine.toml", "--epochs", "10000"]
    with subprocess.Popen([*command, "--out", "run"], stdout=-1, stderr=-1, text=True) as process:
        while not count_epochs(Path("run")):
            assert process.poll() is None
            time.sleep(0.05)
        process.terminate()
        _, error = process.communicate()
    assert process.returncode == 130
    assert "stopped: the same command with --resume continues the run in run" in error


def test_as_a_module() -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(cli.__file__).parents[2])}
    command = [sys.executable, "-m", "tsslbp", "--help"]
    result = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert "Usage: tsslbp" in result.stdout
    assert result.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["train", "mnits"], "unknown recipe 'mnits' (did you mean 'mnist'?)"),
        (["train", "nowhere.toml"], "cannot read the recipe nowhere.toml"),
        (["train", "mine.toml", "--set", "treshold=2"], "'treshold' (did you mean 'threshold'?)"),
        (["train", "mine.toml", "--set", "tau_m=0.5"], "tau_m must be a number of at least 1"),
        (["train", "mine.toml", "--set", "time_steps=0"], "time_steps must be a whole number"),
        (["train", "mine.toml", "--set", "tau_m"], "expected a setting key=value, got 'tau_m'"),
        (["train", "mine.toml", "--set", "rule.warm=never"], "'warm'"),
        (["train", "mine.toml", "--set", "network=4C3-X2"], "'X2'"),
        (["train", "mine.toml", "--set", "network=4C9"], "4C9"),
        (["train", "mine.toml", "--set", "data=cifar"], "'cifar' (did you mean 'cifar10'?)"),
        (["train", "mine.toml", "--set", "data=other.npz"], "other.npz"),
        (["train", "mine.toml", "--set", "mean=[0.1, 0.2, 0.3]"], "1 channels"),
        (["train", "mine.toml", "--set", "validation_images=63"], "between 1 and 62"),
        (["train", "mine.toml", "--epochs", "0"], "epochs must be a whole number of at least 1"),
        (["train", "mine.toml", "--protocol", "publish"], "(did you mean 'published'?)"),
        (["train", "mine.toml", "--out", "mine.npz"], "mine.npz"),
        (["train", "mine.toml", "--seed", "one"], "--seed"),
        (["train"], "RECIPE"),
        (["trian"], "trian"),
        (["train", "mine.toml", "--epoch", "1"], "--epoch"),
        (["evaluate", "nowhere"], "nowhere is not a run folder"),
        (["info", "15C5-Q2"], "'Q2'"),
        (["info", "digit"], "(did you mean 'digits'?)"),
        (["info", "unknown"], "; a recipe's name serves as well, `tsslbp recipes` lists them"),
        (["info", "300", "--input-shape", "28"], "(C, H, W)"),
        (
            ["info", "300", "--input-shape", "1x28xa"],
            "expects numbers such as 1x28x28",
        ),
        (["info", "300", "--time-steps", "0"], "time_steps"),
    ],
)
def test_bad_input(arguments: list[str], expected: str, refused: Callable[..., str]) -> None:
    assert expected in refused(*arguments)
    assert not Path("runs").exists()  # so that the corrected command finds its folder free


@pytest.mark.parametrize(
    ("key", "spoil", "expected"),
    [
        ("labels", lambda labels: np.where(labels == 1, -1, labels), "is -1 at index 1"),
        ("labels", lambda labels: labels[1:], "70 images, but 'labels' 69 labels"),
        ("labels", lambda labels: labels / 2, "must be integers"),
        ("images", lambda images: images[:, 0], "got 2 dimensions"),
        ("images", lambda images: np.where(images > 190, np.nan, images / 255), "NaN or infinite"),
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
    assert "is cut short" in refused("train", "mnist")


def test_checkpoint_of_another_network(program: Program, refused: Callable[..., str]) -> None:
    program("train", "mine.toml", "--epochs", "1", "--out", "one")
    program("train", "mine.toml", "--epochs", "1", "--out", "two", "--set", "network=4C3-P2-9")
    for name in CHECKPOINTS:
        file = Path("two/checkpoints") / f"{name}.safetensors"
        file.replace(Path("one/checkpoints") / file.name)
    assert "another network than '4C3-P2-8'" in refused("evaluate", "one")
    resume = ("train", "mine.toml", "--epochs", "2", "--out", "one", "--resume")
    assert "another network than '4C3-P2-8'" in refused(*resume)
    assert "two holds no checkpoint yet" in refused("evaluate", "two")


class Bomb:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, ("exploded",)


def test_checkpoint_that_would_run_code(program: Program, refused: Callable[..., str]) -> None:
    program("train", "mine.toml", "--epochs", "1", "--out", "run")
    archive = io.BytesIO()
    torch.save(Bomb(), archive)
    resume = ("train", "mine.toml", "--epochs", "2", "--out", "run", "--resume")
    for content in (pickle.dumps(Bomb()), archive.getvalue()):
        Path("run/checkpoints/last.safetensors").write_bytes(content)
        assert "never opened" in refused("evaluate", "run")
        assert "never opened" in refused(*resume)
    assert not Path("exploded").exists()
    pickle.loads(pickle.dumps(Bomb()))
    assert Path("exploded").exists()  # it would have


def poison(monkeypatch: pytest.MonkeyPatch, call: int, act: Callable[[Any], None]) -> None:
    """Let `act` do something to the network before the training step number `call`."""
    original, calls = training.step.train_step, []

    def wrapper(net: Any, *arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == call:
            act(net)
        return original(net, *arguments, **options)

    monkeypatch.setattr(training.step, "train_step", wrapper)


@torch.no_grad()
def _nan_weight(net: Any) -> None:
    net.get_parameter("layers.2.connection.weight")[0, 0] = math.nan


def test_divergence_names_the_layer_and_the_checkpoint(
    program: Program, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        poison(patch, 6, _nan_weight)  # 4 steps an epoch
        error = refused("train", "mine.toml", "--epochs", "3", "--out", "run")
    assert "epoch 2, step 2: training diverged" in error
    assert "the weights of layer linear2" in error
    assert "run keeps the last good checkpoint" in error
    tensors, state = Run.open(Path("run")).load_checkpoint("last")
    assert state["epoch"] == 1
    assert all(value.isfinite().all() for key, value in tensors.items() if "weights" in key)
    assert "epoch 2, step 2: training diverged" in str(Run.open(Path("run")).divergence())
    code, output, _ = program("evaluate", "run")
    assert code == 0
    assert accuracies(output)["last epoch"][0] == "1"
    assert program("train", "mine.toml", "--epochs", "3", "--out", "run", "--resume")[0] == 0
    assert Run.open(Path("run")).divergence() is None


def _interrupt(net: Any) -> None:
    raise KeyboardInterrupt


def test_interrupt_says_how_to_continue(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    program("train", "mine.toml", "--out", "whole")
    with monkeypatch.context() as patch:
        patch.setattr(training.loop, "CHECKPOINT_SECONDS", 0.0)  # a checkpoint after every step
        poison(patch, 7, _interrupt)
        code, _, error = program("train", "mine.toml", "--out", "run")
    assert code == 130
    assert error == "stopped: the same command with --resume continues the run in run\n"
    # Weights of an epoch that is not over are called that.
    assert accuracies(program("evaluate", "run")[1])["last epoch"][0] == "1 + 2 steps"
    assert program("train", "mine.toml", "--out", "run", "--resume")[0] == 0
    assert records("run") == records("whole")


def test_traceback_on_request(program: Program) -> None:
    with pytest.raises(Exception, match="unknown recipe 'mnits'"):
        program("train", "mnits", "--traceback")


def test_warnings_are_one_line(
    program: Program, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    import warnings

    def load(*arguments: Any) -> DataSet:
        warnings.warn("no cache [here]", RuntimeWarning, stacklevel=1)
        return original(*arguments)

    original = data.load
    warnings.simplefilter("always")
    monkeypatch.setattr(data, "load", load)
    code, _, error = program("train", "mine.toml", "--epochs", "1")
    assert code == 0
    assert error == "warning: no cache [here]\n"
    assert not recwarn


def test_draw_writes_figures_of_the_run_and_of_a_checkpoint(program: Program) -> None:
    program("train", "mine.toml", "--out", "run")
    code, output, error = program("draw", "run", "--image", "6", "--checkpoint", "last")
    assert (code, error) == (0, "")
    names = {"training", "layers", "confusion", "image-6", "histograms"}
    assert {path.name for path in Path("run/figures").iterdir()} == {f"{one}.svg" for one in names}
    assert all(name in output for name in names)
    texts = {name: Path(f"run/figures/{name}.svg").read_text() for name in names}
    assert all("tested on 7 of the 70 images" in text for text in texts.values())
    assert "checkpoint last, epoch 2" in texts["confusion"]
    assert "of 7 images wrong" in texts["confusion"]
    assert "seed 0" in texts["training"]


def test_draw_by_default_takes_the_weights_chosen_on_validation_images(program: Program) -> None:
    program("train", "mine.toml", "--out", "run")
    (Path("run") / "steps.npz").unlink()
    program("draw", "run")
    assert "checkpoint best-validation" in Path("run/figures/image-0.svg").read_text()
    assert not Path("run/figures/training.svg").exists()  # its numbers are gone


def test_draw_of_what_is_not_there(
    program: Program, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    program("train", "mine.toml", "--out", "run", "--protocol", "published", "--epochs", "1")
    assert "--image must be between 0 and 6, got 7" in refused("draw", "run", "--image", "7")
    assert "got -1" in refused("draw", "run", "--image", "-1")
    assert "best-validation" in refused("draw", "run", "--checkpoint", "best-validation")
    assert "did you mean 'last'" in refused("draw", "run", "--checkpoint", "lst")
    Path("run/figures").write_text("a file in the way")
    assert "cannot write figures into run/figures" in refused("draw", "run")
    Run.create(Path("new"), Run.open(Path("run")).experiment)
    assert "saved: none" in refused("draw", "new")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "pip install 'tsslbp[figures]'" in refused("draw", "run")


def test_no_picture_without_matplotlib(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    code, output, _ = program("train", "mine.toml", "--epochs", "1", "--out", "run")
    assert code == 0
    assert "pip install 'tsslbp[figures]'" in output
    assert not Path("run/picture.png").exists()


def test_no_picture_on_a_full_disk(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    def savefig(self: Figure, path: Path, **options: Any) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", savefig)
    code, output, _ = program("train", "mine.toml", "--epochs", "1", "--out", "run")
    assert code == 0
    assert "no picture, because run/picture.png cannot be written: No space left" in output
    assert not Path("run/picture.png").exists()


def test_records_that_were_removed(program: Program, refused: Callable[..., str]) -> None:
    program("train", "mine.toml", "--epochs", "1", "--out", "run")
    Path("run/metrics.jsonl").unlink()
    resume = ("train", "mine.toml", "--epochs", "1", "--out", "run", "--resume")
    assert "run holds no record of an epoch" in refused(*resume)
