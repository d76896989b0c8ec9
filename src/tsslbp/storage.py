"""Files that are replaced whole or not at all, their digests, and locks between processes.

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
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from io import FileIO
from pathlib import Path
from typing import IO, Any

from .errors import RunError

_LOCK = ".lock"  # in a folder that one process at a time may write to
_HELD: set[tuple[int, Path]] = set()  # folders that threads of this process hold
DIGESTS = ("digest", "data_digest")  # in a safetensors file's metadata: of the header, of the rest
DAMAGED = "it is truncated, damaged, or changed by another program"
PART = 1 << 22  # bytes that are digested in one go

_METADATA = "__metadata__"
_LENGTH = 8  # bytes that hold the header's length
_LONGEST_HEADER = 10**8  # bytes, as safetensors has it
_BLOCK = 1 << 16  # bytes in which the end of a line is looked for
_TEMPORARY_SUFFIX = ".tsslbp-tmp"
_DISK_FULL = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)
_YOUNG = 3600  # seconds in which a temporary file may be under way that cannot be locked
_PATIENCE = 0.05  # seconds: whoever looks whether a lock is held has it for an instant
_EVERYONE = 0o666  # a lock file is empty, and users who share a folder take turns


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
        with _in_use(temporary):
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
    if not 0 < length <= min(size - _LENGTH, _LONGEST_HEADER):
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

    Those that a process is writing stay: it holds their locks, which end with it.
    """
    import filelock

    file = "*" if name is None else glob.escape(name)
    for path in folder.glob(f".{file}.*{_TEMPORARY_SUFFIX}"):
        with contextlib.suppress(OSError, filelock.Timeout), _in_use(path):
            path.unlink()


@contextlib.contextmanager
def _in_use(temporary: Path) -> Iterator[None]:
    """Hold the lock of a temporary file, which is made where there is none, until this ends.

    To make and to lock it are two steps; who finds it gone between them makes it again. Windows
    removes no file that is open, and without locks the youngest leftovers are left alone.

    Raises:
        filelock.Timeout: a process is writing it.
        OSError: it cannot be made.
    """
    import filelock

    if sys.platform == "win32":
        yield
        return
    is_new = not temporary.exists()
    lock = filelock.FileLock(temporary, -1 if is_new else 0, fallback_to_soft=False)
    try:
        lock.acquire()
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        if not is_new and time.time() - temporary.stat().st_mtime < _YOUNG:
            raise filelock.Timeout(str(temporary)) from None
    try:
        yield
    finally:
        lock.release()


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
