"""The user's own images: a ``.npz`` file as ``numpy.savez`` writes it.

===============  ==============================================================================
``images``       ``[N, H, W]`` or ``[N, C, H, W]``; uint8 with pixel values 0..255, or floating
                 point (used as it is, in float32); or frames of recordings, ``[N, T, C, H, W]``,
                 of these types or booleans, all used as they are
``labels``       ``[N]`` integers, class numbers from 0
``test_images``  optional, with ``test_labels``: images of the same size and type, for testing
``test_labels``
``class_names``  optional, ``[classes]`` texts: what the classes are called, in their order
===============  ==============================================================================

Without test images a tenth of the images, at least one, is held out for testing: always the same
ones, and of every class its share. Arrays of other names are ignored. Nothing is unpickled.
"""

from __future__ import annotations

import contextlib
import os
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..errors import DataError, nearest
from ..reading import read_arrays
from .dataset import DataSet, Images, hold_out
from .frames import Frames

MAX_CLASSES = 100_000
LARGE = 10.0  # above what normalised pixels reach: floats that are still 0..255

_Array = npt.NDArray[Any]


def load(path: Path) -> DataSet:
    """Return the data set in the file `path`; its classes are the largest label plus one.

    Warns of what trains, but is rarely meant: classes without an image, floats up to 255.

    Raises:
        DataError: the file is missing or damaged, lacks an array, or one is not as above.
    """
    arrays = _read(path)
    try:
        return _data_set(path.name, arrays)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error


def load_images(path: Path) -> Images:
    """Return the images alone, ``[N, C, H, W]`` or frames: of a ``.npz`` file, or a ``.npy`` array.

    The array has the shapes and types of ``images``, or is one image ``[H, W]``.

    Raises:
        DataError: the file is missing or damaged, lacks the array, or it is not as above.
    """
    array = _read(path, ("images",))["images"] if path.suffix == ".npz" else _read_array(path)
    try:
        return _images(array[None] if array.ndim == 2 else array, "images")
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error


def _read_array(path: Path) -> _Array:
    """The array in a ``.npy`` file."""
    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except Exception as error:  # NumPy raises many kinds for damaged files
        raise DataError(
            f"cannot read {path}: it is no .npy file, is damaged, or holds Python objects, which "
            "are refused because they could run code"
        ) from error


def _data_set(name: str, arrays: dict[str, _Array]) -> DataSet:
    images, labels = train = _pair(arrays)
    _warn_of_large_values(name, images)
    if "test_images" in arrays:
        test, note = _pair(arrays, "test_"), ""
        kinds = [
            f"{'frames' if isinstance(part, Frames) else part.dtype} {list(part.shape[1:])}"
            for part in (images, test[0])
        ]
        if kinds[0] != kinds[1]:
            raise ValueError(
                "'images' and 'test_images' differ in type or size [C, H, W]: "
                f"{kinds[0]} and {kinds[1]}"
            )
    else:
        train, test, note = hold_out(name, images, labels)
    classes, names = 1 + int(max(labels.max(), test[1].max())), _names(arrays)
    if names and len(names) < classes:
        raise ValueError(
            f"'class_names' holds {len(names)} names, and labels go up to {classes - 1}"
        )
    classes = len(names) or classes
    empty = (torch.bincount(labels, minlength=classes) == 0).nonzero().flatten().tolist()
    if empty:
        warnings.warn(
            f"{name}: of the {classes} classes, 0 to the largest label, {len(empty)} have no image "
            f"in 'labels', the first is {empty[0]}",
            stacklevel=4,
        )
    return DataSet(name, *train, *test, classes, note, names)


def _names(arrays: dict[str, _Array]) -> tuple[str, ...]:
    array = arrays.get("class_names", np.empty(0, dtype=str))
    if array.ndim != 1 or array.dtype.kind != "U":
        raise ValueError(
            f"'class_names' must be [classes] texts, got {array.dtype} of shape {list(array.shape)}"
        )
    return tuple(map(str, array))


def _read(path: Path, wanted: tuple[str, ...] = ()) -> dict[str, _Array]:
    """Return the arrays that are wanted, or by default mean something here: two, or four."""
    if not os.path.isfile(path):
        raise DataError(f"there is no file {path}")
    try:
        if not zipfile.is_zipfile(path):
            raise DataError(
                f"{path} is no .npz file, or is cut short: numpy.savez(file, images=..., "
                "labels=...) writes one"
            )
        arrays = read_arrays(path, lambda names: _wanted(path, names, wanted))
        with contextlib.suppress(ValueError):  # none, or Python objects: not read
            if not wanted:
                arrays |= read_arrays(path, lambda names: {"class_names"}.intersection(names))
        return arrays
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise DataError(
            f"cannot read {path}: {error} (the file is damaged, or holds Python objects, which are "
            "refused because they could run code)"
        ) from error


