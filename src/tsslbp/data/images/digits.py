"""Handwritten digits: a small data set that ships with tsslbp and needs no download.

They are the test part of the UCI set "Optical Recognition of Handwritten Digits" (E. Alpaydin,
C. Kaynak, 1998): counts 0..16 of the set pixels in each 4 x 4 block of a 32 x 32 bitmap. Source and
licence: digits.md next to the file.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from ..catalogue import Entry
from ..dataset import DataSet, split_test

FILE = Path(__file__).with_name("digits.npz")
LARGEST = 16


def load(entry: Entry, data_dir: Path | None = None) -> DataSet:
    """Return 1,437 training and 360 test images ``[N, 1, 8, 8]`` float32, 0..1 (the count / 16).

    The split is fixed, and every class contributes its share. The file is part of the package, so
    `data_dir` is ignored.
    """
    with np.load(FILE) as arrays:
        images = torch.from_numpy(arrays["images"]).float().div(LARGEST).unsqueeze(1)
        labels = torch.from_numpy(arrays["labels"]).long()
    train, test = split_test(labels, entry.test)
    parts = images[train], labels[train], images[test], labels[test]
    return DataSet(entry.name, *parts, entry.classes)
