"""Tests that the digits are those of scikit-learn, and that their split never changes."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from tsslbp import data
from tsslbp.data.images.digits import FILE

# SHA-256 of the images, then the labels, of load_digits() of scikit-learn 1.9.1 as uint8.
OFFICIAL = "87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826"


@pytest.fixture(scope="module")
def digits() -> data.DataSet:
    return data.load("digits")


def test_shapes_and_scale(digits: data.DataSet) -> None:
    assert digits.train_images.shape == (1437, 1, 8, 8) and digits.train_labels.shape == (1437,)
    assert digits.test_images.shape == (360, 1, 8, 8) and digits.test_labels.shape == (360,)
    assert digits.train_images.dtype == torch.float32 and digits.train_labels.dtype == torch.int64
    assert digits.classes == 10
    counts = digits.train_images * 16
    assert torch.equal(counts, counts.round())
    assert counts.min() == 0 and counts.max() == 16


def test_the_file_holds_the_official_digits() -> None:
    with np.load(FILE) as arrays:
        images, labels = arrays["images"], arrays["labels"]
    assert images.dtype == labels.dtype == np.uint8
    assert hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest() == OFFICIAL


def test_the_file_holds_scikit_learns_digits() -> None:
    official = pytest.importorskip("sklearn.datasets").load_digits()
    with np.load(FILE) as arrays:
        assert np.array_equal(arrays["images"], official.images)
        assert np.array_equal(arrays["labels"], official.target)


def test_split_is_stratified_and_whole(digits: data.DataSet) -> None:
    with np.load(FILE) as arrays:
        official, labels = (torch.from_numpy(arrays[name]) for name in ("images", "labels"))
    total = labels.long().bincount()
    tested = digits.test_labels.bincount()
    assert torch.equal(digits.train_labels.bincount() + tested, total)
    assert ((tested - total * 360 / 1797).abs() < 1).all()
    images = torch.cat([digits.train_images, digits.test_images]).flatten(1)
    official = official.flatten(1).float() / 16
    assert sorted(map(tuple, images.tolist())) == sorted(map(tuple, official.tolist()))


def test_split_never_changes(digits: data.DataSet) -> None:
    """The split is the one that scikit-learn's digits had before they shipped with tsslbp."""
    assert digits.test_labels[:10].tolist() == [7, 8, 9, 0, 5, 5, 9, 6, 3, 6]
    assert torch.equal(data.load("digits").test_images, digits.test_images)
    parts = digits.train_images, digits.train_labels, digits.test_images, digits.test_labels
    whole = b"".join(part.numpy().tobytes() for part in parts)
    assert (
        hashlib.sha256(whole).hexdigest()
        == "9c3ffdc0552c13f22ccb80132bd6f751a70827d0aed8149f842c6ced38663b59"
    )


def test_given_folder_is_not_needed(digits: data.DataSet, tmp_path: Path) -> None:
    found = data.load("digits", tmp_path / "nowhere")
    assert torch.equal(found.train_images, digits.train_images)
