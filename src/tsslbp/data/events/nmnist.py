"""N-MNIST: MNIST's digits on a screen, recorded by an event camera that makes three saccades.

A file is one recording with 5 bytes per event: column, row, and 24 bits, most significant byte
first, of which the first is the polarity and the others are the time in microseconds. A row of 240
marks no event: the camera uses it to signal that its clock has passed 2^13 microseconds. The sensor
has 34 x 34 pixels. Folders are named after the label: ``Train/7/00042.bin``.

Source: Orchard, Jayawant, Cohen and Thakor, "Converting static image datasets to spiking
neuromorphic datasets using saccades" (Frontiers in Neuroscience 2015), and the data set's page.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from ...errors import DataError
from ...reading import find
from .. import catalogue
from ..catalogue import Entry
from ..files import read as read_file
from ..files import require_folder
from .recording import Events, EventSet, fingerprint

SIDE = 34  # of the sensor, in pixels
SACCADE = 105_000  # microseconds
OVERFLOW_ROW, OVERFLOW = 240, 1 << 13

_BYTES = 5  # per event
_Times = npt.NDArray[np.int64]


def source(entry: Entry, data_dir: Path | None = None) -> EventSet:
    """Return the recordings of the whole set, or of the sample.

    Raises:
        DataError: the folder is missing or contains no recordings.
    """
    root = require_folder(entry, data_dir)
    train, test = (find(root / part, "[0-9]/*.bin") for part in ("Train", "Test"))
    for part, paths in (("Train", train), ("Test", test)):
        if not paths:
            raise DataError(f"{root / part} contains no recordings such as {part}/7/00042.bin")
    known, count = fingerprint(root, train + test), len(train) + len(test)
    whole = catalogue.find("nmnist")
    is_whole = count == whole.train + whole.test
    note = "" if is_whole else f"measured on {count:,} of N-MNIST's 70,000 recordings"
    about = (entry.name, *entry.shape[1:], entry.classes)
    return EventSet(
        *about, train, test, lambda path: [(int(path.parent.name), read(path))], known, note
    )


def read(path: Path) -> Events:
    """Return the events of a file.

    Raises:
        DataError: it cannot be read, or is not a recording of N-MNIST; the message names the byte.
    """
    try:
        return decode(read_file(path))
    except ValueError as error:
        raise DataError(f"{path} {error}") from error


def decode(content: bytes) -> Events:
    """Return the events in the content of a file.

    Raises:
        ValueError: the problem, as the continuation of a sentence that begins with the file.
    """
    if len(content) % _BYTES:
        raise ValueError(
            f"holds {len(content)} bytes, not a multiple of {_BYTES}: it is cut short at byte "
            f"{len(content) // _BYTES * _BYTES}, or not a recording of N-MNIST"
        )
    parts = np.frombuffer(content, np.uint8).reshape(-1, _BYTES)
    x, y, high, middle, low = parts.T
    t = (high & 127).astype(np.int64) << 16 | middle.astype(np.int64) << 8 | low
    p, is_overflow = high >> 7, y == OVERFLOW_ROW
    where = np.arange(len(parts))
    if is_overflow.any():
        t += OVERFLOW * np.cumsum(is_overflow)
        x, y, t, p, where = (column[~is_overflow] for column in (x, y, t, p, where))
    if not len(t):
        raise ValueError("contains no event")
    outside = (x >= SIDE) | (y >= SIDE)
    if outside.any():
        first = int(np.argmax(outside))
        raise ValueError(
            f"has an event at column {x[first]}, row {y[first]}, at byte {_BYTES * where[first]}, "
            f"outside the sensor of {SIDE} x {SIDE} pixels: it is damaged, or another file"
        )
    backward = t[1:] < t[:-1]
    if backward.any():
        first = int(np.argmax(backward)) + 1
        raise ValueError(
            f"has times that go back from {t[first - 1]} to {t[first]} microseconds at byte "
            f"{_BYTES * where[first]}: it is damaged, or another file"
        )
    return Events(x.astype(np.int16), y.astype(np.int16), t, p.astype(np.uint8))


def stabilise(events: Events) -> Events:
    """Return the events as if the image stood still, without those that then leave the sensor.

    The camera's three saccades move the image of a digit along a triangle. With columns and rows
    counted from 1, and s = t / 105 ms, the new positions are::

        first saccade,  t <= 105 ms:   x - 3.5 s                  y - 7 s
        second,         t <= 210 ms:   x - 3.5 - 3.5 (s - 1)      y - 7 + 7 (s - 1)
        third:                         x - 7 + 7 (s - 2)          y

    rounded, with halves away from zero.

    Source: `stabilize.m` of the data set's authors, which the public TSSL-BP code uses.
    """
    t = events.t
    third = t > 2 * SACCADE
    # In units of half a pixel per saccade, so that all numbers are whole.
    left = np.where(third, 14 * SACCADE - 14 * (t - 2 * SACCADE), 7 * t)
    up = np.where(t <= SACCADE, 14 * t, np.where(third, 0, 14 * SACCADE - 14 * (t - SACCADE)))
    x, y = (_moved(place, by) for place, by in ((events.x, left), (events.y, up)))
    inside = (x >= 0) & (x < SIDE) & (y >= 0) & (y < SIDE)
    return Events(x.astype(np.int16), y.astype(np.int16), t, events.p).only(inside)


def _moved(place: npt.NDArray[np.int16], by: _Times) -> _Times:
    """Return ``round(place + 1 - by / (2 SACCADE)) - 1``, with halves away from zero."""
    moved = 2 * SACCADE * (place.astype(np.int64) + 1) - by
    rounded: _Times = np.sign(moved) * ((np.abs(moved) + SACCADE) // (2 * SACCADE))
    return rounded - 1
