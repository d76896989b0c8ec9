"""CIFAR10-DVS: images of CIFAR-10 that move on a screen, recorded by an event camera.

There are 1,000 recordings of each of ten classes: AEDAT 2.0 files of a sensor of 128 x 128 pixels,
in one folder per class: ``airplane/cifar10_airplane_0.aedat``. There is no official split. Two are
known here; both take the recordings of a class in the order of their numbers:

=====================  =======================================================================
``cifar10-dvs``        700 of a class for training, the last 300 for testing: the study's split
``cifar10-dvs-90-10``  900 of a class for training, 100 for testing (`cifar10_dvs_split.json`)
=====================  =======================================================================

Every image of CIFAR-10 was recorded once, so no test image appears in training.

Times are kept as in the files, since a time surface shows them. Binning with a window counts from
time 0, so recordings whose clock starts later may have no event in any frame: do not set a window.

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
from ...reading import find
from ..catalogue import Entry
from ..files import checksum, require_folder
from . import aedat
from .recording import Events, EventSet, fingerprint

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
RECORDINGS = 1000  # of each class
DRAWN = "cifar10-dvs-90-10"  # the set whose split was drawn at random
BACKWARD = "had times that go backward; their events were sorted"

SPLIT = "cifar10_dvs_split.json"  # drawn at random once; its test draws it again
SPLIT_SHA1 = "5c1363b5da1d6796f4da370e0edaa231d36e6c3d"

_NUMBER = re.compile(r"(\d+)\.aedat$")


def source(entry: Entry, data_dir: Path | None = None) -> EventSet:
    """Return the recordings with the split of the data set.

    Raises:
        DataError: the folder is missing, or does not contain 1,000 recordings of each class.
    """
    root = require_folder(entry, data_dir)
    drawn = split() if entry.name == DRAWN else {}
    parts: tuple[list[Path], list[Path]] = [], []  # for training, for testing
    for label in CLASSES:
        paths = sorted(find(root / label, "*.aedat"), key=_number)
        if len(paths) != RECORDINGS:
            raise DataError(
                f"{root / label} contains {len(paths)} recordings *.aedat, expected {RECORDINGS}: "
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
    """Return the numbers of the test recordings of ``cifar10-dvs-90-10``, by class.

    Raises:
        DataError: the file differs from the one of this version of tsslbp.
    """
    content = (resources.files(__package__) / SPLIT).read_bytes()
    if checksum(content, "sha1") != SPLIT_SHA1:
        raise DataError(f"{SPLIT} of this installation was changed: install tsslbp again")
    numbers: dict[str, list[int]] = json.loads(content)
    return numbers


def _number(path: Path) -> tuple[int, str]:
    match = _NUMBER.search(path.name)
    return int(match[1]) if match else -1, path.name
