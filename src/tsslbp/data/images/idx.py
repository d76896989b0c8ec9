"""MNIST and data sets in its file format, IDX, compressed with gzip.

An IDX file is a big-endian header, then the values: two zero bytes, a byte for the type (8: uint8),
a byte for the number of dimensions, and each dimension's size in four bytes. (Y. LeCun, C. Cortes,
C. Burges, "The MNIST database of handwritten digits", section "File formats".)
"""

from __future__ import annotations

import math
import struct
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...errors import DataError
from ..catalogue import Entry
from ..dataset import DataSet
from ..files import read_packed, require_file

TRAIN_IMAGES = "train-images-idx3-ubyte.gz"
TRAIN_LABELS = "train-labels-idx1-ubyte.gz"
TEST_IMAGES = "t10k-images-idx3-ubyte.gz"
TEST_LABELS = "t10k-labels-idx1-ubyte.gz"

_UINT8 = 8
_HEADER = 16  # bytes at most


def load(entry: Entry, data_dir: Path | None = None) -> DataSet:
    """Return a data set in this format: images ``[N, 1, H, W]`` uint8.

    Raises:
        DataError: a file is missing, damaged or not the official one, or cannot be downloaded.
    """
    train = _pair(entry, data_dir, TRAIN_IMAGES, TRAIN_LABELS)
    test = _pair(entry, data_dir, TEST_IMAGES, TEST_LABELS)
    return DataSet(entry.name, *train, *test, entry.classes)


def decode(content: bytes, dimensions: int) -> Tensor:
    """Return the values of an IDX file, uint8 with `dimensions` dimensions.

    Raises:
        ValueError: the problem, as the continuation of a sentence that begins with the file.
    """
    expected = bytes([0, 0, _UINT8, dimensions])
    if content[:4] != expected:
        raise ValueError(
            f"is not an IDX file of {'labels' if dimensions == 1 else 'images'}: it begins with "
            f"{content[:4].hex()}, expected {expected.hex()}, so it is another file"
        )
    start = 4 + 4 * dimensions
    if len(content) < start:
        raise ValueError("ends within its header, so it is damaged")
    shape = struct.unpack_from(f">{dimensions}I", content, offset=4)
    if len(content) - start != math.prod(shape):
        raise ValueError(
            f"holds {len(content) - start} values, but its header announces "
            f"{' x '.join(map(str, shape))} = {math.prod(shape)}, so it is damaged"
        )
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy())


def _pair(entry: Entry, data_dir: Path | None, *files: str) -> tuple[Tensor, Tensor]:
    """Return images ``[N, 1, H, W]`` uint8 and their labels ``[N]`` int64."""
    images_path, labels_path = (require_file(entry, file, data_dir) for file in files)
    count = max(entry.train, entry.test)
    pixels = _HEADER + count * math.prod(entry.shape)
    images = read_packed(images_path, entry, pixels, partial(decode, dimensions=3)).unsqueeze(1)
    labels = read_packed(labels_path, entry, _HEADER + count, partial(decode, dimensions=1)).long()
    if len(images) != len(labels):
        raise DataError(
            f"{images_path} holds {len(images)} images, but {labels_path} holds {len(labels)} "
            "labels: the files belong to different sets"
        )
    return images, labels
