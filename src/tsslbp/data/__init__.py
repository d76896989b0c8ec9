"""Data sets as tensors in memory, and the batches made from them.

A data set is one of these, and `load` finds it by name:

=====================  ===============================================================
``digits``             1,797 images of 8 x 8 pixels that come with scikit-learn
``mnist``              70,000 handwritten digits, 28 x 28 pixels
``fashion-mnist``      70,000 pieces of clothing, 28 x 28 pixels
``cifar10``            60,000 animals and vehicles, 32 x 32 pixels, in colour
``cifar10-reencoded``  a copy with 111 inexact images, see `tsslbp.data.cifar10`
a path, ``.npz``       the user's own images, see `tsslbp.data.npz`
=====================  ===============================================================
"""

from __future__ import annotations

from pathlib import Path

from ..errors import InvalidInput, nearest
from . import augment, cifar10, digits, idx, npz
from .dataset import VALIDATION_SEED, DataSet, batches, normalise, split_validation, subset

__all__ = [
    "CLASSES",
    "NAMES",
    "SHAPES",
    "VALIDATION_SEED",
    "DataSet",
    "augment",
    "batches",
    "load",
    "normalise",
    "split_validation",
    "subset",
]

NAMES = ("digits", *idx.SOURCES, *cifar10.EDITIONS)
SHAPES = {
    "digits": (1, 8, 8),
    **dict.fromkeys(idx.SOURCES, (1, 28, 28)),
    **dict.fromkeys(cifar10.EDITIONS, cifar10.SHAPE),
}
CLASSES = 10  # of each of them


def load(name: str, data_dir: Path | None = None) -> DataSet:
    """Return the data set called `name`, whole, in memory.

    Args:
        name: one of `NAMES`, or the path of a ``.npz`` file.
        data_dir: the folder with the files of downloaded sets, ``mnist/train-images-idx3-ubyte.gz``
            and so on. Without it the environment variable ``TSSLBP_DATA`` names the folder; with
            neither, the files are downloaded into the user's cache folder on first use.

    Raises:
        InvalidInput: no data set has this name.
        DataError: a file is missing, damaged or not what its name says, or cannot be downloaded.
    """
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
