"""Binning, against a loop over single events, and properties of every option."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tsslbp.data import Binning
from tsslbp.data.events.binning import Active, bin_events
from tsslbp.data.events.recording import Events, as_events
from tsslbp.errors import InvalidInput

HEIGHT, WIDTH, STEPS = 7, 9, 6

OPTIONS = [
    Binning(),
    Binning(window=2.5),
    Binning(window=2.5, original_edges=True),
    Binning(by="count"),
    Binning(values="count"),
    Binning(values="count", normalise=True, window=4),
    Binning(values="surface", by="count", normalise=True),
    Binning(values="surface"),
    Binning(values="count", polarities=1),
    Binning(values="count", down_sample=2),
    Binning(values="surface", down_sample=4, polarities=1, by="count"),
]


def recording(count: int = 500, seed: int = 0, length: int = 20_000) -> Events:
    random = np.random.default_rng(seed)
    return Events(
        random.integers(0, WIDTH, count).astype(np.int16),
        random.integers(0, HEIGHT, count).astype(np.int16),
        np.sort(random.integers(0, length, count)),
        random.integers(0, 2, count).astype(np.uint8),
    )


def dense(active: Active, how: Binning) -> npt.NDArray[np.float64]:
    shape = how.shape(HEIGHT, WIDTH)
    frames = np.zeros((STEPS, *shape))
    frame = np.repeat(np.arange(STEPS), active.counts)
    values = 1.0 if active.values is None else active.values
    frames.reshape(STEPS, -1)[frame, active.pixels] = values
    return frames


def slow(events: Events, how: Binning) -> npt.NDArray[np.float64]:
    """The definition, one event after the other."""
    frames = np.zeros((STEPS, *how.shape(HEIGHT, WIDTH)))
    for number, (x, y, t, p) in enumerate(zip(*map(np.ndarray.tolist, events), strict=True)):
        if how.by == "count":
            frame = number // max(1, len(events.t) // STEPS)
        elif how.window is None:
            first, last = int(events.t[0]), int(events.t[-1])
            frame = (t - first) * STEPS // (last - first + 1)
        elif how.original_edges:
            number_from_one = int(np.ceil(t / 1000 / how.window))
            if number_from_one >= STEPS:
                continue
            frame = number_from_one - 1  # -1 is the last one, as in the published code
        else:
            frame = int(t / 1000 // how.window)
        if frame >= STEPS:
            continue
        cell = (frame, p if how.polarities == 2 else 0, y // how.down_sample, x // how.down_sample)
        if how.values == "count":
            frames[cell] += 1
        else:
            frames[cell] = 1 if how.values == "binary" else t / 1e6
    if how.normalise:
        for frame in frames:
            if frame.max() > 0:
                frame /= frame.max()
    return frames


@pytest.mark.parametrize("how", OPTIONS)
@pytest.mark.parametrize("count", [0, 1, 5, 6, 500])
def test_every_option_is_its_definition(how: Binning, count: int) -> None:
    events = recording(count, seed=count)
    found = dense(bin_events(events, HEIGHT, WIDTH, STEPS, how), how)
    np.testing.assert_allclose(found, slow(events, how), rtol=1e-6)


def test_counting_loses_no_event() -> None:
    """Also where one pixel has more events than a byte can count."""
    count = 70_000
    hot = Events(*(np.full(count, 3, np.int16),) * 2, np.arange(count), np.ones(count, np.uint8))
    how = Binning(values="count")
    frames = dense(bin_events(hot, HEIGHT, WIDTH, STEPS, how), how)
    assert frames.sum() == count
    assert np.ptp(frames[:, 1, 3, 3]) <= 1  # and shares them out equally


def test_original_edges_leave_the_last_frame_to_time_zero() -> None:
    """The window of the published code's frame k ends where the clean one's begins."""
    t = np.array([0, 1, 3000, 3001, 15_000, 15_001, 18_000])
    ones = np.ones(len(t), np.int16)
    events = Events(ones, ones, t, ones.astype(np.uint8))
    how = Binning(window=3.0, original_edges=True, values="count")
    assert bin_events(events, HEIGHT, WIDTH, STEPS, how).counts.tolist() == [1, 1, 0, 0, 1, 1]
    counts = dense(bin_events(events, HEIGHT, WIDTH, STEPS, how), how).sum((1, 2, 3))
    assert counts.tolist() == [2, 1, 0, 0, 1, 1]
    clean = replace(how, original_edges=False)
    counts = dense(bin_events(events, HEIGHT, WIDTH, STEPS, clean), clean).sum((1, 2, 3))
    assert counts.tolist() == [2, 2, 0, 0, 0, 2]


def test_windows_are_whole_microseconds() -> None:
    """2.007 times 1000 is a little below 2007 in floating point."""
    one = Events(*(np.array([n], kind) for n, kind in zip((1, 1, 2007, 1), "hhqB", strict=True)))
    counts = bin_events(one, HEIGHT, WIDTH, STEPS, Binning(window=2.007)).counts
    assert counts.tolist() == [0, 1, 0, 0, 0, 0]


def test_windows_do_not_depend_on_what_follows() -> None:
    events, how = recording(), Binning(window=2.0)
    half = Events(*(column[events.t < 6000] for column in events))
    before, after = (
        dense(bin_events(one, HEIGHT, WIDTH, STEPS, how), how) for one in (half, events)
    )
    assert (before[:3] == after[:3]).all()
    assert not before[3:].any()


def test_merged_polarities_are_the_sum() -> None:
    events, how = recording(), Binning(values="count")
    merged = replace(how, polarities=1)
    both = dense(bin_events(events, HEIGHT, WIDTH, STEPS, how), how)
    one = dense(bin_events(events, HEIGHT, WIDTH, STEPS, merged), merged)
    assert (one[:, 0] == both.sum(1)).all()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"by": "times"}, "did you mean 'time'"),
        ({"values": "binry"}, "binary"),
        ({"windw": 3}, r"unknown binning key 'windw' \(did you mean 'window'"),
        ({"window": 0}, "above 0"),
        ({"window": True}, "above 0"),
        ({"window": float("nan")}, "above 0"),
        ({"by": "count", "window": 3}, "not by count"),
        ({"original_edges": True}, "needs a window"),
        ({"normalise": True}, "binary"),
        ({"normalise": 1, "values": "count"}, "true or false"),
        ({"polarities": 3}, "1 or 2"),
        ({"down_sample": 0}, "at least 1"),
        ({"down_sample": 2.0}, "whole number"),
    ],
)
def test_bad_options(table: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        Binning.from_table(table)


@pytest.mark.parametrize("how", OPTIONS)
def test_a_table_gives_the_same_binning(how: Binning) -> None:
    assert Binning.from_table(how.to_table()) == how


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
        ({"t": np.zeros(499)}, "one length"),
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
