"""Data sets as tensors, and the batches made from them.

`load` finds a set by its name in `tsslbp.data.catalogue`, which ``tsslbp data list`` prints, or by
the path of a ``.npz`` file of the user's own, see `tsslbp.data.npz`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..errors import InvalidInput
from ..experiment.binning import Binning as Binning
from . import catalogue, frame_cache, npz
from .catalogue import Entry
from .catalogue import holds_events as holds_events
from .dataset import DataSet as DataSet
from .dataset import Images as Images
from .dataset import batches as batches
from .dataset import normalise as normalise
from .dataset import split_validation as split_validation
from .dataset import subset as subset
from .events import cifar10_dvs, dvs_gesture, moving_digits, nmnist
from .events.recording import Events as Events
from .events.recording import EventSet as EventSet
from .events.recording import as_events as as_events
from .frames import Frames as Frames
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


def known_shape(name: str, binning: Binning | None) -> tuple[tuple[int, int, int], int] | None:
    """Shape of an image or a frame of the set called `name`, and its classes; None: not known."""
    entry = catalogue.entries().get(name)
    if entry is None or entry.kind == "images":
        return entry and (entry.shape, entry.classes)
    return (binning or Binning()).shape(*entry.shape[1:]), entry.classes


def load(
    name: str,
    data_dir: Path | None = None,
    time_steps: int | None = None,
    binning: Binning | None = None,
) -> DataSet:
    """Return the data set called `name`: images in memory, or recordings as frames in a file.

    Args:
        name: of the catalogue, or the path of a ``.npz`` file.
        data_dir: the folder with the files of downloaded sets, ``mnist/train-images-idx3-ubyte.gz``
            and so on. Without it the environment variable ``TSSLBP_DATA`` names the folder; with
            neither, the files are downloaded into the user's cache folder on first use.
        time_steps: T, into which recordings are binned.
        binning: of recordings, by default `Binning()`.

    Raises:
        InvalidInput: no data set has this name, or it is none that can be binned so.
        DataError: a file is missing, damaged or not what its name says, or cannot be downloaded.
    """
    is_file = name.endswith(".npz")
    entry = None if is_file else catalogue.find(name, ", or the path of a .npz file")
    if entry is not None and entry.kind == "events":
        if time_steps is None:
            raise InvalidInput(f"{name} holds recordings, which need a number of time_steps")
        return frame_cache.load(recordings(name, data_dir), time_steps, binning or Binning())
    if binning is not None:
        raise InvalidInput(f"binning is for recordings of events, and {name} holds images")
    return IMAGE_READERS[entry.reader](entry, data_dir) if entry else npz.load(Path(name))


def recordings(name: str, data_dir: Path | None = None) -> EventSet:
    """Return the recordings of a set of events, none of which has been read yet.

    Raises:
        InvalidInput: no set of events has this name.
        DataError: a file is missing.
    """
    entry = catalogue.find(name)
    if entry.kind != "events":
        raise InvalidInput(f"{name} holds images, not recordings of events")
    return EVENT_READERS[entry.reader](entry, data_dir)
