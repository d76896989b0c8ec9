"""JSON as a run writes it: strict, on one line per epoch or indented in a file."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import InvalidInput
from ..reading import parse_json, parse_json_lines
from ..storage import write_file


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON file, replacing the earlier one atomically; raise `RunError` if it fails."""
    write_file(path, to_json(value, indent=2) + "\n")


def to_line(record: Mapping[str, Any]) -> bytes:
    """Return an epoch's record as a line; raise `InvalidInput` if it has no number of the epoch."""
    if not _is_epoch(record.get("epoch")):
        raise InvalidInput(f"an epoch's record needs an integer 'epoch', got {record!r:.80}")
    return to_json(record, separators=(",", ":")).encode() + b"\n"


def to_json(value: Mapping[str, Any], **layout: Any) -> str:
    """Return strict JSON, with null for NaN and infinity; `layout` is passed to `json.dumps`."""
    try:
        return json.dumps(_without_nan(value), allow_nan=False, **layout)
    except TypeError as error:
        raise InvalidInput(f"cannot be written as JSON: {error}") from error


def _without_nan(value: Any) -> Any:
    """Return a JSON value in which None replaces NaN and infinity, which JSON lacks."""
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def parse_records(lines: Sequence[bytes]) -> list[dict[str, Any] | None]:
    """Return the record in each line; None for a line that is no record, such as a cut-off one."""
    values: Iterable[Any]
    try:
        values = parse_json_lines(lines)
    except ValueError:
        values = map(_parse_line, lines)
    return [
        value if isinstance(value, dict) and _is_epoch(value.get("epoch")) else None
        for value in values
    ]


def _parse_line(line: bytes) -> Any:
    try:
        return parse_json(line)
    except ValueError:
        return None


def _is_epoch(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
