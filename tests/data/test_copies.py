"""Local copies: found where they are, and told whether they are whole."""

from __future__ import annotations

import gzip
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tsslbp.data import catalogue, copies
from tsslbp.data.catalogue import Entry
from tsslbp.data.events.recording import Events, EventSet
from tsslbp.data.files import VARIABLE, checksum
from tsslbp.data.images import cifar10, idx
from tsslbp.data.images.cifar10 import Edition
from tsslbp.errors import DataError, InvalidInput


@pytest.fixture
def entry(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> Entry:
    """The facts about the small set, which is one of those in the IDX format."""
    monkeypatch.setitem(idx.SOURCES, "tiny", tiny.source())
    return replace(catalogue.find("mnist"), name="tiny")


def problems(entry: Entry, folder: Path) -> dict[str, str | None]:
    return {Path(part).name: wrong for part, wrong in copies.check_files(entry, folder)}


def test_a_whole_copy(tiny: Any, entry: Entry, tmp_path: Path) -> None:
    folder = tiny.write(tmp_path / "data")
    assert problems(entry, folder) == dict.fromkeys(tiny.files)
    assert copies.locate(entry, folder) == folder / "tiny"


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
    assert copies.locate(entry, folder) is None


def test_a_copy_is_looked_for_in_the_folder_given_else_in_the_cache(
    tiny: Any, entry: Entry, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.write(cache)
    assert copies.locate(entry, None) == cache / "tiny"
    assert copies.locate(entry, tmp_path) is None
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    assert copies.locate(entry, None) is None


@pytest.mark.parametrize("name", ["N-MNIST", "nmnist"])
def test_recordings_are_found_where_they_are_read_from(
    name: str, tmp_path: Path, cache: Path
) -> None:
    """Under every name that the reader takes, and not in the cache folder, where it never looks."""
    entry = catalogue.find("nmnist")
    (tmp_path / "given" / name).mkdir(parents=True)
    (cache / name).mkdir(parents=True)
    assert copies.locate(entry, tmp_path / "given") == tmp_path / "given" / name
    assert copies.locate(entry, None) is None


def test_the_editions_of_cifar10_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They lie in the same folder; the test file says which it is."""
    contents = {file: file.encode() for file in cifar10.FILES}
    sums = {file: checksum(content, "sha1") for file, content in contents.items()}
    edition = replace(cifar10.REENCODED, sha1=sums)
    monkeypatch.setitem(cifar10.EDITIONS, edition.name, edition)
    folder = tmp_path / "cifar10" / cifar10.FOLDER
    folder.mkdir(parents=True)
    for file, content in contents.items():
        (folder / file).write_bytes(content)
    mine, official = catalogue.find(edition.name), catalogue.find("cifar10")
    assert copies.locate(mine, tmp_path) == folder
    assert copies.locate(official, tmp_path) is None
    assert set(problems(mine, tmp_path).values()) == {None}
    assert all(problems(official, tmp_path).values())
    assert copies.describe(folder / cifar10.TEST) == f"a file of {edition.name}"
    (folder / cifar10.TEST).write_bytes(b"damaged")
    with pytest.raises(DataError, match="is a file of none of cifar10, cifar10-reencoded"):
        copies.describe(folder / cifar10.TEST)


def test_the_archive_of_cifar10_serves_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = replace(cifar10.SOURCE, md5={cifar10.ARCHIVE: checksum(b"packed", "md5")})
    edition = Edition("cifar10", cifar10.OFFICIAL.sha1, source)
    monkeypatch.setitem(cifar10.EDITIONS, "cifar10", edition)
    archive = tmp_path / "cifar10" / cifar10.ARCHIVE
    archive.parent.mkdir()
    archive.write_bytes(b"packed")
    assert copies.locate(catalogue.find("cifar10"), tmp_path) == archive
    assert problems(catalogue.find("cifar10"), tmp_path) == {cifar10.ARCHIVE: None}
    assert copies.locate(catalogue.find("cifar10-reencoded"), tmp_path) is None


def test_recordings_are_read_and_counted() -> None:
    def read(item: str) -> Iterable[tuple[int, Events]]:
        if item == "bad":
            raise DataError("bad: odd length")
        yield from [(0, make_events(2))] * (2 if item == "double" else 1)

    source = EventSet("tiny", 4, 4, 2, ["one", "bad", "double"], ["one"], read, "")
    entry = replace(catalogue.find("nmnist-sample"), train=4, test=1)
    assert list(copies.check_recordings(entry, source)) == [
        ("bad", "bad: odd length"),
        ("3 training recordings of 6 events", "are not 4, as the set has"),
        ("1 test recordings of 2 events", None),
    ]


def make_events(count: int) -> Events:
    place = np.arange(count, dtype=np.int16)
    return Events(place, place, 1500 * np.arange(count), (place == 0).astype(np.uint8))


def test_events_are_described() -> None:
    expected = "3 events, 1 brighter and 2 darker, in 3.0 ms"
    assert copies.describe_events(make_events(3)) == expected
    assert copies.describe_events(make_events(0)) == "no events"


def test_a_file_of_events_is_read_by_its_format(tmp_path: Path) -> None:
    """Two events of N-MNIST: x, y, then a bit of polarity and 23 of microseconds."""
    pytest.importorskip("tsslbp.data.events.nmnist")
    path = tmp_path / "00001.bin"
    path.write_bytes(bytes([3, 4, 0x80, 0, 100]) + bytes([5, 6, 0, 0x10, 0]))
    expected = "2 events, 1 brighter and 1 darker, in 4.0 ms"
    assert copies.describe(path) == expected


@pytest.mark.parametrize("packed", [True, False])
def test_idx_files_are_described_packed_or_not(tiny: Any, tmp_path: Path, packed: bool) -> None:
    for name, words in (
        (idx.TRAIN_IMAGES, "7 images of 5 x 4"),
        (idx.TEST_LABELS, "3 labels"),
    ):
        path = tmp_path / (name if packed else name.removesuffix(".gz"))
        content = tiny.files[name]
        path.write_bytes(content if packed else gzip.decompress(content))
        assert copies.describe(path) == f"{words}, no official file of mnist or fashion-mnist"


def test_official_files_are_known_by_their_checksum(
    tiny: Any, entry: Entry, tmp_path: Path
) -> None:
    path = tmp_path / "renamed.gz"
    path.write_bytes(tiny.files[idx.TRAIN_IMAGES])
    assert copies.describe(path) == "an official file of tiny"


def test_an_npz_file_is_described(tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    np.savez(path, images=np.zeros((20, 3, 4), np.uint8), labels=np.arange(20) % 2)
    assert copies.describe(path) == "18 training and 2 test images of 1 x 3 x 4, 2 classes"


@pytest.mark.parametrize("cut", [0, 1, 3, 10, 30])
def test_damaged_files_are_one_line_with_the_path(tiny: Any, tmp_path: Path, cut: int) -> None:
    path = tmp_path / idx.TEST_LABELS
    path.write_bytes(tiny.files[idx.TEST_LABELS][:cut])
    with pytest.raises(DataError) as error:
        copies.describe(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_what_is_no_data_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("text")
    with pytest.raises(InvalidInput, match="no data file that tsslbp knows"):
        copies.describe(tmp_path / "notes.txt")
    with pytest.raises(DataError, match="is a folder"):
        copies.describe(tmp_path)
    with pytest.raises(DataError, match="is missing"):
        copies.describe(tmp_path / "nothing.npz")
