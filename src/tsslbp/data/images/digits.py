"""The handwritten digits that come with scikit-learn: small, and nothing to download.

They are the test part of the UCI set "Optical Recognition of Handwritten Digits" (E. Alpaydin,
C. Kaynak, 1998): counts 0..16 of the set pixels in each 4 x 4 block of a 32 x 32 bitmap.
"""

from __future__ import annotations

from pathlib import Path

import torch

from ...errors import DataError
from ..catalogue import Entry
from ..dataset import DataSet, split_test

LARGEST = 16


def load(entry: Entry, data_dir: Path | None = None) -> DataSet:
    """Return 1,437 training and 360 test images ``[N, 1, 8, 8]`` float32, 0..1 (the count / 16).

    The set has no test images of its own; the split is fixed, and every class gives its share.
    There are no files, so `data_dir` is not looked at.

    Raises:
        DataError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DataError(
            f"the digits come with scikit-learn, which cannot be imported ({error}): "
            "pip install 'tsslbp[demo]'"
        ) from error
    digits = load_digits()
    images = torch.from_numpy(digits.images).float().div(LARGEST).unsqueeze(1)
    labels = torch.from_numpy(digits.target).long()
    train, test = split_test(labels, entry.test)
    parts = images[train], labels[train], images[test], labels[test]
    return DataSet(entry.name, *parts, entry.classes)
