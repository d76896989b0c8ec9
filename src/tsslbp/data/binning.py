"""Binning: the events of a recording as frames, one for each time step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple, final, get_args

import numpy as np
import numpy.typing as npt

from ..errors import InvalidInput, nearest
from .recording import Events

By = Literal["time", "count"]
Values = Literal["binary", "count", "surface"]

MICROSECONDS = 1000  # of a millisecond

_Integers = npt.NDArray[np.int64]
_Reals = npt.NDArray[np.float64]


@final
@dataclass(frozen=True)
class Binning:
    """How a recording becomes T frames ``[C, H, W]``.

    Attributes:
        by: ``"time"``: frame k holds the events with k <= t / window < k + 1; later ones are
            dropped. ``"count"``: every frame holds equally many events, as many as T of them can;
            the remainder, fewer than T at the end, is dropped.
        window: milliseconds of a frame; None, the default: the recording's length divided by T,
            counted from its first event. Only for frames of equal time.
        values: of a pixel: ``"binary"``: 1 where it has an event; ``"count"``: its number of
            events; ``"surface"``: the time of its last event, in seconds.
        normalise: whether a frame is divided by its largest value.
        polarities: 2: events of darker pixels are channel 0, of brighter ones channel 1; 1: all
            are one channel.
        down_sample: so many columns, and rows, of the sensor are one of the frame.
        stabilise: whether the motion of N-MNIST's camera is taken out of its recordings, see
            `tsslbp.data.nmnist.stabilise`.
        original_edges: frames of equal time as the published code has them for N-MNIST: frame k
            holds the events with k < t / window <= k + 1, the last frame none but those at t = 0.

    Raises:
        InvalidInput: a value is not one of these, or two do not fit.

    Source: the public TSSL-BP code and the study of it, see docs/reproduction.md.
    """

    by: By = "time"
    window: float | None = None
    values: Values = "binary"
    normalise: bool = False
    polarities: int = 2
    down_sample: int = 1
    stabilise: bool = False
    original_edges: bool = False

    def __post_init__(self) -> None:
        _require_one_of("by", self.by, get_args(By))
        _require_one_of("values", self.values, get_args(Values))
        for name in ("normalise", "stabilise", "original_edges"):
            if type(getattr(self, name)) is not bool:
                raise InvalidInput(f"{name} must be true or false, got {getattr(self, name)!r}")
        if self.window is not None:
            _require_window(self.window)
            object.__setattr__(self, "window", float(self.window))
        if type(self.polarities) is not int or self.polarities not in (1, 2):
            raise InvalidInput(f"polarities must be 1 or 2, got {self.polarities!r}")
        if type(self.down_sample) is not int or self.down_sample < 1:
            raise InvalidInput(
                f"down_sample must be a whole number of at least 1, got {self.down_sample!r}"
            )
        if self.by == "count" and (self.window is not None or self.original_edges):
            raise InvalidInput(
                "window and original_edges are for frames by time, not by count; a table of its "
                "own, --set 'binning={by=\"count\"}', leaves them out"
            )
        if self.original_edges and self.window is None:
            raise InvalidInput("original_edges needs a window")
        if self.normalise and self.values == "binary":
            raise InvalidInput("normalise is for values count and surface: binary ones are 0 and 1")

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> Binning:
        """Make a binning of its fields; an unknown one is an error that names the nearest."""
        names = [field.name for field in fields(cls)]
        for name in table:
            if name not in names:
                raise InvalidInput(f"unknown binning key {name!r}{nearest(name, names)}")
        return cls(**table)

    def to_table(self) -> dict[str, Any]:
        """Return the fields that differ from their defaults, and `by` and `values`."""
        table = {field.name: getattr(self, field.name) for field in fields(self)}
        kept = {field.name for field in fields(self) if table[field.name] != field.default}
        return {name: table[name] for name in table if name in kept | {"by", "values"}}

    def shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Channels, height and width of a frame, for a sensor's."""
        return self.polarities, -(-height // self.down_sample), -(-width // self.down_sample)


class Active(NamedTuple):
    """The pixels of one recording's frames that are not zero, frame after frame; K of them.

    ``counts``: how many each frame has ``[T]``; ``pixels``: number of the pixel within its frame,
    ``(channel * height + row) * width + column``, rising in a frame ``[K]``; ``values``: ``[K]``,
    or None where all are 1.
    """

    counts: _Integers
    pixels: _Integers
    values: npt.NDArray[np.float32] | None


def bin_events(events: Events, height: int, width: int, time_steps: int, how: Binning) -> Active:
    """Return the frames of one recording, as their pixels that are not zero.

    Args:
        events: in order of time, within the sensor; t from 0, unless `how` takes the whole length.
        height, width: of the sensor.
        time_steps: T.
    """
    frame = _frame(events.t, time_steps, how)
    kept = (frame >= 0) & (frame < time_steps)
    _, rows, columns = shape = how.shape(height, width)
    x, y = events.x.astype(np.int64), events.y.astype(np.int64)
    if how.down_sample > 1:
        x, y = x // how.down_sample, y // how.down_sample
    pixel = y * columns + x
    if how.polarities == 2:
        pixel += events.p.astype(np.int64) * (rows * columns)
    size = int(np.prod(shape))
    cell = (frame * size + pixel)[kept]
    active, values = _values(cell, events.t[kept], time_steps * size, how)
    at, pixels = np.divmod(active, size)
    counts = np.bincount(at, minlength=time_steps)
    if how.normalise and values is not None:
        values = _normalised(values, counts)
    return Active(counts, pixels, None if values is None else values.astype(np.float32))


def _frame(t: _Integers, time_steps: int, how: Binning) -> _Integers:
    """Return the number of each event's frame; outside 0..T-1 where it has none."""
    if how.by == "count":
        share = max(1, len(t) // time_steps)
        return np.arange(len(t)) // share
    if how.window is None:
        first, last = (int(t[0]), int(t[-1])) if len(t) else (0, 0)
        return (t - first) * time_steps // (last - first + 1)
    window = round(how.window * MICROSECONDS, 6)  # 2.007 ms are 2007, not a little less
    if not how.original_edges:
        return np.floor(t / window).astype(np.int64)
    number = np.ceil(t / window).astype(np.int64)
    # Frames are numbered from 1 there and stored from 0; NumPy takes -1 for the last.
    return np.where(number == 0, time_steps - 1, np.where(number < time_steps, number - 1, -1))


def _values(
    cell: _Integers, t: _Integers, cells: int, how: Binning
) -> tuple[_Integers, _Reals | None]:
    """Return the cells that have an event, rising, and their values; None: all are 1."""
    if how.values == "count":
        number = np.bincount(cell, minlength=cells)
        active = np.flatnonzero(number)
        return active, number[active].astype(np.float64)
    found = np.zeros(cells, bool)
    found[cell] = True
    active = np.flatnonzero(found)
    if how.values == "binary":
        return active, None
    last = np.zeros(cells, np.int64)
    last[cell] = t  # of several events the last one stays
    return active, last[active] / 1e6


def _normalised(values: _Reals, counts: _Integers) -> _Reals:
    """Return the values divided by their frame's largest."""
    largest = np.ones(len(counts))
    has = counts > 0
    starts = np.cumsum(counts) - counts
    if has.any():
        largest[has] = np.maximum.reduceat(values, starts[has])
    divisors: _Reals = np.repeat(np.where(largest > 0, largest, 1.0), counts)
    return values / divisors


def _require_one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InvalidInput(
            f"{name} must be one of {', '.join(known)}, got {value!r}{nearest(str(value), known)}"
        )


def _require_window(window: float) -> None:
    number = isinstance(window, (int, float)) and type(window) is not bool
    if not number or not 0 < window < float("inf"):
        raise InvalidInput(f"window must be a number of milliseconds above 0, got {window!r}")
