"""Shares and durations in words, the same in the program and in reports."""

from __future__ import annotations


def percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f} %"


def duration(seconds: float) -> str:
    """Return such as ``"9.3 s"``, ``"12 min 5 s"``, ``"1 h 3 min"``, ``"2 d 5 h"``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"
