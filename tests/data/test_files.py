"""Tests of the files of data sets: given folders, downloads over HTTP, and damaged copies."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.conftest import disk_of

from tsslbp.data import catalogue, files
from tsslbp.data.catalogue import Entry
from tsslbp.data.events.recording import Events, EventSet
from tsslbp.data.files import (
    VARIABLE,
    checksum,
    download,
    find_folder,
    require_file,
    require_folder,
)
from tsslbp.data.images import cifar10, idx
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
    assert require_file(make_entry(), FILE, argument) == argument / "tiny" / FILE
    assert require_file(make_entry(), FILE, None) == variable / "tiny" / FILE


def test_empty_variable_counts_as_none(
    server: Any, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files[FILE] = CONTENT
    monkeypatch.setenv(VARIABLE, "")
    assert require_file(make_entry(server.url), FILE, None) == cache / "tiny" / FILE


@pytest.mark.parametrize("by_variable", [False, True])
def test_nothing_is_downloaded_into_a_given_folder(
    server: Any, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, by_variable: bool
) -> None:
    server.files[FILE] = CONTENT
    folder = tmp_path / "given"
    folder.mkdir()
    monkeypatch.setenv(VARIABLE, str(folder))
    with pytest.raises(DataError) as error:
        require_file(make_entry(server.url), FILE, None if by_variable else folder)
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
    for words in (entry.layout, entry.homepage, f"DIR is now {tmp_path}"):
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
        require_file(make_entry(), FILE, tmp_path / "nowhere")


def test_download_once(server: Any, cache: Path) -> None:
    server.files[FILE] = CONTENT
    path = require_file(make_entry(server.url), FILE, None)
    assert path == cache / "tiny" / FILE and path.read_bytes() == CONTENT
    assert require_file(make_entry(server.url), FILE, None) == path
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
    assert require_file(make_entry(unreachable), FILE, None).read_bytes() == CONTENT


def test_damaged_download_is_replaced(server: Any, cache: Path) -> None:
    server.files[FILE] = CONTENT
    put(cache, b"damaged since")
    assert require_file(make_entry(server.url), FILE, None).read_bytes() == CONTENT


def expect_failure(url: str, cache: Path, reason: str) -> None:
    """Expect one line with the reason and a way out, and no file left behind."""
    with pytest.raises(DataError) as error:
        require_file(make_entry(url), FILE, None)
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


def test_a_full_disk_under_a_download(server: Any, cache: Path) -> None:
    """No partial file is left behind, and the next call downloads it."""
    server.files[FILE] = CONTENT
    with disk_of(len(CONTENT) // 2):
        expect_failure(server.url, cache, "the disk is full")
    assert not files_in(cache)
    assert download(make_entry(server.url), FILE, cache).read_bytes() == CONTENT


@pytest.fixture
def unreachable(server: Any) -> str:
    """Return the address of a port where no server listens."""
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
        require_file(make_entry(server.url), FILE, None)


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


@pytest.fixture
def entry(tiny: Any) -> Entry:
    """Entry of the small set, which is in the IDX format."""
    return tiny.entry()


def problems(entry: Entry, folder: Path) -> dict[str, str | None]:
    return {Path(part).name: wrong for part, wrong in files.check_files(entry, folder)}


def test_a_whole_copy(tiny: Any, entry: Entry, tmp_path: Path) -> None:
    folder = tiny.write(tmp_path / "data")
    assert problems(entry, folder) == dict.fromkeys(tiny.files)
    assert files.locate(entry, folder) == folder / "tiny"


def test_every_missing_and_damaged_file_is_told(tiny: Any, entry: Entry, tmp_path: Path) -> None:
    folder = tiny.write(tmp_path / "data", **{idx.TEST_LABELS: b"damaged"})
    (folder / "tiny" / idx.TRAIN_IMAGES).unlink()
    found = problems(entry, folder)
    assert found[idx.TRAIN_IMAGES] == "is missing"
    assert "the official file has" in str(found[idx.TEST_LABELS])
    assert [name for name, wrong in found.items() if wrong is None] == [
        idx.TRAIN_LABELS,
        idx.TEST_IMAGES,
    ]
    assert files.locate(entry, folder) is None


def test_a_copy_is_looked_for_in_the_folder_given_else_in_the_cache(
    tiny: Any, entry: Entry, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.write(cache)
    assert files.locate(entry, None) == cache / "tiny"
    assert files.locate(entry, tmp_path) is None
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    assert files.locate(entry, None) is None


@pytest.mark.parametrize("name", ["N-MNIST", "nmnist"])
def test_recordings_are_found_where_they_are_read_from(
    name: str, tmp_path: Path, cache: Path
) -> None:
    """The folder may have any name that the reader accepts, and the cache is not searched."""
    entry = catalogue.find("nmnist")
    (tmp_path / "given" / name).mkdir(parents=True)
    (cache / name).mkdir(parents=True)
    assert files.locate(entry, tmp_path / "given") == tmp_path / "given" / name
    assert files.locate(entry, None) is None


def test_the_editions_of_cifar10_are_told_apart(tmp_path: Path) -> None:
    """The editions share a folder, and the test file distinguishes them."""
    contents = {file: file.encode() for file in cifar10.FILES}
    sums = {file: checksum(content, "sha1") for file, content in contents.items()}
    mine = replace(catalogue.find("cifar10-reencoded"), sha1=sums)
    folder = tmp_path / "cifar10" / cifar10.FOLDER
    folder.mkdir(parents=True)
    for file, content in contents.items():
        (folder / file).write_bytes(content)
    official = catalogue.find("cifar10")
    assert files.locate(mine, tmp_path) == folder
    assert files.locate(official, tmp_path) is None
    assert set(problems(mine, tmp_path).values()) == {None}
    assert len(problems(official, tmp_path)) == 6 and all(problems(official, tmp_path).values())


def test_the_archive_of_cifar10_serves_as_well(tmp_path: Path) -> None:
    sums = {cifar10.ARCHIVE: checksum(b"packed", "md5")}
    entry = replace(catalogue.find("cifar10"), md5=sums)
    archive = tmp_path / "cifar10" / cifar10.ARCHIVE
    archive.parent.mkdir()
    archive.write_bytes(b"packed")
    assert files.locate(entry, tmp_path) == archive
    assert problems(entry, tmp_path) == {cifar10.ARCHIVE: None}
    assert files.locate(catalogue.find("cifar10-reencoded"), tmp_path) is None


def test_recordings_are_read_and_counted() -> None:
    def read(item: str) -> Iterable[tuple[int, Events]]:
        if item == "bad":
            raise DataError("bad: odd length")
        yield from [(0, make_events(2))] * (2 if item == "double" else 1)

    source = EventSet("tiny", 4, 4, 2, ["one", "bad", "double"], ["one"], read, "")
    entry = replace(catalogue.find("nmnist-sample"), train=4, test=1)
    assert list(files.check_recordings(entry, source)) == [
        ("bad", "bad: odd length"),
        ("3 training recordings of 6 events", "were found, but the data set has 4"),
        ("1 test recordings of 2 events", None),
    ]


def make_events(count: int) -> Events:
    place = np.arange(count, dtype=np.int16)
    return Events(place, place, 1500 * np.arange(count), (place == 0).astype(np.uint8))
