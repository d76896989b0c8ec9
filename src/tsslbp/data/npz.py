"""Your own images in a ``.npz`` file, as written by ``numpy.savez``.

===============  ==============================================================================
``images``       ``[N, H, W]`` or ``[N, C, H, W]``; uint8 with pixel values 0..255, or floating
                 point (used unchanged, in float32); or frames of recordings, ``[N, T, C, H, W]``,
                 of these types or bool, all used unchanged
``labels``       ``[N]`` integers, class numbers from 0
``test_images``  optional, with ``test_labels``: test images of the same size and type
``test_labels``
``class_names``  optional, ``[classes]`` texts: names of the classes, in order
===============  ==============================================================================

Without test images, a tenth of the images, at least one, is held out for testing. These are always
the same images, and every class contributes its share. Arrays of other names are ignored. Nothing
is unpickled.
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
from ..reading import check_plain, read_arrays
from .dataset import DataSet, Images, hold_out
from .frames import Frames

MAX_CLASSES = 100_000
LARGE = 10.0  # more than normalised pixels reach: larger floats are probably still 0..255

_Array = npt.NDArray[Any]


def load(path: Path) -> DataSet:
    """Return the data set in the file `path`; the number of classes is the largest label plus one.

    Warns if the data are probably not as intended: classes without an image, floats up to 255.

    Raises:
        DataError: the file is missing or damaged, lacks an array, or has an invalid array.
    """
    arrays = _read(path)
    try:
        return _data_set(path.name, arrays)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error


def load_images(path: Path) -> Images:
    """Return only the images, ``[N, C, H, W]`` or frames, of a ``.npz`` file or ``.npy`` array.

    The array has the shapes and types of ``images``, or is a single image ``[H, W]``.

    Raises:
        DataError: the file is missing or damaged, lacks the array, or the array is invalid.
    """
    array = _read(path, ("images",))["images"] if path.suffix == ".npz" else _read_array(path)
    try:
        return _images(array[None] if array.ndim == 2 else array, "images")
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error


def _read_array(path: Path) -> _Array:
    """Return the array in a ``.npy`` file."""
    try:
        check_plain(path)
        return np.asarray(np.load(path, allow_pickle=False))
    except Exception as error:  # NumPy raises many types for damaged files
        raise DataError(
            f"cannot read {path}: it is not a .npy file, or is damaged, or contains Python "
            "objects, which are not loaded because they could run code"
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
            f"'class_names' holds {len(names)} names, but labels go up to {classes - 1}"
        )
    classes = len(names) or classes
    empty = (torch.bincount(labels, minlength=classes) == 0).nonzero().flatten().tolist()
    if empty:
        warnings.warn(
            f"{name}: {len(empty)} of the {classes} classes (0 to the largest label) have no image "
            f"in 'labels'; the first of them is {empty[0]}",
            stacklevel=4,
        )
    return DataSet(name, *train, *test, classes, note, names)


def class_names(path: Path) -> tuple[str, ...]:
    """Return the names of the classes in a file; empty if it has none or cannot be read."""
    try:
        return _names(read_arrays(path, lambda names: {"class_names"}.intersection(names)))
    except (OSError, ValueError):
        return ()


def _names(arrays: dict[str, _Array]) -> tuple[str, ...]:
    array = arrays.get("class_names", np.empty(0, dtype=str))
    if array.ndim != 1 or array.dtype.kind != "U":
        raise ValueError(
            f"'class_names' must be [classes] texts, got {array.dtype} of shape {list(array.shape)}"
        )
    return tuple(map(str, array))


def _read(path: Path, wanted: tuple[str, ...] = ()) -> dict[str, _Array]:
    """Return the arrays in `wanted`, by default the two or four that this format defines."""
    if not os.path.isfile(path):
        raise DataError(f"there is no file {path}")
    try:
        if not zipfile.is_zipfile(path):
            raise DataError(
                f"{path} is not a .npz file, or is cut short: write one with numpy.savez(file, "
                "images=..., labels=...)"
            )
        arrays = read_arrays(path, lambda names: _wanted(path, names, wanted))
        with contextlib.suppress(ValueError):  # absent, or Python objects: not read
            if not wanted:
                arrays |= read_arrays(path, lambda names: {"class_names"}.intersection(names))
        return arrays
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise DataError(
            f"cannot read {path}: {error} (the file is damaged, or contains Python objects, which "
            "are not loaded because they could run code)"
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
            f"'{part}images' holds {len(images)} images, but '{part}labels' has {len(labels)} "
            "labels"
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
            f"{name!r} of shape {list(array.shape)} looks like [N, H, W, C], expected "
            "[N, C, H, W]: reorder it with numpy.moveaxis(images, 3, 1)"
        )
    kind = np.uint8 if array.dtype == np.uint8 else np.float32
    with np.errstate(over="ignore"):
        values = np.ascontiguousarray(array, dtype=kind)
    finite = np.isfinite(values)
    if not finite.all():
        first = [int(i) for i in np.unravel_index(np.argmin(finite), values.shape)]
        raise ValueError(
            f"{name!r} contains NaN or infinity (in float32) in "
            f"{values.size - np.count_nonzero(finite)} of {values.size} values, the first at index "
            f"{first}"
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
        raise ValueError(f"{name!r} must be integers (class numbers from 0), got {array.dtype}")
    if array.size == 0:
        raise ValueError(f"{name!r} is empty")
    wrong = (array < 0) | (array >= MAX_CLASSES)
    if wrong.any():
        first = int(np.argmax(wrong))
        raise ValueError(
            f"{name!r} holds {np.count_nonzero(wrong)} values outside 0..{MAX_CLASSES - 1}; the "
            f"first is {array[first]} at index {first}: labels are class numbers 0, 1, 2, ..."
        )
    return torch.from_numpy(array.astype(np.int64))


def _warn_of_large_values(name: str, images: Images) -> None:
    """Warn if floating-point images probably still have pixel values 0..255."""
    if isinstance(images, Frames) or not images.is_floating_point():
        return
    if (largest := float(images.max())) > LARGE:
        warnings.warn(
            f"{name}: 'images' reach {largest:g}; floats are used unchanged, so mean and std must "
            "match them, whereas uint8 images are divided by 255",
            stacklevel=5,
        )
