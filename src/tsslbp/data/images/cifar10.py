"""CIFAR-10, the binary version: 60,000 colour images of 32 x 32 pixels in ten classes.

A file is a series of records of 3,073 bytes: the label, then 1,024 values each of red, green and
blue, row by row. (A. Krizhevsky, "The CIFAR-10 dataset", section "Binary version".)

Two editions are known. ``cifar10`` is the official one. ``cifar10-reencoded`` is a copy assembled
from public repositories: it has all images in the official order with the official labels, but 111
of them (86 for training, 25 for testing) were changed by JPEG compression. The 25 can change a test
accuracy by at most 0.25 percentage points. Every result made with the copy says so.
"""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...errors import DataError
from .. import catalogue
from ..catalogue import Entry
from ..dataset import DataSet
from ..files import CIFAR10_FOLDER as FOLDER
from ..files import checksum, find_folder, not_there, read, read_packed, require_file, verify

CLASSES = 10
SHAPE = (3, 32, 32)

TRAIN = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
TEST = "test_batch.bin"
FILES = (*TRAIN, TEST)

ARCHIVE = "cifar-10-binary.tar.gz"

_RECORD = 1 + 3 * 32 * 32  # bytes
_MOST = 10_000  # records in a file
_AROUND = 1 << 20  # bytes that an archive may contain in addition to the records

_Records = npt.NDArray[np.uint8]


def load(entry: Entry, data_dir: Path | None = None) -> DataSet:
    """Return 50,000 training and 10,000 test images ``[N, 3, 32, 32]`` uint8, ten classes.

    The files are read from ``cifar10/cifar-10-batches-bin/`` in the data folder, if it exists,
    otherwise from ``cifar10/cifar-10-binary.tar.gz`` there, or they are downloaded.

    Raises:
        DataError: a file is missing, damaged or not of this edition, or cannot be downloaded.
    """
    if folder := find_folder(entry, data_dir, FOLDER):  # preferred to the archive
        parts = {name: _read_file(folder / name, entry) for name in FILES}
    elif entry.url:
        most = _RECORD * (entry.train + entry.test) + _AROUND
        parts = read_packed(require_file(entry, ARCHIVE, data_dir), entry, most, _decode_archive)
    else:
        raise not_there(entry, data_dir)
    train, test = _split([parts[name] for name in TRAIN]), _split([parts[TEST]])
    return DataSet(entry.name, *train, *test, entry.classes, entry.note)


def _split(parts: list[_Records]) -> tuple[Tensor, Tensor]:
    """Return the images ``[N, 3, 32, 32]`` uint8 and the labels ``[N]`` int64 of some files."""
    images = np.concatenate([records[:, 1:] for records in parts]).reshape(-1, *SHAPE)
    labels = np.concatenate([records[:, 0] for records in parts])
    return torch.from_numpy(images), torch.from_numpy(labels).long()


def _read_file(path: Path, entry: Entry) -> _Records:
    """Return the records of an unpacked file ``[N, 3073]``."""
    content = read(path, _MOST * _RECORD)
    try:
        records = _decode(content)
        verify(content, "sha1", entry.sha1[path.name])
    except ValueError as error:
        again = f"unpack {entry.url}{ARCHIVE} again" if entry.url else "obtain it again"
        known = _other_edition(path.name, content)
        raise DataError(f"{path} {known or f'{error}; {again}'}") from error
    return records


def _other_edition(name: str, content: bytes) -> str | None:
    """Say to which other edition a file belongs, as the rest of a sentence, or return None."""
    actual = checksum(content, "sha1")
    for other in catalogue.entries().values():
        if other.sha1.get(name) == actual:
            caveat = f"; every result will then say: {other.note}" if other.note else ""
            return f"is a file of {other.name}: use --set data={other.name}{caveat}"
    return None


def _decode_archive(content: bytes) -> dict[str, _Records]:
    """Return the records of all files ``[N, 3073]`` by their names."""
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
            contents = {name: _member(archive, f"{FOLDER}/{name}") for name in FILES}
    except (tarfile.TarError, OverflowError, EOFError) as error:
        raise ValueError(f"contains no tar archive, or a damaged one ({error})") from error
    return {
        name: _decode(part, f"contains a damaged {name}, which ") for name, part in contents.items()
    }


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    """Return the content of a regular file of the archive; links and sparse files are rejected."""
    try:
        member = archive.getmember(name)
    except KeyError as error:
        raise ValueError(f"contains no {name}, so it is another archive") from error
    if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.issparse():
        raise ValueError(
            f"contains a folder, a link or a sparse file instead of {name}, so it is another "
            "archive"
        )
    if not 0 <= member.size <= _MOST * _RECORD:
        raise ValueError(f"contains a {name} of {member.size:,} bytes, so it is another archive")
    file = archive.extractfile(member)
    assert file is not None  # it is a regular file
    return file.read()


def _decode(content: bytes, prefix: str = "") -> _Records:
    """Return the records of a file ``[N, 3073]`` uint8, labels first."""
    if not content or len(content) % _RECORD:
        raise ValueError(
            f"{prefix}holds {len(content)} bytes, expected a multiple of {_RECORD}: it is cut "
            "short, or it is another file"
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, _RECORD)
    wrong = records[:, 0] >= CLASSES
    if wrong.any():
        first = int(np.argmax(wrong))
        raise ValueError(
            f"{prefix}holds the label {records[first, 0]} at record {first}, expected 0 to "
            f"{CLASSES - 1}: it is another file, or damaged"
        )
    return records
