"""Files that are replaced atomically, and read with limits; digests; locks.

The program writes all files through `write_file`, `replace_file` or `append_lines`. A kill or a
full disk at any moment therefore leaves either the earlier contents or the new ones.
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

MOST_TEXT = 1 << 26  # largest size in bytes of a file of records, settings or code that is read

_LOCK = ".lock"  # in a folder to which one process at a time may write
_HELD: set[tuple[int, Path]] = set()  # folders that threads of this process hold
DIGESTS = ("digest", "data_digest")  # of the header and of the rest, in a safetensors file
DAMAGED = "it is truncated, damaged, or changed by another program"
PART = 1 << 22  # bytes per part of a digest

_METADATA = "__metadata__"
_LENGTH = 8  # bytes of the number that gives the header's length
_BLOCK = 1 << 16  # bytes per read when searching for the end of a line
_TEMPORARY_SUFFIX = ".tsslbp-tmp"
_DISK_FULL = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)
_PATIENCE = 0.05  # seconds; checking whether a lock is held takes it for an instant
_EVERYONE = 0o666  # a lock file is empty, and users who share a folder use it in turn
TOO_DEEP = "it is nested too deeply"
_DEEPEST = 32  # levels of nested tables and lists
_LONG_NUMBER = re.compile(rb"\d{19}")  # shorter numbers fit into 64 bits
_LARGE, _PACKED = 1 << 30, 250  # bytes of arrays; how many of them one compressed byte may yield


@contextlib.contextmanager
def hold(path: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock file `path`, created if missing, until the context ends.

    Locks of the operating system keep out other processes and threads, and end with the process. On
    file systems without them, a second file, ``path`` and ``-holder``, names the process that holds
    the lock; a process that is killed on another machine leaves it behind.

    Args:
        path: path of the lock file, which remains; its content is irrelevant.
        wait: whether to wait until another holder releases it.

    Raises:
        RunError: another process or thread holds it, or it cannot be created.
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
            hint = f"; if there is no such process, remove {holder}"
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
    """Whether a process holds a folder, see `hold_folder`; nothing is created."""
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
    except OSError:  # another user's file, or a system without locks
        return False
    lock.release()
    return False


@contextlib.contextmanager
def hold_folder(folder: Path) -> Iterator[None]:
    """Hold a folder, created if missing, from before the first look at it until the end.

    A command holds a folder while it prepares and uses it. If two commands are started together,
    only one of them can find the folder in its initial state, write to it, and work there. Within
    the context, the same thread may hold it again. A folder that was created here and is still
    empty is removed at the end.

    Raises:
        RunError: another process or thread holds it, or it cannot be created.
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
    """Remove folders that are empty, the innermost first, which may contain its lock file."""
    with contextlib.suppress(OSError):
        for number, folder in enumerate(folders):
            if number == 0:
                (folder / _LOCK).unlink()  # waiting processes notice that it is gone
            folder.rmdir()


def write_file(path: Path, *parts: bytes | memoryview | str) -> None:
    """Replace the file `path` atomically by the concatenated parts, text in UTF-8.

    Raises:
        RunError: as for `replace_file`.
    """

    def write(new: Path) -> None:
        with new.open("wb") as file:
            file.writelines(part.encode() if isinstance(part, str) else part for part in parts)

    replace_file(path, write)


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Replace the file `path` atomically by the file that `write` writes at a given path.

    The new contents are on the disk before they replace the old ones. Whatever goes wrong, the old
    file remains intact and no temporary file is left. Only a kill can leave one, which
    `remove_leftovers` removes.

    Raises:
        RunError: the file cannot be written.
    """
    own = f"{os.getpid()}-{secrets.token_hex(4)}"  # other machines may use the same number
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
    """Append complete lines to a file, created if missing; they are on the disk on return.

    An incomplete last line, left by a kill, is first cut off. If the disk is full, what was written
    is cut off again. Only one process at a time may append.

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
    """Return the BLAKE2b of the BLAKE2b of each part of `PART` bytes, in hexadecimal digits.

    The parts are read in parallel, on all cores. It detects accidents, not attacks.
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
    """Return the `digest` of a file from its present position; it need not fit into memory."""
    whole = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    with whole, memoryview(whole) as content, content[file.tell() :] as rest:
        return digest(rest)


def sealed_header(header: Mapping[str, Any], data_digest: str, length: int | None = None) -> bytes:
    """Return the start of a safetensors file, with digests of the header and of the data.

    Args:
        header: names, types, shapes and positions of the tensors, and ``"__metadata__"``, to which
            `DIGESTS` are added.
        data_digest: digest of everything that follows.
        length: length of the result; by default the next multiple of 8 bytes.
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
    """Return the header of a safetensors file and the digest of its data; stops before the data.

    The digest is None, and nothing is verified, if the file has no digests.

    Raises:
        ValueError: the header is damaged.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    length = int.from_bytes(file.read(_LENGTH), "little")
    if not 0 < length <= size - _LENGTH:
        raise ValueError(f"{DAMAGED}, or not a safetensors file")
    try:
        header: dict[str, Any] = json.loads(file.read(length))
        metadata = header.setdefault(_METADATA, {})
        own, data_digest = (metadata.get(name) for name in DIGESTS)
    except (AttributeError, ValueError, RecursionError) as error:
        raise ValueError(f"{DAMAGED}, or not a safetensors file") from error
    if own is None and data_digest is None:
        return header, None
    unsealed = {key: value for key, value in metadata.items() if key != DIGESTS[0]}
    if own != digest(_canonical({**header, _METADATA: unsealed})):
        raise ValueError(f"{DAMAGED}: the digest of its header does not match")
    return header, data_digest


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


def parse_json(content: bytes) -> Any:
    """Parse a JSON value; whole numbers of more than 64 bits become floats, possibly infinite.

    Raises:
        ValueError: it is not JSON, or is nested too deeply.
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
            size = sum(member.file_size for member in members)
            if size > max(_LARGE, _PACKED * held):
                raise ValueError(f"it claims to contain {size:,} bytes, but has only {held:,}")
            names = choose(archive.files)
            try:
                arrays = {name: archive[name] for name in names}
            except Exception as error:
                raise ValueError(_in_line(error)) from error
    if not all(isinstance(values, np.ndarray) for values in arrays.values()):
        raise ValueError("it contains something that is not an array")
    return arrays


def _in_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


@contextlib.contextmanager
def writing(what: object) -> Iterator[None]:
    """Convert an `OSError` in the context to a `RunError`: `what` cannot be written."""
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
    """Remove temporary files that killed writers of the file `name`, or of any file, have left.

    Only the holder of the lock may call this, since other processes may be writing such files.
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
    """Return the number of bytes up to the end of the last complete line."""
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
    """Write a folder's entries to the disk, if system and file system support it."""
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
