"""Tests of AEDAT files of both versions, and of bytes that are not AEDAT."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from tsslbp.data.events import aedat, nmnist
from tsslbp.data.events.recording import Events
from tsslbp.errors import DataError

from . import event_files
from .event_files import START_2, START_3, packet_header, random_events

WRAP = 1 << 32


def same(one: Events, other: Events) -> bool:
    pairs = zip(one, other, strict=True)
    return all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("count", [1, 2, 3000])
def test_round_trip(count: int) -> None:
    events = random_events(count, 128, count)
    special = range(0, count, 7)
    for content in (
        event_files.aedat_2(events),
        event_files.aedat_2(events, special),
        event_files.aedat_3(events),
        event_files.aedat_3(events, [count], foreign=False),
    ):
        found = aedat.decode(content)
        assert same(found.events, events) and found.backward == 0


def test_bits_of_an_address() -> None:
    """Bit 0 means darker, bits 1 to 7 are the column from the right, and bits 8 to 14 the row."""
    words = np.array([[0x0000, 5], [0x0001, 6], [0x0002, 7], [0x7F00, 8], [0x00FE, 9]], ">u4")
    events = aedat.decode(START_2 + words.tobytes()).events
    assert events.x.tolist() == [127, 127, 126, 127, 0]
    assert events.y.tolist() == [0, 0, 0, 127, 0]
    assert events.p.tolist() == [1, 0, 1, 1, 1]
    assert events.t.tolist() == [5, 6, 7, 8, 9]


def test_times_run_over() -> None:
    """Times continue after an overflow: of 32 bits in version 2.0, of 31 in version 3.1.

    Version 2.0 allows one late event across the overflow, and version 3.1 has a counter.
    """
    events = random_events(5, 128)
    late = events._replace(t=np.array([WRAP - 20, WRAP + 3, WRAP - 1, WRAP + 7, 2 * WRAP + 1]))
    late.t[4] = WRAP + 100
    found = aedat.decode(event_files.aedat_2(late))
    assert found.events.t.tolist() == sorted(late.t.tolist()) and found.backward == 1
    rising = events._replace(t=np.array([5, 2**31 - 1, 2**31, 2**31 + 9, 5 * 2**31]))
    assert same(aedat.decode(event_files.aedat_3(rising, [5])).events, rising)


def test_times_run_over_twice() -> None:
    events = random_events(8, 128)._replace(t=5 + np.arange(8) * (3 << 29))
    assert events.t[-1] > 2 * WRAP
    assert same(aedat.decode(event_files.aedat_2(events)).events, events)


def test_a_late_event_from_before_the_file_began() -> None:
    """A late event from before a wrap at the start of the file gets no time below 0."""
    events = random_events(4, 128)._replace(t=np.array([WRAP + 3, WRAP - 1, WRAP + 7, WRAP + 9]))
    found = aedat.decode(event_files.aedat_2(events))
    assert found.events.t.tolist() == [WRAP - 1, WRAP + 3, WRAP + 7, WRAP + 9]
    assert found.backward == 1


def test_events_of_one_time_keep_their_order() -> None:
    events = random_events(7, 128)._replace(t=np.array([5, 5, 3, 3, 9, 3, 5]))
    for write in (event_files.aedat_2, event_files.aedat_3):
        found = aedat.decode(write(events))
        assert same(found.events, events.only(np.array([2, 3, 5, 0, 1, 6, 4])))
        assert found.backward == 2


def test_room_behind_the_events_of_a_packet() -> None:
    """A packet's capacity may exceed its number of events; the bytes behind them are ignored."""
    events = random_events(3, 128)
    words = event_files.aedat_3(events, [3], foreign=False)[len(START_3) + 28 :]
    room = struct.pack("<hhiiiiii", 1, 1, 8, 4, 0, 5, 3, 3) + words + b"\xff" * 16
    later = event_files.aedat_3(events._replace(t=events.t + 300_000))[len(START_3) :]
    found = aedat.decode(START_3 + room + later).events
    assert len(found.t) == 6 and same(found.only(slice(3)), events)


