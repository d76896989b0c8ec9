"""CIFAR-10, the binary version: 60,000 images of 32 x 32 pixels, in colour, of ten classes.

A file is a series of records of 3,073 bytes: the label, then 1,024 values each of red, green and
blue, row by row. (A. Krizhevsky, "The CIFAR-10 dataset", section "Binary version".)

Two editions are known. ``cifar10`` is the official one. ``cifar10-reencoded`` is a copy that was
put together from public repositories: all images in official order, with official labels, but 111
of them (86 for training, 25 for testing) changed by JPEG. The 25 can move a test accuracy by 0.25
percentage points at most. Every result made with the copy says so.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...errors import DataError
from ..dataset import DataSet
from ..files import (
    VARIABLE,
    Source,
    checksum,
    given_folder,
    locate,
    read,
    unpack,
    verify,
)

CLASSES = 10
SHAPE = (3, 32, 32)

FOLDER = "cifar-10-batches-bin"  # in the archive, and where it was unpacked
TRAIN = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
TEST = "test_batch.bin"
FILES = (*TRAIN, TEST)

# The sum is the one on the data set's page.
ARCHIVE = "cifar-10-binary.tar.gz"
SOURCE = Source(
    "cifar10",
    "https://www.cs.toronto.edu/~kriz/",
    {ARCHIVE: "c32a1d4ab5d03f1284b67883e8d87530"},
)

_RECORD = 1 + 3 * 32 * 32  # bytes

_Records = npt.NDArray[np.uint8]


@final
@dataclass(frozen=True)
class Edition:
    """One version of the six files.

    Attributes:
        name: of the data set.
        sha1: SHA-1 sum of each file.
        source: of the archive; None where there is none, and the unpacked files must be given.
        note: a caveat that every result must carry, or nothing.
    """

    name: str
    sha1: Mapping[str, str]
    source: Source | None = None
    note: str = ""


# The page gives no sums of the files. These are the ones that MXNet (gluon.data.vision.CIFAR10,
# 2017) checks after unpacking the archive from the page.
OFFICIAL = Edition(
    "cifar10",
    {
        "data_batch_1.bin": "aadd24acce27caa71bf4b10992e9e7b2d74c2540",
        "data_batch_2.bin": "c0ba65cce70568cd57b4e03e9ac8d2a5367c1795",
        "data_batch_3.bin": "1dd00a74ab1d17a6e7d73e185b69dbf31242f295",
        "data_batch_4.bin": "aab85764eb3584312d3c7f65fd2fd016e36a258e",
        "data_batch_5.bin": "26e2849e66a845b7f1e4614ae70f4889ae604628",
        "test_batch.bin": "67eb016db431130d61cd03c7ad570b013799c88c",
    },
    SOURCE,
)
REENCODED = Edition(
    "cifar10-reencoded",
    {
        "data_batch_1.bin": "ba2bd1d9f68920320dc7f67b610c3ff1703ce639",
        "data_batch_2.bin": "5967491f7047e96187c3c3ab37d1079a83cad820",
        "data_batch_3.bin": "61e1528be52a32089627241696c8b1c09f11d551",
        "data_batch_4.bin": "acdbe3ee950cfe02117fcbf4949f72f5cbfff9b7",
        "data_batch_5.bin": "7468f887a8517e171f4cdc31c50c9cc19118d89f",
        "test_batch.bin": "64f924d9b2a361db82a2a8b60976cfd78f56c67b",
    },
    note="measured on CIFAR-10 (111 of 60,000 images re-encoded)",
)
EDITIONS = {edition.name: edition for edition in (OFFICIAL, REENCODED)}


def load(edition: Edition = OFFICIAL, data_dir: Path | None = None) -> DataSet:
    """Return 50,000 training and 10,000 test images ``[N, 3, 32, 32]`` uint8, ten classes.

    The files are taken from ``cifar10/cifar-10-batches-bin/`` in the folder that the user gives,
    where that is one; otherwise from ``cifar10/cifar-10-binary.tar.gz`` there, or downloaded.

    Args:
        edition: `OFFICIAL` or `REENCODED`.
        data_dir: as in `tsslbp.data.load`.

    Raises:
        DataError: a file is missing, damaged or not of this edition, or cannot be downloaded.
    """
    given = given_folder(data_dir)
    folder = None if given is None else given / SOURCE.name / FOLDER
    if folder is not None and folder.is_dir():
        parts = {name: _read_file(folder / name, edition) for name in FILES}
    elif edition.source is not None:
        parts = _read_archive(locate(edition.source, ARCHIVE, data_dir), edition.source)
    else:
        place = folder or f"DIR/{SOURCE.name}/{FOLDER}, and set {VARIABLE} or --data-dir to DIR"
        raise DataError(
            f"{edition.name} is not downloaded: put its files ({', '.join(FILES)}) into {place}"
        )
    train, test = _split([parts[name] for name in TRAIN]), _split([parts[TEST]])
    return DataSet(edition.name, *train, *test, CLASSES, edition.note)


def _split(parts: list[_Records]) -> tuple[Tensor, Tensor]:
    """Return the images ``[N, 3, 32, 32]`` uint8 and the labels ``[N]`` int64 of some files."""
    images = np.concatenate([records[:, 1:] for records in parts]).reshape(-1, *SHAPE)
    labels = np.concatenate([records[:, 0] for records in parts])
    return torch.from_numpy(images), torch.from_numpy(labels).long()


def _read_file(path: Path, edition: Edition) -> _Records:
    """Return the records of an unpacked file ``[N, 3073]``."""
    content = read(path)
    try:
        records = _decode(content)
        verify(content, "sha1", edition.sha1[path.name])
    except ValueError as error:
        source = edition.source
        again = f"unpack {source.url}{ARCHIVE} again" if source else "get it again"
        known = _other_edition(path.name, content)
        raise DataError(f"{path} {known or f'{error}; {again}'}") from error
    return records


def _other_edition(name: str, content: bytes) -> str | None:
    """Say which edition a file belongs to, as the rest of a sentence about it, if to any."""
    found = checksum(content, "sha1")
    for other in EDITIONS.values():
        if other.sha1[name] == found:
            caveat = f", and every result then says: {other.note}" if other.note else ""
            return f"is a file of {other.name}, which --set data={other.name} takes{caveat}"
    return None


def _read_archive(path: Path, source: Source) -> dict[str, _Records]:
    """Return the records of all files ``[N, 3073]`` by their names."""
    packed = read(path)
    try:
        parts = _decode_archive(unpack(packed))
        verify(packed, "md5", source.md5[ARCHIVE])
    except ValueError as error:
        raise DataError(f"{path} {error}; get it again from {source.url}{ARCHIVE}") from error
    return parts


def _decode_archive(content: bytes) -> dict[str, _Records]:
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
            contents = {name: _member(archive, f"{FOLDER}/{name}") for name in FILES}
    except tarfile.TarError as error:
        raise ValueError(f"is no tar archive within, or a damaged one ({error})") from error
    return {
        name: _decode(part, f"holds a damaged {name}, which ") for name, part in contents.items()
    }


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    try:
        file: Any = archive.extractfile(name)
    except KeyError as error:
        raise ValueError(f"holds no {name}, so it is another archive") from error
    if file is None:
        raise ValueError(f"holds a folder in the place of {name}, so it is another archive")
    content: bytes = file.read()
    return content


def _decode(content: bytes, prefix: str = "") -> _Records:
    """Return a file's records ``[N, 3073]`` uint8, labels first."""
    if not content or len(content) % _RECORD:
        raise ValueError(
            f"{prefix}holds {len(content)} bytes, expected a multiple of {_RECORD}: it is cut "
            "short, or another file"
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, _RECORD)
    wrong = records[:, 0] >= CLASSES
    if wrong.any():
        first = int(np.argmax(wrong))
        raise ValueError(
            f"{prefix}holds the label {records[first, 0]} at record {first}, where 0 to "
            f"{CLASSES - 1} are possible: it is another file, or damaged"
        )
    return records
