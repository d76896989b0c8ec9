"""Binning: how the events of a recording become frames, one for each time step."""

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
            `tsslbp.data.events.nmnist.stabilise`.
        original_edges: frames of equal time as the published code has them for N-MNIST: frame k
            holds the events with k < t / window <= k + 1, the last frame none but those at t = 0.

    Raises:
        InvalidInput: a value is not one of these, or two do not fit.

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
                "binning: window and original_edges are for frames by time, not by count; a table "
                "of its own, --set 'binning={by=\"count\"}', leaves them out"
            )
        if self.original_edges and self.window is None:
            raise InvalidInput("binning: original_edges needs a window")
        if self.normalise and self.values == "binary":
            raise InvalidInput(
                "binning: normalise is for values count and surface: binary ones are 0 and 1"
            )

    def to_table(self) -> dict[str, Any]:
        """Return the fields that differ from their defaults, and `by` and `values`."""
        table = {field.name: getattr(self, field.name) for field in fields(self)}
        kept = {field.name for field in fields(self) if table[field.name] != field.default}
        return {name: table[name] for name in table if name in kept | {"by", "values"}}

    def shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Channels, height and width of a frame, for a sensor's."""
        return self.polarities, -(-height // self.down_sample), -(-width // self.down_sample)
