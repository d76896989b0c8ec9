"""Tests of the command predict, which classifies the user's own images."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import tsslbp
from tsslbp import data
from tsslbp.cli import prediction

from .conftest import Program, arrays

pytestmark = pytest.mark.usefixtures("folder")
RUN = "runs/mine-seed0"


@pytest.fixture
def run(program: Program) -> str:
    assert program("train", "mine.toml")[0] == 0
    return RUN


def cells(output: str) -> list[list[str]]:
    return [line.split() for line in output.splitlines()[1:]]


def test_image_files_and_arrays_give_the_same(program: Program) -> None:
    """The shipped digits give the same answers from files of all formats as from a tensor."""
    images = (255 * data.load("digits").test_images[:3]).round().to(torch.uint8)
    net = tsslbp.load("digits")
    psc = net(data.normalise(images, 0.305, 0.376))
    expected, scores = tsslbp.predict(psc).tolist(), psc.sum(0)
    shown = images[:, 0].numpy()
    Image.fromarray(shown[0]).save("grey.png")
    Image.fromarray(shown[1]).convert("RGB").save("colour.bmp")
    Image.fromarray(shown[2]).convert("RGBA").save("opaque.png")
    np.savez("three.npz", images=shown)
    np.save("one.npy", shown[0])
    np.save("floats.npy", images.numpy() / np.float32(255))
    files = ("grey.png", "colour.bmp", "opaque.png", "three.npz", "one.npy", "floats.npy")
    code, output, error = program("predict", "digits", *files)
    assert (code, error) == (0, "")
    titles = output.splitlines()[0].split()
    assert titles == ["image", "class", "score", "margin", "spikes", "first", "at", "step"]
    rows = cells(output)
    names = ["grey.png", "colour.bmp", "opaque.png", *(f"three.npz[{n}]" for n in range(3))]
    assert [row[0] for row in rows] == [
        *names,
        "one.npy[0]",
        *(f"floats.npy[{n}]" for n in range(3)),
    ]
    order = [0, 1, 2, 0, 1, 2, 0, 0, 1, 2]
    assert [int(row[1]) for row in rows] == [expected[one] for one in order]
    for row, one in zip(rows, order, strict=True):
        best, second = scores[one].topk(2).values.tolist()
        assert (row[2], row[3]) == (f"{best:.3f}", f"{best - second:.3f}")
        train = net.trace(data.normalise(images, 0.305, 0.376))["output"].spikes[
            :, one, int(row[1])
        ]
        assert row[4:] == [f"{int(train.sum())}", f"{1 + int(train.argmax())}"]


def test_json_and_picture(program: Program, run: str) -> None:
    Image.fromarray(arrays()["images"][1]).save("right.png")
    code, output, _ = program("predict", run, "right.png", "--json", "--out", "drawn/right.svg")
    (one,) = json.loads(output)["images"]
    net, image = tsslbp.load(run), data.folder.read_file(Path("right.png"), 1)[None]
    predicted = int(tsslbp.predict(net(data.normalise(image, 0.0, 1.0))))
    assert code == 0 and one["image"] == "right.png"
    assert one["predicted"] == predicted and one["name"] == str(predicted)
    assert one["score"] == max(one["scores"]) and len(one["scores"]) == 2
    assert one["margin"] == pytest.approx(abs(one["scores"][1] - one["scores"][0]))
    drawn = Path("drawn/right.svg").read_text()
    assert (
        drawn.startswith("<svg")
        and f"predicted {predicted}" in drawn
        and f"right.png, {run}" in drawn
    )
    for suffix, start in ((".png", b"\x89PNG"), (".pdf", b"%PDF")):
        assert program("predict", run, "right.png", "--out", f"drawn/right{suffix}")[0] == 0
        assert Path(f"drawn/right{suffix}").read_bytes().startswith(start)


def test_classes_have_their_names(program: Program) -> None:
    images = np.random.default_rng(0).integers(0, 99, (4, 28, 28), dtype=np.uint8)
    np.save("things.npy", images)
    names = data.catalogue.find("fashion-mnist").class_names
    (*rows,) = cells(program("predict", "fashion-mnist-mlp", "things.npy")[1])
    predicted = tsslbp.predict(
        tsslbp.load("fashion-mnist-mlp")(
            data.normalise(torch.from_numpy(images)[:, None], *_statistics("fashion-mnist-mlp"))
        )
    )
    for row, one in zip(rows, predicted.tolist(), strict=True):
        assert " ".join(row).startswith(f"{row[0]} {names[one]} ")


def test_floats_that_are_no_fractions(program: Program) -> None:
    """A network of known images takes bytes, or floats from 0 to 1."""
    images = np.random.default_rng(0).integers(0, 200, (2, 28, 28), dtype=np.uint8)
    for name, values in (("a", images), ("b", images / 255), ("c", images.astype(np.float32))):
        np.save(f"{name}.npy", values)
    answers = [program("predict", "mnist", f"{name}.npy") for name in "abc"]
    found = [[row[1:] for row in cells(output)] for _, output, _ in answers]
    assert found[0] == found[1] and [error for _, _, error in answers[:2]] == ["", ""]
    assert "caution: c.npy has pixel values up to 19" in answers[2][2]


def _statistics(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    wanted = tsslbp.experiment.load_recipe(name)
    return wanted.mean, wanted.std


def test_a_folder_of_images_names_its_classes(program: Program) -> None:
    values = arrays()
    for label, name in enumerate(("left", "right")):
        place = Path("sides", name)
        place.mkdir(parents=True)
        for number, image in enumerate(values["images"][values["labels"] == label]):
            Image.fromarray(image).save(place / f"{number}.png")
    settings = (
        "--set",
        "data=sides/",
        "--set",
        "network=8",
        "--epochs",
        "4",
        "--out",
        "runs/sides",
    )
    assert program("train", "mine.toml", *settings)[0] == 0
    rows = cells(program("predict", "runs/sides", "sides/right/3.png", "sides/left/3.png")[1])
    pixels = [data.folder.read_file(Path(row[0]), 1) for row in rows]
    net = tsslbp.load("runs/sides")
    predicted = tsslbp.predict(net(data.normalise(torch.stack(pixels), 0.0, 1.0))).tolist()
    assert [row[1] for row in rows] == [("left", "right")[one] for one in predicted]
    Path("sides").rename("elsewhere")  # the run keeps the names
    images = ("elsewhere/right/3.png", "elsewhere/left/3.png")
    moved = cells(program("predict", "runs/sides", *images)[1])
    assert [row[1:] for row in moved] == [row[1:] for row in rows]


def test_recordings(program: Program) -> None:
    frames = (np.random.default_rng(0).random((40, 3, 2, 6, 6)) < 0.2).astype(np.uint8)
    np.savez("frames.npz", images=frames, labels=np.arange(40) % 2)
    settings = ("--set", "data=frames.npz", "--set", "network=8", "--out", "runs/frames")
    assert program("train", "mine.toml", *settings, "--set", "weight_scale=4")[0] == 0
    rows = cells(program("predict", "runs/frames", "frames.npz")[1])
    net = tsslbp.load("runs/frames")
    expected = tsslbp.predict(net(torch.from_numpy(frames).transpose(0, 1).float()))
    assert [int(row[1]) for row in rows] == expected.tolist()


def test_without_an_output_layer_there_are_no_spikes(program: Program) -> None:
    settings = ("--set", "network=vgg", "--set", "network_settings.channels=[[4]]")
    code, _, error = program(
        "train", "mine.toml", *settings, "--set", "loss=tet", "--out", "runs/v"
    )
    assert code == 0, error
    np.save("one.npy", arrays()["images"][0])
    ((*_, spikes, first),) = cells(program("predict", "runs/v", "one.npy")[1])
    assert (spikes, first) == ("-", "-")


def test_what_is_refused(refused: Callable[..., str], run: str) -> None:
    Image.fromarray(np.zeros((9, 8), np.uint8)).save("large.png")
    error = refused("predict", run, "large.png")
    assert "9 x 8 pixels, grey, but the network takes 8 x 8 pixels, grey" in error
    assert "as in mine.npz" in error
    Image.fromarray(np.full((8, 8, 4), 99, np.uint8), "RGBA").save("glass.png")
    assert "would replace the image" in refused("predict", run, "large.png", "--out", "large.png")
    assert "without transparency" in refused("predict", run, "glass.png")
    error = refused("predict", run, "nothing.png")
    assert "nothing.png cannot be read as an image: No such file or directory" in error
    Path("no.npy").write_text("text")
    assert "Python objects, which are not loaded" in refused("predict", run, "no.npy")
    np.savez("other.npz", pixels=np.zeros((2, 8, 8)))
    assert "no array 'images'" in refused("predict", run, "other.npz")
    assert "must end in .svg, .png, .pdf" in refused("predict", run, "large.png", "--out", "x.jpg")
    np.save("two.npy", np.zeros((2, 8, 8), np.uint8))
    assert "of one image, got 2" in refused("predict", run, "two.npy", "--out", "x.svg")
    assert "did you mean 'mnist'" in refused("predict", "mnits", "two.npy")
    assert not Path("x.svg").exists() and prediction.PICTURES == (".svg", ".png", ".pdf")
