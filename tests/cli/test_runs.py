"""Tests of the commands for one run: train, evaluate, draw, cost, recipes and info."""

import hashlib
import io
import json
import os
import pickle
import re
import sys
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nir
import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from rich.console import Console

import tsslbp
from tsslbp import analysis, data, experiment, figures, storage, training, wording
from tsslbp.cli import printing
from tsslbp.data import DataSet, Frames, Images, catalogue
from tsslbp.data.images import cifar10
from tsslbp.errors import RunError
from tsslbp.run import CHECKPOINTS, Run, results

from .conftest import ANSI, Program, accuracies, records

pytestmark = pytest.mark.usefixtures("folder")


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
        "cost.json",
        "data.json",
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


def test_evaluate_says_where_it_differs_from_the_records(
    program: Program, refused: Callable[..., str]
) -> None:
    program("train", "mine.toml", "--epochs", "1", "--out", "run")
    path = Path("run/checkpoints/last.safetensors")
    run = Run.open(Path("run"))
    (record,) = run.epochs()
    run.truncate_epochs(0)
    run.append_epoch(record | {"test_accuracy": record["test_accuracy"] + 0.125})
    code, _, error = program("evaluate", "run")
    assert (code, error.count("\n")) == (0, 3)  # one for each checkpoint
    shares = [f"{100 * (record['test_accuracy'] + more):.2f} %" for more in (0, 0.125)]
    line = f"caution: checkpoint last: test accuracy {shares[0]}, but the run recorded {shares[1]} "
    assert line + "after epoch 1" in error
    damaged = bytearray(path.read_bytes())
    damaged[-3] ^= 0x40
    path.write_bytes(damaged)
    assert "last.safetensors: it is truncated, damaged" in refused("evaluate", "run")
    code, output, error = program("resume", "run")
    assert code == 2 and "last.safetensors: it is truncated, damaged" in error
    assert "run folder  run" in output and "loss" not in output  # no table that would stay empty


