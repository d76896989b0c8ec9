"""Files of records, settings and arrays, which may come from anybody, read within bounds.

What a file says of its size, depth or numbers is not believed: it is read, or one line says what is
wrong with it. Nothing here runs code or unpickles anything.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import zipfile
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import RunError

if TYPE_CHECKING:
    import numpy as np

MOST_TEXT = 1 << 26  # bytes of a file of records, of settings or of code that is read
TOO_DEEP = "it is nested too deeply"

_DEEPEST = 32  # tables and lists within each other
_LONG_NUMBER = re.compile(rb"\d{19}")  # of digits; others fit into 64 bits
_LARGE, _PACKED = 1 << 30, 250  # bytes of arrays, and of how many of them one packed byte may speak


def read_whole(path: Path, most: int = MOST_TEXT) -> bytes:
    """Return the content of a file of at most `most` bytes, since a hole costs nothing on a disk.

    Raises:
        OSError: it cannot be read, holds more, or is a device, which may have no end.
    """
    check_plain(path)
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise OSError(errno.EFBIG, f"it holds {size:,} bytes, more than {most:,}", str(path))
        return file.read(size)


def check_plain(path: Path) -> None:
    """Raise `OSError` where there is no such file, or it is a device or pipe, which never ends."""
    try:
        mode = path.stat().st_mode
    except ValueError as error:  # a name that no file can have
        raise OSError(errno.EINVAL, str(error), str(path)) from None
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # opening a folder says that it is one
        raise OSError(errno.EINVAL, "it is no plain file", str(path))


def folders_with(path: Path, names: Collection[str]) -> list[Path]:
    """Folders at or below `path` that hold a file of one of the names, sorted; links are left out.

    Folders that cannot be read are passed over.
    """
    walk = os.walk(path)
    return sorted(Path(folder) for folder, _, files in walk if not set(names).isdisjoint(files))


def parse_json(content: bytes) -> Any:
    """Return a value of JSON; a whole number of more than 64 bits is a float, perhaps infinite.

    Raises:
        ValueError: it is no JSON, or nested too deeply.
    """
    parse_int = _whole if _LONG_NUMBER.search(content) else None
    try:
        value = json.loads(content, parse_int=parse_int)
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    if content.count(b"[") + content.count(b"{") > _DEEPEST:
        check_depth(value)
    return value


def check_depth(value: Any) -> None:
    """Raise `ValueError` where tables and lists lie in each other deeper than anything needs."""
    level = [value]
    for _ in range(_DEEPEST):
        inner = (one.values() if isinstance(one, dict) else one for one in level)
        level = [one for some in inner for one in some if isinstance(one, (dict, list))]
    if level:
        raise ValueError(TOO_DEEP)


def _whole(digits: str) -> int | float:
    return int(digits) if len(digits) < 20 else float(digits)


def read_table(path: Path) -> dict[str, Any]:
    """Return the object that a file of JSON holds, as `parse_json` reads it.

    Raises:
        RunError: it cannot be read, or holds no object.
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
        path: of the file.
        choose: which of the names in it are meant.

    Raises:
        ValueError: it is damaged, holds anything but arrays of numbers, or more than it can.
        OSError: it cannot be opened. `choose` may raise its own.
    """
    import numpy as np

    check_plain(path)
    with path.open("rb") as file:
        if file.read(2) != b"PK":
            raise ValueError("it does not begin as an archive of arrays does")
        try:
            archive = np.lib.npyio.NpzFile(file, allow_pickle=False)
        except Exception as error:  # of many kinds, NumPy's and zipfile's
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
        raise ValueError("it holds something that is not an array")
    return arrays


def check_claim(size: int, held: int) -> None:
    """Raise `ValueError` where a file of `held` bytes claims to unpack to far too many, `size`."""
    if size > max(_LARGE, _PACKED * held):
        raise ValueError(f"it speaks of {size:,} bytes, and holds {held:,}")


def _in_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
