"""Tests of the N-MNIST reader and the binning against those of tonic, if it is installed.

The functions of tonic 1.7 for AEDAT fail on any file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tsslbp.data import Binning, Events, as_events
from tsslbp.data.events import nmnist
from tsslbp.data.events.binning import bin_events

from . import event_files
from .event_files import random_events

KIND = np.dtype([("x", int), ("y", int), ("t", int), ("p", int)])


@pytest.fixture(scope="module")
def tonic() -> Any:
    pytest.importorskip("tonic", reason="tonic is not installed", exc_type=ImportError)
    import tonic.functional
    import tonic.io

    return tonic


def structured(events: Events) -> np.ndarray:
    """Return events as the structured array that tonic's transforms take."""
    found = np.zeros(len(events.t), KIND)
    for name, column in events._asdict().items():
        found[name] = column
    return found


def test_nmnist(tonic: Any, tmp_path: Path) -> None:
    """Both readers give the same events, even after an overflow, which a row with 240 announces."""
    part, marker = event_files.nmnist(random_events(400, 34, 3, 8000)), bytes([0, 240, 0, 0, 9])
    path = tmp_path / "one.bin"
    path.write_bytes(part + marker + part)
    theirs = tonic.io.read_mnist_file(str(path), KIND)
    for ours, name in zip(nmnist.read(path), "xytp", strict=True):
        np.testing.assert_array_equal(ours, theirs[name])


def test_frames(tonic: Any) -> None:
    """Counts in windows of equal time agree, for events read from tonic's kind of array."""
    events = random_events(3000, 20, 6, 50_000)
    theirs = tonic.functional.to_frame_numpy(
        structured(events), (20, 20, 2), time_window=5000, start_time=0, end_time=50_000
    )
    how = Binning(window=5.0, values="count")
    active = bin_events(as_events(structured(events), 20, 20), 20, 20, 10, how)
    ours = np.zeros((10, 800))
    ours[np.repeat(np.arange(10), active.counts), active.pixels] = active.values
    np.testing.assert_array_equal(ours.reshape(10, 2, 20, 20), theirs)