def test_backward_times_are_counted_and_put_in_order() -> None:
    events = random_events(100, 128)
    order = np.arange(100)
    order[[20, 21, 60, 61]] = order[[21, 20, 61, 60]]
    for write in (event_files.aedat_2, event_files.aedat_3):
        found = aedat.decode(write(events.only(order)))
        assert found.backward == np.count_nonzero(np.diff(events.t[order]) < 0) > 0
        assert same(
            found.events, events.only(order).only(np.argsort(events.t[order], kind="stable"))
        )


ONE = event_files.aedat_3(random_events(3, 128), [3], foreign=False)[len(START_3) :]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "does not begin with #!AER-DAT"),
        (b"<html>", "does not begin with #!AER-DAT"),
        (event_files.nmnist(random_events(9, 34)), "does not begin with #!AER-DAT"),
        (b"#!AER-DAT1.0\r\n", "version 1.0; expected version 2.0 or 3.1"),
        (b"#!AER-DAT4.0\r\nxx", "version 4.0; expected version 2.0 or 3.1"),
        (START_2, "contains no event"),
        (START_2[:-1], f"ends within its header, at byte {len(START_2) - 1}"),
        (START_2 + bytes(19), f"it is cut short at byte {len(START_2) + 16}"),
        (START_2 + bytes([0, 0, 128, 0, 0, 0, 0, 0]), "contains no event"),
        (START_2 + bytes(8) + b"\1\0\0\0\0\0\0\0", f"0x1000000 at byte {len(START_2) + 8}"),
        (START_3, "contains no event"),
        (START_3[:-4], "no line #!END-HEADER"),
        (START_3 + bytes(27), f"within the header of a packet, at byte {len(START_3)}"),
        (START_3 + ONE[:-1], f"the one at byte {len(START_3)} extends to byte"),
        (START_3 + packet_header(1, 9, 0, 0), f"damaged packet at byte {len(START_3)}"),
        (START_3 + packet_header(1, 8, -1, 0), "damaged packet"),
        (START_3 + packet_header(1, 8, 0, -1), "damaged packet"),
        (START_3 + packet_header(2, 0, 0, 1 << 30), "damaged packet"),
        (START_3 + packet_header(1, 8, 0, 2, 3) + bytes(16), "3 valid"),
        (START_3 + packet_header(1, 8, 0, 1 << 30), "ends within a packet"),
        (START_3 + packet_header(6, 8, 0, 1) + bytes(8), "contains no event"),
        (
            START_3 + packet_header(1, 8, 0, 1) + bytes([1, 0, 0, 1, 0, 0, 0, 0]),
            "column 128, row 0",
        ),
    ],
)
def test_damaged_files(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "one.aedat"
    path.write_bytes(content)
    with pytest.raises(DataError) as error:
        aedat.read(path)
    assert str(error.value).startswith(f"{path} ") and message in str(error.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        aedat.read(tmp_path / "none.aedat")


def test_real_recordings(data_dir: Path) -> None:
    folder = data_dir / "aedat"
    if not folder.is_dir():
        pytest.skip(f"no folder {folder}")
    events, backward = aedat.read(folder / "MovingDarkBox.aedat")
    assert (len(events.t), backward) == (489_834, 0)
    content = (folder / "MovingDarkBox.aedat").read_bytes()
    written = event_files.aedat_2(events)[len(START_2) :]
    assert content.endswith(written) and content[: -len(written)].count(b"\n") == 5
    with pytest.raises(DataError, match="which does not exist in a camera of 128 x 128 pixels"):
        aedat.read(folder / "IMU_translBoxes.aedat")
    with pytest.raises(DataError, match="contains no event"):
        aedat.read(folder / "sample_aedat_header.aedat")
    with pytest.raises(DataError, match=r"holds 3918888 bytes, not a multiple of 5"):
        nmnist.read(folder / "MovingDarkBox.aedat")
