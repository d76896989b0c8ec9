"""Tests of `tsslbp.data` as a whole: loading by name, and shapes without files."""

from pathlib import Path

import numpy as np
import pytest

from tsslbp import data
from tsslbp.data import Binning, catalogue
from tsslbp.errors import InvalidInput


@pytest.mark.parametrize("name", catalogue.entries())
def test_shapes_are_known_without_the_files(name: str) -> None:
    """Images have the catalogue's shape; that of frames depends on the binning."""
    entry = catalogue.entries()[name]
    known = data.known_shape(name, None)
    assert known is not None
    shape, classes = known
    assert classes == entry.classes
    assert shape[1:] == tuple(entry.shape[-2:])
    if data.holds_events(name):
        halved = data.known_shape(name, Binning(polarities=1, down_sample=2))
        assert halved is not None
        assert halved[0] == (1, -(-shape[1] // 2), -(-shape[2] // 2))


def test_a_file_of_ones_own_has_no_known_shape() -> None:
    assert data.known_shape("mine.npz", None) is None


def test_digits_have_the_shape_that_is_known() -> None:
    loaded = data.load("digits")
    assert (loaded.input_shape, loaded.classes) == data.known_shape("digits", None)


def test_names_that_cannot_be_loaded(tmp_path: Path) -> None:
    np.savez(tmp_path / "mine.npz", images=np.zeros((4, 2, 2), np.uint8), labels=np.arange(4) % 2)
    with pytest.raises(InvalidInput, match=r"'minst' \(did you mean 'mnist'\?\)"):
        data.load("minst")
    with pytest.raises(InvalidInput, match="binning applies to recordings"):
        data.load(str(tmp_path / "mine.npz"), binning=Binning())
    with pytest.raises(InvalidInput, match="so time_steps must be given"):
        data.load("moving-digits")
