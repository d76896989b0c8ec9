"""Files of records, settings and arrays from untrusted sources, read with limits.

What a file claims about its size, depth or numbers is not trusted: either it can be read, or one
line says what is wrong with it. Nothing here executes code or unpickles anything.
"""

from __future__ import annotations

import errno
import glob
import json
import os
import stat
import zipfile
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from .errors import RunError

if TYPE_CHECKING:
    import numpy as np

MOST_TEXT = 1 << 26  # largest size in bytes of a file of records, settings or code that is read
MOST_ARRAYS = 1 << 34  # of a file of weights
TOO_DEEP = "it is nested too deeply"

_DEEPEST = 32  # levels of nested tables and lists
_LONG_NUMBER = b"0" * 19  # after replacing digits by zeros; shorter numbers fit into 64 bits
_AS_ZEROS = bytes.maketrans(b"123456789", b"0" * 9)
_LARGE, _PACKED = 1 << 30, 250  # bytes of arrays; how many of them one compressed byte may yield


def read_whole(path: Path, most: int = MOST_TEXT) -> bytes:
    """Return the content of a file of at most `most` bytes, since sparse files can be huge.

    Raises:
        OSError: it cannot be read, is larger, or is a device, which may have no end.
    """
    check_plain(path)
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise OSError(errno.EFBIG, f"it has {size:,} bytes, more than {most:,}", str(path))
        return file.read(size)


def check_plain(path: Path) -> None:
    """Raise `OSError` if the file does not exist, or is a device or pipe, which may never end."""
    try:
        mode = path.stat().st_mode
    except ValueError as error:  # an invalid file name
        raise OSError(errno.EINVAL, str(error), str(path)) from None
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # opening a folder raises an error
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))


def folders_with(path: Path, names: Collection[str]) -> list[Path]:
    """Return the sorted folders at or below `path` with a file of one of the names.

    Links are not followed, and folders that cannot be read are skipped.
    """
    walk = os.walk(path)
    return sorted(Path(folder) for folder, _, files in walk if not set(names).isdisjoint(files))


def find(folder: Path, pattern: str) -> list[Path]:
    """Return the sorted paths in a folder that match a pattern of `glob`, hidden ones included.

    Folders that are missing, cannot be read or have an impossible name contain nothing, whereas
    the methods of `Path` raise `OSError` for some of them.
    """
    if not os.path.isdir(folder):
        return []
    names = glob.glob(pattern, root_dir=folder, include_hidden=True)
    return [folder / name for name in sorted(names)]


def parse_json(content: bytes) -> Any:
    """Parse a JSON value; whole numbers of more than 64 bits become floats, possibly infinite.

    Raises:
        ValueError: it is not JSON, or is nested too deeply.
    """
    value = _parse(content)
    if not _is_shallow(content):
        check_depth(value)
    return value


def parse_json_lines(lines: Sequence[bytes]) -> list[Any]:
    """Parse lines of JSON in one call, which is much faster; return a value for each line.

    Raises:
        ValueError: a line is not one JSON value, or is nested too deeply.
    """
    values = _parse(b"[" + b",".join(lines) + b"]")
    if len(values) != len(lines):
        raise ValueError("a line has more than one value")
    if not all(map(_is_shallow, lines)):
        check_depth(values)
    return cast("list[Any]", values)


def _parse(content: bytes) -> Any:
    parse_int = _whole if _LONG_NUMBER in content.translate(_AS_ZEROS) else None
    try:
        return json.loads(content, parse_int=parse_int)
    except RecursionError:
        raise ValueError(TOO_DEEP) from None


def _is_shallow(content: bytes) -> bool:
    return content.count(b"[") + content.count(b"{") < _DEEPEST


def check_depth(value: Any) -> None:
    """Raise `ValueError` if tables and lists are nested more deeply than necessary."""
    level = [value]
    for _ in range(_DEEPEST):
        inner = (one.values() if isinstance(one, dict) else one for one in level)
        level = [one for some in inner for one in some if isinstance(one, (dict, list))]
    if level:
        raise ValueError(TOO_DEEP)


def _whole(digits: str) -> int | float:
    return int(digits) if len(digits) < 20 else float(digits)


def read_table(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file, parsed by `parse_json`.

    Raises:
        RunError: it cannot be read, or is not an object.
    """
    try:
        value = parse_json(read_whole(path))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise RunError(f"cannot read {path}: {reason or error}") from error
    if not isinstance(value, dict):
        raise RunError(f"cannot read {path}: expected a JSON object")
    return value


def read_arrays(
    path: Path, choose: Callable[[list[str]], Iterable[str]] = list
) -> dict[str, np.ndarray[Any, Any]]:
    """Return arrays of a ``.npz`` file, from which nothing is unpickled.

    Args:
        path: path of the file.
        choose: selects from the names of the arrays in it.

    Raises:
        ValueError: it is damaged, contains something other than arrays of numbers, or more data
            than is plausible.
        OSError: it cannot be opened. `choose` may raise further errors.
    """
    import numpy as np

    check_plain(path)
    with path.open("rb") as file:
        if file.read(2) != b"PK":
            raise ValueError("it does not begin like an archive of arrays")
        try:
            archive = np.lib.npyio.NpzFile(file, allow_pickle=False)
        except Exception as error:  # NumPy and zipfile raise many types
            raise ValueError(_in_line(error)) from error
        with archive:
            held = os.fstat(file.fileno()).st_size
            members: list[zipfile.ZipInfo] = archive.zip.infolist()  # type: ignore[union-attr]
            check_claim(sum(member.file_size for member in members), held)
            names = choose(archive.files)
            try:
                arrays = {name: archive[name] for name in names}
            except Exception as error:
                raise ValueError(_in_line(error)) from error
    if not all(isinstance(values, np.ndarray) for values in arrays.values()):
        raise ValueError("it contains something that is not an array")
    return arrays


def check_claim(size: int, held: int) -> None:
    """Raise `ValueError` if a file of `held` bytes claims to contain far too many bytes."""
    if size > max(_LARGE, _PACKED * held):
        raise ValueError(f"it claims to contain {size:,} bytes, but has only {held:,}")


def _in_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
