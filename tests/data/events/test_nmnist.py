"""Tests of N-MNIST's files, and of the stabilisation of its images."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from tsslbp import cli, data
from tsslbp.data import Frames
from tsslbp.data.events import nmnist
from tsslbp.data.events.recording import Events
from tsslbp.errors import DataError, InvalidInput
from tsslbp.run import Run

from . import event_files
from .event_files import random_events


def same(one: Events, other: Events) -> bool:
    pairs = zip(one, other, strict=True)
    return all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("count", [1, 2, 5000])
def test_round_trip(count: int) -> None:
    events = random_events(count, 34, count, 1 << 23)
    assert same(nmnist.decode(event_files.nmnist(events)), events)


def test_overflows_of_the_clock() -> None:
    """Rows with the address 240 are not events; each adds 2^13 microseconds to later times."""
    one = Events(*(np.array([n], kind) for n, kind in zip((3, 4, 50, 1), "hhqB", strict=True)))
    part = event_files.nmnist(one)
    marker = bytes([0, 240, 0, 0, 60])
    found = nmnist.decode(part + marker + part + marker + marker + part)
    assert found.t.tolist() == [50, 50 + 8192, 50 + 3 * 8192]
    assert found.x.tolist() == [3, 3, 3]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "contains no event"),
        (bytes(5 * 3 + 2), "holds 17 bytes, not a multiple of 5: it is cut short at byte 15"),
        (bytes([1, 240, 0, 0, 9]), "contains no event"),
        (bytes(10) + bytes([34, 0, 0, 0, 0]), "column 34, row 0, at byte 10"),
        (bytes([0, 240, 0, 0, 0, 1, 200, 0, 0, 0]), "column 1, row 200, at byte 5"),
        (bytes([0, 0, 0, 0, 9]) + bytes(5), "go back from 9 to 0 microseconds at byte 5"),
        (b"<html>not found", "outside the sensor of 34 x 34 pixels"),
    ],
)
def test_damaged_files(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "00001.bin"
    path.write_bytes(content)
    with pytest.raises(DataError) as error:
        nmnist.read(path)
    assert str(error.value).startswith(f"{path} ") and message in str(error.value)


def rounded(value: Fraction) -> int:
    """Round to the nearest whole number, and halves away from zero."""
    sign = -1 if value < 0 else 1
    return sign * int(abs(value) + Fraction(1, 2))


def slow(x: int, y: int, t: int) -> tuple[int, int] | None:
    """Return where the published formulas move one event, or None if it leaves the sensor.

    The formulas count pixels from 1; times are in microseconds.
    """
    s = Fraction(t, 105_000)
    column, row = Fraction(x + 1), Fraction(y + 1)
    if t <= 105_000:
        column, row = column - Fraction(7, 2) * s, row - 7 * s
    elif t <= 210_000:
        column, row = column - Fraction(7, 2) - Fraction(7, 2) * (s - 1), row - 7 + 7 * (s - 1)
    else:
        column = column - 7 + 7 * (s - 2)
    place = rounded(column), rounded(row)
    return (place[0] - 1, place[1] - 1) if all(1 <= side <= 34 for side in place) else None


def test_stabilise_is_its_formulas() -> None:
    """Events move by the published formulas, also at borders of saccades and at exact halves."""
    times = [0, 1, 7500, 15_000, 30_000, 52_500, 104_999, 105_000, 105_001, 112_500, 120_000]
    times += [150_000, 209_999, 210_000, 210_001, 217_500, 262_500, 300_000, 314_999, 330_000]
    sides = [0, 1, 2, 3, 4, 6, 13, 20, 27, 30, 32, 33]
    t, x, y = (grid.ravel() for grid in np.meshgrid(times, sides, sides, indexing="ij"))
    p = (np.arange(len(t)) % 2).astype(np.uint8)
    found = nmnist.stabilise(Events(x.astype(np.int16), y.astype(np.int16), t, p))
    expected = [
        (*place, when, one)
        for *at, when, one in zip(x.tolist(), y.tolist(), t.tolist(), p.tolist(), strict=True)
        if (place := slow(*at, when)) is not None
    ]
    assert list(zip(*(column.tolist() for column in found), strict=True)) == expected
    assert len(expected) < len(t)


@pytest.mark.parametrize("t", [7500, 105_001, 210_001, 232_500])
def test_stabilise_at_every_pixel(t: int) -> None:
    x, y = (place.ravel().astype(np.int16) for place in np.mgrid[:34, :34])
    events = Events(x, y, np.full(len(x), t, np.int64), np.ones(len(x), np.uint8))
    found = nmnist.stabilise(events)
    moved = [slow(*place, t) for place in zip(x.tolist(), y.tolist(), strict=True)]
    expected = [place for place in moved if place is not None]
    assert list(zip(found.x.tolist(), found.y.tolist(), strict=True)) == expected


def layout(root: Path, folder: str, files: int = 3) -> None:
    for part in ("Train", "Test"):
        for label in range(10):
            place = root / folder / part / str(label)
            place.mkdir(parents=True)
            for number in range(files):
                seed = 100 * label + number
                content = event_files.nmnist(random_events(50 + label, 34, seed))
                (place / f"{number:05}.bin").write_bytes(content)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TSSLBP_CACHE", str(tmp_path / "cache"))
    layout(tmp_path, "N-MNIST")
    return tmp_path


def test_labels_are_the_folders(root: Path) -> None:
    found = data.load("nmnist", root, 4)
    assert found.train_images.shape == (30, 4, 2, 34, 34)
    assert found.test_labels.tolist() == [label for label in range(10) for _ in range(3)]
    assert found.classes == 10
    assert found.note == "measured on 60 of N-MNIST's 70,000 recordings"


def test_a_changed_file_is_read_again(root: Path) -> None:
    before = data.load("nmnist", root, 4).train_images
    path = root / "N-MNIST" / "Train" / "0" / "00000.bin"
    path.write_bytes(event_files.nmnist(random_events(1, 34)))
    after = data.load("nmnist", root, 4).train_images
    assert isinstance(before, Frames) and isinstance(after, Frames)
    assert before[:1].trains().sum() > after[:1].trains().sum() == 1


def test_stabilised_frames_differ(root: Path) -> None:
    plain = data.load("nmnist", root, 4, data.Binning())
    still = data.load("nmnist", root, 4, data.Binning(stabilise=True))
    assert len(plain.train_labels) == len(still.train_labels)
    with pytest.raises(
        InvalidInput, match="stabilise applies only to N-MNIST, got recordings of moving-digits"
    ):
        data.load("moving-digits", root, 4, data.Binning(stabilise=True))


def test_a_damaged_recording_names_its_file(root: Path) -> None:
    path = root / "N-MNIST" / "Test" / "3" / "00001.bin"
    path.write_bytes(b"four")
    with pytest.raises(DataError, match=r"Test/3/00001\.bin holds 4 bytes"):
        data.load("nmnist", root, 4)


def test_missing_folders(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="nmnist-sample is not downloaded by tsslbp"):
        data.load("nmnist-sample", root, 4)
    monkeypatch.delenv("TSSLBP_DATA", raising=False)
    with pytest.raises(DataError, match="set TSSLBP_DATA or --data-dir"):
        data.load("nmnist", None, 4)
    (tmp_path / "empty" / "N-MNIST" / "Train").mkdir(parents=True)
    with pytest.raises(DataError, match="contains no recordings such as Train/7"):
        data.load("nmnist", tmp_path / "empty", 4)
    with pytest.raises(InvalidInput, match="time_steps must be given"):
        data.load("nmnist", root)


def test_the_sample_carries_its_caveat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TSSLBP_CACHE", str(tmp_path / "cache"))
    layout(tmp_path, "N-MNIST-sample", 1)
    assert "20 of N-MNIST's 70,000" in data.load("nmnist-sample", tmp_path, 4).note


def test_real_recordings(data_dir: Path) -> None:
    """Files of the sample are read whole: writing their events gives the same bytes."""
    if not (data_dir / "N-MNIST-sample").is_dir():
        pytest.skip(f"no folder {data_dir / 'N-MNIST-sample'}")
    source = data.recordings("nmnist-sample", data_dir)
    assert (len(source.train), len(source.test)) == (1000, 100)
    count = 0
    for path in [*source.train[::7], *source.test]:
        events = nmnist.read(path)
        count += len(events.t)
        assert event_files.nmnist(events) == path.read_bytes()
    assert count == 957_229


def test_real_digits_stand_still(data_dir: Path) -> None:
    """All recordings of the sample are valid, and most digits are smaller when stabilised."""
    if not (data_dir / "N-MNIST-sample").is_dir():
        pytest.skip(f"no folder {data_dir / 'N-MNIST-sample'}")
    source = data.recordings("nmnist-sample", data_dir)
    recordings = [nmnist.read(path) for path in (*source.train, *source.test)]
    assert sum(len(events.t) for events in recordings) == 4_518_827
    assert max(events.t[-1] for events in recordings) < 400_000
    smaller = [nmnist.stabilise(events).y.std() < events.y.std() for events in recordings[::10]]
    assert np.mean(smaller) > 0.9


def test_it_trains(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe, with a smaller network, trains from files to a finished run."""
    monkeypatch.chdir(root)
    options = ["--data-dir", str(root), "--epochs", "1", "--set", "network=4C5-P2"]
    assert cli.main(["train", "nmnist-30", *options, "--set", "padding=1", "--out", "run"]) == 0
    (record,) = Run.open(root / "run").epochs()
    assert record["loss"] > 0 and len(record["test_accuracy_by_step"]) == 30
