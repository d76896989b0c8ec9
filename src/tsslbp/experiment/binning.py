"""Binning: how the events of a recording are divided into frames, one for each time step."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal, final

from ..checked import Allowed, Checked, Count
from ..errors import InvalidInput

Milliseconds = Annotated[float, Allowed("a number of milliseconds above 0", lambda x: x > 0)]
Polarities = Annotated[int, Allowed("1 or 2", lambda n: n in (1, 2))]


@final
@dataclass(frozen=True)
class Binning(Checked, called="binning: "):
    """How a recording becomes T frames ``[C, H, W]``.

    Attributes:
        by: ``"time"``: frame k holds the events with k <= t / window < k + 1; later events are
            dropped. ``"count"``: all frames hold the same number of events, as large as possible;
            the remaining events at the end, fewer than T, are dropped.
        window: length of a frame in milliseconds; None, the default: the recording's length from
            its first event, divided by T. Only with ``by="time"``.
        values: value of a pixel: ``"binary"``: 1 if it has an event; ``"count"``: number of its
            events; ``"surface"``: time of its last event, in seconds.
        normalise: whether a frame is divided by its largest value.
        polarities: 2: events of darker pixels are channel 0, of brighter pixels channel 1; 1: all
            events are in one channel.
        down_sample: number of columns, and of rows, of the sensor that become one of the frame.
        stabilise: whether the camera motion is removed from recordings of N-MNIST, see
            `tsslbp.data.events.nmnist.stabilise`.
        original_edges: frames by time as in the published code for N-MNIST: frame k holds the
            events with k < t / window <= k + 1, and the last frame only those at t = 0.

    Raises:
        InvalidInput: a value is not allowed, or two values contradict each other.

    Source: the public TSSL-BP code and the study of it, see docs/reproduction.md.
    """

    by: Literal["time", "count"] = "time"
    window: Milliseconds | None = None
    values: Literal["binary", "count", "surface"] = "binary"
    normalise: bool = False
    polarities: Polarities = 2
    down_sample: Count = 1
    stabilise: bool = False
    original_edges: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.by == "count" and (self.window is not None or self.original_edges):
            raise InvalidInput(
                "binning: window and original_edges apply to frames by time, not by count; leave "
                "them out by giving the whole table, --set 'binning={by=\"count\"}'"
            )
        if self.original_edges and self.window is None:
            raise InvalidInput("binning: original_edges needs a window: set binning.window")
        if self.normalise and self.values == "binary":
            raise InvalidInput(
                "binning: normalise applies to values count and surface: binary values are 0 and 1"
            )

    def to_table(self) -> dict[str, Any]:
        """Return the fields that differ from their defaults, and `by` and `values`."""
        table = {field.name: getattr(self, field.name) for field in fields(self)}
        kept = {field.name for field in fields(self) if table[field.name] != field.default}
        return {name: table[name] for name in table if name in kept | {"by", "values"}}

    def shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Return channels, height and width of a frame for a sensor of this height and width."""
        return self.polarities, -(-height // self.down_sample), -(-width // self.down_sample)
