"""Tests of the file of a binned event set, and of when it is made again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tsslbp import storage
from tsslbp.data import Binning, frame_cache
from tsslbp.data.events.binning import bin_events
from tsslbp.data.events.recording import Events, EventSet
from tsslbp.errors import DataError, InvalidInput

HEIGHT, WIDTH, STEPS = 10, 12, 5
HOW = [Binning(), Binning(values="count", window=2.0), Binning(by="count", values="surface")]


def read(item: int) -> Iterable[tuple[int, Events]]:
    """Yield the recordings of an item, whose number and size depend on the item."""
    random = np.random.default_rng(item)
    for part in range(1 + item % 3):
        count = 7 * item + part + 1
        yield (
            item % 4,
            Events(
                random.integers(0, WIDTH, count).astype(np.int16),
                random.integers(0, HEIGHT, count).astype(np.int16),
                np.sort(random.integers(0, 10_000, count)),
                random.integers(0, 2, count).astype(np.uint8),
            ),
        )


SOURCE = EventSet("toy", HEIGHT, WIDTH, 4, range(8), range(8, 11), read, "first", "a toy")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TSSLBP_CACHE", str(tmp_path))
    return tmp_path / "binned"


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


@pytest.mark.parametrize("how", HOW)
def test_the_file_holds_every_recording(how: Binning) -> None:
    for _ in range(2):  # made, and read again
        found = frame_cache.load(SOURCE, STEPS, how)
        assert (found.name, found.classes, found.note) == ("toy", 4, "a toy")
        for items, images, labels in (
            (SOURCE.train, found.train_images, found.train_labels),
            (SOURCE.test, found.test_images, found.test_labels),
        ):
            recordings = [one for item in items for one in read(item)]
            assert labels.tolist() == [label for label, _ in recordings]
            assert images.shape == (len(recordings), STEPS, *how.shape(HEIGHT, WIDTH))
            assert not isinstance(images, torch.Tensor)
            for (_, events), frames in zip(recordings, images, strict=True):
                active = bin_events(events, HEIGHT, WIDTH, STEPS, how)
                where = frames.flatten(1).nonzero(as_tuple=True)
                step = np.repeat(np.arange(STEPS), active.counts)
                if how.values != "surface":  # on a surface, an event at time 0 has the value 0
                    assert where[1].tolist() == active.pixels.tolist()
                    assert where[0].tolist() == step.tolist()
                values = frames.flatten(1)[step, active.pixels]
                expected = torch.ones(1) if active.values is None else torch.tensor(active.values)
                assert (values == expected).all()


def test_frames_of_more_pixels_than_two_bytes_count() -> None:
    large = replace(SOURCE, height=400, width=300)
    found = frame_cache.load(large, 2, Binning(polarities=1))
    assert found.train_images.shape[-2:] == (400, 300)
    small = frame_cache.load(SOURCE, 2, Binning(polarities=1))
    for one, other in zip(found.train_images, small.train_images, strict=True):
        assert torch.equal(one[..., :HEIGHT, :WIDTH], other) and one.sum() == other.sum()


def test_made_once_for_each_way(cache: Path) -> None:
    for how in HOW:
        frame_cache.load(SOURCE, STEPS, how)
    frame_cache.load(SOURCE, STEPS + 1, HOW[0])
    frame_cache.load(replace(SOURCE, fingerprint="second"), STEPS, HOW[0])
    assert len(files(cache)) == 5
    silent = replace(SOURCE, read=lambda item: pytest.fail("read again"))
    for how in HOW:
        frame_cache.load(silent, STEPS, how)


@pytest.mark.parametrize("damage", ["cut", "empty", "garbage", "header"])
def test_a_damaged_file_is_made_again(cache: Path, damage: str) -> None:
    frame_cache.load(SOURCE, STEPS, HOW[1])
    (path,) = files(cache)
    content = path.read_bytes()
    replaced = {
        "cut": content[:-20],
        "empty": b"",
        "garbage": os.urandom(3000),
        "header": content[:8] + b"{}".ljust(1016) + content[1024:],
    }
    path.write_bytes(replaced[damage])
    frame_cache.load(SOURCE, STEPS, HOW[1])
    assert path.read_bytes() == content


@pytest.mark.parametrize("flip", [0x01, 0x20, 0xFF])
def test_one_damaged_byte_is_noticed_and_the_file_made_again(cache: Path, flip: int) -> None:
    """A change of any byte matters, except in the unused white space behind the header."""
    small = replace(SOURCE, train=range(2), test=range(8, 9))
    frame_cache.load(small, STEPS, HOW[1])
    (path,) = files(cache)
    content = path.read_bytes()
    end = content.index(b"}  ") + 1
    for position in [*range(end), *range(frame_cache.HEADER, len(content), 7), len(content) - 1]:
        damaged = bytearray(content)
        damaged[position] ^= flip
        path.write_bytes(damaged)
        assert frame_cache._open(path, small) is None, position
    frame_cache.load(small, STEPS, HOW[1])
    assert path.read_bytes() == content


def test_files_of_an_earlier_format_are_removed(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = frame_cache.FORMAT
    for version in range(1, now + 1):
        monkeypatch.setattr(frame_cache, "FORMAT", version)
        frame_cache.load(SOURCE, STEPS, HOW[0])
        other = frame_cache.load(SOURCE, STEPS, HOW[1])
        assert len(files(cache)) == 2 and len(other.train_labels)


def test_a_file_without_digests_is_made_again(cache: Path) -> None:
    frame_cache.load(SOURCE, STEPS, HOW[1])
    (path,) = files(cache)
    content = path.read_bytes()
    header, data = json.loads(content[8 : frame_cache.HEADER]), content[frame_cache.HEADER :]
    for name in storage.DIGESTS:
        del header["__metadata__"][name]
    text = json.dumps(header).encode().ljust(frame_cache.HEADER - 8)
    path.write_bytes(content[:8] + text + data)
    frame_cache.load(SOURCE, STEPS, HOW[1])
    assert path.read_bytes() == content


def test_a_bad_recording_leaves_no_file(cache: Path) -> None:
    def broken(item: int) -> Iterable[tuple[int, Events]]:
        if item == 9:
            raise DataError("item 9 is broken")
        return read(item)

    with pytest.raises(DataError, match="item 9 is broken"):
        frame_cache.load(replace(SOURCE, read=broken), STEPS, HOW[0])
    assert [path.suffix for path in cache.iterdir()] == [".lock"]


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_part_without_recordings(part: str) -> None:
    with pytest.raises(DataError, match="toy contains no recording"):
        frame_cache.load(replace(SOURCE, **{part: ()}), STEPS, HOW[0])


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TSSLBP_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match="TSSLBP_CACHE"):
        frame_cache.load(SOURCE, STEPS, HOW[0])


PROCESS = """
import numpy as np
from tsslbp.data import Binning, Events, EventSet, frame_cache

