"""Tests of locks between processes and threads, and of files that are replaced atomically."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import filelock
import pytest

import tsslbp
from tsslbp.errors import RunError
from tsslbp.reading import find
from tsslbp.storage import hold, remove_leftovers, replace_file, write_file

needs_flock = pytest.mark.skipif(sys.platform == "win32", reason="Windows has other locks")

HOLDING = """
import sys, time
from pathlib import Path
from tsslbp.storage import hold

if sys.argv[2:]:
    import fcntl

    def refuse(*_):
        raise OSError(int(sys.argv[2]), "no locks")

    fcntl.flock = refuse
with hold(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""

Holder = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def holder() -> Iterator[Holder]:
    """Yield a function that starts a process which holds a lock."""
    started: list[subprocess.Popen[str]] = []

    def start(path: Path, *no_locks: int) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", HOLDING, str(path), *map(str, no_locks)]
        source = str(Path(tsslbp.__file__).parents[1])
        environment = os.environ | {"PYTHONPATH": source}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        started.append(process)
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_lock_ends_with_the_process_that_is_killed(tmp_path: Path, holder: Holder) -> None:
    path = tmp_path / ".lock"
    process = holder(path)
    with pytest.raises(RunError) as caught, hold(path):
        pass
    assert str(caught.value) == f"{tmp_path} is in use by another process"
    process.send_signal(signal.SIGTERM if sys.platform == "win32" else signal.SIGKILL)
    process.wait()
    with hold(path):
        pass


def test_threads_take_turns(tmp_path: Path) -> None:
    path, order = tmp_path / ".lock", list[str]()

    def second() -> None:
        try:
            with hold(path):
                order.append("at once")
        except RunError:
            order.append("refused")
        with hold(path, wait=True):
            order.append("waited")

    thread = threading.Thread(target=second)
    with hold(path):
        thread.start()
        while not order:
            time.sleep(0.01)
        time.sleep(0.2)
        order.append("first ends")
    thread.join()
    assert order == ["refused", "first ends", "waited"]


def test_a_lock_is_released_by_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), hold(tmp_path / ".lock"):
        raise ZeroDivisionError
    with hold(tmp_path / ".lock"):
        pass


def test_a_lock_file_that_is_there_does_not_matter(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    for content in (b"", b"123\nsomewhere\n"):
        path.write_bytes(content)
        with hold(path):
            pass
        assert path.read_bytes() == content


@needs_flock
def test_other_users_may_take_the_lock(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        with hold(tmp_path / ".lock"):
            pass
    finally:
        os.umask(before)
    assert (tmp_path / ".lock").stat().st_mode & 0o777 == 0o666


def test_a_lock_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    message = r"^cannot write .*is the folder writable\?"
    with pytest.raises(RunError, match=message), hold(tmp_path / "file" / ".lock"):
        pass

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(filelock.FileLock, "acquire", full)
    message = r"No space left on device \(the disk is full\)"
    with pytest.raises(RunError, match=message), hold(tmp_path / ".lock"):
        pass


@needs_flock
@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, holder: Holder, number: int
) -> None:
    import fcntl

    def refuse(*_: object) -> None:
        raise OSError(number, "no locks")

    monkeypatch.setattr(fcntl, "flock", refuse)
    path = tmp_path / ".lock"
    path.touch()  # left by an earlier version, which continued without a lock
    message = r"if there is no such process, remove .*\.lock-holder"
    with hold(path), pytest.raises(RunError, match=message), hold(path):
        pass
    assert [file.name for file in tmp_path.iterdir()] == [".lock"]
    process = holder(path, number)
    with pytest.raises(RunError, match="is in use by another process"), hold(path):
        pass
    process.kill()
    process.wait()
    with hold(path, wait=True):
        pass


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a"
    replace_file(path, lambda new: new.write_bytes(b"1"))

    def fail(new: Path) -> None:
        new.write_bytes(b"2")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(RunError, match=r"cannot write .*a: No space left .* contents are kept"):
        replace_file(path, fail)
    assert path.read_bytes() == b"1"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["", ".", "..", "/"])
