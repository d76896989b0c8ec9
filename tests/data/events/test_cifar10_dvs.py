"""Tests of CIFAR10-DVS: its layout, its two splits, and irregular recordings."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from tsslbp import cli, data
from tsslbp.data import catalogue
from tsslbp.data.events import cifar10_dvs
from tsslbp.data.events.cifar10_dvs import BACKWARD, CLASSES, RECORDINGS, split
from tsslbp.errors import DataError
from tsslbp.run import Run

from . import event_files
from .event_files import random_events

COUNT, TRAIN = 12, 9  # recordings per class here, and how many of them train


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TSSLBP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cifar10_dvs, "RECORDINGS", COUNT)
    entry = replace(catalogue.find("cifar10-dvs"), train=10 * TRAIN, test=10 * (COUNT - TRAIN))
    monkeypatch.setitem(catalogue.entries(), "cifar10-dvs", entry)
    monkeypatch.setattr(cifar10_dvs, "split", lambda: {label: [2, 10] for label in CLASSES})
    for seed, label in enumerate(CLASSES):
        folder = tmp_path / "CIFAR10-DVS" / label
        folder.mkdir(parents=True)
        for number in range(COUNT):
            events = random_events(20, 128, 100 * seed + number)
            name = f"cifar10_{label}_{number}.aedat"
            (folder / name).write_bytes(event_files.aedat_2(events))
    return tmp_path


def draw_split() -> bytes:
    """Return the content of the split's file: 100 numbers drawn for each class, in this order.

    `RandomState` is used because its numbers are the same in every version of NumPy.
    """
    random = np.random.RandomState(20261125)
    chosen = {label: sorted(random.permutation(RECORDINGS)[:100].tolist()) for label in CLASSES}
    lines = (f"  {json.dumps(label)}: {json.dumps(numbers)}" for label, numbers in chosen.items())
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode()


def numbers(paths: list[Path]) -> list[int]:
    return [int(path.stem.rsplit("_", 1)[1]) for path in paths]


def test_published_split(root: Path) -> None:
    """The first recordings of each class train and the last test, by number: 2 comes before 10."""
    found = data.recordings("cifar10-dvs", root)
    assert numbers(list(found.train)) == [*range(TRAIN)] * 10
    assert numbers(list(found.test)) == [*range(TRAIN, COUNT)] * 10


def test_committed_split(root: Path) -> None:
    found = data.recordings("cifar10-dvs-90-10", root)
    assert numbers(list(found.test)) == [2, 10] * 10
    assert not set(found.train) & set(found.test)
    assert len(found.train) + len(found.test) == 10 * COUNT


def test_the_split_is_the_one_that_was_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    content = draw_split()
    assert hashlib.sha1(content).hexdigest() == cifar10_dvs.SPLIT_SHA1
    assert (resources.files("tsslbp.data.events") / cifar10_dvs.SPLIT).read_bytes() == content
    found = split()
    assert list(found) == list(CLASSES)
    for chosen in found.values():
        assert len(set(chosen)) == 100 and set(chosen) <= set(range(1000))
    monkeypatch.setattr(cifar10_dvs, "SPLIT_SHA1", "0" * 40)
    with pytest.raises(DataError, match="was changed"):
        split()


def test_it_loads(root: Path) -> None:
    found = data.load("cifar10-dvs", root, 10, data.Binning(by="count", down_sample=4))
    assert found.train_images.shape == (10 * TRAIN, 10, 2, 32, 32)
    assert found.test_labels.tolist() == sorted([*range(10)] * (COUNT - TRAIN))


def test_times_that_go_backward_are_one_warning(root: Path) -> None:
    for label in CLASSES[:3]:
        path = root / "CIFAR10-DVS" / label / f"cifar10_{label}_0.aedat"
        events = random_events(20, 128)
        path.write_bytes(event_files.aedat_2(events.only(np.arange(20)[::-1])))
    with pytest.warns(UserWarning, match=f"^cifar10-dvs: 3 recordings {BACKWARD}$") as warned:
        data.load("cifar10-dvs", root, 4)
    assert len(warned) == 1
    data.load("cifar10-dvs", root, 4)  # from the cache; a second warning would be an error


def test_events_and_labels(root: Path) -> None:
    """Each recording comes with the label of its folder, and with its own events."""
    for name in ("cifar10-dvs", "cifar10-dvs-90-10"):
        found = data.recordings(name, root)
        for path in [*found.train[::17], *found.test[::5]]:
            ((label, events),) = found.read(path)
            assert CLASSES[label] == path.parent.name
            expected = random_events(20, 128, 100 * label + numbers([path])[0])
            assert all(np.array_equal(a, b) for a, b in zip(events, expected, strict=True))


def test_a_changed_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / cifar10_dvs.SPLIT).write_bytes(draw_split().replace(b"1", b"2", 1))
    monkeypatch.setattr("tsslbp.data.events.cifar10_dvs.resources.files", lambda package: tmp_path)
    with pytest.raises(DataError, match="was changed: install tsslbp again"):
        split()


def test_recordings_outside_of_their_frames_are_one_warning(root: Path) -> None:
    """Windows count from time 0, so a recording whose clock starts later may miss them all."""
    path = root / "CIFAR10-DVS" / "dog" / "cifar10_dog_0.aedat"
    events = random_events(20, 128)
    path.write_bytes(event_files.aedat_2(events._replace(t=events.t + 50_000_000)))
    with pytest.warns(UserWarning, match="1 recordings have no event within the frames"):
        data.load("cifar10-dvs", root, 30, data.Binning(window=10.0))


def test_incomplete_sets(root: Path) -> None:
    (root / "CIFAR10-DVS" / "dog" / "cifar10_dog_5.aedat").unlink()
    with pytest.raises(DataError, match=r"dog contains 11 recordings \*\.aedat, expected 12"):
        data.recordings("cifar10-dvs", root)
    with pytest.raises(DataError, match="cifar10-dvs-90-10 is not downloaded by tsslbp"):
        data.recordings("cifar10-dvs-90-10", root / "cache")


def test_a_damaged_recording_names_its_file(root: Path) -> None:
    path = root / "CIFAR10-DVS" / "cat" / "cifar10_cat_3.aedat"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(DataError, match=r"cifar10_cat_3\.aedat holds 157 bytes of events"):
        data.load("cifar10-dvs", root, 4)


def test_it_trains(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe, with a smaller network, trains from files to a finished run."""
    monkeypatch.chdir(root)
    options = ["--data-dir", str(root), "--epochs", "1", "--set", "network=4C3-P2-8"]
    assert cli.main(["train", "cifar10-dvs", *options, "--set", "padding=1", "--out", "run"]) == 0
    (record,) = Run.open(root / "run").epochs()
    assert record["loss"] > 0 and len(record["test_accuracy_by_step"]) == 10
