"""DVS-Gesture: eleven gestures of 29 people in three lights, seen by an event camera.

A folder holds recordings in AEDAT 3.1 of a sensor of 128 x 128 pixels, each of one person's
gestures one after the other, ``user01_fluorescent.aedat``; beside it a table says which gesture
lasts from when to when, ``user01_fluorescent_labels.csv`` with the columns class (1 to 11),
startTime_usec and endTime_usec; ``trials_to_train.txt`` and ``trials_to_test.txt`` name the
recordings of the official split, which shares no person. Each row of a table is a recording here,
whose times start with it; events outside of all rows are dropped.

Source: Amir et al., "A low power, fully event-based gesture recognition system" (CVPR 2017).
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..errors import DataError
from . import aedat
from .files import folder_of
from .files import read as read_file
from .recording import Events, EventSet, fingerprint

NAME = "dvs-gesture"
HOMEPAGE = "https://research.ibm.com/interactive/dvsgesture/"
FOLDERS = ("DvsGesture", "dvs-gesture")
CLASSES = (
    "hand clap",
    "right hand wave",
    "left hand wave",
    "right hand clockwise",
    "right hand counter clockwise",
    "left hand clockwise",
    "left hand counter clockwise",
    "arm roll",
    "air drums",
    "air guitar",
    "other",
)
LISTS = ("trials_to_train.txt", "trials_to_test.txt")
COLUMNS = ["class", "startTime_usec", "endTime_usec"]
BACKWARD = "are of files whose times go backward, and were put in order"
EMPTY = "hold no event, and were left out"


class Gesture(NamedTuple):
    """A row of a table of labels: class from 0, and microseconds."""

    label: int
    start: int
    end: int


def source(data_dir: Path | None = None) -> EventSet:
    """Return the recordings in the official split.

    Raises:
        DataError: there is no such folder, or a file of it is missing or cannot be read.
    """
    root = folder_of(NAME, FOLDERS, f"unpack DvsGesture.tar.gz of {HOMEPAGE}", data_dir)
    train, test = (_listed(root / name) for name in LISTS)
    tables = [labels_of(path) for path in train + test]
    oddities: Counter[str] = Counter()

    def read(path: Path) -> Iterator[tuple[int, Events]]:
        events, backward = aedat.read(path)
        for gesture in read_labels(labels_of(path)):
            found = cut(events, gesture)
            oddities[BACKWARD] += backward > 0
            oddities[EMPTY] += not len(found.t)
            if len(found.t):
                yield gesture.label, found

    known = fingerprint(root, [*train, *test, *tables])
    return EventSet(
        NAME, aedat.SIDE, aedat.SIDE, len(CLASSES), train, test, read, known, oddities=oddities
    )


def labels_of(path: Path) -> Path:
    """Return the table of labels of a recording."""
    return path.with_name(f"{path.stem}_labels.csv")


def read_labels(path: Path) -> list[Gesture]:
    """Return the rows of a table of labels.

    Raises:
        DataError: it cannot be read, or a row is no gesture; names the line.
    """
    rows = list(csv.reader(io.StringIO(_text(path))))
    if not rows or [name.strip() for name in rows[0]] != COLUMNS:
        raise DataError(f"{path} must begin with the line {','.join(COLUMNS)}")
    return [_gesture(path, line, row) for line, row in enumerate(rows[1:], 2) if row]


def cut(events: Events, gesture: Gesture) -> Events:
    """Return the events from the start to the end of a gesture, with times from its start."""
    first, last = np.searchsorted(events.t, (gesture.start, gesture.end + 1))
    found = events.only(slice(first, last))
    return found._replace(t=found.t - gesture.start)


def _gesture(path: Path, line: int, row: list[str]) -> Gesture:
    try:
        label, start, end = map(int, row)
    except ValueError:
        raise DataError(f"{path} has no three whole numbers in line {line}: {row}") from None
    if not 1 <= label <= len(CLASSES) or end <= start:
        raise DataError(
            f"{path} has class {label} from {start} to {end} in line {line}, expected a class from "
            f"1 to {len(CLASSES)} and an end behind the start"
        )
    return Gesture(label - 1, start, end)


def _listed(path: Path) -> list[Path]:
    """Return the recordings that a list names, one a line."""
    found = [path.with_name(name.strip()) for name in _text(path).splitlines() if name.strip()]
    for one in found:
        for needed in (one, labels_of(one)):
            if not needed.is_file():
                raise DataError(f"{needed} is missing, which {path.name} names or needs")
    return found


def _text(path: Path) -> str:
    try:
        return read_file(path).decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no text: byte {error.start} is not UTF-8") from None