read = 0

def recordings(item):
    global read
    read += 1
    t = np.arange(item + 1, dtype=np.int64)
    x = (t % 9).astype(np.int16)
    yield item % 4, Events(x, x, t, (t % 2).astype(np.uint8))

source = EventSet("toy", 10, 12, 4, range(8), range(8, 11), recordings, "first")
found = frame_cache.load(source, 5, Binning(values="count"))
print(read, sum(float(one.sum()) for one in found.train_images))
"""


@pytest.mark.slow
def test_processes_at_once_make_one_file() -> None:
    command = [sys.executable, "-c", PROCESS]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    lines = [process.communicate()[0].split() for process in processes]
    assert sorted(line[0] for line in lines) == ["0", "0", "11"]
    assert {line[1] for line in lines} == {f"{sum(range(1, 9)):.1f}"}


def missing(item: int) -> Iterable[tuple[int, Events]]:
    Path("none.bin").read_bytes()
    return read(item)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (missing, r"toy: cannot read item 0: .*none\.bin"),
        (lambda item: [(4, events) for _, events in read(item)], "label 4, expected 0 to 3"),
        (lambda item: [(0, np.zeros((3, 4)))], "item 0 gave no Events"),
    ],
)
def test_a_users_reader_is_checked(bad: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        frame_cache.load(replace(SOURCE, read=bad), STEPS, HOW[0])


def test_only_nmnist_is_stabilised() -> None:
    with pytest.raises(
        InvalidInput, match="stabilise applies only to N-MNIST, got recordings of toy"
    ):
        frame_cache.load(SOURCE, STEPS, Binning(stabilise=True))