@pytest.mark.slow
@pytest.mark.parametrize("name", experiment.recipe_names())
def test_every_recipe_trains(name: str, program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps train with the recipe's own network and settings, on random images or frames.

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
    """Two steps train on the official files; results on the re-encoded copy are labelled so."""
    records = np.random.RandomState(0).randint(0, 256, (6, 4, 3073)).astype(np.uint8)
    records[:, :, 0] = np.arange(24).reshape(6, 4) % 10
    folder = Path("sets/cifar10") / cifar10.FOLDER
    folder.mkdir(parents=True)
    for file, part in zip(cifar10.FILES, records, strict=True):
        (folder / file).write_bytes(part.tobytes())
    train = ("train", "cifar10-cnn1", "--data-dir", "sets", "--set", f"data={name}")
    train += ("--set", "batch_size=10", "--set", "network=2C3-2C3-P2-2C3-P2-2C3-2C3-8-8")
    assert re.search(
        r"data_batch_1\.bin \(.* bytes\) has SHA1 sum", refused(*train, "--epochs", "1")
    )
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
    """A line has name, data, network, T, time on a CPU, and our and the published accuracy."""
    code, output, _ = program("recipes")
    assert code == 0
    lines = output.splitlines()
    assert max(map(len, lines)) <= 100
    rows = {line.split()[0]: line for line in lines[1 : 1 + len(experiment.recipe_names())]}
    assert list(rows) == experiment.recipe_names()
    recorded = experiment.recorded()
    for name, row in rows.items():
        recipe = experiment.load_recipe(name)
        assert recipe.network.startswith(row.split()[2].removesuffix("-..."))
        assert row.split()[1] == recipe.data and row.split()[3] == str(recipe.time_steps)
        time, ours = "not measured", "-"
        if name in recorded:
            time = wording.duration(recorded[name].seconds)
            ours = f"{recorded[name].accuracy:.2f}"
        assert re.search(rf" {time} +{ours} / [\d.-]+$", row.rstrip()), row
    assert rows["mnist"].endswith(" / 99.40") and rows["mnist-published"].endswith(" / 99.50")
    assert rows["digits"].rstrip().endswith(" / -")


def test_recipes_tells_all_about_one(program: Program, refused: Callable[..., str]) -> None:
    code, output, _ = program("recipes", "fashion-mnist-cnn")
    assert code == 0
    recipe = experiment.load_recipe("fashion-mnist-cnn")
    assert f"fashion-mnist-cnn  {recipe.network}, T = {recipe.time_steps}\n" in output
    assert recipe.description.strip() in output.replace("# ", "")
    settings = [line for line in output.splitlines() if re.match(r"[a-z_.]+ = ", line)]
    copy = experiment.with_settings(experiment.load_recipe("digits"), settings)
    assert replace(copy, description=recipe.description) == recipe
    assert tomllib.loads(output)["network"]  # the output is a valid recipe
    assert "(did you mean 'digits'?)" in refused("recipes", "digit")


def test_a_recipe_on_a_narrow_terminal(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(printing, "console", Console(file=screen, force_terminal=True, width=60))
    program("recipes", "mnist")
    assert max(len(ANSI.sub("", line)) for line in screen.getvalue().splitlines()) <= 60


def test_info_about_a_run(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    assert program("train", "mine.toml", "--epochs", "1", "--out", "run")[0] == 0
    code, output, error = program("info", "run")
    assert (code, error) == (0, "") and "epochs = 1\n" in output
    assert output.startswith(f"Network('{experiment.load_recipe('mine.toml').network}'")
    monkeypatch.chdir("run")
    assert program("info", ".") == (code, output, error)


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
    """The network is printed with its settings, in a form that --set and recipe files read."""
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


def test_checkpoint_of_another_network(program: Program, refused: Callable[..., str]) -> None:
    program("train", "mine.toml", "--epochs", "1", "--out", "one")
    program("train", "mine.toml", "--epochs", "1", "--out", "two", "--set", "network=4C3-P2-9")
    for name in CHECKPOINTS[:3]:
        file = Path("two/checkpoints") / f"{name}.safetensors"
        file.replace(Path("one/checkpoints") / file.name)
    assert "another network than '4C3-P2-8'" in refused("evaluate", "one")
    resume = ("train", "mine.toml", "--epochs", "2", "--out", "one", "--resume")
    assert "another network than '4C3-P2-8'" in refused(*resume)
    assert "two contains no checkpoint yet" in refused("evaluate", "two")


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
    assert Path("exploded").exists()  # unpickling does run the code


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
    assert not Path("run/figures/training.svg").exists()  # the numbers it shows are gone


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


def test_cost_of_a_run(program: Program) -> None:
    """The command prints and stores what the library counts."""
    _, trained, _ = program("train", "mine.toml", "--out", "run")
    kept = Path("run/cost.json").read_text()
    Path("run/cost.json").unlink()
    code, output, error = program("cost", "run")
    assert (code, error) == (0, "")
    assert Path("run/cost.json").read_text() == kept  # as the training left it
    record = json.loads(kept)
    assert record["images"] == 7 and record["time_steps"] == 3
    assert record["checkpoint"] == "best-validation"
    assert record["epoch"] == results.measures(records("run"))["best-validation"]["epoch"]
    net = tsslbp.load("run")
    pixels = data.normalise(data.load("mine.npz").test_images, 0.0, 1.0)
    counted = analysis.cost(net, pixels)
    assert {**record, **counted.to_table()} == record
    lines = [line.split("  ") for line in output.splitlines()]
    rows = {parts[0]: [cell.strip() for cell in parts[1:] if cell] for parts in lines if parts[0]}
    assert list(rows)[1:5] == ["layer", "conv1", "linear2", "output"]
    total = counted.total
    assert rows["total"][:3] == [
        *(f"{total.neurons:,}", f"{total.parameters:,}", f"{total.dense_multiplications:,}")
    ]
    energies = [wording.energy(one.energy().total) for one in (total.spiking, total.relu)]
    assert rows["total"][-2:] == energies
    assert f"energy        {energies[0]} per image, {energies[1]} with ReLU" in trained
    assert "Horowitz" in output and "tested on 7 of the 70 images" in output


def test_cost_by_other_tables(program: Program, refused: Callable[..., str]) -> None:
    program("train", "mine.toml", "--out", "run")
    _, plain, _ = program("cost", "run", "--images", "3", "--checkpoint", "last")
    assert "checkpoint last, epoch 2: per image, the mean of 3 test images" in plain
    code, output, _ = program("cost", "run", "--numbers", "int8", "--memory", "DRAM")
    total = analysis.cost(
        tsslbp.load("run"), data.normalise(data.load("mine.npz").test_images, 0.0, 1.0)
    ).total
    energy = total.spiking.energy(analysis.energy.table_of("int8"), "DRAM")
    assert f"DRAM {wording.energy(energy.memory)}" in output
    assert "int8: 0.23 pJ per multiply-add, 0.03 pJ per addition" in output
    code, output, error = program("cost", "run", "--json", "--images", "2")
    assert (code, error) == (0, "")
    assert json.loads(output) == json.loads(Path("run/cost.json").read_text())
    assert json.loads(output)["images"] == 2
    assert "did you mean 'int8'" in refused("cost", "run", "--numbers", "int9")
    assert "did you mean 'DRAM'" in refused("cost", "run", "--memory", "DRAN")
    assert "did you mean 'last'" in refused("cost", "run", "--checkpoint", "lst")
    assert "is not a run folder" in refused("cost", "nothing")


def test_cost_that_cannot_be_kept(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(run: Run, record: object) -> None:
        raise RunError(f"cannot write {run.folder}/cost.json: No space left on device")

    monkeypatch.setattr(Run, "record_cost", full)
    code, output, error = program("train", "mine.toml", "--epochs", "1", "--out", "run")
    assert code == 0 and "with ReLU" in output
    assert "caution: cannot write run/cost.json: No space left on device; reports" in error


def test_no_picture_without_matplotlib(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    code, output, _ = program("train", "mine.toml", "--epochs", "1", "--out", "run")
    assert code == 0
    assert "pip install 'tsslbp[figures]'" in output
    assert not Path("run/picture.png").exists()


def test_a_picture_that_cannot_be_drawn_fails_no_run(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("no such\nfont")

    monkeypatch.setattr(figures.run, "draw_raster", fails)
    code, output, _ = program("train", "mine.toml", "--epochs", "1", "--out", "run")
    assert code == 0 and "no picture: no such font\n" in output


def test_no_picture_on_a_full_disk(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    on_disk = storage._put_on_disk

    def full(path: Path) -> None:
        if "picture" in path.name:
            raise OSError(28, "No space left on device")
        on_disk(path)

    monkeypatch.setattr(storage, "_put_on_disk", full)
    code, output, _ = program("train", "mine.toml", "--epochs", "1", "--out", "run")
    assert code == 0
    assert "no picture: cannot write run/picture.png: No space left on device" in output
    assert not list(Path("run").glob("*picture*"))


def test_a_folder_of_images(folder: Path, program: Program) -> None:
    """A folder of images is trained and drawn with its class names, also by a recipe elsewhere."""
    stored = np.load("mine.npz")
    for number, (image, label) in enumerate(zip(stored["images"], stored["labels"], strict=True)):
        place = folder / "halves" / ("left", "right")[label]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{number:02d}.png")
    code, output, error = program("train", "mine.toml", "--set", "data=halves/", "--out", "run")
    assert (code, error) == (0, "")
    assert "halves: 51 training, 12 validation, 7 test" in output
    assert Run.open(Path("run")).experiment.data == str(folder / "halves")
    assert accuracies(program("evaluate", "run")[1]) == accuracies(output)
    assert program("draw", "run")[0] == 0
    for name in ("confusion", "image-0"):
        text = Path(f"run/figures/{name}.svg").read_text()
        assert "left" in text
    assert "right" in Path("run/figures/confusion.svg").read_text()
    recipe = Path("mine.toml").read_text().replace("mine.npz", "./halves")
    Path("below").mkdir()
    Path("below/own.toml").write_text(recipe.replace("./halves", "../halves"))
    code, _, error = program("train", "below/own.toml", "--out", "other")
    assert (code, error) == (0, "")
    assert records("other") == records("run")


RECORDS = {  # damage: a record's new text or changes in it, and words of the message
    "no accuracy": (b'{"epoch": 2}', None, "epoch 2"),
    "not a record": (b"[]", None, "epoch 2"),
    "a drop without a step": (None, {"drops": [{}]}, "epoch 2"),
    "text for a rate": (None, {"firing_rate": {"conv1": "x"}}, "epoch 2"),
    "steps without a column": (None, None, "steps.npz"),
}
READERS = (
    *("resume run --epochs 4", "train mine.toml --epochs 4 --out run --resume"),
    *("evaluate run", "draw run"),
    *("export run --to nir -o net.nir", "runs run", "diff run run", "report run"),
)


@pytest.mark.parametrize("damage", RECORDS)
def test_damaged_records_are_a_line_in_every_command(damage: str, program: Program) -> None:
    program("train", "mine.toml", "--epochs", "3", "--out", "run")
    run, (line, changes, what) = Run.open(Path("run")), RECORDS[damage]
    if what == "steps.npz":
        steps = run.steps()
        run.save_steps({name: steps[name] for name in steps if name != "correct"})
    else:
        path = Path("run/metrics.jsonl")
        first, second, third = path.read_bytes().splitlines()
        second = line or json.dumps(json.loads(second) | (changes or {})).encode()
        path.write_bytes(b"\n".join((first, second, third)) + b"\n")
    records = ("metrics.jsonl", "config.toml", "environment.json")
    kept = [(run.folder / name).read_bytes() for name in records]
    for command in READERS:
        if what == "steps.npz" and command != "draw run":  # a resume writes it anew
            continue
        code, output, error = program(*command.split())
        lines = [one for one in error.splitlines() if one.startswith(("error: ", "skipped: "))]
        assert any(what in one for one in lines), (command, output, error)
        assert code == (0 if command == "runs run" else 2), (command, output, error)
        assert kept == [(run.folder / name).read_bytes() for name in records], command


def test_averaged_weights_are_told_apart(program: Program) -> None:
    """Averaged weights have a row of their own in runs that have them, and can be drawn."""
    title = "averaged weights, last epoch"
    code, output, error = program("train", "mine.toml", "--out", "run", "--set", AVERAGE)
    assert (code, error) == (0, "")
    (row,) = (line.split() for line in output.splitlines() if title in line)
    last = records("run")[-1]
    shares = [f"{100 * last[f'averaged_{split}_accuracy']:.2f}" for split in SPLITS]
    assert row == [*title.split(), "2", shares[0], "%", shares[1], "%"]
    (again,) = (
        line.split() for line in program("evaluate", "run")[1].splitlines() if title in line
    )
    assert again == row
    assert program("draw", "run", "--checkpoint", "averaged")[0] == 0
    assert "checkpoint averaged, epoch 2" in Path("run/figures/confusion.svg").read_text()
    _, plain, _ = program("train", "mine.toml", "--out", "plain")
    assert title not in plain and title not in program("evaluate", "plain")[1]


AVERAGE, SPLITS = "average_weights=0.9", ("validation", "test")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["label_smoothing=0.1"], "label_smoothing applies only with loss = 'softmax' or 'tet'"),
        (["label_smoothng=0.1"], "did you mean 'label_smoothing'?"),
        (["schedule=cosin"], "did you mean 'cosine'?"),
        (["schedule=step"], "missing key 'step_epochs'"),
        (["cutout=8"], "cutout must be below the images' size, 8 x 8 for mine.npz, got 8"),
    ],
)
def test_keys_of_a_recipe_that_do_not_fit(
    refused: Callable[..., str], settings: list[str], message: str
) -> None:
    options = [part for setting in settings for part in ("--set", setting)]
    assert message in refused("train", "mine.toml", *options)
    assert not Path("runs").exists()


def test_train_from_weights(program: Program, refused: Callable[..., str]) -> None:
    """Tensors that do not fit are named, or left out with --weights-partial.

    The run records the checksum of the file.
    """
    assert program("train", "mine.toml", "--out", "first")[0] == 0
    first = tsslbp.load("first")
    same = ("train", "mine.toml", "--weights", "first", "--out")
    code, output, error = program(*same, "second", "--set", 'freeze=["conv1"]')
    assert (code, error) == (0, "")
    assert "weights     first: 3 tensors loaded\n" in output.replace(f"{Path.cwd()}/", "")
    assert "frozen      conv1\n" in output
    weights = tsslbp.load("second").state_dict()
    assert torch.equal(weights["conv1.weight"], first.state_dict()["conv1.weight"])
    assert not torch.equal(weights["output.weight"], first.state_dict()["output.weight"])
    kept = Run.open(Path("second")).experiment
    file = Path("first/checkpoints/best-validation.safetensors")
    assert kept.weights == str(Path("first").resolve()) and kept.freeze == ("conv1",)
    assert kept.weights_checksum == hashlib.sha256(file.read_bytes()).hexdigest()
    other = ("--set", "network=4C3-P2-9")
    error = refused(*same, "third", *other)
    assert "linear2.weight is 8 x 36 there and 9 x 36 here" in error
    assert "--weights-partial" in error and not Path("third").exists()
    output = program(*same, "third", *other, "--weights-partial")[1]
    assert "1 tensor loaded\n" in output
    assert "not loaded: output.weight is 2 x 8 there and 2 x 9 here\n" in output
    assert "known: conv1, linear2, output" in refused(*same, "fourth", "--set", 'freeze=["conv2"]')
    assert "did you mean 'mnist'" in refused("train", "mine.toml", "--weights", "mnits")
    assert "--out" in refused(*same[:2], "--weights", "digits", "--out", "second", "--resume")


def test_resume_from_weights_that_are_gone(program: Program, refused: Callable[..., str]) -> None:
    assert program("train", "mine.toml", "--out", "first")[0] == 0
    assert program("train", "mine.toml", "--weights", "first", "--out", "second")[0] == 0
    Path("first").rename("gone")
    again = ("train", "second/config.toml", "--out", "second", "--resume", "--epochs", "3")
    code, _, error = program(*again)
    assert (code, error) == (0, "") and len(records("second")) == 3
    assert "neither a run folder" in refused("train", "second/config.toml", "--out", "new")


@pytest.mark.slow
def test_names_of_networks_that_ship(program: Program, refused: Callable[..., str]) -> None:
    """The name stands for a run, and nothing is written into the package."""
    folder = experiment.trained_folder("digits")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    record = experiment.trained_record("digits")
    code, output, _ = program("evaluate", "digits")
    test = float(accuracies(output)["epoch chosen on validation images"][-1][:-2])
    assert code == 0 and test == pytest.approx(100 * record["test_accuracy"], abs=1.0)
    code, output, error = program("cost", "digits", "--images", "2")
    assert (code, error) == (0, "") and "digits, checkpoint best-validation" in output
    assert program("draw", "digits")[0] == 0
    assert {path.name for path in Path("digits-figures").iterdir()} == {
        *("confusion.svg", "image-0.svg", "histograms.svg")
    }
    for kind, check in (("nir", nir.read), ("onnx", onnx.checker.check_model)):
        assert program("export", "digits", "--to", kind, "-o", f"digits.{kind}")[0] == 0
        check(f"digits.{kind}")
    advice = "tsslbp train digits --weights digits trains it further as a new run"
    assert advice in refused("resume", "digits")
    with pytest.raises(RunError, match="digits is a pretrained network"):
        training.fit(Run.open(Path("digits")), data.load("digits"))
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    told = program("info", "digits")[1]
    assert f"{wording.percent(record['test_accuracy'])} with the weights as shipped" in told
    assert record["seed_chosen"] in told and "CC BY 4.0" in told
    assert "digits, fashion-mnist-mlp and mnist" in program("recipes")[1]
    assert "did you mean 'digits'" in refused("evaluate", "digitss")


def test_the_end_of_a_training_stays_where_the_network_is(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cost and picture are computed on the network's device, without moving the network."""

    def moved(net: torch.nn.Module) -> None:
        raise AssertionError("the network is moved to the CPU")

    asked: list[str] = []
    monkeypatch.setattr(torch.nn.Module, "cpu", moved)
    original = torch.Tensor.to
    device = torch.device("cpu")

    def to(tensor: torch.Tensor, *target: Any, **options: Any) -> torch.Tensor:
        if target and target[0] is device:
            asked.append(str(tuple(tensor.shape)))
        return original(tensor, *target, **options)

    monkeypatch.setattr(training, "device_of", lambda net: device)
    monkeypatch.setattr(torch.Tensor, "to", to)
    code, output, error = program("train", "mine.toml", "--out", "run")
    assert (code, error) == (0, "") and "energy " in output and "picture saved in" in output
    assert asked == ["(7, 1, 8, 8)", "(1, 1, 8, 8)"]  # all test images, at most 200; the drawn one
