"""Writers of event files of every format, for the tests of their readers."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tsslbp.data.events.recording import Events

START_2 = b"#!AER-DAT2.0\r\n# This is a raw AE data file\r\n# Timestamps tick is 1 us\r\n"
START_3 = b"#!AER-DAT3.1\r\n#Format: RAW\r\n#Source 1: DVS128\r\n#!END-HEADER\r\n"
SPECIAL = 0x8000  # an address of AEDAT 2.0 that belongs to no pixel


def random_events(count: int, side: int, seed: int = 0, length: int = 300_000) -> Events:
    random = np.random.default_rng(seed)
    return Events(
        random.integers(0, side, count).astype(np.int16),
        random.integers(0, side, count).astype(np.int16),
        np.sort(random.integers(0, length, count)).astype(np.int64),
        random.integers(0, 2, count).astype(np.uint8),
    )


def nmnist(events: Events) -> bytes:
    x, y, t, p = (column.astype(np.int64) for column in events)
    parts = np.stack([x, y, p << 7 | t >> 16, t >> 8 & 255, t & 255], 1)
    return parts.astype(np.uint8).tobytes()


def aedat_2(events: Events, special_before: Sequence[int] = ()) -> bytes:
    """Return a file of AEDAT 2.0 with a special event before each number in `special_before`."""
    x, y, t, p = (column.astype(np.int64) for column in events)
    words = np.stack([(127 - x) << 1 | y << 8 | (1 - p), t % (1 << 32)], 1)
    for number in sorted(special_before, reverse=True):
        words = np.insert(words, number, [SPECIAL, words[number, 1]], axis=0)
    return START_2 + words.astype(">u4").tobytes()


def aedat_3(events: Events, sizes: Sequence[int] = (7, 1, 100), foreign: bool = True) -> bytes:
    """Return a file of AEDAT 3.1 with packets of `sizes` in turn.

    With `foreign`, it also has packets of another type and invalid events.
    """
    content, first, number = [START_3], 0, 0
    while first < len(events.t):
        some = events.only(slice(first, first + sizes[number % len(sizes)]))
        same = some.t >> 31 == some.t[0] >> 31  # all events of a packet share this count
        some = some.only(slice(int(np.argmin(same)) if not same.all() else None))
        content.append(_packet(some, foreign))
        if foreign:
            content.append(packet_header(6, 12, 0, 3) + bytes(36))
        first, number = first + len(some.t), number + 1
    return b"".join(content)


def packet_header(
    kind: int, size: int, overflow: int, number: int, valid: int | None = None
) -> bytes:
    """Return the header of a packet whose capacity equals its number of events."""
    valid = number if valid is None else valid
    return struct.pack("<hhiiiiii", kind, 1, size, 4, overflow, number, number, valid)


def _packet(events: Events, foreign: bool) -> bytes:
    x, y, t, p = (column.astype(np.int64) for column in events)
    words: npt.NDArray[Any] = np.stack([x << 17 | y << 2 | p << 1 | 1, t & 0x7FFFFFFF], 1)
    valid = len(words)
    if foreign:  # invalid: its lowest bit is 0
        words = np.insert(words, 0, [5 << 17, words[0, 1]], axis=0)
    header = packet_header(1, 8, int(t[0] >> 31), len(words), valid)
    return header + words.astype("<u4").tobytes()
