"""AEDAT files: recordings of event cameras by jAER (version 2.0) and cAER (version 3.1).

Both begin with lines of text that start with ``#``. In version 2.0, 8 bytes per event follow, most
significant byte first: an address and a time in microseconds. In an address of the DVS128 camera,
bit 0 is 0 if the pixel became brighter, bits 1 to 7 are the column counted from the right, and bits
8 to 14 are the row; bit 15 marks records that are not events of a pixel. In version 3.1, packets
follow, least significant byte first: a header of 28 bytes, then events of one type. An event of a
pixel (type 1) has 8 bytes: bit 0 is 1 if it is valid, bit 1 is 1 if the pixel became brighter, bits
2 to 16 are the row, bits 17 to 31 the column, and the next 31 bits the time in microseconds, to
which the packet's header adds the number of times that these bits have overflowed.

Public readers differ on version 2.0. iniVation's description counts rows from the bottom, and takes
1 for brighter. spikingjelly takes 0 for brighter in CIFAR10-DVS, and exchanges columns and rows.
Rows are counted here as in the reproduction study, so a picture may be upside down.

Times are kept as in the file, with its arbitrary origin; when the 32 bits overflow, times continue
to increase.

Source: iniVation's description of AEDAT 2.0 and 3.1; the address of the DVS128 as jAER reads it.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ...errors import DataError
from ..files import read as read_file
from .recording import Events

SIDE = 128  # of the sensor, in pixels

_VERSION = re.compile(rb"#!AER-DAT(\d+\.\d+)\r?\n")
_END = b"#!END-HEADER\r\n"
_ADDRESSES = 1 << 16  # addresses of pixels and of special events
_WRAP = 1 << 32
_HEADER = struct.Struct("<hhiiiiii")
_POLARITY, _POLARITY_BYTES = 1, 8  # an event's type, and its size


class Recording(NamedTuple):
    """The events of a file, and how often its times went backward before they were sorted."""

    events: Events
    backward: int


def read(path: Path) -> Recording:
    """Return the events of a file of either version, from a sensor of 128 x 128 pixels.

    Raises:
        DataError: the file cannot be read, has another format, or is damaged; the message names the
            byte.
    """
    try:
        return decode(read_file(path))
    except ValueError as error:
        raise DataError(f"{path} {error}") from error


def decode(content: bytes) -> Recording:
    """Return the events in the content of a file.

    Raises:
        ValueError: the problem, as the continuation of a sentence that begins with the file.
    """
    match = _VERSION.match(content)
    if match is None:
        raise ValueError("does not begin with #!AER-DAT and a version: it is not an AEDAT file")
    versions = {b"2.0": _decode_2, b"3.1": _decode_3}
    if match[1] not in versions:
        raise ValueError(
            f"is an AEDAT file of version {match[1].decode()}; expected version 2.0 or 3.1"
        )
    x, y, t, p, at = versions[match[1]](content)
    if not len(t):
        raise ValueError("contains no event of a pixel")
    outside = (x >= SIDE) | (y >= SIDE)
    if outside.any():
        first = int(np.argmax(outside))
        raise ValueError(
            f"has an event at column {x[first]}, row {y[first]}, at byte {at[first]}, outside a "
            f"sensor of {SIDE} x {SIDE} pixels: it is from another camera, or damaged"
        )
    backward = int(np.count_nonzero(t[1:] < t[:-1]))
    events = Events(x.astype(np.int16), y.astype(np.int16), t, p.astype(np.uint8))
    if backward:
        events = events.only(np.argsort(t, kind="stable"))
    return Recording(events, backward)


_Array = npt.NDArray[Any]
_Columns = tuple[_Array, ...]  # x, y, t, p and first byte


def _decode_2(content: bytes) -> _Columns:
    start = _text_end(content)
    if (len(content) - start) % 8:
        raise ValueError(
            f"holds {len(content) - start} bytes of events after byte {start}, not a multiple of "
            f"8: it is cut short at byte {start + (len(content) - start) // 8 * 8}"
        )
    words = np.frombuffer(content, ">u4", offset=start).reshape(-1, 2)
    address, time = words[:, 0], words[:, 1].astype(np.int64)
    step = np.diff(time, prepend=time[:1])
    t = time + _WRAP * np.cumsum((step < -_WRAP // 2).astype(np.int64) - (step > _WRAP // 2))
    if (t < 0).any():  # events from before an overflow, in a file that begins after it
        t += _WRAP
    at = start + 8 * np.arange(len(t))
    foreign = address >= _ADDRESSES
    if foreign.any():
        first = int(np.argmax(foreign))
        raise ValueError(
            f"has the address {address[first]:#x} at byte {at[first]}, which does not exist in a "
            f"camera of {SIDE} x {SIDE} pixels: it is from another camera, or damaged"
        )
    low = address.astype(np.int16)  # negative for special events, whose highest bit is set
    columns = (SIDE - 1 - (low >> 1 & 127), low >> 8 & 127, t, 1 - (low & 1), at)
    return _only(columns, low >= 0)


def _text_end(content: bytes) -> int:
    """Return the end of the lines that begin with ``#``."""
    start = 0
    while content.startswith(b"#", start):
        end = content.find(b"\n", start)
        if end < 0:
            raise ValueError(f"ends within its header, at byte {len(content)}")
        start = end + 1
    return start


def _decode_3(content: bytes) -> _Columns:
    at = content.find(_END)
    if at < 0:
        raise ValueError("has no line #!END-HEADER: it is cut short or damaged")
    at += len(_END)
    nothing = np.empty(0, np.int64)
    first, parts, times = [nothing], [np.empty((0, 2), "<u4")], [nothing]
    while at < len(content):
        kind, number, size, overflow, end = _packet(content, at)
        if kind == _POLARITY:
            begin = at + _HEADER.size
            words = np.frombuffer(content, "<u4", 2 * number, begin).reshape(-1, 2)
            parts.append(words)
            times.append((words[:, 1] & 0x7FFFFFFF).astype(np.int64) + (overflow << 31))
            first.append(np.arange(begin, begin + size * number, size))
        at = end
    data, t = np.concatenate(parts)[:, 0], np.concatenate(times)
    columns = (data >> 17, data >> 2 & 0x7FFF, t, data >> 1 & 1, np.concatenate(first))
    return _only(columns, data & 1 == 1)


def _only(columns: _Columns, chosen: npt.NDArray[np.bool_]) -> _Columns:
    return columns if chosen.all() else tuple(column[chosen] for column in columns)


def _packet(content: bytes, at: int) -> tuple[int, int, int, int, int]:
    """Return type, number of events, event size, time overflows, and end of a packet."""
    if at + _HEADER.size > len(content):
        raise ValueError(f"ends within the header of a packet, at byte {at}")
    kind, _, size, _, overflow, capacity, number, valid = _HEADER.unpack_from(content, at)
    end = at + _HEADER.size + size * capacity
    wrong_size = kind == _POLARITY and size != _POLARITY_BYTES
    if wrong_size or size < 1 or not 0 <= valid <= number <= capacity or overflow < 0:
        raise ValueError(
            f"has a damaged packet at byte {at}: type {kind}, {number} events ({valid} valid) of "
            f"{size} bytes with space for {capacity}"
        )
    if end > len(content):
        raise ValueError(
            f"ends within a packet: the one at byte {at} extends to byte {end}, but the file has "
            f"only {len(content)} bytes"
        )
    return kind, number, size, overflow, end