def _wanted(path: Path, names: list[str], wanted: tuple[str, ...]) -> tuple[str, ...]:
    with_test = "test_images" in names or "test_labels" in names
    wanted = wanted or ("images", "labels", "test_images", "test_labels")[: 4 if with_test else 2]
    others = [name for name in names if name not in wanted]
    for name in wanted:
        if name not in names:
            raise DataError(
                f"{path} holds no array {name!r}{nearest(name, others)}, "
                f"only {', '.join(names) or 'nothing'}"
            )
    return wanted


def _pair(arrays: dict[str, _Array], part: str = "") -> tuple[Images, Tensor]:
    images = _images(arrays[f"{part}images"], f"{part}images")
    labels = _labels(arrays[f"{part}labels"], f"{part}labels")
    if len(images) != len(labels):
        raise ValueError(
            f"'{part}images' holds {len(images)} images, but '{part}labels' {len(labels)} labels"
        )
    return images, labels


def _images(array: _Array, name: str) -> Images:
    """Return ``[N, C, H, W]``, uint8 or float32, or frames."""
    if array.ndim == 5 and array.dtype == np.bool_:
        array = array.view(np.uint8)
    if array.dtype != np.uint8 and not np.issubdtype(array.dtype, np.floating):
        raise ValueError(
            f"{name!r} must be uint8 (pixel values 0..255) or floating point, got {array.dtype}"
        )
    if array.ndim not in (3, 4, 5):
        raise ValueError(
            f"{name!r} must be [N, H, W] or [N, C, H, W], or frames [N, T, C, H, W], got "
            f"{array.ndim} dimensions: shape {list(array.shape)}"
        )
    if array.size == 0:
        raise ValueError(f"{name!r} is empty: shape {list(array.shape)}")
    if array.ndim == 4 and array.shape[3] <= 4 < min(array.shape[1:3]):
        raise ValueError(
            f"{name!r} of shape {list(array.shape)} seems to be [N, H, W, C], expected "
            "[N, C, H, W]: numpy.moveaxis(images, 3, 1) reorders it"
        )
    kind = np.uint8 if array.dtype == np.uint8 else np.float32
    with np.errstate(over="ignore"):
        values = np.ascontiguousarray(array, dtype=kind)
    finite = np.isfinite(values)
    if not finite.all():
        first = [int(i) for i in np.unravel_index(np.argmin(finite), values.shape)]
        raise ValueError(
            f"{name!r} holds {values.size - np.count_nonzero(finite)} values of {values.size} that "
            f"are NaN or infinite in float32, the first at index {first}"
        )
    images = torch.from_numpy(values)
    if images.dim() == 5:
        return Frames.from_dense(images)
    return images.unsqueeze(1) if images.dim() == 3 else images


def _labels(array: _Array, name: str) -> Tensor:
    """Return ``[N]`` int64."""
    if array.ndim != 1:
        raise ValueError(
            f"{name!r} must be [N], one class number per image, got shape {list(array.shape)}"
        )
    if not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"{name!r} must be integers, class numbers from 0, got {array.dtype}")
    if array.size == 0:
        raise ValueError(f"{name!r} is empty")
    wrong = (array < 0) | (array >= MAX_CLASSES)
    if wrong.any():
        first = int(np.argmax(wrong))
        raise ValueError(
            f"{name!r} holds {np.count_nonzero(wrong)} values outside 0..{MAX_CLASSES - 1}, the "
            f"first is {array[first]} at index {first}: labels are class numbers 0, 1, 2, ..."
        )
    return torch.from_numpy(array.astype(np.int64))


def _warn_of_large_values(name: str, images: Images) -> None:
    """Warn of floating-point images that are probably pixel values 0..255."""
    if isinstance(images, Frames) or not images.is_floating_point():
        return
    if (largest := float(images.max())) > LARGE:
        warnings.warn(
            f"{name}: 'images' are {largest:g} at most, and floats are taken as they are, so mean "
            "and std must fit; uint8 would be divided by 255",
            stacklevel=5,
        )
