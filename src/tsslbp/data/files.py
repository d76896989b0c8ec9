"""The files of data sets: where they are, how they are downloaded, and whether they are intact."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from ..errors import DataError
from ..reading import read_whole
from ..storage import cause
from .catalogue import Entry

if TYPE_CHECKING:
    from .events.recording import EventSet

VARIABLE = "TSSLBP_DATA"
CACHE_VARIABLE = "TSSLBP_CACHE"
CIFAR10_FOLDER = "cifar-10-batches-bin"  # in the archive and after unpacking

MOST = 1 << 31  # bytes; larger than any file of a known data set

_TIMEOUT = 30  # seconds to wait for an answer of the server
_GZIP_MAGIC = b"\x1f\x8b"

T = TypeVar("T")
Sum = tuple[Literal["md5", "sha1"], str]
Finding = tuple[str, str | None]  # a part of a data set, and what is wrong with it


def require_file(entry: Entry, file: str, data_dir: Path | None) -> Path:
    """Return the path of `file`, after downloading it if necessary.

    It is searched for in the set's folder in `data_dir`, or else in the folder that the environment
    variable ``TSSLBP_DATA`` names; nothing is downloaded into these. Without both, it is downloaded
    into the cache folder, and its checksum is verified.

    Raises:
        DataError: the file is missing from the given folder, or cannot be downloaded.
    """
    folder = given_folder(data_dir)
    if folder is None:
        return download(entry, file, cache_folder())
    path = folder / entry.folder / file
    if not os.path.lexists(path):
        missing = path if os.path.isdir(folder) else f"the folder {folder}"
        raise DataError(
            f"{missing} is missing: put {entry.url}{file} into {path.parent}, or leave out "
            f"--data-dir and unset {VARIABLE}, so that tsslbp downloads the data"
        )
    return path


def download(entry: Entry, file: str, folder: Path, progress: Any = False) -> Path:
    """Download a file into the set's folder in `folder`, unless it is already there and intact.

    Args:
        entry: the data set.
        file: one of its files.
        folder: folder of all data; created if missing. A damaged file in it is replaced.
        progress: a progress bar for `pooch`, with the attribute ``total`` in bytes and the methods
            ``update(count)``, ``reset()`` and ``close()``; False: none.

    Raises:
        DataError: the file cannot be downloaded or written.
    """
    import pooch  # type: ignore[import-untyped]

    pooch.get_logger().setLevel("WARNING")  # the program itself reports downloads
    target = folder / entry.folder
    url = entry.url + file
    # A server that compresses or decompresses in transit would change the checksum.
    downloader = pooch.HTTPDownloader(
        progressbar=progress,
        chunk_size=1 << 16,
        timeout=_TIMEOUT,
        headers={"Accept-Encoding": "identity"},
    )
    try:
        pooch.retrieve(url, f"md5:{entry.md5[file]}", file, target, downloader=downloader)
    except (OSError, ValueError) as error:
        raise DataError(
            f"cannot download {url} into {target}: {_reason(error)}; or obtain the files in "
            f"another way, put them into DIR/{entry.folder}/, and set {VARIABLE} or --data-dir to "
            "DIR"
        ) from error
    return target / file


def given_folder(data_dir: Path | None) -> Path | None:
    """Return `data_dir`, or else the folder that ``TSSLBP_DATA`` names, or None."""
    return data_dir or (Path(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None)


def root(data_dir: Path | None) -> Path:
    """Return the folder of all data: the given one, or the cache folder."""
    return given_folder(data_dir) or cache_folder()


def find_folder(entry: Entry, data_dir: Path | None, part: str = "") -> Path | None:
    """Return a set's folder, or a part of it, in the given folder; None if it does not exist."""
    given = given_folder(data_dir)
    folders = (given / name / part for name in entry.folders) if given else ()
    return next((folder for folder in folders if os.path.isdir(folder)), None)


def require_folder(entry: Entry, data_dir: Path | None) -> Path:
    """Return the folder of a data set that must be downloaded manually.

    Raises:
        DataError: it does not exist; the message says how to obtain the files.
    """
    folder = find_folder(entry, data_dir)
    if folder is None:
        raise not_there(entry, data_dir)
    return folder


def not_there(entry: Entry, data_dir: Path | None) -> DataError:
    """Return the error that says how to obtain a set that tsslbp does not download."""
    given = given_folder(data_dir)
    where = f"DIR is now {given}" if given else f"set {VARIABLE} or --data-dir to DIR"
    return DataError(
        f"{entry.name} is not downloaded by tsslbp. {entry.layout} See {entry.homepage}; {where}"
    )


def locate(entry: Entry, data_dir: Path | None) -> Path | None:
    """Return the folder or file of a local copy, or None. Its contents are not checked.

    Only for the two editions of CIFAR-10, which share a folder, the test file is read to
    distinguish them. Sets that are downloaded manually are not searched for in the cache folder,
    because no loader uses them there.
    """
    if entry.origin in ("package", "generated"):
        return None
    if entry.kind == "events":
        return find_folder(entry, data_dir)
    if entry.origin == "hand" and given_folder(data_dir) is None:
        return None
    sums = _sums(entry, data_dir)
    if not all(os.path.isfile(path) for path in sums):
        return None
    path, (algorithm, expected) = list(sums.items())[-1]
    if algorithm == "sha1" and checksum(read(path), algorithm) != expected:
        return None
    return path if len(sums) == 1 else path.parent


