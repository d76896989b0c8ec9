"""Tests of the simulated event camera, by its known properties, and of its data set."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsslbp import data
from tsslbp.data.events import moving_digits
from tsslbp.data.events.moving_digits import SIDE, THRESHOLD, moving, record, sampled
from tsslbp.data.events.recording import Events

Array = npt.NDArray[Any]


def scene(seed: int = 0) -> tuple[Array, Array]:
    digit = np.random.RandomState(seed).uniform(size=(8, 8))
    return moving(digit, np.random.RandomState(seed))


def added(events: Events, shape: tuple[int, ...], until: int) -> Array:
    """Return the change of brightness that each pixel's events before `until` add up to."""
    total = np.zeros(shape)
    some = events.only(events.t < until)
    np.add.at(total, (some.y, some.x), THRESHOLD * (2.0 * some.p - 1))
    return total


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_events_add_up_to_the_change_of_brightness(seed: int) -> None:
    """At any time, the sum of a pixel's events is within one threshold of its change."""
    brightness, times = scene(seed)
    events = record(brightness, times)
    for step in (1, 17, 44, 90):
        total = added(events, brightness.shape[1:], int(times[step]))
        error = brightness[step] - brightness[0] - total
        assert np.abs(error).max() < THRESHOLD + 1e-9
    assert len(events.t) > 500


levels = st.floats(-3, 3) | st.integers(-40, 40).map(lambda number: number * THRESHOLD / 4)


@settings(deadline=None)
@given(st.lists(levels, min_size=1, max_size=8))
def test_any_brightness(path: list[float]) -> None:
    """The same is true of any course of brightness, quarters of the threshold included.

    Every level is held for a step.
    """
    brightness = np.repeat(path, 2)[:, None, None]
    times = 1000 * np.arange(len(brightness))
    events = record(brightness, times)
    assert ((events.t >= 0) & (events.t <= times[-1])).all() and (np.diff(events.t) >= 0).all()
    for now, t in zip(brightness.ravel(), times.tolist(), strict=True):
        error = now - path[0] - added(events, (1, 1), t + 1)
        assert np.abs(error).max() < THRESHOLD + 1e-8


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_negative_gives_the_other_polarities(seed: int) -> None:
    brightness, times = scene(seed)
    events, other = record(brightness, times), record(-brightness, times)
    expected = events._replace(p=1 - events.p)
    assert all(np.array_equal(a, b) for a, b in zip(other, expected, strict=True))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_rounding_decides_nothing(seed: int) -> None:
    """Logarithms that differ in their last bit, as on other machines, give the same events."""
    brightness, times = scene(seed)
    last_bit = np.random.RandomState(seed).choice([-1, 0, 1], brightness.shape) * 2.0**-52
    events, same = record(brightness, times), record(brightness * (1 + last_bit), times)
    assert all(np.array_equal(a, b) for a, b in zip(events, same, strict=True))


def test_a_pixel_that_the_digit_has_left_is_as_dark_as_before() -> None:
    """The pixel's events add up to zero, although its last threshold is reached exactly."""
    steps = np.arange(51)
    brightness = np.log(0.1 + sampled(np.ones((8, 2)), -6 + steps * 0.7, np.full(51, 4.0)))
    events = record(brightness, steps * 1000)
    assert np.ptp(brightness, axis=0).max() > 2 and (brightness[-1] == brightness[0]).all()
    assert np.abs(added(events, brightness.shape[1:], 50_001)).max() < 1e-9


def test_a_still_image_gives_no_event() -> None:
    brightness, times = scene()
    still = np.broadcast_to(brightness[:1], brightness.shape)
    assert len(record(still, times).t) == 0
    assert len(record(brightness[:1], times[:1]).t) == 0  # one image, and no step


