"""Loads data sets by name, through the module that reads each of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ..checked import check_whole
from ..errors import InvalidInput
from ..experiment.binning import Binning as Binning
from ..experiment.recipe import is_path
from . import catalogue, folder, frame_cache, npz
from .catalogue import Entry
from .dataset import DataSet
from .events import cifar10_dvs, dvs_gesture, moving_digits, nmnist
from .events.recording import EventSet
from .images import cifar10, digits, idx

IMAGE_READERS: dict[str, Callable[[Entry, Path | None], DataSet]] = {
    "cifar10": cifar10.load,
    "digits": digits.load,
    "idx": idx.load,
}
EVENT_READERS: dict[str, Callable[[Entry, Path | None], EventSet]] = {
    "cifar10_dvs": cifar10_dvs.source,
    "dvs_gesture": dvs_gesture.source,
    "moving_digits": moving_digits.source,
    "nmnist": nmnist.source,
}


def load(
    name: str,
    data_dir: Path | None = None,
    time_steps: int | None = None,
    binning: Binning | None = None,
) -> DataSet:
    """Return the data set called `name`: images in memory, or recordings as frames in a file.

    Args:
        name: a name in the catalogue, the path of a ``.npz`` file (`tsslbp.data.npz`), or the path
            of a folder of images (`tsslbp.data.folder`), which must have a slash: ``flowers/``.
        data_dir: folder with the files of downloaded data sets, such as
            ``mnist/train-images-idx3-ubyte.gz``. By default the environment variable
            ``TSSLBP_DATA`` names the folder. Without both, the files are downloaded into the user's
            cache folder on first use.
        time_steps: T, the number of frames into which recordings are binned.
        binning: how recordings are binned, by default `Binning()`.

    Raises:
        InvalidInput: no data set has this name, or `binning` does not apply to it.
        DataError: a file is missing, damaged or of another data set, or cannot be downloaded.
    """
    others = ", or the path of a .npz file, or of a folder of images that ends in a slash"
    if os.path.isdir(name):
        others = f"; the folder of that name is {name}/"
    entry = None if is_path(name) else catalogue.find(name, others)
    if entry is not None and entry.kind == "events":
        if time_steps is None:
            raise InvalidInput(f"{name} holds recordings, so time_steps must be given")
        time_steps = check_whole("time_steps", time_steps)
        frames = frame_cache.load(recordings(name, data_dir), time_steps, binning or Binning())
        return _with_names(frames, entry)
    if binning is not None:
        raise InvalidInput(
            f"binning applies to recordings of events, but {name} holds images: leave it out"
        )
    if entry is not None:
        return _with_names(IMAGE_READERS[entry.reader](entry, data_dir), entry)
    return npz.load(Path(name)) if name.endswith(".npz") else folder.load(Path(name))


def _with_names(data: DataSet, entry: Entry) -> DataSet:
    is_whole = len(entry.class_names) == data.classes
    return replace(data, class_names=entry.class_names) if is_whole else data


def class_names(name: str) -> tuple[str, ...]:
    """Return the names of a data set's classes without reading an image.

    Empty if the classes have only numbers, or if a file or folder of images no longer exists.
    """
    if entry := catalogue.entries().get(name):
        return entry.class_names
    path = Path(name)
    if name.endswith(".npz"):
        return npz.class_names(path)
    return folder.class_names(path) if is_path(name) and os.path.isdir(path) else ()


def recordings(name: str, data_dir: Path | None = None) -> EventSet:
    """Return the recordings of an event data set; none of them is read yet.

    Raises:
        InvalidInput: no event data set has this name.
        DataError: a file is missing.
    """
    entry = catalogue.find(name)
    if entry.kind != "events":
        raise InvalidInput(f"{name} holds images, not recordings of events")
    return EVENT_READERS[entry.reader](entry, data_dir)
