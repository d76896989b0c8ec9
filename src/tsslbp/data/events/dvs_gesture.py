"""DVS-Gesture: eleven gestures of 29 people in three lights, seen by an event camera.

A folder holds recordings in AEDAT 3.1 of a sensor of 128 x 128 pixels, each of one person's
gestures one after the other, ``user01_fluorescent.aedat``; beside it a table says which gesture
lasts from when to when, ``user01_fluorescent_labels.csv`` with the columns class (1 to 11),
startTime_usec and endTime_usec; ``trials_to_train.txt`` and ``trials_to_test.txt`` name the
recordings of the official split, which shares no person. Each row of a table is a recording here,
from its start up to, but not at, its end, as other public readers (spikingjelly) take it; its times
begin with its start. Rows may overlap; events outside of all rows are dropped.

Source: Amir et al., "A low power, fully event-based gesture recognition system" (CVPR 2017).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ...errors import DataError
from ..catalogue import Entry
from ..files import read as read_file
from ..files import require_folder
from . import aedat
from .recording import Events, EventSet, fingerprint

CLASSES = 11
LISTS = ("trials_to_train.txt", "trials_to_test.txt")
COLUMNS = "class,startTime_usec,endTime_usec"
BACKWARD = "are of files whose times go backward, and were put in order"
EMPTY = "hold no event, and were left out"

_NAME = re.compile(r"[\w-]{1,100}\.aedat", re.ASCII)
_LAST = 1 << 62  # microseconds, which 64 bits hold
_SHOWN = 60  # characters of a line in an error


class Gesture(NamedTuple):
    """A row of a table of labels: class from 0, and microseconds."""

    label: int
    start: int
    end: int


def source(entry: Entry, data_dir: Path | None = None) -> EventSet:
    """Return the recordings in the official split.

    Raises:
        DataError: there is no such folder, or a file of it is missing or cannot be read.
    """
    root = require_folder(entry, data_dir)
    train, test = (_listed(root / name) for name in LISTS)
    if both := set(train) & set(test):
        raise DataError(f"{root} names {min(both).name} both to train and to test with")
    tables = [labels_of(path) for path in train + test]
    oddities: Counter[str] = Counter()

    def read(path: Path) -> Iterator[tuple[int, Events]]:
        events, backward = aedat.read(path)
        for gesture in read_labels(labels_of(path)):
            inside = cut(events, gesture)
            oddities[BACKWARD] += backward > 0
            oddities[EMPTY] += not len(inside.t)
            if len(inside.t):
                yield gesture.label, inside

    size, known = entry.shape[1:], fingerprint(root, [*train, *test, *tables])
    return EventSet(entry.name, *size, entry.classes, train, test, read, known, oddities=oddities)


def labels_of(path: Path) -> Path:
    """Return the table of labels of a recording."""
    return path.with_name(f"{path.stem}_labels.csv")


def read_labels(path: Path) -> list[Gesture]:
    """Return the rows of a table of labels.

    Raises:
        DataError: it cannot be read, has no row, or a row is no gesture; names the line.
    """
    first, *lines = _text(path).splitlines() or [""]
    if first.replace(" ", "") != COLUMNS:
        raise DataError(f"{path} must begin with the line {COLUMNS}, got {first[:_SHOWN]!r}")
    gestures = [_gesture(path, at, line) for at, line in enumerate(lines, 2) if line.strip()]
    if not gestures:
        raise DataError(f"{path} names no gesture")
    return gestures


def cut(events: Events, gesture: Gesture) -> Events:
    """Return the events from the start to before the end of a gesture, times from its start."""
    first, last = np.searchsorted(events.t, (gesture.start, gesture.end))
    inside = events.only(slice(first, last))
    return inside._replace(t=inside.t - gesture.start)


def _gesture(path: Path, at: int, line: str) -> Gesture:
    try:
        label, start, end = map(int, line.split(","))
    except ValueError:
        text = repr(line[:_SHOWN])
        raise DataError(f"{path} has no three whole numbers in line {at}: {text}") from None
    if not (1 <= label <= CLASSES and 0 <= start < end <= _LAST):
        raise DataError(
            f"{path} has {line[:_SHOWN]!r} in line {at}, expected a class from 1 to "
            f"{CLASSES}, a start from 0 on and an end behind it"
        )
    return Gesture(label - 1, start, end)


def _listed(path: Path) -> list[Path]:
    """Return the recordings that a list names, one a line."""
    recordings = []
    for at, name in enumerate(map(str.strip, _text(path).splitlines()), 1):
        if not name:
            continue
        if not _NAME.fullmatch(name):
            raise DataError(
                f"{path} has {name[:_SHOWN]!r} in line {at}, expected names such as "
                "user01_fluorescent.aedat"
            )
        recording = path.with_name(name)
        for needed in (recording, labels_of(recording)):
            if not needed.is_file():
                raise DataError(f"{needed} is missing, which {path.name} needs in line {at}")
        recordings.append(recording)
    if not recordings:
        raise DataError(f"{path} names no recording")
    return recordings


def _text(path: Path) -> str:
    try:
        return read_file(path).decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no text: byte {error.start} is not UTF-8") from None
