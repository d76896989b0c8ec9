"""Numbers in words, written in the same way in the program and in reports."""

from __future__ import annotations

from collections.abc import Sequence


def percent(share: float | None) -> str:
    """Return text such as ``"98.50 %"``, or ``"-"`` for None."""
    return "-" if share is None else f"{100 * share:.2f} %"


def duration(seconds: float) -> str:
    """Return text such as ``"9.3 s"``, ``"12 min 5 s"``, ``"1 h 3 min"``, ``"2 d 5 h"``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"


def size(count: int) -> str:
    """Return a number of bytes as text, such as ``"11.6 MB"``."""
    from rich.filesize import decimal

    return decimal(count)


def energy(picojoules: float) -> str:
    """Return text such as ``"4.81 µJ"``, with three digits."""
    units = ("pJ", "nJ", "µJ", "mJ", "J")
    power = 0
    while abs(picojoules) >= 999.5 and power < len(units) - 1:
        picojoules, power = picojoules / 1000, power + 1
    digits = 2 if abs(picojoules) < 9.995 else 1 if abs(picojoules) < 99.95 else 0
    return f"{picojoules:.{digits}f} {units[power]}"


def count(number: int, noun: str, plural: str = "") -> str:
    """Return text such as ``"1 run"`` or ``"1,200 runs"``; `plural` is for irregular nouns."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def joined(words: Sequence[str]) -> str:
    """Return text such as ``"a, b and c"``."""
    *others, last = words
    return f"{', '.join(others)} and {last}" if others else last


def mean_and_deviation(mean: float, sd: float | None) -> str:
    """Return text such as ``"99.40 ± 0.04"``, or only the mean if `sd` is None."""
    return f"{mean:.2f}" if sd is None else f"{mean:.2f} ± {sd:.2f}"


def interval(ends: tuple[float, float], sign: str = "") -> str:
    """Return text such as ``"88.52 to 93.48"``, or ``"-0.02 to +0.22"`` if `sign` is ``"+"``."""
    return f"{ends[0]:{sign}.2f} to {ends[1]:{sign}.2f}"


def difference(points: float, ends: tuple[float, float]) -> str:
    """Return text such as ``"+0.10 points (95 % interval -0.02 to +0.22)"``."""
    return f"{points:+.2f} points (95 % interval {interval(ends, '+')})"


def p_value(p: float | None) -> str:
    """Return text such as ``"0.013"`` or ``"< 0.001"``, or ``"-"`` for None."""
    if p is None:
        return "-"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
