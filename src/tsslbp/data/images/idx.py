"""MNIST and the sets that come in its file format, IDX, packed with gzip.

An IDX file is a big-endian header, then the values: two zero bytes, a byte for the type (8: uint8),
a byte for the number of dimensions, and each dimension's size in four bytes. (Y. LeCun, C. Cortes,
C. Burges, "The MNIST database of handwritten digits", section "File formats".)
"""

from __future__ import annotations

import math
import struct
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...errors import DataError
from ..dataset import DataSet
from ..files import Source, locate, read, unpack, verify

CLASSES = 10

TRAIN_IMAGES = "train-images-idx3-ubyte.gz"
TRAIN_LABELS = "train-labels-idx1-ubyte.gz"
TEST_IMAGES = "t10k-images-idx3-ubyte.gz"
TEST_LABELS = "t10k-labels-idx1-ubyte.gz"

MNIST = Source(
    "mnist",
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    {
        TRAIN_IMAGES: "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        TRAIN_LABELS: "d53e105ee54ea40749a09fcbcd1e9432",
        TEST_IMAGES: "9fb629c4189551a2d022fa330f9573f3",
        TEST_LABELS: "ec29112dd5afa0611ce80d1b7f02629c",
    },
)
FASHION_MNIST = Source(
    "fashion-mnist",
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    {
        TRAIN_IMAGES: "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        TRAIN_LABELS: "25c81989df183df01b3e8a0aad5dffbe",
        TEST_IMAGES: "bef4ecab320f06d8554ea6380940ec79",
        TEST_LABELS: "bb300cfdad3c16e7a12a480ee83cd310",
    },
)
SOURCES = {source.name: source for source in (MNIST, FASHION_MNIST)}

_UINT8 = 8


def load(source: Source, data_dir: Path | None = None) -> DataSet:
    """Return the data set of `source`: images ``[N, 1, H, W]`` uint8, ten classes.

    Args:
        source: the data set, `MNIST` or `FASHION_MNIST`.
        data_dir: as in `tsslbp.data.load`.

    Raises:
        DataError: a file is missing, damaged or not the official one, or cannot be downloaded.
    """
    train_images, train_labels = _pair(source, TRAIN_IMAGES, TRAIN_LABELS, data_dir)
    test_images, test_labels = _pair(source, TEST_IMAGES, TEST_LABELS, data_dir)
    return DataSet(source.name, train_images, train_labels, test_images, test_labels, CLASSES)


def decode(content: bytes, dimensions: int) -> Tensor:
    """Return the values of an IDX file, uint8 with `dimensions` dimensions.

    Raises:
        ValueError: what is wrong with the file, as the rest of a sentence about it.
    """
    expected = bytes([0, 0, _UINT8, dimensions])
    if content[:4] != expected:
        raise ValueError(
            f"is no IDX file of {'labels' if dimensions == 1 else 'images'}: it begins with "
            f"{content[:4].hex()}, expected {expected.hex()}, so it is another file"
        )
    start = 4 + 4 * dimensions
    if len(content) < start:
        raise ValueError("ends within its header, so it is damaged")
    shape = struct.unpack_from(f">{dimensions}I", content, offset=4)
    if len(content) - start != math.prod(shape):
        raise ValueError(
            f"holds {len(content) - start} values, but its header promises "
            f"{' x '.join(map(str, shape))} = {math.prod(shape)}, so it is damaged"
        )
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy())


def _pair(
    source: Source, images_file: str, labels_file: str, data_dir: Path | None
) -> tuple[Tensor, Tensor]:
    """Return images ``[N, 1, H, W]`` uint8 and their labels ``[N]`` int64."""
    images_path = locate(source, images_file, data_dir)
    labels_path = locate(source, labels_file, data_dir)
    images = _read(images_path, source, dimensions=3).unsqueeze(1)
    labels = _read(labels_path, source, dimensions=1).long()
    if len(images) != len(labels):
        raise DataError(
            f"{images_path} holds {len(images)} images, but {labels_path} holds {len(labels)} "
            "labels: the files belong to different sets"
        )
    return images, labels


def _read(path: Path, source: Source, dimensions: int) -> Tensor:
    """Return the values of one file; all that can be wrong with it is told apart."""
    packed = read(path)
    try:
        values = decode(unpack(packed), dimensions)
        verify(packed, "md5", source.md5[path.name])
    except ValueError as error:
        raise DataError(f"{path} {error}; get it again from {source.url}{path.name}") from error
    return values