def test_a_pixel_turns_back_by_a_whole_threshold() -> None:
    """A pixel is silent while it stays within one threshold of the level of its last event."""
    path = THRESHOLD * np.array([0, 1.5, 0.1, -0.1, 0.9, 1.1])
    events = record(path[:, None, None], 1000 * np.arange(6))
    assert events.p.tolist() == [1, 0, 1]
    assert (events.t // 1000).tolist() == [0, 2, 4]


def test_a_pixel_that_stops_a_whole_threshold_away_is_still() -> None:
    """No event comes after the motion, however the last threshold is rounded."""
    random = np.random.RandomState(0)
    start = random.uniform(-2, 0, 10_000)
    number = random.randint(1, 6, start.shape)
    stop = np.nextafter(start + number * THRESHOLD, start)
    brightness = np.stack([start, stop, stop, stop]).reshape(4, 100, 100)
    events = record(brightness, np.arange(4) * 1000)
    assert events.t.min() >= 0 and events.t.max() <= 1000
    assert number.sum() - len(start) <= len(events.t) <= number.sum()


def test_events_come_when_the_threshold_is_crossed() -> None:
    """Times are interpolated: here a rise by 2.5 thresholds in 10 ms, then an equal fall."""
    brightness = THRESHOLD * np.array([0, 2.5, 0]).reshape(3, 1, 1)
    events = record(brightness, np.array([0, 10_000, 20_000]))
    # Up at 1 and 2 thresholds; down at 1 and 0, each a threshold below the last event.
    assert events.p.tolist() == [1, 1, 0, 0]
    assert events.t.tolist() == [4000, 8000, 16_000, 20_000]


def test_more_contrast_gives_more_events() -> None:
    brightness, times = scene()
    counts = [len(record(scale * brightness, times).t) for scale in (0.25, 0.5, 1, 2, 4)]
    assert all(more > 1.5 * less for less, more in pairwise(counts))


def test_reversed_in_time_a_pixel_emits_the_other_polarity() -> None:
    """A pixel that only brightens has as many events of the other polarity in reverse."""
    ramp = THRESHOLD * np.linspace(0, 2.5, 26).reshape(-1, 1, 1)
    times = np.arange(26) * 1000
    forward, backward = record(ramp, times), record(ramp[::-1], times)
    assert forward.p.tolist() == [1, 1] and backward.p.tolist() == [0, 0]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_reversed_in_time_the_changes_are_opposite(seed: int) -> None:
    """In each direction, a pixel's events are within one threshold of its change in one saccade.

    So the sums of both directions cancel to within one threshold. Over all pixels, there are as
    many brighter events in one direction as darker ones in the other, to within a tenth.
    """
    brightness, times = (part[:31] for part in scene(seed))
    end, shape = int(times[-1]) + 1, brightness.shape[1:]
    there, back = record(brightness, times), record(brightness[::-1], times)
    forward, backward = (added(events, shape, end) for events in (there, back))
    assert np.abs(forward).max() > 2 * THRESHOLD
    assert np.abs(forward + backward).max() < THRESHOLD + 1e-9
    for p in (0, 1):
        one, other = np.sum(there.p == p), np.sum(back.p == 1 - p)
        assert one > 100 and abs(one - other) < 0.1 * one


def test_a_bright_bar_is_brighter_ahead_and_darker_behind() -> None:
    """The bar moves to the right; reversed in time, the polarities change places."""
    bar = np.zeros((8, 8))
    bar[:, 3:5] = 1
    steps = np.arange(31)
    brightness = np.log(0.1 + sampled(bar, 2 + steps * 0.2, np.full(31, 4.0)))
    events = record(brightness, steps * 1000)
    early = events.only(events.t < 8000)
    middle = {p: early.x[early.p == p].mean() for p in (0, 1)}
    assert middle[1] > middle[0] + 2
    reverse = record(brightness[::-1], steps * 1000)
    late = reverse.only(reverse.t >= 22_000)
    turned = {p: late.x[late.p == p].mean() for p in (0, 1)}
    assert turned[0] > turned[1] + 2


def test_a_digit_is_enlarged_and_keeps_its_light() -> None:
    """A digit wholly on the sensor sums to four times its light, at any fraction of a pixel."""
    digit = np.random.RandomState(0).uniform(size=(8, 8))
    left, top = np.random.RandomState(1).uniform(1, SIDE - 17, (2, 20))
    total = sampled(digit, left, top).sum(axis=(1, 2))
    assert total == pytest.approx(np.full(20, 4 * digit.sum()))
    even = sampled(np.ones((8, 8)), np.array([4.0]), np.array([6.0]))[0]
    assert even[7:21, 5:19] == pytest.approx(1) and even[:5].max() == even[:, :3].max() == 0


def test_recordings_are_those_of_this_version() -> None:
    """Recordings may change only with `VERSION`; otherwise the cache would supply old frames."""
    events = [record(*scene(seed)) for seed in range(3)]
    facts = [(len(e.t), int(e.t.sum()), int(e.p.sum()), int((e.x * e.y).sum())) for e in events]
    assert moving_digits.VERSION == 2
    assert facts == [
        (3512, 156_377_095, 1756, 435_422),
        (3374, 159_821_001, 1687, 392_946),
        (2974, 134_434_026, 1487, 350_326),
    ]


def test_the_set() -> None:
    """Recordings are deterministic, in order of time and on the sensor, with the digits' split."""
    first, second = data.recordings("moving-digits"), data.recordings("moving-digits")
    assert first.fingerprint == second.fingerprint
    assert (len(first.train), len(first.test)) == (1437, 360)
    for item in [*first.train[:3], *first.test[-3:]]:
        ((label, events),), ((again, same),) = first.read(item), second.read(item)
        assert label == again and 0 <= label < 10
        assert all(np.array_equal(a, b) for a, b in zip(events, same, strict=True))
        assert (np.diff(events.t) >= 0).all() and events.t[0] >= 0 and events.t[-1] <= 90_000
        assert (
            max(events.x.max(), events.y.max()) < SIDE and min(events.x.min(), events.y.min()) >= 0
        )
        assert len(events.t) > 200
