"""Axes of parallel coordinates: positions of values, and ticks."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .style import Array, label, lowest_shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes


FEW = 8  # distinct values of an axis up to which each gets a tick
APART = 0.04  # least distance of two ticks, as a fraction of the axis's height
SPREAD = 0.03  # largest displacement of a line from its height
FOOT = 0.04  # height of a missing value
CATEGORY_CHARACTERS = 16
LOGARITHMIC = ("learning_rate",)  # always logarithmic, even if the values are close


def hyperparameter_axis(
    host: Axes, place: int, last: int, name: str, values: Sequence[Any]
) -> Array:
    """Draw one axis of parallel coordinates; return the height of each value on it, 0 to 1."""
    axes = _vertical_axis(host, place, last)
    given = [value for value in values if not _is_missing(value)]
    names = [] if all(map(_is_number, given)) else sorted({str(value) for value in given})
    numbers = np.array(
        [
            math.nan if _is_missing(value) else names.index(str(value)) if names else float(value)
            for value in values
        ]
    )
    log = not names and (name in LOGARITHMIC or is_logarithmic(numbers))
    axes.set_yscale("log" if log else "linear")
    _set_range(axes, numbers, log, 0.2 if len(given) < len(values) else 0.05)
    if names:
        shortened = [
            label(textwrap.shorten(name, CATEGORY_CHARACTERS, placeholder="…")) for name in names
        ]
        axes.set_yticks(range(len(names)), shortened)
    else:
        number_axis(axes, numbers, log)
    return _heights(host, axes, place, numbers)


def accuracy_axis(host: Axes, place: int, percent: Array) -> Array:
    """Draw the axis of accuracies; accuracies far below the others are drawn at its foot."""
    axes = _vertical_axis(host, place, place)
    lowest = lowest_shown(percent)
    shown = np.maximum(percent, lowest)
    _set_range(axes, shown, False, 0.05)
    number_axis(axes, np.round(shown, 2), False)
    if percent.min() < lowest:
        ticks = [
            tick for tick in axes.get_yticks() if tick > lowest + 0.1 * np.ptp(axes.get_ylim())
        ]
        axes.set_yticks([lowest, *ticks], [f"≤ {lowest:.4g}", *_written(np.array(ticks), False)])
    return _heights(host, axes, place, shown)


def spread(heights: Array) -> Array:
    """Return heights with equal ones spread out around their position, in the given order."""
    apart = heights.copy()
    for value in np.unique(heights):
        same = np.flatnonzero(heights == value)
        if len(same) > 1:
            reach = min(SPREAD, 0.004 * (len(same) - 1))
            apart[same] += np.linspace(-reach, reach, len(same))
    return apart


def number_axis(axes: Axes, values: Array, log: bool) -> None:
    """Set ticks of a vertical axis at its values, if few, or at round numbers between them."""
    from matplotlib.ticker import LogLocator, MaxNLocator

    low, high = axes.get_ylim()
    ticks = np.unique(values[np.isfinite(values)])
    if len(ticks) > FEW:
        locator = LogLocator(subs=(1, 2, 5)) if log else MaxNLocator(6)
        ticks = np.asarray(locator.tick_values(float(ticks[0]), float(ticks[-1])))
        ticks = ticks[(ticks >= low) & (ticks <= high)]
        if log and len(ticks) > FEW:
            ticks = ticks[np.isclose(np.log10(ticks), np.round(np.log10(ticks)))]
    heights = (
        np.log10(ticks / low) / math.log10(high / low) if log else (ticks - low) / (high - low)
    )
    kept = np.diff(heights, prepend=-1) > APART
    axes.set_yticks(ticks[kept], _written(ticks[kept], log))
    axes.yaxis.set_minor_formatter("")


def is_logarithmic(values: Array) -> bool:
    """Whether values are positive and span a factor of 10 or more; NaN is ignored."""
    known = values[np.isfinite(values)]
    return bool(known.size and known.min() > 0 and known.max() >= 10 * known.min())


def _vertical_axis(host: Axes, place: int, last: int) -> Axes:
    axes = host.twinx()
    axes.spines[["left", "top", "bottom"]].set_visible(False)
    axes.spines["right"].set_position(("axes", place / max(last, 1)))
    axes.tick_params(axis="y", which="minor", length=0)
    return axes


def _set_range(axes: Axes, values: Array, log: bool, below: float) -> None:
    """Set limits of an axis around its values; `below` is a fraction for missing values."""
    known = values[np.isfinite(values)]
    if log:
        known = np.log10(known)
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    span = (high - low) or 1.0
    low, high = low - below * span, high + 0.05 * span
    axes.set_ylim(*((10**low, 10**high) if log else (low, high)))


def _heights(host: Axes, axes: Axes, place: int, values: Array) -> Array:
    """Return heights of values on an axis, 0 to 1; NaN is near its foot, which is labelled."""
    for name in axes.get_yticklabels():
        name.set_fontsize("small")
        name.set_bbox({"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.8})
    missing = np.isnan(values)
    known = np.column_stack([np.zeros(len(values)), np.where(missing, axes.get_ylim()[1], values)])
    heights: Array = axes.transLimits.transform(axes.transScale.transform(known))[:, 1]
    if missing.any():
        host.text(place + 0.03, FOOT, "none", fontsize="small", va="center", color="0.35")
    return np.where(missing, FOOT, heights)


def _written(ticks: Array, log: bool) -> list[str]:
    """Return numbers as text, with equally many decimals on a linear axis."""
    texts = [f"{tick:g}" for tick in ticks]
    if log or any("e" in text for text in texts):
        return texts
    decimals = max((len(text.partition(".")[2]) for text in texts), default=0)
    return [f"{tick:.{decimals}f}" for tick in ticks]


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)
