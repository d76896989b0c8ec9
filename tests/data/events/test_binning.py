"""Tests of binning: against a loop over single events, and properties of every option."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from tsslbp.data import Binning
from tsslbp.data.events.binning import ActivePixels, bin_events
from tsslbp.data.events.recording import Events

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


def dense(active: ActivePixels, how: Binning) -> npt.NDArray[np.float64]:
    shape = how.shape(HEIGHT, WIDTH)
    frames = np.zeros((STEPS, *shape))
    frame = np.repeat(np.arange(STEPS), active.counts)
    values = 1.0 if active.values is None else active.values
    frames.reshape(STEPS, -1)[frame, active.pixels] = values
    return frames


def slow(events: Events, how: Binning) -> npt.NDArray[np.float64]:
    """Bin by the definition, one event after the other."""
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


@pytest.mark.parametrize("how", OPTIONS)
def test_a_table_gives_the_same_binning(how: Binning) -> None:
    assert Binning.from_table(how.to_table()) == how


def test_counting_loses_no_event() -> None:
    """Counts are exact even where one pixel has more events than a byte can count."""
    count = 70_000
    hot = Events(*(np.full(count, 3, np.int16),) * 2, np.arange(count), np.ones(count, np.uint8))
    how = Binning(values="count")
    frames = dense(bin_events(hot, HEIGHT, WIDTH, STEPS, how), how)
    assert frames.sum() == count
    assert np.ptp(frames[:, 1, 3, 3]) <= 1  # the frames share them equally


def test_original_edges_leave_the_last_frame_to_time_zero() -> None:
    """The published code's windows include their end instead of their start.

    So time 0 falls into the last frame, and no other time does.
    """
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
    """A window of 2.007 ms has 2007 microseconds, although 2.007 * 1000 is a little less."""
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
