"""Files that are replaced whole or not at all, and locks between processes."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from .errors import RunError

if sys.platform != "win32":
    import fcntl

_TEMPORARY_SUFFIX = ".tsslbp-tmp"
_DISK_FULL = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))


@contextlib.contextmanager
def hold(path: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock file `path`, made where there is none, until the context ends.

    A killed process lets go. The file stays; on Windows, and on file systems without locks, it
    keeps nobody out.

    Args:
        path: of the lock file.
        wait: until another process that holds it lets go.

    Raises:
        RunError: another process holds it, or it cannot be made.
    """
    try:
        file = path.open("ab")
    except OSError as error:
        raise RunError(write_error(path, error)) from error
    with file:
        try:
            _lock(file, wait)
        except BlockingIOError:
            raise RunError(f"{path.parent} is in use by another process") from None
        except OSError:
            pass  # some network file systems have no locks
        yield


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Replace the file `path` atomically by what `write` puts into the file it is given.

    The new contents are on the disk before they take the old ones' place. Whatever goes wrong,
    the old file stays whole and no temporary file is left; only a kill can leave one, which
    `remove_leftovers` clears.

    Raises:
        RunError: the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{_TEMPORARY_SUFFIX}")
    try:
        with _held(temporary):
            write(temporary)
            _sync(temporary)
            os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise RunError(write_error(path, error)) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_error(path: Path, error: OSError) -> str:
    cause = "the disk is full" if error.errno in _DISK_FULL else "is the folder writable?"
    return (
        f"cannot write {path}: {error.strerror or error} ({cause}); the earlier contents are kept"
    )


@contextlib.contextmanager
def _held(temporary: Path) -> Iterator[None]:
    """Make an empty file and mark it as being written, so that no other process removes it."""
    with temporary.open("wb") as file:
        with contextlib.suppress(OSError):  # some network file systems have no locks
            _lock(file)
        if sys.platform == "win32":
            file.close()  # an open file cannot be replaced there
        yield


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of killed writers; those being written now stay."""
    for path in folder.glob(f".*{_TEMPORARY_SUFFIX}"):
        with contextlib.suppress(OSError), path.open("rb") as file:
            _lock(file)
            path.unlink()


def _lock(file: IO[bytes], wait: bool = False) -> None:
    """Lock a file until it is closed; BlockingIOError where another process has locked it."""
    if sys.platform != "win32":
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


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