def cache_folder() -> Path:
    """Return the folder for reproducible files: ``TSSLBP_CACHE``, or else in the user's cache."""
    if given := os.environ.get(CACHE_VARIABLE):
        return Path(given)
    import platformdirs

    return Path(platformdirs.user_cache_dir("tsslbp"))


def read(path: Path, most: int = MOST) -> bytes:
    """Return the content of a file of at most `most` bytes.

    Raises:
        DataError: it cannot be read, or is larger.
    """
    try:
        return read_whole(path, most)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error


def read_packed(path: Path, entry: Entry, most: int, decode: Callable[[bytes], T]) -> T:
    """Return what `decode` makes of the uncompressed content of a downloaded file.

    Nothing is decompressed before the checksum has been compared with the official one.

    Args:
        path: path of the file.
        entry: the data set to which it belongs.
        most: largest permitted number of uncompressed bytes.
        decode: converts the content; raises `ValueError` if it is invalid.

    Raises:
        DataError: the file cannot be read, has another checksum, or `decode` raises `ValueError`.
    """
    packed = read(path, entry.download or MOST)
    try:
        check_packed(packed, entry.md5[path.name])
        return decode(unpack(packed, most))
    except ValueError as error:
        raise DataError(f"{path} {error}; download it again from {entry.url}{path.name}") from error


def check_packed(packed: bytes, md5: str) -> None:
    """Compare a compressed file's checksum with the official one.

    Raises:
        ValueError: they differ, or the file is not compressed; the text continues a sentence that
            begins with the file.
    """
    if not packed.startswith(_GZIP_MAGIC):
        raise ValueError(
            f"({len(packed)} bytes) is not compressed with gzip: it is an unpacked file, or an "
            "error page saved under this name"
        )
    verify(packed, "md5", md5)


def unpack(packed: bytes, most: int) -> bytes:
    """Return the uncompressed content, of at most `most` bytes.

    Raises:
        ValueError: the problem, as the continuation of a sentence that begins with the file.
    """
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(packed)) as file:
            content = file.read(most + 1)  # one byte more, so that the checksum at the end is read
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"is damaged ({error})") from error
    if len(content) > most:
        raise ValueError(f"unpacks to more than {most:,} bytes, the most that this set can have")
    return content


def verify(content: bytes, algorithm: Literal["md5", "sha1"], expected: str) -> None:
    """Compare a file's checksum with the official one.

    Raises:
        ValueError: they differ; the text continues a sentence that begins with the file.
    """
    actual = checksum(content, algorithm)
    if actual != expected:
        raise ValueError(
            f"({len(content):,} bytes) has {algorithm.upper()} sum {actual}, but the official file "
            f"has {expected}: it is damaged, cut short, another version, or of another data set"
        )


def checksum(content: bytes, algorithm: Literal["md5", "sha1"]) -> str:
    """Return the checksum in hexadecimal digits; it detects accidents, not attacks."""
    return hashlib.new(algorithm, content, usedforsecurity=False).hexdigest()


def check_files(entry: Entry, data_dir: Path | None) -> Iterator[Finding]:
    """Compare the files of an image data set with the official checksums, one after the other."""
    for path, (algorithm, expected) in _sums(entry, data_dir).items():
        problem = None if os.path.isfile(path) else "is missing"
        try:
            if not problem:
                verify(read(path), algorithm, expected)
        except (ValueError, DataError) as error:
            problem = str(error)
        yield str(path), problem


def check_recordings(entry: Entry, source: EventSet) -> Iterator[Finding]:
    """Read every recording of a data set; report unreadable ones, then the numbers read.

    Recordings have no official checksums: those published are of the compressed archives.
    """
    parts = ("training", source.train, entry.train), ("test", source.test, entry.test)
    for name, items, expected in parts:
        lengths: list[int] = []
        for item in items:
            try:
                lengths.extend(len(events.t) for _, events in source.read(item))
            except DataError as error:
                yield str(item), str(error)
        part = f"{len(lengths):,} {name} recordings of {sum(lengths):,} events"
        wrong = (
            None if len(lengths) == expected else f"were found, but the data set has {expected:,}"
        )
        yield part, wrong


def _sums(entry: Entry, data_dir: Path | None) -> Mapping[Path, Sum]:
    """Return the expected paths of the files of an image data set, and their checksums."""
    folder = root(data_dir) / entry.folder
    if entry.md5 and find_folder(entry, data_dir, CIFAR10_FOLDER) is None:
        return {folder / file: ("md5", value) for file, value in entry.md5.items()}
    return {folder / CIFAR10_FOLDER / file: ("sha1", value) for file, value in entry.sha1.items()}


def _reason(error: OSError | ValueError) -> str:
    """Say why a download failed; only connection errors have a ``response``."""
    if not isinstance(error, OSError):
        return "the downloaded file has another checksum than the official file"
    if not hasattr(error, "response"):
        return cause(error) if error.strerror else str(error.__cause__ or error)
    if error.response is not None:
        error.response.close()  # the error would keep its socket open
        return f"the server answered {error.response.status_code} {error.response.reason}"
    return f"no connection to the server ({type(error).__name__})"
