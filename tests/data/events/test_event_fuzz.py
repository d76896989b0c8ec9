"""Tests of 10,000 damaged event files: each gives valid events, or one error that says why."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest

from tsslbp.data.events import aedat, nmnist
from tsslbp.data.events.recording import Events

from . import event_files
from .event_files import START_2, START_3, packet_header, random_events

FILES = 3334  # of each format
OURS = {"holds", "contains", "has", "is", "ends", "does"}  # NumPy's own errors begin otherwise
NUMBERS = [0, 1, 7, 8, 127, 128, 0x7FFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 30]


def mutated(content: bytes, random: np.random.Generator) -> bytes:
    """Return the content with one to three random changes.

    Each change overwrites, deletes, inserts or repeats bytes, writes a number of four bytes, or
    cuts off the rest.
    """
    for _ in range(random.integers(1, 4)):
        at, length = random.integers(0, len(content) + 1), random.integers(1, 9)
        some = random.integers(0, 256, length).astype(np.uint8).tobytes()
        number = int(random.choice(NUMBERS)).to_bytes(4, "little")
        content = [
            content[:at] + some + content[at + length :],
            content[:at] + content[at + length :],
            content[:at] + some + content[at:],
            content[:at] + content[max(0, at - length) :],
            content[:at] + number + content[at + 4 :],
            content[:at],
        ][random.integers(0, 6)]
    return content


def decode_aedat(content: bytes) -> Events:
    return aedat.decode(content).events


@pytest.mark.parametrize(
    ("write", "decode", "side"),
    [
        (event_files.nmnist, nmnist.decode, 34),
        (event_files.aedat_2, decode_aedat, 128),
        (event_files.aedat_3, decode_aedat, 128),
    ],
    ids=["nmnist", "aedat 2.0", "aedat 3.1"],
)
def test_damaged_files(
    write: Callable[[Events], bytes], decode: Callable[[bytes], Events], side: int
) -> None:
    random = np.random.default_rng(side)
    errors = []
    for number in range(FILES):
        content = mutated(write(random_events(30, side, number % 50)), random)
        try:
            events = decode(content)
        except ValueError as error:
            errors.append(str(error))
            continue
        x, y, t, p = events
        assert len(x) == len(y) == len(t) == len(p) > 0
        assert [column.dtype.char for column in events] == ["h", "h", np.dtype(np.int64).char, "B"]
        assert min(x.min(), y.min()) >= 0 and max(x.max(), y.max()) < side
        assert (np.diff(t) >= 0).all() and set(p.tolist()) <= {0, 1}
    assert all("\n" not in text for text in errors)
    assert {text.split()[0] for text in errors} <= OURS
    assert FILES / 10 < len(errors) < FILES  # both happen


@pytest.mark.parametrize(
    ("start", "decode"),
    [(b"", nmnist.decode), (START_2, decode_aedat), (START_3, decode_aedat)],
    ids=["nmnist", "aedat 2.0", "aedat 3.1"],
)
def test_random_bytes(start: bytes, decode: Callable[[bytes], Events]) -> None:
    """Random bytes are refused; only very short ones could be a recording by chance."""
    random = np.random.default_rng(0)
    for length in (40, 80, 280, 1000):
        with pytest.raises(ValueError, match=r"^(holds|contains|has|ends) "):
            decode(start + random.bytes(length))


@pytest.mark.parametrize("kind", [1, 2])
def test_a_packet_that_lies_about_its_size_takes_no_memory(kind: int) -> None:
    content = START_3 + packet_header(kind, 8, 0, (1 << 31) - 1) + bytes(8)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="ends within a packet"):
            aedat.decode(content)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("packets", [1, 20_000])
def test_memory_follows_the_size_of_the_file(packets: int) -> None:
    events = random_events(20_000, 128)
    content = event_files.aedat_3(events, [20_000 // packets], foreign=False)
    tracemalloc.start()
    try:
        aedat.decode(content)
        assert tracemalloc.get_traced_memory()[1] < 40 * len(content)
    finally:
        tracemalloc.stop()
