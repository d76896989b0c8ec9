"""DVS-Gesture: eleven gestures of 29 people in three lights, recorded by an event camera.

A folder contains recordings in AEDAT 3.1 of a sensor of 128 x 128 pixels. Each recording, such as
``user01_fluorescent.aedat``, shows one person's gestures one after the other. A table next to it,
``user01_fluorescent_labels.csv``, gives the times of each gesture in the columns class (1 to 11),
startTime_usec and endTime_usec. ``trials_to_train.txt`` and ``trials_to_test.txt`` name the
recordings of the official split, which have no person in common. Each row of a table becomes a
recording here, from its start (included) to its end (excluded), as in other public readers
(spikingjelly); its times begin at its start. Rows may overlap; events outside all rows are dropped.

Source: Amir et al., "A low power, fully event-based gesture recognition system" (CVPR 2017).
"""

from __future__ import annotations

import os
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
BACKWARD = "belong to files whose times go backward; their events were sorted"
EMPTY = "have no event and were left out"

_NAME = re.compile(r"[\w-]{1,100}\.aedat", re.ASCII)
_LAST = 1 << 62  # microseconds; fits into 64 bits
_SHOWN = 60  # characters of a line that an error quotes


class Gesture(NamedTuple):
    """A row of a table of labels: class from 0, start and end in microseconds."""

    label: int
    start: int
    end: int


def source(entry: Entry, data_dir: Path | None = None) -> EventSet:
    """Return the recordings in the official split.

    Raises:
        DataError: the folder or a file in it is missing, or a file cannot be read.
    """
    root = require_folder(entry, data_dir)
    train, test = (_listed(root / name) for name in LISTS)
    if both := set(train) & set(test):
        raise DataError(f"{root} lists {min(both).name} for training and for testing")
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
    """Return the path of a recording's table of labels."""
    return path.with_name(f"{path.stem}_labels.csv")


def read_labels(path: Path) -> list[Gesture]:
    """Return the rows of a table of labels.

    Raises:
        DataError: it cannot be read, has no row, or a row is invalid; the message names the line.
    """
    first, *lines = _text(path).splitlines() or [""]
    if first.replace(" ", "") != COLUMNS:
        raise DataError(f"{path} must begin with the line {COLUMNS}, got {first[:_SHOWN]!r}")
    gestures = [_gesture(path, at, line) for at, line in enumerate(lines, 2) if line.strip()]
    if not gestures:
        raise DataError(f"{path} lists no gesture")
    return gestures


def cut(events: Events, gesture: Gesture) -> Events:
    """Return the events of a gesture, end excluded, with times from its start."""
    first, last = np.searchsorted(events.t, (gesture.start, gesture.end))
    inside = events.only(slice(first, last))
    return inside._replace(t=inside.t - gesture.start)


def _gesture(path: Path, at: int, line: str) -> Gesture:
    try:
        label, start, end = map(int, line.split(","))
    except ValueError:
        text = repr(line[:_SHOWN])
        raise DataError(f"{path} must have three whole numbers in line {at}, got {text}") from None
    if not (1 <= label <= CLASSES and 0 <= start < end <= _LAST):
        raise DataError(
            f"{path} has {line[:_SHOWN]!r} in line {at}, expected a class from 1 to "
            f"{CLASSES}, a start of at least 0 and a later end"
        )
    return Gesture(label - 1, start, end)


def _listed(path: Path) -> list[Path]:
    """Return the recordings in a list, which has one name per line."""
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
            if not os.path.isfile(needed):
                raise DataError(f"{needed} is missing, but line {at} of {path.name} refers to it")
        recordings.append(recording)
    if not recordings:
        raise DataError(f"{path} lists no recording")
    return recordings


def _text(path: Path) -> str:
    try:
        return read_file(path).decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not text: byte {error.start} is not UTF-8") from None
