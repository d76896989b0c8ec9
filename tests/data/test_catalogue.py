"""The catalogue agrees with what the loaders give, and with the files themselves."""

from __future__ import annotations

from pathlib import Path

import pytest

from tsslbp import data
from tsslbp.data import catalogue
from tsslbp.data.events import cifar10_dvs, dvs_gesture, nmnist
from tsslbp.data.files import Source
from tsslbp.data.images.idx import SOURCES
from tsslbp.errors import InvalidInput

ENTRY = """
[[sets]]
name = "tiny"
title = "a few"
kind = "images"
origin = "download"
train = 7
test = 3
shape = [1, 5, 4]
classes = 10
citation = "nobody"
homepage = "http://127.0.0.1/"
"""


def test_every_data_set_is_in_it_with_its_shape() -> None:
    for name in {*data.NAMES, *data.EVENTS}:
        entry = catalogue.find(name)
        assert data.known_shape(name, None) == (entry.shape, entry.classes)
        assert (entry.kind == "events") == (name in data.EVENTS)


def test_a_folder_belongs_to_its_set() -> None:
    assert catalogue.of_folder("mnist") == "mnist"
    assert catalogue.of_folder("N-MNIST") == catalogue.of_folder("nmnist") == "nmnist"
    assert catalogue.of_folder("DvsGesture") == "dvs-gesture"
    with pytest.raises(InvalidInput, match="did you mean 'N-MNIST'"):
        catalogue.of_folder("N-MNISTS")


def test_the_digits_are_as_it_says() -> None:
    pytest.importorskip("sklearn")
    entry, digits = catalogue.find("digits"), data.load("digits")
    assert (len(digits.train_labels), len(digits.test_labels)) == (entry.train, entry.test)
    assert (digits.input_shape, digits.classes) == (entry.shape, entry.classes)


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_sizes_are_those_of_the_files(source: Source, data_dir: Path) -> None:
    sizes = [(data_dir / source.name / file).stat().st_size for file in source.md5]
    entry = catalogue.find(source.name)
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
    for entry in catalogue.entries():
        assert entry.citation and entry.homepage.startswith("http")
        if entry.origin == "hand":
            assert "DIR/" in entry.layout
            assert all(folder in entry.layout for folder in entry.folders[:1])


def test_folders_are_those_that_the_readers_take() -> None:
    taken = {
        **nmnist.FOLDERS,
        **dict.fromkeys(cifar10_dvs.NAMES, cifar10_dvs.FOLDERS),
        dvs_gesture.NAME: dvs_gesture.FOLDERS,
    }
    assert {one.name: one.folders for one in catalogue.entries() if one.folders} == taken


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (ENTRY + 'licens = "MIT"', "'licens' (did you mean 'licence'?)"),
        (ENTRY.replace('citation = "nobody"', ""), "tiny lacks the field 'citation'"),
        (ENTRY.replace('"images"', '"image"'), "got 'image' (did you mean 'images'?)"),
        (ENTRY.replace('"download"', '"hand"'), "tiny comes by hand, so its layout must say how"),
        (ENTRY.replace("[1, 5, 4]", "[5, 4]"), "a shape (C, H, W) expected"),
        (ENTRY.replace("test = 3", "test = 0"), "numbers above 0"),
        (ENTRY + ENTRY, "must differ"),
    ],
)
def test_wrong_entries_are_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidInput) as error:
        catalogue.read(text)
    assert message in str(error.value)


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(InvalidInput, match=r"called 'mnits' \(did you mean 'mnist'"):
        catalogue.find("mnits")
