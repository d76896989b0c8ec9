"""Your own image files: a folder with one subfolder of images per class.

::

    flowers/train/daisy/1.png   flowers/train/rose/7.png   ...
    flowers/test/daisy/3.png    ...

or ``flowers/daisy/1.png`` and so on, without ``train`` and ``test``. In that case, or if ``test``
is missing, a tenth of the images is held out for testing. These are always the same images, and
every class contributes its share. All images must have the same size, and be grey or in colour with
8 bits per channel. Photographs are turned as their camera noted (EXIF). Images with a palette count
as images in colour. Classes are numbered in the order of their names, or of their numbers if all
names are whole numbers. Files that do not have an image's suffix are ignored, and so are folders
inside those of the classes, and every name that begins with a dot.

Pillow reads the files (extra ``images``; matplotlib also installs it).
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..errors import DataError, nearest, require
from ..reading import check_plain
from .dataset import DataSet, hold_out, with_colours

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")
KEPT = {"L": "grey", "RGB": "in colour"}  # modes of Pillow
WITH_ALPHA = {"L": "LA", "RGB": "RGBA"}
OPAQUE = {"LA": "L", "RGBA": "RGB"}

Pixels = npt.NDArray[np.uint8]


def load(path: Path) -> DataSet:
    """Return the images in the folder `path`, ``[N, 1, H, W]`` or ``[N, 3, H, W]`` uint8.

    Raises:
        DataError: the folder is missing or has another layout; or an image cannot be read, or
            differs in size or mode from the first. The message names the folder or file.
        InvalidInput: Pillow is not installed.
    """
    require("a folder of images needs", "images", "PIL")
    if not os.path.isdir(path):
        raise DataError(f"there is no folder {path}")
    parts = _folders(path)
    if not {"train", "test"} & set(parts):
        images, labels, _ = _read(path, parts)
        return _with_test(path, parts, images, labels)
    if "train" not in parts or set(parts) - {"train", "test"}:
        raise DataError(
            f"{path} must contain the folders train and test, or one folder per class, got "
            f"{', '.join(parts)}"
        )
    classes = _folders(path / "train")
    images, labels, first = _read(path / "train", classes)
    if "test" not in parts:
        return _with_test(path, classes, images, labels)
    test_images, test_labels, _ = _read(path / "test", classes, first)
    test = test_images, test_labels
    return DataSet(path.name, images, labels, *test, len(classes), class_names=tuple(classes))


def _with_test(path: Path, classes: list[str], images: Tensor, labels: Tensor) -> DataSet:
    """Return the data set with some of the images held out for testing."""
    try:
        kept, held_out, note = hold_out(path.name, images, labels)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error
    return DataSet(path.name, *kept, *held_out, len(classes), note, tuple(classes))


def _folders(path: Path) -> list[str]:
    """Return the names of the folders in a folder, in the order of the classes."""
    names = [one.name for one in path.iterdir() if os.path.isdir(one) and one.name[0] != "."]
    are_numbers = all(name.isdecimal() for name in names)
    return sorted(names, key=lambda name: (int(name), name)) if are_numbers else sorted(names)


def _read(path: Path, classes: list[str], like: Path | None = None) -> tuple[Tensor, Tensor, Path]:
    """Return images and labels of the classes in a folder, and the file of the first image.

    Args:
        path: the folder.
        classes: the classes that are allowed.
        like: an image whose size and mode these images must have; None: every class must be present
            with an image.
    """
    for name in _folders(path):
        if name not in classes:
            raise DataError(f"{path / name} is not a class of train{nearest(name, classes)}")
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = _images(path / name) if os.path.isdir(path / name) else []
        if not found and like is None:
            raise DataError(f"{path / name} contains no image ({', '.join(SUFFIXES)})")
        files += found
        labels += [label] * len(found)
    if not files:
        raise DataError(f"{path} contains no images in folders of classes")
    first = like or files[0]
    expected = _pixels(first)
    images = np.empty((len(files), *expected.shape), np.uint8)
    for number, file in enumerate(files):
        pixels = _pixels(file)
        if pixels.shape != expected.shape:
            raise DataError(
                f"{file} is {_describe(pixels)}, but {first} is {_describe(expected)}: all images "
                "must have the same size and mode"
            )
        images[number] = pixels
    return torch.from_numpy(images), torch.tensor(labels), first


def _images(path: Path) -> list[Path]:
    found = path.iterdir()
    return sorted(one for one in found if one.suffix.lower() in SUFFIXES and one.name[0] != ".")


def class_names(path: Path) -> tuple[str, ...]:
    """Return the names of the classes in the folder `path`, in order."""
    parts = _folders(path)
    return tuple(_folders(path / "train") if "train" in parts else parts)


def read_file(file: Path, channels: int) -> Tensor:
    """Return the image in a file, ``[channels, H, W]`` uint8.

    If `channels` is 1, a colour image is converted to grey (its luma, as in Pillow); if it is 3, a
    grey image gets three equal channels. Any format that Pillow reads is accepted.

    Raises:
        DataError: the image cannot be read, is transparent, or has more than 8 bits per channel.
        InvalidInput: Pillow is not installed.
    """
    require("an image file needs", "images", "PIL")
    pixels = _pixels(file, {1: "L", 3: "RGB"}.get(channels))
    return torch.from_numpy(np.array(pixels))


def _pixels(file: Path, wanted: str | None = None) -> Pixels:
    """Return the image in a file, ``[C, H, W]``, in the mode `wanted`, by default its own."""
    from PIL import Image, ImageOps

    try:
        check_plain(file)
        with Image.open(file) as image:
            upright = with_colours(ImageOps.exif_transpose(image))
            if "transparency" in upright.info and upright.mode in WITH_ALPHA:  # of one colour
                upright = upright.convert(WITH_ALPHA[upright.mode])
            if upright.mode in OPAQUE and upright.getextrema()[-1] == (255, 255):
                upright = upright.convert(OPAQUE[upright.mode])
            mode = wanted if wanted and upright.mode in KEPT else upright.mode
            pixels = np.asarray(upright.convert(mode) if mode != upright.mode else upright)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = " ".join((getattr(error, "strerror", None) or str(error)).split())
        raise DataError(f"{file} cannot be read as an image: {reason}") from error
    if mode not in KEPT:
        raise DataError(
            f"{file} has mode {mode}, expected a grey (L) or colour (RGB) image without "
            "transparency and with 8 bits per channel: convert it"
        )
    return pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, 2, 0)


def _describe(pixels: Pixels) -> str:
    channels, height, width = pixels.shape
    return f"{height} x {width} pixels, {KEPT['L' if channels == 1 else 'RGB']}"
