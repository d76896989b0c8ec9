"""Binning: how the events of a recording become frames, one for each time step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, final, get_args

from ..errors import InvalidInput, nearest

By = Literal["time", "count"]


Values = Literal["binary", "count", "surface"]


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
            `tsslbp.data.events.nmnist.stabilise`.
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


def _require_one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InvalidInput(
            f"{name} must be one of {', '.join(known)}, got {value!r}{nearest(str(value), known)}"
        )


def _require_window(window: float) -> None:
    number = isinstance(window, (int, float)) and type(window) is not bool
    if not number or not 0 < window < float("inf"):
        raise InvalidInput(f"window must be a number of milliseconds above 0, got {window!r}")
