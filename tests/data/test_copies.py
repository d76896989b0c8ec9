"""Local copies: found where they are, and told whether they are whole."""

from __future__ import annotations

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
from tsslbp.errors import DataError


@pytest.fixture
def entry(tiny: Any) -> Entry:
    """The facts about the small set, which is one of those in the IDX format."""
    return tiny.entry()


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


def test_the_editions_of_cifar10_are_told_apart(tmp_path: Path) -> None:
    """They lie in the same folder; the test file says which it is."""
    contents = {file: file.encode() for file in cifar10.FILES}
    sums = {file: checksum(content, "sha1") for file, content in contents.items()}
    mine = replace(catalogue.find("cifar10-reencoded"), sha1=sums)
    folder = tmp_path / "cifar10" / cifar10.FOLDER
    folder.mkdir(parents=True)
    for file, content in contents.items():
        (folder / file).write_bytes(content)
    official = catalogue.find("cifar10")
    assert copies.locate(mine, tmp_path) == folder
    assert copies.locate(official, tmp_path) is None
    assert set(problems(mine, tmp_path).values()) == {None}
    assert len(problems(official, tmp_path)) == 6 and all(problems(official, tmp_path).values())


def test_the_archive_of_cifar10_serves_as_well(tmp_path: Path) -> None:
    sums = {cifar10.ARCHIVE: checksum(b"packed", "md5")}
    entry = replace(catalogue.find("cifar10"), md5=sums)
    archive = tmp_path / "cifar10" / cifar10.ARCHIVE
    archive.parent.mkdir()
    archive.write_bytes(b"packed")
    assert copies.locate(entry, tmp_path) == archive
    assert problems(entry, tmp_path) == {cifar10.ARCHIVE: None}
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
