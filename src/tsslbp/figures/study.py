"""Figures of many runs: groups, comparisons and searches; drawn from arrays with matplotlib."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import style
from .axes import FEW, accuracy_axis, hyperparameter_axis, is_logarithmic, number_axis, spread
from .style import Array, Look

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


DISC: Look = {"markersize": 6, "markeredgecolor": "white"}
ACCURACY = "test accuracy (%)"
NAMES_AN_INCH = 0.75  # most upright axis names per inch
SIZE = (3.8, style.WIDTH)  # height and width in inches of the figures of a search
APART = 1.03  # factor between points at the same number of time steps, so that all are visible


class Estimate(NamedTuple):
    """A mean with its interval, which is None for one run."""

    mean: float
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Point:
    """The result of runs of equal settings."""

    time_steps: int
    accuracy: Estimate  # on test images, 0 to 1
    cost: Estimate | None = None  # the quantity on the other axis, if known


class Line(NamedTuple):
    """One line of `intervals`."""

    name: str
    mean: float
    interval: tuple[float, float] | None = None
    values: Sequence[float] = ()  # of the single runs
    filled: bool = True  # whether the marker of the mean is filled


@style.own_settings()
def parallel_coordinates(
    trials: Sequence[Mapping[str, Any]],
    accuracies: Sequence[float],
    size: tuple[float, float] = SIZE,
) -> Figure:
    """Draw the hyperparameters of a search, one line per trial, coloured by its accuracy.

    Positive numbers that span a factor of 10 get a logarithmic axis; values that are not numbers
    get a categorical one. Lines that share a value are spread out slightly around it, with better
    ones above. A missing value (None or NaN) is drawn at the foot of its axis, and so are
    accuracies far below the others.

    Args:
        trials: the hyperparameters of each trial, by name.
        accuracies: 0 to 1.
        size: height and width in inches.
    """
    from matplotlib.collections import LineCollection

    percent = 100 * np.asarray(accuracies, float)
    order = np.argsort(percent, kind="stable")  # the best on top
    percent, trials = percent[order], [trials[index] for index in order]
    names = list(dict.fromkeys(key for trial in trials for key in trial))
    columns = [[trial.get(name) for trial in trials] for name in names]

    figure, host = style.new_axes(*size)
    shown = [
        spread(hyperparameter_axis(host, place, len(names), name, values))
        for place, (name, values) in enumerate(zip(names, columns, strict=True))
    ]
    shown.append(accuracy_axis(host, len(names), percent))
    points = np.stack([np.tile(np.arange(len(shown)), (len(trials), 1)), np.stack(shown, 1)], 2)
    few = len(trials) <= 30
    lines = LineCollection(
        list(points),
        array=percent,
        **style.accuracy_colours(percent),
        linewidths=1.8 if few else 0.8,
        alpha=0.9 if few else 0.7,
    )
    host.add_collection(lines)
    style.colour_bar(figure, lines, percent, "accuracy (%)")
    host.set(xlim=(0, len(names)), ylim=(0, 1), yticks=[])
    look: Look = (
        {"rotation": 25, "ha": "right"}
        if len(names) > NAMES_AN_INCH * size[1]
        else {"rotation": 0, "ha": "center"}
    )
    host.set_xticks(range(len(shown)), [*map(style.label, names), "accuracy (%)"], **look)
    host.tick_params(axis="x", length=0, pad=8)
    host.spines[:].set_visible(False)
    return figure


@style.own_settings()
def learning_rate_against_epochs(
    learning_rates: Sequence[float],
    epochs: Sequence[float],
    accuracies: Sequence[float],
    size: tuple[float, float] = SIZE,
) -> Figure:
    """Draw the trials of a search by epochs and learning rate; equal ones are nested rings.

    Args:
        learning_rates: of each trial, above 0; on a logarithmic axis.
        epochs: of each trial.
        accuracies: test accuracies, 0 to 1.
        size: height and width in inches.
    """
    x, y = np.asarray(epochs, float), np.asarray(learning_rates, float)
    percent = 100 * np.asarray(accuracies, float)
    order = np.argsort(percent, kind="stable")  # the best on top
    x, y, percent = x[order], y[order], percent[order]
    figure, axes = style.new_axes(*size)
    places = list(zip(x.tolist(), y.tolist(), strict=True))
    counts = Counter(places)
    points = axes.scatter(
        x,
        y,
        c=percent,
        s=_nested_sizes(places),
        **style.accuracy_colours(percent),
        edgecolors="white",
        linewidths=[0.6 if counts[place] <= 4 else 0.0 for place in places],
        zorder=3,
    )
    for (epoch, rate), count in counts.items():
        if count > 1:
            offset = (_radius(count - 1, count) + 2, 0)
            look: Look = {"textcoords": "offset points", "va": "center", "fontsize": "small"}
            axes.annotate(f"{count} trials", (epoch, rate), offset, **look)
    style.colour_bar(figure, points, percent, ACCURACY)
    axes.margins(0.18, 0.12)
    axes.set_yscale("log")
    number_axis(axes, y, log=True)
    if len(distinct := np.unique(x)) <= FEW:
        axes.set_xticks(distinct, [f"{value:g}" for value in distinct])
    axes.set(xlabel="epochs", ylabel="learning rate")
    axes.grid(color="0.9")
    return figure


@style.own_settings()
def latency(curves: Mapping[str, Array]) -> Figure:
    """Draw the accuracy against the time step after which the output is read.

    Args:
        curves: by name, accuracies ``[runs, T]``, 0 to 1: a line for their mean, a band from the
            lowest to the highest.
    """
    figure, axes = style.new_axes(3.6)
    for index, (name, accuracies) in enumerate(curves.items()):
        percent = 100 * np.atleast_2d(accuracies)
        steps = np.arange(1, percent.shape[1] + 1)
        mean, low, high = percent.mean(0), percent.min(0), percent.max(0)
        look = style.line_style(index)
        marker = style.marker_of(index) if len(steps) <= 20 else None
        label = style.label(f"{name}: {mean[-1]:.2f} %")
        axes.plot(steps, mean, marker=marker, markersize=4, label=label, **look)
        if len(percent) > 1:
            # The edge is drawn, since a band of one step has no width.
            axes.fill_between(steps, low, high, alpha=0.2, color=look["color"], linewidth=1.5)
    style.whole_numbers(axes)
    title = "accuracy after the last step"
    style.label_axes(figure, "output read after time step", ACCURACY, title)
    return figure


@style.own_settings()
def accuracy_against_spikes(points: Mapping[str, tuple[Array, Array]]) -> Figure:
    """Draw the accuracy against the spikes per image.

    Args:
        points: by group, spikes per image ``[runs]`` and accuracies ``[runs]``, 0 to 1. If the
            spikes span a factor of 10, their axis is logarithmic.
    """
    figure, axes = style.new_axes(3.6)
    for index, (name, (spikes, accuracies)) in enumerate(points.items()):
        look: Look = {"color": style.colour(index), "marker": style.marker_of(index), **DISC}
        axes.plot(
            spikes, 100 * np.asarray(accuracies), linestyle="", label=style.label(name), **look
        )
    values = np.concatenate([np.ravel(spikes) for spikes, _ in points.values()])
    _set_cost_axis(axes, values)
    style.label_axes(figure, "spikes per image, all layers and time steps", ACCURACY)
    return figure


@style.own_settings()
def accuracy_against_time_steps(curves: Mapping[str, Sequence[Point]]) -> Figure:
    """Draw the accuracy against the number of time steps T, logarithmically, with intervals.

    Points at the same T are drawn next to each other.

    Args:
        curves: by name, such as the learning rule, one point per T.
    """
    figure, axes = style.new_axes(3.6)
    axes.set_xscale("log")
    for index, (name, points) in enumerate(curves.items()):
        shift = APART ** (index - (len(curves) - 1) / 2)
        x = [shift * point.time_steps for point in points]
        look = style.line_style(index) | {
            "marker": style.marker_of(index),
            "label": style.label(name),
        }
        _draw_intervals(axes, points, x, look)
    steps = sorted({point.time_steps for points in curves.values() for point in points})
    axes.set_xlim(steps[0] / APART ** (len(curves) + 4), steps[-1] * APART ** (len(curves) + 4))
    axes.set_xticks(steps, [f"{number}" for number in steps])
    axes.set_xticks([], minor=True)
    style.label_axes(figure, "time steps T", ACCURACY)
    return figure


@style.own_settings()
def accuracy_against_cost(curves: Mapping[str, Sequence[Point]], name: str) -> Figure:
    """Draw the accuracy against a cost, with the intervals of both; each T has its own marker.

    Args:
        curves: by name, such as the learning rule, one point per T; points without a cost are left
            out.
        name: name of the cost. If costs span a factor of 10, their axis is logarithmic.
    """
    known = {one: [point for point in points if point.cost] for one, points in curves.items()}
    if not any(known.values()):
        figure, axes = style.new_axes(1)
        axes.set_axis_off()
        style.write_in_middle(axes, "no runs")
        return figure
    figure, axes = style.new_axes(3.6)
    steps = sorted({point.time_steps for points in known.values() for point in points})
    markers = {number: style.marker_of(index) for index, number in enumerate(steps)}
    for index, (one, points) in enumerate(known.items()):
        look = style.line_style(index)
        axes.plot([], [], label=style.label(one), **look)
        costs = [point.cost.mean for point in points if point.cost]
        axes.plot(costs, [100 * point.accuracy.mean for point in points], **look)
        for point, cost in zip(points, costs, strict=True):
            alone = look | {"linestyle": "", "marker": markers[point.time_steps]}
            _draw_intervals(axes, [point], [cost], alone)
    for number, marker in markers.items():
        axes.plot([], [], marker, color="0.35", label=f"T = {number}")
    all_costs = [one.cost.mean for points in known.values() for one in points if one.cost]
    _set_cost_axis(axes, np.array(all_costs))
    style.label_axes(figure, name, ACCURACY)
    return figure


@style.own_settings()
def intervals(
    lines: Sequence[Line], name: str, zero: bool = False, width: float = style.WIDTH
) -> Figure:
    """Draw means with their intervals, one below the other, in black: readable without colours.

    Args:
        lines: from top to bottom; single runs are short vertical lines below the mean.
        name: label of the horizontal axis.
        zero: whether to draw a line at 0, with which differences are compared.
        width: width of the figure in inches.
    """
    figure, axes = style.new_axes(0.6 + 0.27 * len(lines), width)
    for place, line in enumerate(lines):
        if line.interval:
            axes.plot(line.interval, [place] * 2, color="black", linewidth=1.2)
        look: Look = {"markerfacecolor": "black" if line.filled else "white"}
        axes.plot([line.mean], [place], "o", color="black", markersize=5, **look)
        strokes: Look = {"color": "0.45", "markersize": 5, "linestyle": ""}
        axes.plot(line.values, [place + 0.3] * len(line.values), "|", **strokes)
    if zero:
        axes.axvline(0, color="0.35", linestyle="--", linewidth=0.9)
    axes.set_yticks(range(len(lines)), [style.label(line.name) for line in lines])
    axes.set_ylim(len(lines) - 0.4, -0.6)
    axes.set_xlabel(name)
    axes.ticklabel_format(axis="x", useOffset=False, style="plain")
    style.quiet(axes)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    return figure


def _set_cost_axis(axes: Axes, values: Array) -> None:
    """Set up a horizontal axis of costs, logarithmic if they span a factor of 10."""
    from matplotlib.ticker import StrMethodFormatter

    if is_logarithmic(values):
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter("")
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))


def _draw_intervals(axes: Axes, points: Sequence[Point], x: Sequence[float], look: Look) -> None:
    """Draw points with the intervals of their accuracy, and of their cost if known."""
    y = [100 * point.accuracy.mean for point in points]
    axes.plot(x, y, markersize=6, markeredgecolor="white", markeredgewidth=0.4, **look)
    for point, place, height in zip(points, x, y, strict=True):
        line = {"color": look["color"], "linewidth": 1.2}
        if point.accuracy.interval:
            axes.plot([place] * 2, [100 * end for end in point.accuracy.interval], **line)
        if point.cost and point.cost.interval:
            axes.plot(point.cost.interval, [height] * 2, **line)


def _radius(rank: int, count: int) -> float:
    """Return the radius in points of a disc that contains `rank` of `count` nested discs."""
    return 4.5 + rank * min(2.5, 6 / max(1, count - 1))


def _nested_sizes(places: Sequence[tuple[float, float]]) -> list[float]:
    """Return areas of discs such that all discs at one place are visible, the last innermost."""
    counts = Counter(places)
    left = counts.copy()
    sizes = []
    for place in places:
        left[place] -= 1
        sizes.append(math.pi * _radius(left[place], counts[place]) ** 2)
    return sizes
