"""Files that are replaced whole or not at all, and read within bounds; digests; locks.

All that the program writes goes through `write_file`, `replace_file` or `append_lines`, so that a
kill or a full disk at any moment leaves either the earlier contents or the new ones.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import json
import mmap
import os
import re
import secrets
import stat
import sys
import threading
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from io import FileIO
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from .errors import RunError

if TYPE_CHECKING:
    import numpy as np

MOST_TEXT = 1 << 26  # bytes of a file of records, of settings or of code that is read

_LOCK = ".lock"  # in a folder that one process at a time may write to
_HELD: set[tuple[int, Path]] = set()  # folders that threads of this process hold
DIGESTS = ("digest", "data_digest")  # in a safetensors file's metadata: of the header, of the rest
DAMAGED = "it is truncated, damaged, or changed by another program"
PART = 1 << 22  # bytes that are digested in one go

_METADATA = "__metadata__"
_LENGTH = 8  # bytes that hold the header's length
_BLOCK = 1 << 16  # bytes in which the end of a line is looked for
_TEMPORARY_SUFFIX = ".tsslbp-tmp"
_DISK_FULL = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)
_PATIENCE = 0.05  # seconds: whoever looks whether a lock is held has it for an instant
_EVERYONE = 0o666  # a lock file is empty, and users who share a folder take turns
TOO_DEEP = "it is nested too deeply"
_DEEPEST = 32  # tables and lists within each other
_LONG_NUMBER = re.compile(rb"\d{19}")  # of digits; others fit into 64 bits
_LARGE, _PACKED = 1 << 30, 250  # bytes of arrays, and of how many of them one packed byte may speak


@contextlib.contextmanager
def hold(path: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock file `path`, made where there is none, until the context ends.

    Locks of the system keep out other processes and threads, and end with the process. On file
    systems without them a second file, ``path`` and ``-holder``, names the process that holds the
    lock; one that is killed on another machine leaves it behind.

    Args:
        path: of the lock file, which stays; what it holds does not matter.
        wait: until whoever holds it lets go.

    Raises:
        RunError: another process, or thread, holds it, or it cannot be made.
    """
    import filelock

    timeout = -1 if wait else _PATIENCE
    lock: filelock.BaseFileLock = filelock.FileLock(
        path, timeout, _EVERYONE, thread_local=False, fallback_to_soft=False
    )
    hint = ""
    try:
        try:
            lock.acquire()
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            holder = path.with_name(f"{path.name}-holder")
            hint = f"; if there is none, remove {holder}"
            lock = filelock.SoftFileLock(holder, timeout, thread_local=False)
            lock.acquire()
    except filelock.Timeout:
        raise RunError(f"{path.parent} is in use by another process{hint}") from None
    except OSError as error:
        raise RunError(write_error(path, error)) from error
    try:
        yield
    finally:
        lock.release()


def is_held(folder: Path) -> bool:
    """Whether a process holds a folder, see `hold_folder`; nothing is made."""
    import filelock

    path = folder / _LOCK
    if path.with_name(f"{path.name}-holder").exists():
        return True
    if not path.exists():
        return False
    lock = filelock.FileLock(path, 0, _EVERYONE, thread_local=False, fallback_to_soft=False)
    try:
        lock.acquire()
    except filelock.Timeout:
        return True
    except OSError:  # it is another user's, or there are no locks here
        return False
    lock.release()
    return False


