"""Local copies of the data sets: where one is, whether it is whole, what a single file holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from ..errors import DataError, InvalidInput
from . import npz
from .catalogue import Entry
from .events import aedat, nmnist
from .events.recording import Events, EventSet
from .files import Source, cache_folder, checksum, given_folder, read, unpack, verify
from .images import cifar10, idx

Sum = tuple[Literal["md5", "sha1"], str]

_GZIP = b"\x1f\x8b"
_SUFFIXES = ".npz, .gz, -ubyte, .bin or .aedat"


class Checked(NamedTuple):
    """A part of a data set, and what is wrong with it; None: nothing."""

    part: str
    problem: str | None


def root(data_dir: Path | None) -> Path:
    """Return the folder of all data: the one given, or the cache folder."""
    return given_folder(data_dir) or cache_folder()


def source_of(entry: Entry) -> Source:
    """Return what is downloaded of a set that tsslbp downloads."""
    return cifar10.SOURCE if entry.name == cifar10.OFFICIAL.name else idx.SOURCES[entry.name]


def locate(entry: Entry, data_dir: Path | None) -> Path | None:
    """Return the folder or file of a local copy, or None. Its contents are not checked.

    Only of the editions of CIFAR-10, which share a folder, the test file is read to tell them. What
    is got by hand is not looked for in the cache folder: no loader does so.
    """
    by_hand = entry.origin == "hand"
    if entry.origin in ("package", "generated") or (by_hand and given_folder(data_dir) is None):
        return None
    if entry.kind == "events":
        places = (root(data_dir) / folder for folder in entry.folders)
        return next((place for place in places if place.is_dir()), None)
    paths = list(_sums(entry, data_dir))
    if not all(path.is_file() for path in paths):
        return None
    if entry.name not in cifar10.EDITIONS:
        return paths[0].parent
    if len(paths) == 1:
        return paths[0]
    sums = cifar10.EDITIONS[entry.name].sha1
    found = checksum(read(paths[-1]), "sha1")
    return paths[0].parent if found == sums[cifar10.TEST] else None


def is_installed(entry: Entry) -> bool:
    """Whether a set that comes with a package is there."""
    return entry.name != "digits" or find_spec("sklearn") is not None


def unpacked(data_dir: Path | None) -> Path | None:
    """Return the folder with the unpacked files of CIFAR-10, which comes before the archive."""
    given = given_folder(data_dir)
    folder = given and given / cifar10.SOURCE.name / cifar10.FOLDER
    return folder if folder and folder.is_dir() else None


def check_files(entry: Entry, data_dir: Path | None) -> Iterator[Checked]:
    """Compare the files of a set of images with the official checksums, one after the other."""
    for path, (algorithm, expected) in _sums(entry, data_dir).items():
        if not path.is_file():
            yield Checked(str(path), "is missing")
            continue
        try:
            verify(read(path), algorithm, expected)
        except (ValueError, DataError) as error:
            yield Checked(str(path), str(error))
        else:
            yield Checked(str(path), None)


def check_recordings(entry: Entry, source: EventSet) -> Iterator[Checked]:
    """Read every recording of a set; say which cannot be read, then how many of how many events.

    Of recordings there are no official checksums: those published are of the packed archives.
    """
    for name, items, expected in (
        ("training", source.train, entry.train),
        ("test", source.test, entry.test),
    ):
        lengths: list[int] = []
        for item in items:
            try:
                lengths.extend(len(events.t) for _, events in source.read(item))
            except DataError as error:
                yield Checked(str(item), str(error))
        part = f"{len(lengths):,} {name} recordings of {sum(lengths):,} events"
        wrong = None if len(lengths) == expected else f"are not {expected:,}, as the set has"
        yield Checked(part, wrong)


def describe(path: Path) -> str:
    """Read a data file by what its name says it is, and say in some words what it holds.

    Raises:
        InvalidInput: the name is not that of a data file.
        DataError: the file is missing or damaged, or not what its name says.
    """
    if not path.is_file():
        kind = "is a folder" if path.is_dir() else "is missing"
        raise DataError(f"{path} {kind}: give a data file, or a data set's name and --data-dir")
    if path.suffix == ".npz":
        return _describe_npz(path)
    if path.suffix == ".gz" or path.name.endswith("-ubyte"):
        return _describe_packed(path)
    if path.name in cifar10.FILES:
        return _describe_cifar10(path)
    if path.suffix in (".bin", ".aedat"):
        return describe_events(_read_events(path))
    raise InvalidInput(f"{path} is no data file that tsslbp knows: those end in {_SUFFIXES}")


def describe_events(events: Events) -> str:
    """Return the number of events, of each polarity, and how long they take."""
    count = len(events.t)
    if count == 0:
        return "no events"
    brighter = int(np.count_nonzero(events.p))
    length = (int(events.t[-1]) - int(events.t[0])) / 1000
    return (
        f"{count:,} events, {brighter:,} brighter and {count - brighter:,} darker, "
        f"in {length:,.1f} ms"
    )


def _read_events(path: Path) -> Events:
    """Read one recording of an event camera, by the suffix of its file."""
    return nmnist.read(path) if path.suffix == ".bin" else aedat.read(path).events


def _sums(entry: Entry, data_dir: Path | None) -> Mapping[Path, Sum]:
    """The files of a set of images, where they are expected, and their checksums."""
    folder = root(data_dir)
    if entry.name not in cifar10.EDITIONS:
        files = idx.SOURCES[entry.name].md5
        return {folder / entry.name / file: ("md5", total) for file, total in files.items()}
    edition = cifar10.EDITIONS[entry.name]
    place = folder / cifar10.SOURCE.name
    if edition.source is not None and unpacked(data_dir) is None:
        return {place / cifar10.ARCHIVE: ("md5", edition.source.md5[cifar10.ARCHIVE])}
    return {place / cifar10.FOLDER / file: ("sha1", edition.sha1[file]) for file in cifar10.FILES}


def _describe_npz(path: Path) -> str:
    found = npz.load(path)
    channels, height, width = found.input_shape
    return (
        f"{len(found.train_labels):,} training and {len(found.test_labels):,} test images of "
        f"{channels} x {height} x {width}, {found.classes} classes"
    )


def _describe_packed(path: Path) -> str:
    """Describe an IDX file, packed or not, or the archive of CIFAR-10."""
    content = read(path)
    total = checksum(content, "md5")
    for source in (*idx.SOURCES.values(), cifar10.SOURCE):
        if total in source.md5.values():
            return f"an official file of {source.name}"
    try:
        if path.name == cifar10.ARCHIVE:
            verify(content, "md5", cifar10.SOURCE.md5[path.name])
        plain = unpack(content) if content.startswith(_GZIP) or path.suffix == ".gz" else content
        values = idx.decode(plain, dimensions=1 if plain[3:4] == b"\1" else 3)
    except ValueError as error:
        raise DataError(f"{path} {error}") from error
    what = "labels" if values.dim() == 1 else "images of {} x {}".format(*values.shape[1:])
    return f"{len(values):,} {what}, no official file of {' or '.join(idx.SOURCES)}"


def _describe_cifar10(path: Path) -> str:
    content = read(path)
    for edition in cifar10.EDITIONS.values():
        if checksum(content, "sha1") == edition.sha1[path.name]:
            return f"a file of {edition.name}"
    raise DataError(
        f"{path} is a file of none of {', '.join(cifar10.EDITIONS)}: it is damaged, or another file"
    )
