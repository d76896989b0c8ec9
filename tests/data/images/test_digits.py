"""The digits of scikit-learn: shape, scale, and a split that stays as it is."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from tsslbp import data
from tsslbp.errors import DataError


@pytest.fixture(scope="module")
def digits() -> data.DataSet:
    pytest.importorskip("sklearn")
    return data.load("digits")


def test_shapes_and_scale(digits: data.DataSet) -> None:
    assert digits.train_images.shape == (1437, 1, 8, 8) and digits.train_labels.shape == (1437,)
    assert digits.test_images.shape == (360, 1, 8, 8) and digits.test_labels.shape == (360,)
    assert digits.train_images.dtype == torch.float32 and digits.train_labels.dtype == torch.int64
    assert digits.classes == 10
    counts = digits.train_images * 16
    assert torch.equal(counts, counts.round())
    assert counts.min() == 0 and counts.max() == 16


def test_split_is_stratified_and_whole(digits: data.DataSet) -> None:
    from sklearn.datasets import load_digits

    labels = torch.from_numpy(load_digits().target)
    total = labels.bincount()
    tested = digits.test_labels.bincount()
    assert torch.equal(digits.train_labels.bincount() + tested, total)
    assert ((tested - total * 360 / 1797).abs() < 1).all()
    images = torch.cat([digits.train_images, digits.test_images]).flatten(1)
    official = torch.from_numpy(load_digits().data).float() / 16
    assert sorted(map(tuple, images.tolist())) == sorted(map(tuple, official.tolist()))


def test_split_never_changes(digits: data.DataSet) -> None:
    assert digits.test_labels[:10].tolist() == [7, 8, 9, 0, 5, 5, 9, 6, 3, 6]
    assert torch.equal(data.load("digits").test_images, digits.test_images)


def test_given_folder_is_not_needed(digits: data.DataSet, tmp_path: Path) -> None:
    found = data.load("digits", tmp_path / "nowhere")
    assert torch.equal(found.train_images, digits.train_images)


def test_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(DataError, match=r"pip install 'tsslbp\[demo\]'"):
        data.load("digits")