def test_a_file_needs_a_name(name: str) -> None:
    with pytest.raises(RunError, match="it is a folder, expected the name of a file"):
        write_file(Path(name), "text")


def test_leftovers_are_removed_and_nothing_else(tmp_path: Path) -> None:
    names = [".a.1.tsslbp-tmp", ".b[1].22.tsslbp-tmp", ".b1.22.tsslbp-tmp", "a.tmp", ".a.1.tmp"]
    for name in names:
        (tmp_path / name).touch()
    remove_leftovers(tmp_path, "b[1]")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(set(names) - {names[1]})
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".a.1.tmp", "a.tmp"]


WRITER = """
import sys
from pathlib import Path
from tsslbp.storage import replace_file
folder = Path(sys.argv[1])
for number in range(int(sys.argv[2])):
    replace_file(folder / "a", lambda new: new.write_bytes(b"x" * (1 + number % 5000)))
"""


def test_a_file_that_is_being_written_is_no_leftover(tmp_path: Path) -> None:
    def write(new: Path) -> None:
        new.write_bytes(b"1")
        remove_leftovers(tmp_path)
        assert new.read_bytes() == b"1"

    replace_file(tmp_path / "a", write)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@needs_flock
def test_who_looks_for_leftovers_takes_none_from_another_process(tmp_path: Path) -> None:
    """Looking for leftovers during hundreds of writes removes no file that is being written."""
    command = [sys.executable, "-c", WRITER, str(tmp_path), "600"]
    looks = 0
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as writer:
        while writer.poll() is None:
            remove_leftovers(tmp_path)
            looks += 1
        assert writer.stderr is not None
        assert writer.returncode == 0, writer.stderr.read()
    assert looks > 100
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@needs_flock
def test_what_a_killed_writer_leaves_is_removed(tmp_path: Path) -> None:
    code = WRITER.replace("new.write_bytes(", "print(new, flush=True) or sys.stdin.read() or (")
    command = [sys.executable, "-c", code, str(tmp_path), "1"]
    with subprocess.Popen(command, stdin=-1, stdout=-1, text=True) as writer:
        assert writer.stdout is not None
        left = Path(writer.stdout.readline().strip())
        remove_leftovers(tmp_path)
        assert left.exists()
        writer.kill()
    remove_leftovers(tmp_path)
    assert not list(tmp_path.iterdir())


@needs_flock
def test_leftovers_where_there_are_no_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(lock: object, *_: object, **__: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    replace_file(tmp_path / "a", lambda new: new.write_bytes(b"1"))
    young, old = (tmp_path / f".a.{number}.tsslbp-tmp" for number in (1, 2))
    for path in (young, old):
        path.touch()
    os.utime(old, (0, 0))
    remove_leftovers(tmp_path)
    assert sorted(tmp_path.iterdir()) == [young, tmp_path / "a"]


def test_a_folder_that_is_missing_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"cannot write .*No such file or directory"):
        replace_file(tmp_path / "no" / "a", lambda new: new.write_bytes(b"1"))
    assert not list(tmp_path.iterdir())


def test_a_replaced_file_has_the_usual_mode(tmp_path: Path) -> None:
    replace_file(tmp_path / "a", lambda new: new.write_bytes(b"1"))
    (tmp_path / "b").touch()
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_finding_never_fails(tmp_path: Path) -> None:
    """`find` raises no error for paths that are not folders, or links with impossible targets."""
    (tmp_path / "link").symlink_to("x" * 300)
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "sub").mkdir()
    for name in (".hidden", "b", "a", "sub/c"):
        (tmp_path / name).touch()
    assert find(tmp_path, "[ab]") == [tmp_path / "a", tmp_path / "b"]
    assert find(tmp_path, "*/c") == [tmp_path / "sub/c"]
    assert tmp_path / ".hidden" in find(tmp_path, "*")
    for folder in ("x" * 300, "link", "circle", "a", "none", "a\0b"):
        assert find(tmp_path / folder, "*") == []
