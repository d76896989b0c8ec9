"""CIFAR10-DVS: images of CIFAR-10 that move on a screen, seen by an event camera.

1,000 recordings of each of ten classes, AEDAT 2.0 files of a sensor of 128 x 128 pixels, in a
folder for each class: ``airplane/cifar10_airplane_0.aedat``. There is no official split. Two are
known here, and in both the recordings of a class are taken in the order of their numbers:

=====================  =======================================================================
``cifar10-dvs``        the first 700 of a class train, the last 300 test: the reproduction study's
``cifar10-dvs-90-10``  900 of a class train and 100 test, which `cifar10_dvs_split.json` names
=====================  =======================================================================

Every image of CIFAR-10 was recorded once, so no recording of a test image can train.

Times stay as in the files, since a time surface shows them. A binning with a window counts from
time 0, so recordings whose clock starts later may have no event in any frame: leave the window out.

Source: Li, Liu, Ji, Li and Shi, "CIFAR10-DVS: an event-stream dataset for object classification"
(Frontiers in Neuroscience 2017), section "Materials and methods".
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

from ...errors import DataError
from ..catalogue import Entry
from ..files import checksum, require_folder
from . import aedat
from .recording import Events, EventSet, fingerprint

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
RECORDINGS = 1000  # of each class
DRAWN = "cifar10-dvs-90-10"  # the set whose split was drawn at random
BACKWARD = "have times that go backward, and were put in order"

SPLIT = "cifar10_dvs_split.json"  # drawn at random once, as its test does again
SPLIT_SHA1 = "5c1363b5da1d6796f4da370e0edaa231d36e6c3d"

_NUMBER = re.compile(r"(\d+)\.aedat$")


def source(entry: Entry, data_dir: Path | None = None) -> EventSet:
    """Return the recordings, split as the set is.

    Raises:
        DataError: there is no such folder, or it does not hold 1,000 recordings of each class.
    """
    root = require_folder(entry, data_dir)
    drawn = split() if entry.name == DRAWN else {}
    parts: tuple[list[Path], list[Path]] = [], []  # to train, to test
    for label in CLASSES:
        paths = sorted((root / label).glob("*.aedat"), key=_number)
        if len(paths) != RECORDINGS:
            raise DataError(
                f"{root / label} holds {len(paths)} recordings *.aedat, expected {RECORDINGS}: "
                f"unpack {label}.zip of {entry.homepage} again"
            )
        tested = drawn.get(label, range(entry.train // entry.classes, RECORDINGS))
        for number, path in enumerate(paths):
            parts[number in tested].append(path)
    oddities: Counter[str] = Counter()

    def read(path: Path) -> Iterator[tuple[int, Events]]:
        events, backward = aedat.read(path)
        oddities[BACKWARD] += backward > 0
        yield CLASSES.index(path.parent.name), events

    size, known = entry.shape[1:], fingerprint(root, parts[0] + parts[1])
    return EventSet(entry.name, *size, entry.classes, *parts, read, known, oddities=oddities)


def split() -> dict[str, list[int]]:
    """Return the numbers of the recordings that test in ``cifar10-dvs-90-10``, for each class.

    Raises:
        DataError: the file is not the one that this version of tsslbp has.
    """
    content = (resources.files(__package__) / SPLIT).read_bytes()
    if checksum(content, "sha1") != SPLIT_SHA1:
        raise DataError(f"{SPLIT} of this installation has been changed: install tsslbp again")
    numbers: dict[str, list[int]] = json.loads(content)
    return numbers


def _number(path: Path) -> tuple[int, str]:
    match = _NUMBER.search(path.name)
    return int(match[1]) if match else -1, path.name
