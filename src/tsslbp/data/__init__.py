"""Data sets as tensors, and the batches made from them.

A data set is one of these, and `load` finds it by name:

=====================  ===============================================================
``digits``             1,797 images of 8 x 8 pixels that come with scikit-learn
``mnist``              70,000 handwritten digits, 28 x 28 pixels
``fashion-mnist``      70,000 pieces of clothing, 28 x 28 pixels
``cifar10``            60,000 animals and vehicles, 32 x 32 pixels, in colour
``cifar10-reencoded``  a copy with 111 inexact images, see `tsslbp.data.images.cifar10`
``nmnist``             70,000 recordings of MNIST's digits by an event camera, 34 x 34 pixels
``nmnist-sample``      1,100 of these
``cifar10-dvs``        10,000 recordings of CIFAR-10's images, 128 x 128 pixels
``cifar10-dvs-90-10``  the same, split otherwise, see `tsslbp.data.events.cifar10_dvs`
``dvs-gesture``        recordings of eleven gestures, 128 x 128 pixels
``moving-digits``      1,797 simulated recordings of the digits above, 24 x 24 pixels
a path, ``.npz``       the user's own images, see `tsslbp.data.npz`
=====================  ===============================================================
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from ..errors import InvalidInput, nearest
from ..experiment.binning import Binning
from . import frame_cache as binned
from . import npz
from .dataset import (
    VALIDATION_SEED,
    DataSet,
    Images,
    batches,
    normalise,
    split_validation,
    subset,
)
from .events import aedat, cifar10_dvs, dvs_gesture, moving_digits, nmnist
from .events.recording import Events, EventSet, as_events
from .frames import Frames
from .images import augment, cifar10, digits, idx

__all__ = [
    "CLASSES",
    "NAMES",
    "SHAPES",
    "VALIDATION_SEED",
    "Binning",
    "DataSet",
    "EventSet",
    "Events",
    "Frames",
    "Images",
    "as_events",
    "augment",
    "batches",
    "binned",
    "load",
    "normalise",
    "split_validation",
    "subset",
]

SHAPES = {
    "digits": (1, 8, 8),
    **dict.fromkeys(idx.SOURCES, (1, 28, 28)),
    **dict.fromkeys(cifar10.EDITIONS, cifar10.SHAPE),
}
CLASSES = 10  # of each of them

# Sets of recordings: of each a function of `data_dir`, and the sensor's height and width with the
# number of classes, which are known without the files.
EVENTS: dict[str, Callable[[Path | None], EventSet]] = {
    **{name: partial(nmnist.source, name) for name in nmnist.FOLDERS},
    **{name: partial(cifar10_dvs.source, name) for name in cifar10_dvs.NAMES},
    dvs_gesture.NAME: dvs_gesture.source,
    moving_digits.NAME: moving_digits.source,
}
SENSORS = {
    **dict.fromkeys(nmnist.FOLDERS, (nmnist.SIDE, nmnist.SIDE, nmnist.CLASSES)),
    **dict.fromkeys(cifar10_dvs.NAMES, (aedat.SIDE, aedat.SIDE, len(cifar10_dvs.CLASSES))),
    dvs_gesture.NAME: (aedat.SIDE, aedat.SIDE, len(dvs_gesture.CLASSES)),
    moving_digits.NAME: (moving_digits.SIDE, moving_digits.SIDE, moving_digits.CLASSES),
}

NAMES = ("digits", *idx.SOURCES, *cifar10.EDITIONS, *EVENTS)


def known_shape(name: str, binning: Binning | None) -> tuple[tuple[int, int, int], int] | None:
    """Shape of an image or a frame of the set called `name`, and its classes; None: not known."""
    if name in SENSORS:
        height, width, classes = SENSORS[name]
        return (binning or Binning()).shape(height, width), classes
    return (SHAPES[name], CLASSES) if name in SHAPES else None


def load(
    name: str,
    data_dir: Path | None = None,
    time_steps: int | None = None,
    binning: Binning | None = None,
) -> DataSet:
    """Return the data set called `name`: images in memory, or recordings as frames in a file.

    Args:
        name: one of `NAMES`, or the path of a ``.npz`` file.
        data_dir: the folder with the files of downloaded sets, ``mnist/train-images-idx3-ubyte.gz``
            and so on. Without it the environment variable ``TSSLBP_DATA`` names the folder; with
            neither, the files are downloaded into the user's cache folder on first use.
        time_steps: T, into which recordings are binned.
        binning: of recordings, by default `Binning()`.

    Raises:
        InvalidInput: no data set has this name, or it is none that can be binned so.
        DataError: a file is missing, damaged or not what its name says, or cannot be downloaded.
    """
    if name in EVENTS:
        return _load_events(name, data_dir, time_steps, binning or Binning())
    if binning is not None and (name in SHAPES or name.endswith(".npz")):
        raise InvalidInput(f"binning is for recordings of events, and {name} holds images")
    if name.endswith(".npz"):
        return npz.load(Path(name))
    if name == "digits":
        return digits.load()
    if name in idx.SOURCES:
        return idx.load(idx.SOURCES[name], data_dir)
    if name in cifar10.EDITIONS:
        return cifar10.load(cifar10.EDITIONS[name], data_dir)
    raise InvalidInput(
        f"no data set is called {name!r}{nearest(name, NAMES)}: give one of {', '.join(NAMES)}, "
        "or the path of a .npz file"
    )


def _load_events(name: str, data_dir: Path | None, time_steps: int | None, how: Binning) -> DataSet:
    if time_steps is None:
        raise InvalidInput(f"{name} holds recordings, which need a number of time_steps")
    return binned.load(EVENTS[name](data_dir), time_steps, how)