@contextlib.contextmanager
def hold_folder(folder: Path) -> Iterator[None]:
    """Hold a folder, made where there is none, from before the first look at it to the end.

    Whoever prepares a folder holds it, so that of two commands that are started together only one
    finds it as it was, writes into it, and works there. Within the context the same thread may
    hold it again. A folder that was made here and stayed empty is removed again.

    Raises:
        RunError: another process, or thread, holds it, or it cannot be made.
    """
    mine = threading.get_ident(), folder.resolve()
    if mine in _HELD:
        yield
        return
    made = [one for one in (folder, *folder.parents) if not one.exists()]
    with writing(f"the folder {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
    with hold(folder / _LOCK):
        _HELD.add(mine)
        try:
            yield
        finally:
            _HELD.discard(mine)
            if made and [path.name for path in folder.iterdir()] == [_LOCK]:
                _remove_empty(made)


def _remove_empty(folders: Iterable[Path]) -> None:
    """Remove folders, the innermost first, which holds its lock file and nothing else."""
    with contextlib.suppress(OSError):
        for number, folder in enumerate(folders):
            if number == 0:
                (folder / _LOCK).unlink()  # whoever waits for it sees that it is gone
            folder.rmdir()


def write_file(path: Path, *parts: bytes | memoryview | str) -> None:
    """Replace the file `path` atomically by what the parts are together, text in UTF-8.

    Raises:
        RunError: as of `replace_file`.
    """

    def write(new: Path) -> None:
        with new.open("wb") as file:
            file.writelines(part.encode() if isinstance(part, str) else part for part in parts)

    replace_file(path, write)


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Replace the file `path` atomically by what `write` puts into the file it is given.

    The new contents are on the disk before they take the old ones' place. Whatever goes wrong,
    the old file stays whole and no temporary file is left; only a kill can leave one, which
    `remove_leftovers` clears.

    Raises:
        RunError: the file cannot be written.
    """
    own = f"{os.getpid()}-{secrets.token_hex(4)}"  # processes of other machines may have the number
    temporary = path.with_name(f".{path.name}.{own}{_TEMPORARY_SUFFIX}")
    try:
        write(temporary)
        _put_on_disk(temporary)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise RunError(write_error(path, error)) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def append_lines(path: Path, lines: bytes) -> None:
    """Append whole lines to a file, made where there is none; on the disk when this returns.

    A last line without its end was torn by a kill: it is cut off first. Where the disk is full,
    what was written is cut off again. One process at a time may append.

    Raises:
        RunError: the file cannot be written; the earlier lines are kept.
    """
    try:
        with path.open("a+b", buffering=0) as file:
            whole = _whole_lines(file)
            file.truncate(whole)
            try:
                _append(file, lines)
            except OSError:
                with contextlib.suppress(OSError):
                    file.truncate(whole)
                raise
    except OSError as error:
        raise RunError(write_error(path, error)) from error


def digest(content: bytes | bytearray | memoryview) -> str:
    """BLAKE2b of BLAKE2b of each part of `PART` bytes, the last shorter, in hexadecimal digits.

    Parts of one content are read side by side, on all cores. Against accidents, not attacks.
    """
    view = memoryview(content)
    parts = [view[start : start + PART] for start in range(0, len(view), PART)]
    if len(parts) > 1:
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(min(len(parts), os.cpu_count() or 1)) as pool:
            found = list(pool.map(_blake, parts))
    else:
        found = [_blake(part) for part in parts]
    return _blake(b"".join(found)).hex()


def digest_of_rest(file: IO[bytes]) -> str:
    """`digest` of what a file holds from where it stands; that need not fit into memory."""
    whole = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    with whole, memoryview(whole) as content, content[file.tell() :] as rest:
        return digest(rest)


def sealed_header(header: Mapping[str, Any], data_digest: str, length: int | None = None) -> bytes:
    """The first bytes of a safetensors file, with digests of the header and of what follows it.

    Args:
        header: names, types, shapes and places of the tensors, and ``"__metadata__"``, to which
            `DIGESTS` are added.
        data_digest: of all that follows.
        length: of the result; by default the next multiple of 8 bytes.
    """
    metadata = {**header[_METADATA], DIGESTS[1]: data_digest}
    unsealed = {**header, _METADATA: metadata}
    sealed = {**header, _METADATA: {**metadata, DIGESTS[0]: digest(_canonical(unsealed))}}
    text = _canonical(sealed)
    length = length or (_LENGTH + len(text) + 7) // 8 * 8
    room = length - _LENGTH
    assert len(text) <= room
    return room.to_bytes(_LENGTH, "little") + text.ljust(room)


def read_header(file: IO[bytes]) -> tuple[dict[str, Any], str | None]:
    """The header of a safetensors file, and the digest of what follows, where the file stands then.

    None, and nothing is checked: the file has no digests.

    Raises:
        ValueError: the header is damaged.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    length = int.from_bytes(file.read(_LENGTH), "little")
    if not 0 < length <= size - _LENGTH:
        raise ValueError(f"{DAMAGED}, or no safetensors file")
    try:
        header: dict[str, Any] = json.loads(file.read(length))
        metadata = header.setdefault(_METADATA, {})
        own, data_digest = (metadata.get(name) for name in DIGESTS)
    except (AttributeError, ValueError, RecursionError) as error:
        raise ValueError(f"{DAMAGED}, or no safetensors file") from error
    if own is None and data_digest is None:
        return header, None
    unsealed = {key: value for key, value in metadata.items() if key != DIGESTS[0]}
    if own != digest(_canonical({**header, _METADATA: unsealed})):
        raise ValueError(f"{DAMAGED}: its header has another digest than it says")
    return header, data_digest


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
            size = sum(member.file_size for member in members)
            if size > max(_LARGE, _PACKED * held):
                raise ValueError(f"it speaks of {size:,} bytes, and holds {held:,}")
            names = choose(archive.files)
            try:
                arrays = {name: archive[name] for name in names}
            except Exception as error:
                raise ValueError(_in_line(error)) from error
    if not all(isinstance(values, np.ndarray) for values in arrays.values()):
        raise ValueError("it holds something that is not an array")
    return arrays


def _in_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


@contextlib.contextmanager
def writing(what: object) -> Iterator[None]:
    """Raise `RunError`, that `what` cannot be written, for an `OSError` in the context."""
    try:
        yield
    except OSError as error:
        raise RunError(f"cannot write {what}: {error.strerror or error}") from error


def write_error(path: Path, error: OSError) -> str:
    cause = "the disk is full" if error.errno in _DISK_FULL else "is the folder writable?"
    return (
        f"cannot write {path}: {error.strerror or error} ({cause}); the earlier contents are kept"
    )


def remove_leftovers(folder: Path, name: str | None = None) -> None:
    """Remove the temporary files that killed writers of the file `name`, or of any, have left.

    Only for who holds the lock of these files, since other processes may be writing them.
    """
    file = "*" if name is None else glob.escape(name)
    for path in folder.glob(f".{file}.*{_TEMPORARY_SUFFIX}"):
        with contextlib.suppress(OSError):
            path.unlink()


def _put_on_disk(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _append(file: FileIO, lines: bytes) -> None:
    left = memoryview(lines)
    while left:
        left = left[file.write(left) :]
    os.fsync(file.fileno())


def _whole_lines(file: FileIO) -> int:
    """Bytes of a file up to the end of its last whole line."""
    end = file.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - _BLOCK)
        file.seek(start)
        if place := file.read(end - start).rfind(b"\n") + 1:
            return start + place
        end = start
    return 0


def _blake(content: bytes | memoryview) -> bytes:
    return hashlib.blake2b(content, digest_size=16, usedforsecurity=False).digest()


def _canonical(header: Mapping[str, Any]) -> bytes:
    return json.dumps(header, sort_keys=True, separators=(",", ":")).encode()


def _sync_folder(folder: Path) -> None:
    """Put a folder's entries on the disk, where the system and the file system can."""
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
