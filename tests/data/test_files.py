"""Finding the files of a data set: folders given by the user, and real downloads over HTTP."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tsslbp.data import catalogue
from tsslbp.data.catalogue import Entry
from tsslbp.data.files import VARIABLE, download, find_folder, locate, require_folder
from tsslbp.errors import DataError

FILE = "values.gz"
CONTENT = b"the official content" * 100
URL = "http://127.0.0.1/"


def make_entry(url: str = URL) -> Entry:
    known, sums = catalogue.find("mnist"), {FILE: hashlib.md5(CONTENT).hexdigest()}
    return replace(known, name="tiny", folders=("tiny",), url=url, md5=sums)


def put(folder: Path, content: bytes = CONTENT) -> Path:
    (folder / "tiny").mkdir(parents=True)
    (folder / "tiny" / FILE).write_bytes(content)
    return folder


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_argument_comes_before_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    argument, variable = put(tmp_path / "argument"), put(tmp_path / "variable")
    monkeypatch.setenv(VARIABLE, str(variable))
    assert locate(make_entry(), FILE, argument) == argument / "tiny" / FILE
    assert locate(make_entry(), FILE, None) == variable / "tiny" / FILE


def test_empty_variable_counts_as_none(
    server: Any, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files[FILE] = CONTENT
    monkeypatch.setenv(VARIABLE, "")
    assert locate(make_entry(server.url), FILE, None) == cache / "tiny" / FILE


@pytest.mark.parametrize("by_variable", [False, True])
def test_nothing_is_downloaded_into_a_given_folder(
    server: Any, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, by_variable: bool
) -> None:
    server.files[FILE] = CONTENT
    folder = tmp_path / "given"
    folder.mkdir()
    monkeypatch.setenv(VARIABLE, str(folder))
    with pytest.raises(DataError) as error:
        locate(make_entry(server.url), FILE, None if by_variable else folder)
    assert str(folder / "tiny" / FILE) in str(error.value)
    assert server.url + FILE in str(error.value)
    assert server.requests == [] and files_in(folder) == [] and not cache.exists()


def test_a_folder_got_by_hand_may_have_several_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = catalogue.find("nmnist")
    assert find_folder(entry, None) is None and find_folder(entry, tmp_path) is None
    with pytest.raises(DataError) as caught:
        require_folder(entry, tmp_path)
    for words in (entry.layout, entry.homepage, f"DIR is {tmp_path} now"):
        assert words in str(caught.value)
    with pytest.raises(DataError, match="set TSSLBP_DATA or --data-dir to DIR"):
        require_folder(entry, None)
    (tmp_path / "nmnist").mkdir()
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    assert require_folder(entry, None) == find_folder(entry, tmp_path) == tmp_path / "nmnist"
    (tmp_path / "N-MNIST").mkdir()
    assert require_folder(entry, None) == tmp_path / "N-MNIST"


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the folder .*nowhere is missing"):
        locate(make_entry(), FILE, tmp_path / "nowhere")


def test_download_once(server: Any, cache: Path) -> None:
    server.files[FILE] = CONTENT
    path = locate(make_entry(server.url), FILE, None)
    assert path == cache / "tiny" / FILE and path.read_bytes() == CONTENT
    assert locate(make_entry(server.url), FILE, None) == path
    assert server.requests == [FILE]


def test_download_into_a_folder_says_how_much_has_come(server: Any, tmp_path: Path) -> None:
    class Progress:
        total, seen, closed = 0, 0, False

        def update(self, count: int) -> None:
            self.seen += count

        def reset(self) -> None:
            self.seen = 0

        def close(self) -> None:
            self.closed = True

    server.files[FILE] = CONTENT
    told = Progress()
    path = download(make_entry(server.url), FILE, tmp_path / "new", told)
    assert path == tmp_path / "new" / "tiny" / FILE and path.read_bytes() == CONTENT
    assert told.total == told.seen == len(CONTENT) and told.closed


def test_downloaded_file_needs_no_server(cache: Path, unreachable: str) -> None:
    put(cache)
    assert locate(make_entry(unreachable), FILE, None).read_bytes() == CONTENT


def test_damaged_download_is_replaced(server: Any, cache: Path) -> None:
    server.files[FILE] = CONTENT
    put(cache, b"damaged since")
    assert locate(make_entry(server.url), FILE, None).read_bytes() == CONTENT


def expect_failure(url: str, cache: Path, reason: str) -> None:
    """Expect one line with the reason and a way out, and no file left behind."""
    with pytest.raises(DataError) as error:
        locate(make_entry(url), FILE, None)
    message = str(error.value)
    assert reason in message
    assert "\n" not in message and url + FILE in message and VARIABLE in message
    assert files_in(cache) == []


def test_wrong_checksum(server: Any, cache: Path) -> None:
    server.files[FILE] = b"an error page with status 200"
    expect_failure(server.url, cache, "another checksum than the official file")


def test_not_found(server: Any, cache: Path) -> None:
    expect_failure(server.url, cache, "the server answered 404 Not Found")


def test_interrupted(server: Any, cache: Path) -> None:
    server.files[FILE] = CONTENT[:100]
    server.promised[FILE] = len(CONTENT)
    expect_failure(server.url, cache, "no connection to the server (ChunkedEncodingError)")


@pytest.fixture
def unreachable(server: Any) -> str:
    """Address of a port that nobody listens at."""
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/"


def test_unreachable(unreachable: str, cache: Path) -> None:
    expect_failure(unreachable, cache, "no connection to the server (ConnectionError)")


def test_cache_cannot_be_made(server: Any, cache: Path) -> None:
    server.files[FILE] = CONTENT
    cache.parent.mkdir()
    cache.write_text("a file where the folder should be")
    with pytest.raises(DataError, match=r"cannot download .*: (Not a directory|File exists)"):
        locate(make_entry(server.url), FILE, None)


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser can write anywhere"
)
def test_cache_is_read_only(server: Any, cache: Path) -> None:
    server.files[FILE] = CONTENT
    (cache / "tiny").mkdir(parents=True)
    (cache / "tiny").chmod(0o500)
    try:
        expect_failure(server.url, cache, "Permission denied")
    finally:
        (cache / "tiny").chmod(0o700)
