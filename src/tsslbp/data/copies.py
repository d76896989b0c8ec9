"""Local copies of the data sets: where one is, and whether it is whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from ..errors import DataError
from .catalogue import Entry
from .events.recording import EventSet
from .files import cache_folder, checksum, find_folder, given_folder, read, verify
from .images.cifar10 import FOLDER
from .images.cifar10 import unpacked_folder as unpacked_folder

Sum = tuple[Literal["md5", "sha1"], str]
Finding = tuple[str, str | None]  # a part of a data set, and what is wrong with it


def root(data_dir: Path | None) -> Path:
    """Return the folder of all data: the one given, or the cache folder."""
    return given_folder(data_dir) or cache_folder()


def locate(entry: Entry, data_dir: Path | None) -> Path | None:
    """Return the folder or file of a local copy, or None. Its contents are not checked.

    Only of the editions of CIFAR-10, which share a folder, the test file is read to tell them. What
    is got by hand is not looked for in the cache folder: no loader does so.
    """
    if entry.origin in ("package", "generated"):
        return None
    if entry.kind == "events":
        return find_folder(entry, data_dir)
    if entry.origin == "hand" and given_folder(data_dir) is None:
        return None
    sums = _sums(entry, data_dir)
    if not all(path.is_file() for path in sums):
        return None
    path, (algorithm, expected) = list(sums.items())[-1]
    if algorithm == "sha1" and checksum(read(path), algorithm) != expected:
        return None
    return path if len(sums) == 1 else path.parent


def is_installed(entry: Entry) -> bool:
    """Whether a set that comes with a package is there."""
    return entry.name != "digits" or find_spec("sklearn") is not None


def check_files(entry: Entry, data_dir: Path | None) -> Iterator[Finding]:
    """Compare the files of a set of images with the official checksums, one after the other."""
    for path, (algorithm, expected) in _sums(entry, data_dir).items():
        problem = None if path.is_file() else "is missing"
        try:
            if not problem:
                verify(read(path), algorithm, expected)
        except (ValueError, DataError) as error:
            problem = str(error)
        yield str(path), problem


def check_recordings(entry: Entry, source: EventSet) -> Iterator[Finding]:
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
                yield str(item), str(error)
        part = f"{len(lengths):,} {name} recordings of {sum(lengths):,} events"
        wrong = None if len(lengths) == expected else f"are not {expected:,}, as the set has"
        yield part, wrong


def _sums(entry: Entry, data_dir: Path | None) -> Mapping[Path, Sum]:
    """The files of a set of images, where they are expected, and their checksums."""
    folder = root(data_dir) / entry.folder
    if entry.md5 and unpacked_folder(entry, data_dir) is None:
        return {folder / file: ("md5", value) for file, value in entry.md5.items()}
    return {folder / FOLDER / file: ("sha1", value) for file, value in entry.sha1.items()}
