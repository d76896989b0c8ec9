"""Files that are replaced atomically, their digests, and locks between processes.

The program writes all files through `write_file`, `replace_file` or `append_lines`. A kill or a
full disk at any moment therefore leaves either the earlier contents or the new ones.
"""

from __future__ import annotations

import contextlib
import errno
import glob
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

_LOCK = ".lock"  # in a folder to which one process at a time may write
_HELD: set[tuple[int, Path]] = set()  # folders that threads of this process hold
DIGESTS = ("header_xxh3", "data_xxh3")  # of the header and of the rest, in a safetensors file
DAMAGED = "it is truncated, damaged, or changed by another program"

_METADATA = "__metadata__"
_LENGTH = 8  # bytes of the number that gives the header's length
_LONGEST_HEADER = 10**8  # bytes, the limit of safetensors
_BLOCK = 1 << 16  # bytes per read when searching for the end of a line
_TEMPORARY_SUFFIX = ".tsslbp-tmp"
_DISK_FULL = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)
_YOUNG = 3600  # seconds for which a temporary file without a lock may still be in use
_PATIENCE = 0.05  # seconds; checking whether a lock is held takes it for an instant
_EVERYONE = 0o666  # a lock file is empty, and users who share a folder use it in turn


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
    if os.path.exists(path.with_name(f"{path.name}-holder")):
        return True
    if not os.path.exists(path):
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
    made = [one for one in (folder, *folder.parents) if not os.path.exists(one)]
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
    if not path.name or path.name == "..":
        raise RunError(f"cannot write {str(path)!r}: it is a folder, expected the name of a file")
    own = f"{os.getpid()}-{secrets.token_hex(4)}"  # other machines may use the same number
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
    """Return the XXH3 (128 bits) of the content, in hexadecimal digits.

    It detects accidents, not attacks, and takes about as long as reading the content from memory.
    """
    import xxhash

    return xxhash.xxh3_128_hexdigest(content)


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
    if not 0 < length <= min(size - _LENGTH, _LONGEST_HEADER):
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


@contextlib.contextmanager
def writing(what: object) -> Iterator[None]:
    """Convert an `OSError` in the context to a `RunError`: `what` cannot be written."""
    try:
        yield
    except OSError as error:
        raise RunError(f"cannot write {what}: {cause(error)}") from error


def cause(error: OSError) -> str:
    """What the system says, and whether that is a full disk."""
    full = " (the disk is full)" if error.errno in _DISK_FULL else ""
    return f"{error.strerror or error}{full}"


def write_error(path: Path, error: OSError) -> str:
    hint = "" if error.errno in _DISK_FULL else " (is the folder writable?)"
    kept = "; the earlier contents are kept" if os.path.lexists(path) else ""
    return f"cannot write {path}: {cause(error)}{hint}{kept}"


def remove_leftovers(folder: Path, name: str | None = None) -> None:
    """Remove temporary files that killed writers of the file `name`, or of any file, have left.

    Files that a process is still writing are kept: it holds their locks, which end with it.
    """
    import filelock

    file = "*" if name is None else glob.escape(name)
    for found in glob.glob(f".{file}.*{_TEMPORARY_SUFFIX}", root_dir=folder):
        path = folder / found
        with contextlib.suppress(OSError, filelock.Timeout), _in_use(path):
            path.unlink()


@contextlib.contextmanager
def _in_use(temporary: Path) -> Iterator[None]:
    """Hold the lock of a temporary file, created if missing, until the context ends.

    Creating and locking are two steps; if the file disappears in between, it is created again.
    Windows does not remove open files, and without locks the youngest leftovers are kept.

    Raises:
        filelock.Timeout: a process is writing it.
        OSError: it cannot be created.
    """
    import filelock

    if sys.platform == "win32":
        yield
        return
    is_new = not os.path.exists(temporary)
    if is_new:
        temporary.touch()  # only here, since the lock would also create the folder
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
    """Return the number of bytes up to the end of the last complete line."""
    end = file.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - _BLOCK)
        file.seek(start)
        if place := file.read(end - start).rfind(b"\n") + 1:
            return start + place
        end = start
    return 0


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
