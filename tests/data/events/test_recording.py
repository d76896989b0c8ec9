"""Tests of recordings: a user's arrays as events, and the fingerprint of files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tsslbp.data.events.recording import Events, as_events, fingerprint
from tsslbp.errors import InvalidInput

from .event_files import random_events

HEIGHT, WIDTH = 7, 9


def recording() -> Events:
    events = random_events(500, WIDTH, length=20_000)
    return events._replace(y=events.y % HEIGHT)


@pytest.mark.parametrize("kind", ["structured", "tonic", "plain", "mapping", "events"])
def test_users_arrays(kind: str) -> None:
    events = recording()
    x, y, t, p = events
    given: Any = events
    if kind in ("structured", "tonic"):
        names = "xytp" if kind == "tonic" else ("x", "y", "timestamp", "polarity")
        given = np.zeros(len(x), [(name, np.int64) for name in names])
        for name, column in zip(names, events, strict=True):
            given[name] = column
    elif kind == "plain":
        given = np.stack([x, y, t, 2 * p.astype(int) - 1], 1).astype(float)
    elif kind == "mapping":
        given = {"x": x, "y": y, "t": t, "p": p.astype(bool)}
    found = as_events(given, HEIGHT, WIDTH)
    for one, other in zip(found, events, strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == other.dtype


def test_users_events_are_put_in_order_of_time() -> None:
    events = recording()
    order = np.random.default_rng(1).permutation(len(events.t))
    found = as_events(Events(*(column[order] for column in events)), HEIGHT, WIDTH)
    assert (np.diff(found.t) >= 0).all()
    assert sorted(zip(*found, strict=True)) == sorted(zip(*events, strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": np.full(500, WIDTH)}, f"x must be from 0 to {WIDTH - 1}, got {WIDTH} at event 0"),
        ({"y": np.full(500, -1)}, "y must be from 0"),
        ({"p": np.full(500, 2)}, "polarities must be"),
        ({"p": np.arange(500) % 3 - 1}, "polarities must be"),
        ({"t": np.zeros(499)}, "the same length"),
        ({"t": np.full(500, 0.5)}, "microseconds"),
        ({"x": np.full(500, np.nan)}, "whole numbers"),
        ({"t": np.full(500, 1e300)}, "beyond 2"),
        ({"t": np.full(500, 1 << 63, np.uint64)}, "beyond 2"),
        ({"x": np.full((500, 1), 0)}, "numbers"),
        ({"x": np.full(500, "a")}, "numbers"),
    ],
)
def test_bad_recordings(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        as_events(recording()._asdict() | change, HEIGHT, WIDTH)


def test_missing_field_and_shape() -> None:
    with pytest.raises(InvalidInput, match="needs the field 'p', got x, y, t"):
        as_events({"x": [0], "y": [0], "t": [0]}, HEIGHT, WIDTH)
    with pytest.raises(InvalidInput, match=r"\[E, 4\]"):
        as_events(np.zeros((4, 3)), HEIGHT, WIDTH)


def test_some_of_the_events() -> None:
    events = recording().only(slice(5))
    for chosen in (slice(1, 3), np.array([False, True, True, False, False]), np.array([1, 2])):
        assert [column.tolist() for column in events.only(chosen)] == [
            column[1:3].tolist() for column in events
        ]


def test_a_fingerprint_changes_with_names_sizes_and_times(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"1")
    os.utime(path, (5, 5))
    known = {fingerprint(tmp_path, [path])}
    assert fingerprint(tmp_path, [path]) in known
    os.utime(path, (6, 6))
    known.add(fingerprint(tmp_path, [path]))
    path.write_bytes(b"12")
    os.utime(path, (6, 6))
    known.add(fingerprint(tmp_path, [path]))
    known.add(fingerprint(tmp_path, [path.rename(tmp_path / "b")]))
    assert len(known) == 4
