"""Tests of a user's images in a folder of classes: what is read, and each mistake's message."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tsslbp import data
from tsslbp.errors import DataError, InvalidInput

Files = dict[str, np.ndarray]


def pixels(number: int, height: int = 5, width: int = 4, channels: int = 0) -> np.ndarray:
    shape = (height, width, channels) if channels else (height, width)
    return np.random.default_rng(number).integers(0, 256, shape, dtype=np.uint8)


def write(folder: Path, files: Files) -> str:
    for name, array in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(folder / name)
    return f"{folder}/"


def expect_error(path: str, *parts: str) -> None:
    with pytest.raises(DataError) as error:
        data.load(path)
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert part in message, message


SPLIT: Files = {
    "train/cat/b.png": pixels(1),
    "train/cat/a.PNG": pixels(0),
    "train/ape/x.png": pixels(2),
    "test/cat/z.png": pixels(3),
}


def test_train_and_test(tmp_path: Path) -> None:
    """Classes and files are in order of name; hidden files and other suffixes are ignored."""
    path = write(tmp_path / "pets", SPLIT)
    for other in ("train/notes.txt", "train/cat/.hidden.png", "train/cat/list.csv", ".DS_Store"):
        (tmp_path / "pets" / other).write_text("no image")
    (tmp_path / "pets" / "train" / ".cache").mkdir()
    found = data.load(path)
    assert (found.name, found.classes, found.class_names) == ("pets", 2, ("ape", "cat"))
    assert found.train_labels.tolist() == [0, 1, 1] and found.test_labels.tolist() == [1]
    assert found.train_images.dtype == torch.uint8
    expected = np.stack([pixels(2), pixels(0), pixels(1)])[:, None]
    assert np.array_equal(np.asarray(found.train_images), expected)
    assert np.array_equal(np.asarray(found.test_images), pixels(3)[None, None])
    assert found.note == ""


def test_a_tenth_is_held_out(tmp_path: Path) -> None:
    files = {f"{label}/{n}.png": pixels(100 * label + n) for label in (2, 10) for n in range(20)}
    flat = data.load(write(tmp_path / "flat", files))
    assert flat.class_names == ("2", "10")  # in the order of the numbers
    assert flat.train_labels.bincount().tolist() == [18, 18]
    assert flat.test_labels.bincount().tolist() == [2, 2]
    assert flat.note == "tested on 4 of the 40 images in flat, held out by tsslbp"
    again = data.load(f"{tmp_path}/flat")
    assert np.array_equal(np.asarray(again.test_images), np.asarray(flat.test_images))
    below = {f"train/{name}": array for name, array in files.items()}
    train = data.load(write(tmp_path / "below", below))
    assert np.array_equal(np.asarray(train.test_images), np.asarray(flat.test_images))


@pytest.mark.parametrize("suffix", [".png", ".bmp"])
def test_colour(tmp_path: Path, suffix: str) -> None:
    arrays = [pixels(n, channels=3) for n in range(4)]
    files = {f"{name}/{n}{suffix}": arrays[n] for n, name in enumerate("aabb")}
    found = data.load(write(tmp_path, files))
    assert found.input_shape == (3, 5, 4)
    images = torch.cat([torch.as_tensor(found.train_images), torch.as_tensor(found.test_images)])
    labels = torch.cat([found.train_labels, found.test_labels])
    kept = {tuple(one.flatten().tolist()) for one in images}
    assert kept == {tuple(np.moveaxis(one, 2, 0).flatten().tolist()) for one in arrays}
    assert sorted(labels.tolist()) == [0, 0, 1, 1]


def test_palettes_and_two_colours_are_converted(tmp_path: Path) -> None:
    path = write(tmp_path, {"a/0.png": pixels(0, channels=3), "b/0.png": pixels(1, channels=3)})
    Image.fromarray(pixels(0, channels=3)).quantize(8).save(tmp_path / "a" / "1.png")
    assert data.load(path).input_shape == (3, 5, 4)
    bits = pixels(0) > 127
    for n, name in enumerate("cccd"):
        (tmp_path / "bits" / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(bits).save(tmp_path / "bits" / name / f"{n}.png")
    found = data.load(f"{tmp_path}/bits")
    assert np.array_equal(np.asarray(found.train_images)[0, 0], 255 * bits.astype(np.uint8))


def test_an_alpha_channel_that_hides_nothing_is_left_out(tmp_path: Path) -> None:
    colours = pixels(0, channels=4)
    colours[..., 3] = 255
    files = {f"{name}/{n}.png": colours for n, name in enumerate("aabb")}
    found = data.load(write(tmp_path, files))
    expected = np.moveaxis(colours[..., :3], 2, 0)
    assert np.array_equal(np.asarray(found.train_images)[0], expected)


def test_photographs_are_turned_as_their_camera_noted(tmp_path: Path) -> None:
    upright = pixels(0, channels=3)
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turn by 90 degrees, clockwise
    for n, name in enumerate("aabb"):
        (tmp_path / name).mkdir(exist_ok=True)
        Image.fromarray(np.rot90(upright)).save(tmp_path / name / f"{n}.png", exif=exif)
    found = data.load(f"{tmp_path}/")
    assert np.array_equal(np.asarray(found.train_images)[0], np.moveaxis(upright, 2, 0))


def with_transparent_colour(mode: str) -> Callable[[], Image.Image]:
    def make() -> Image.Image:
        image = Image.fromarray(pixels(0, channels=3)).quantize(8).convert(mode)
        image.info["transparency"] = {"RGB": image.getpixel((0, 0))}.get(mode, 0)
        if mode == "L":
            image.info["transparency"] = image.getpixel((0, 0))
        return image

    return make


def broken(folder: Path) -> None:
    (folder / "train" / "cat" / "c.png").write_bytes(b"\x89PNG\r\n\x1a\n, and no more")


def with_image(name: str, image: Callable[[], Image.Image]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        image().save(folder / name)

    return change


def with_folder(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).mkdir(parents=True)


def sixteen_bits() -> Image.Image:
    return Image.fromarray(np.full((5, 4), 999, np.uint16))


MISTAKES: dict[str, tuple[Callable[[Path], None], tuple[str, ...]]] = {
    "another size": (
        with_image("train/cat/c.png", lambda: Image.fromarray(pixels(0, 6, 4))),
        (
            "cat/c.png is 6 x 4 pixels, grey",
            "ape/x.png is 5 x 4 pixels, grey",
            "the same size and mode",
        ),
    ),
    "another mode": (
        with_image("test/cat/c.png", lambda: Image.fromarray(pixels(0, channels=3))),
        ("test/cat/c.png is 5 x 4 pixels, in colour", "ape/x.png is 5 x 4 pixels, grey"),
    ),
    "transparency": (
        with_image("train/cat/c.png", lambda: Image.fromarray(pixels(0, channels=4))),
        ("cat/c.png has mode RGBA", "grey (L) or colour (RGB) image", "(RGB)", "convert it"),
    ),
    **{
        f"a transparent colour, {mode}": (
            with_image("train/cat/c.png", with_transparent_colour(mode)),
            ("cat/c.png has mode", "without transparency"),
        )
        for mode in ("P", "L", "RGB")
    },
    "16 bits": (with_image("train/cat/c.png", sixteen_bits), ("c.png has mode I;16", "8 bits")),
    "damaged": (broken, ("c.png cannot be read as an image",)),
    "class without an image": (
        with_folder("train/dog"),
        ("train/dog contains no image (.png, .jpg",),
    ),
    "unknown class": (
        with_image("test/cta/1.png", lambda: Image.fromarray(pixels(0))),
        ("test/cta is not a class of train (did you mean 'cat'?)",),
    ),
    "a class beside train": (
        with_folder("dog"),
        ("must contain the folders train and test, or", "dog, test, tr"),
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(tmp_path: Path, name: str) -> None:
    change, words = MISTAKES[name]
    path = write(tmp_path / "pets", SPLIT)
    data.load(path)
    change(tmp_path / "pets")
    expect_error(path, str(tmp_path), *words)


def test_folders_that_hold_nothing(tmp_path: Path) -> None:
    expect_error(f"{tmp_path}/none/", f"there is no folder {tmp_path}/none")
    (tmp_path / "empty").mkdir()
    expect_error(f"{tmp_path}/empty/", "empty contains no images in folders of classes")
    (tmp_path / "no-train" / "test").mkdir(parents=True)
    expect_error(f"{tmp_path}/no-train/", "must contain the folders train and test")
    expect_error(write(tmp_path / "one", {"a/0.png": pixels(0)}), "there is only one image")
    (tmp_path / "empty-train" / "train").mkdir(parents=True)
    expect_error(f"{tmp_path}/empty-train/", "train contains no images in folders of classes")


def test_the_name_of_a_folder_needs_a_slash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "pets", SPLIT)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidInput, match=r"there is no data set 'pets'.*; the folder .* pets/$"):
        data.load("pets")
    with pytest.raises(InvalidInput, match=r"or of a folder of images that ends in a slash$"):
        data.load("pest")
    assert data.load("pets/").class_names == ("ape", "cat")
    with pytest.raises(InvalidInput, match="binning applies to recordings of events"):
        data.load("pets/", binning=data.Binning())


def test_without_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "pets", SPLIT)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(
        InvalidInput,
        match=r"a folder of images needs PIL, which is not installed: pip install 'tsslbp\[",
    ):
        data.load(path)
