"""Bins the events of a recording into frames, one for each time step."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ...experiment.binning import Binning
from .recording import Events

MICROSECONDS = 1000  # in a millisecond

_Integers = npt.NDArray[np.int64]
_Reals = npt.NDArray[np.float64]


class ActivePixels(NamedTuple):
    """The K nonzero pixels of one recording's frames, frame by frame.

    ``counts``: number of pixels of each frame ``[T]``; ``pixels``: number of each pixel within its
    frame, ``(channel * height + row) * width + column``, increasing within a frame ``[K]``;
    ``values``: ``[K]``, or None if all are 1.
    """

    counts: _Integers
    pixels: _Integers
    values: npt.NDArray[np.float32] | None


def bin_events(
    events: Events, height: int, width: int, time_steps: int, how: Binning
) -> ActivePixels:
    """Return the nonzero pixels of one recording's frames.

    Args:
        events: in order of time, within the sensor. Times start at 0, unless `how` uses the whole
            length.
        height, width: size of the sensor.
        time_steps: T.
        how: the binning.
    """
    frame = _frame(events.t, time_steps, how)
    kept = (frame >= 0) & (frame < time_steps)
    _, rows, columns = shape = how.shape(height, width)
    x, y = (place.astype(np.int64) // how.down_sample for place in (events.x, events.y))
    pixel = y * columns + x
    if how.polarities == 2:
        pixel += events.p.astype(np.int64) * (rows * columns)
    size = int(np.prod(shape))
    cell = (frame * size + pixel)[kept]
    active, values = _values(cell, events.t[kept], time_steps * size, how)
    at, pixels = np.divmod(active, size)
    counts = np.bincount(at, minlength=time_steps)
    if how.normalise and values is not None:
        largest = np.zeros(time_steps)
        np.maximum.at(largest, at, values)
        values = values / np.where(largest > 0, largest, 1.0)[at]
    return ActivePixels(counts, pixels, None if values is None else values.astype(np.float32))


def _frame(t: _Integers, time_steps: int, how: Binning) -> _Integers:
    """Return the number of each event's frame; outside 0..T-1 if it belongs to no frame."""
    if how.by == "count":
        share = max(1, len(t) // time_steps)
        return np.arange(len(t)) // share
    if how.window is None:
        first, last = (int(t[0]), int(t[-1])) if len(t) else (0, 0)
        return (t - first) * time_steps // (last - first + 1)
    window = round(how.window * MICROSECONDS, 6)  # 2.007 ms are 2007, despite rounding errors
    if not how.original_edges:
        return np.floor(t / window).astype(np.int64)
    number = np.ceil(t / window).astype(np.int64)
    # The original numbers frames from 1 and stores them from 0, and NumPy reads -1 as the last.
    return np.where(number == 0, time_steps - 1, np.where(number < time_steps, number - 1, -1))


def _values(
    cell: _Integers, t: _Integers, cells: int, how: Binning
) -> tuple[_Integers, _Reals | None]:
    """Return the cells that have an event, in order, and their values; None: all are 1."""
    if how.values == "count":
        number = np.bincount(cell, minlength=cells)
        active = np.flatnonzero(number)
        return active, number[active].astype(np.float64)
    has_event = np.zeros(cells, bool)
    has_event[cell] = True
    active = np.flatnonzero(has_event)
    if how.values == "binary":
        return active, None
    last = np.zeros(cells, np.int64)
    last[cell] = t  # the last of several events wins
    return active, last[active] / 1e6
