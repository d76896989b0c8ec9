"""Tests of DVS-Gesture: files that hold several gestures, and their tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tsslbp import cli, data
from tsslbp.data.events import dvs_gesture
from tsslbp.data.events.dvs_gesture import EMPTY, Gesture, cut, read_labels
from tsslbp.errors import DataError
from tsslbp.run import Run

from . import event_files
from .event_files import random_events

HEADER = "class,startTime_usec,endTime_usec\n"
EVENTS = random_events(600, 128, 1)  # within 300 ms


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TSSLBP_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "DvsGesture"
    folder.mkdir()
    tables = {"user01_led": "1,20000,60000\n11,80000,200000\n", "user24_lab": "4,0,300000\n"}
    for name, rows in tables.items():
        (folder / f"{name}.aedat").write_bytes(event_files.aedat_3(EVENTS))
        (folder / f"{name}_labels.csv").write_text(HEADER + rows)
    (folder / "trials_to_train.txt").write_text("user01_led.aedat\n\n")
    (folder / "trials_to_test.txt").write_text("user24_lab.aedat\n")
    return tmp_path


def test_each_row_is_a_recording(root: Path) -> None:
    found = data.recordings("dvs-gesture", root)
    (path,) = found.train
    (label, first), (other, second) = found.read(path)
    assert (label, other) == (0, 10)
    inside = (EVENTS.t >= 20_000) & (EVENTS.t < 60_000)
    assert np.array_equal(first.t, EVENTS.t[inside] - 20_000)
    assert np.array_equal(first.x, EVENTS.x[inside])
    assert second.t.max() < 120_000
    assert found.classes == dvs_gesture.CLASSES == 11


def test_it_loads(root: Path) -> None:
    found = data.load("dvs-gesture", root, 30, data.Binning(window=5.0, down_sample=4))
    assert found.train_images.shape == (2, 30, 2, 32, 32)
    assert found.train_labels.tolist() == [0, 10] and found.test_labels.tolist() == [3]


def test_an_event_where_two_rows_meet_belongs_to_the_second() -> None:
    events = EVENTS.only(slice(5))._replace(t=np.array([9, 10, 15, 20, 21]))
    assert cut(events, Gesture(0, 10, 20)).t.tolist() == [0, 5]
    assert cut(events, Gesture(0, 20, 30)).t.tolist() == [0, 1]


def test_late_events_are_put_in_order_and_counted(root: Path) -> None:
    """Events out of order change no gesture, and each gesture of such a file is counted."""
    found = data.recordings("dvs-gesture", root)
    (path,) = found.train
    expected = [events.t.tolist() for _, events in found.read(path)]
    path.write_bytes(event_files.aedat_3(EVENTS.only(np.array([*range(300, 600), *range(300)]))))
    assert [events.t.tolist() for _, events in found.read(path)] == expected
    assert found.oddities[dvs_gesture.BACKWARD] == 2


def test_gestures_without_events_are_counted(root: Path) -> None:
    table = root / "DvsGesture" / "user01_led_labels.csv"
    table.write_text(HEADER + "1,20000,60000\n2,400000,500000\n3,600000,700000\n")
    with pytest.warns(UserWarning, match=f"^dvs-gesture: 2 recordings {EMPTY}$"):
        found = data.load("dvs-gesture", root, 4)
    assert found.train_labels.tolist() == [0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must begin with the line class,startTime_usec,endTime_usec"),
        ("class;start;end\n", "must begin with the line"),
        (HEADER + "\n", "lists no gesture"),
        (HEADER + "1,5,9\n\n1,5,9,9\n", "three whole numbers in line 4, got '1,5,9,9'"),
        (HEADER + "1,5\n", "three whole numbers in line 2"),
        (HEADER + "1,5,9\n2,x,9\n", "three whole numbers in line 3"),
        (HEADER + "1,5,9\r\r2,x,9\n", "three whole numbers in line 4, got '2,x,9'"),
        (HEADER + "1,5,\0\n", "three whole numbers in line 2"),
        (HEADER + '"' + "a" * 200_000, "three whole numbers in line 2, got '\"aaa"),
        (HEADER + "0,5,9\n", "has '0,5,9' in line 2, expected a class from 1 to 11"),
        (HEADER + "12,5,9\n", "has '12,5,9' in line 2"),
        (HEADER + "3,9,9\n", "a later end"),
        (HEADER + "3,-9,9\n", "a start of at least 0"),
        (HEADER + "3,5," + "9" * 30, "has '3,5,999"),
        (b"\xff\xfe\x00", "is not text: byte 0"),
    ],
)
def test_bad_tables(text: str | bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "user01_led_labels.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(DataError) as error:
        read_labels(path)
    assert str(path) in str(error.value) and message in str(error.value)
    assert len(str(error.value)) < len(str(path)) + 200


def test_tables_of_other_systems(tmp_path: Path) -> None:
    path = tmp_path / "user01_led_labels.csv"
    path.write_bytes(HEADER.encode().replace(b"\n", b"\r\n") + b"3,5,9\r\n\r\n")
    assert read_labels(path) == [Gesture(2, 5, 9)]


def test_damaged_tables_of_any_kind(tmp_path: Path) -> None:
    """Each of 500 mutated tables gives valid gestures or a DataError."""
    random = np.random.default_rng(0)
    path, content = tmp_path / "user01_led_labels.csv", (HEADER + "1,20000,60000\n" * 3).encode()
    refused = 0
    for _ in range(500):
        found = bytearray(content)
        for at in random.integers(0, len(content), random.integers(1, 4)):
            found[at] = random.choice([*b'0123456789,\n\r"- _\x00\x85\xff'])
        path.write_bytes(found)
        try:
            gestures = read_labels(path)
        except DataError:
            refused += 1
            continue
        for gesture in gestures:
            assert 0 <= gesture.label < 11 and (cut(EVENTS, gesture).t >= 0).all()
    assert 50 < refused < 500


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\n \n", "trials_to_test.txt lists no recording"),
        (b"<html>", "has '<html>' in line 1, expected names such as user01_fluorescent.aedat"),
        (b"\n../user01_led.aedat", "has '../user01_led.aedat' in line 2, expected"),
        (b"/", "has '/' in line 1, expected"),
        (b"user24_lab.aedat\r\nuser25_lab.aedat", "line 2 of trials_to_test.txt refers to it"),
        (b"a" * 5000, "expected names such as"),
        (b"a\x00.aedat", "expected names such as"),
    ],
)
def test_bad_lists(root: Path, content: bytes, message: str) -> None:
    (root / "DvsGesture" / "trials_to_test.txt").write_bytes(content)
    with pytest.raises(DataError) as error:
        data.recordings("dvs-gesture", root)
    assert message in str(error.value) and len(str(error.value)) < len(str(root)) + 200


@pytest.mark.parametrize("name", ["user01_led.aedat", "user24_lab_labels.csv"])
def test_missing_files(root: Path, name: str) -> None:
    (root / "DvsGesture" / name).unlink()
    with pytest.raises(DataError, match=f"{name} is missing, but line 1 of trials_to_"):
        data.recordings("dvs-gesture", root)


def test_a_recording_cannot_train_and_test(root: Path) -> None:
    (root / "DvsGesture" / "trials_to_test.txt").write_text("user01_led.aedat\n")
    with pytest.raises(DataError, match=r"user01_led\.aedat for training and for testing"):
        data.recordings("dvs-gesture", root)


def test_missing_lists(root: Path) -> None:
    (root / "DvsGesture" / "trials_to_test.txt").unlink()
    with pytest.raises(DataError, match=r"trials_to_test\.txt"):
        data.recordings("dvs-gesture", root)
    with pytest.raises(DataError, match="dvs-gesture is not downloaded by tsslbp"):
        data.recordings("dvs-gesture", root / "cache")


def test_it_trains(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe, with a smaller network, trains from files to a finished run."""
    monkeypatch.chdir(root)
    options = ["--data-dir", str(root), "--epochs", "1", "--set", "network=4C3-P2-8"]
    assert cli.main(["train", "dvs-gesture", *options, "--set", "padding=1", "--out", "run"]) == 0
    (record,) = Run.open(root / "run").epochs()
    assert record["loss"] > 0 and len(record["test_accuracy_by_step"]) == 300
