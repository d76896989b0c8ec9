"""Recordings of event cameras: their events, and data sets of them that readers return.

An event says that a pixel became brighter or darker, and when. A reader converts files to `Events`;
`tsslbp.data.events.binning` converts these to frames, one for each time step.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, final

import numpy as np
import numpy.typing as npt

from ...errors import InvalidInput

Array = npt.NDArray[Any]

MOST = 1 << 53  # up to here floats represent all whole numbers

_FIELDS = {"x": ("x",), "y": ("y",), "t": ("t", "ts", "timestamp"), "p": ("p", "pol", "polarity")}


class Events(NamedTuple):
    """The events of one recording in order of time: four arrays of the same length E.

    ``x[i]``, ``y[i]``: column from the left and row from the top, from 0; ``t[i]``: time in
    microseconds; ``p[i]``: 1 if the pixel became brighter, 0 if it became darker.
    """

    x: npt.NDArray[np.int16]
    y: npt.NDArray[np.int16]
    t: npt.NDArray[np.int64]
    p: npt.NDArray[np.uint8]

    def only(self, chosen: slice | Array) -> Events:
        """Return some of the events, selected by a slice, a mask ``[E]`` or their numbers."""
        return Events(self.x[chosen], self.y[chosen], self.t[chosen], self.p[chosen])


@final
@dataclass(frozen=True, eq=False)
class EventSet:
    """A data set of recordings that have not been read yet.

    Attributes:
        name: name of the data set in messages and records.
        height, width: size of the sensor, in pixels.
        classes: number of classes.
        train, test: arguments for `read`, one after the other; in most data sets paths of files.
        read: yields the label and the events of every recording in one of these.
        fingerprint: changes when the recordings do, such as a hash of names, sizes and times.
        note: a caveat that every result made with the data must carry, or an empty text.
        oddities: irregularities that `read` corrected, and in how many recordings so far.
    """

    name: str
    height: int
    width: int
    classes: int
    train: Sequence[Any]
    test: Sequence[Any]
    read: Callable[[Any], Iterable[tuple[int, Events]]]
    fingerprint: str
    note: str = ""
    oddities: Counter[str] = field(default_factory=Counter)


def fingerprint(root: Path, paths: Sequence[Path]) -> str:
    """Return a hash of the files' names below `root`, sizes and modification times."""
    digest = hashlib.sha256()
    for path in paths:
        status = path.stat()
        name = path.relative_to(root).as_posix()
        digest.update(f"{name} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def as_events(recording: Events | Array | Mapping[str, Any], height: int, width: int) -> Events:
    """Return your own recording as `Events`, checked and sorted by time.

    Args:
        recording: `Events`; a structured array or mapping with the fields ``x``, ``y``, ``t`` (or
            ``ts``, ``timestamp``) and ``p`` (or ``pol``, ``polarity``), as tonic returns; or a
            plain ``[E, 4]`` array with the columns x, y, t, p. Times are in microseconds;
            polarities are 0 and 1, -1 and 1, or false and true.
        height, width: size of the sensor, in pixels.

    Raises:
        InvalidInput: a field is missing, has another length, contains a number that is not whole,
            or lies outside the sensor; or a polarity has another value.
    """
    columns = _columns(recording)
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise InvalidInput(f"the fields of a recording must have the same length, got {lengths}")
    for name, limit in (("x", width), ("y", height)):
        wrong = (columns[name] < 0) | (columns[name] >= limit)
        if wrong.any():
            first = int(np.argmax(wrong))
            raise InvalidInput(
                f"{name} must be from 0 to {limit - 1}, got {columns[name][first]} at event {first}"
            )
    polarity = columns["p"]
    if not np.isin(polarity, (-1, 0, 1)).all() or (np.isin(-1, polarity) and np.isin(0, polarity)):
        values = np.unique(polarity)[:5].tolist()
        raise InvalidInput(f"polarities must be 0 and 1, or -1 and 1, got {values}")
    t = columns["t"].astype(np.int64)
    x, y = columns["x"].astype(np.int16), columns["y"].astype(np.int16)
    events = Events(x, y, t, (polarity > 0).astype(np.uint8))
    return events if (t[1:] >= t[:-1]).all() else events.only(np.argsort(t, kind="stable"))


def _columns(recording: Events | Array | Mapping[str, Any]) -> dict[str, Array]:
    """Return the four fields as arrays of whole numbers ``[E]``."""
    if isinstance(recording, Events):
        columns: dict[str, Any] = recording._asdict()
    elif isinstance(recording, np.ndarray) and recording.dtype.names is None:
        if recording.ndim != 2 or recording.shape[1] != 4:
            raise InvalidInput(
                f"a plain array of events must be [E, 4] with columns x, y, t, p, got shape "
                f"{list(recording.shape)}"
            )
        columns = dict(zip("xytp", recording.T, strict=True))
    else:
        names = recording.dtype.names if isinstance(recording, np.ndarray) else tuple(recording)
        assert names is not None  # plain arrays are handled above
        columns = {name: recording[_field(name, names)] for name in _FIELDS}
    return {name: _whole(name, np.asarray(column)) for name, column in columns.items()}


def _field(name: str, names: Sequence[str]) -> str:
    for candidate in _FIELDS[name]:
        if candidate in names:
            return candidate
    raise InvalidInput(f"a recording needs the field {name!r}, got {', '.join(map(str, names))}")


def _whole(name: str, column: Array) -> Array:
    if column.ndim != 1 or column.dtype.kind not in "buif":
        raise InvalidInput(
            f"the field {name!r} of a recording must be [E] numbers, got shape "
            f"{list(column.shape)} of {column.dtype}"
        )
    if column.dtype.kind == "f" and not (np.isfinite(column) & (column == np.trunc(column))).all():
        raise InvalidInput(
            f"the field {name!r} of a recording must be whole numbers"
            + (": times are in microseconds" if name == "t" else "")
        )
    if (abs(column.astype(float)) > MOST).any():
        raise InvalidInput(f"the field {name!r} of a recording has numbers beyond 2^53")
    return column.astype(np.int64)
