"""Tests that the catalogue agrees with the loaders and with the files themselves."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from tsslbp import data
from tsslbp.data import catalogue
from tsslbp.errors import InvalidInput

ENTRY = """
[tiny]
title = "a few"
kind = "images"
reader = "idx"
origin = "download"
train = 7
test = 3
shape = [1, 5, 4]
classes = 10
citation = "nobody"
homepage = "http://127.0.0.1/"
url = "http://127.0.0.1/"
md5 = { a = "0123" }
"""


def test_every_data_set_has_a_reader_and_a_known_shape() -> None:
    for name, entry in catalogue.entries().items():
        assert entry.name == name
        assert data.known_shape(name, None) == (entry.shape, entry.classes)
        assert data.holds_events(name) == (entry.kind == "events")
        readers = data.EVENT_READERS if entry.kind == "events" else data.IMAGE_READERS
        assert entry.reader in readers
    used = {entry.reader for entry in catalogue.entries().values()}
    assert used == {*data.IMAGE_READERS, *data.EVENT_READERS}
    assert data.known_shape("mine.npz", None) is None and not data.holds_events("mine.npz")


def test_a_known_shape_is_that_of_the_frames() -> None:
    binning = data.Binning(down_sample=4, polarities=1)
    assert data.known_shape("dvs-gesture", binning) == ((1, 32, 32), 11)


def test_a_folder_belongs_to_its_set() -> None:
    assert catalogue.of_folder("mnist") == "mnist"
    assert catalogue.of_folder("N-MNIST") == catalogue.of_folder("nmnist") == "nmnist"
    assert catalogue.of_folder("DvsGesture") == "dvs-gesture"
    with pytest.raises(InvalidInput, match="did you mean 'N-MNIST'"):
        catalogue.of_folder("N-MNISTS")


def test_the_digits_are_as_it_says() -> None:
    entry, digits = catalogue.find("digits"), data.load("digits")
    assert (len(digits.train_labels), len(digits.test_labels)) == (entry.train, entry.test)
    assert (digits.input_shape, digits.classes) == (entry.shape, entry.classes)


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_sizes_are_those_of_the_files(name: str, data_dir: Path) -> None:
    entry = catalogue.find(name)
    sizes = [(data_dir / name / file).stat().st_size for file in entry.md5]
    assert entry.download == entry.disk == sum(sizes)


def test_the_sample_of_recordings_is_as_it_says(data_dir: Path) -> None:
    entry = catalogue.find("nmnist-sample")
    files = {
        part: list((data_dir / entry.folders[0] / part).glob("*/*.bin"))
        for part in ("Train", "Test")
    }
    assert {part: len(found) for part, found in files.items()} == {"Train": 1000, "Test": 100}
    assert (entry.train, entry.test) == (1000, 100)
    assert entry.disk == sum(file.stat().st_size for found in files.values() for file in found)


def test_every_entry_can_be_cited_and_got() -> None:
    for entry in catalogue.entries().values():
        assert entry.citation and entry.homepage.startswith("http")
        if entry.origin == "hand":
            assert "DIR/" in entry.layout
            assert all(folder in entry.layout for folder in entry.folders[:1])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (ENTRY + 'licens = "MIT"', "'licens' (did you mean 'licence'?)"),
        (ENTRY.replace('citation = "nobody"', ""), "tiny: missing key 'citation'"),
        (ENTRY.replace('"images"', '"image"'), "got 'image' (did you mean 'images'?)"),
        (
            ENTRY.replace('"download"', '"hand"'),
            "tiny: origin is 'hand', so layout must",
        ),
        (ENTRY.replace("[1, 5, 4]", "[5, 4]"), "shape must be a list (of 3), each item a whole"),
        (ENTRY.replace("test = 3", "test = 0"), "test must be a whole number of at least 1, got 0"),
        (ENTRY.replace('"idx"', '"idy"'), "got 'idy' (did you mean 'idx'?)"),
        (ENTRY.replace('md5 = { a = "0123" }', ""), "url and md5 must be set if"),
    ],
)
def test_wrong_entries_are_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidInput) as error:
        catalogue.entries(text)
    assert message in str(error.value)


def test_a_name_cannot_be_given_twice() -> None:
    with pytest.raises(tomllib.TOMLDecodeError, match="twice"):
        catalogue.entries(ENTRY + ENTRY)


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(InvalidInput, match=r"no data set 'mnits' \(did you mean 'mnist'"):
        catalogue.find("mnits")
