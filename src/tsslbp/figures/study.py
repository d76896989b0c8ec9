"""Figures of a study and of the runs in it: arrays in, matplotlib figures out, and their SVG.

All are as wide as a page of text, with accuracies in percent, in colours that colour-blind readers
can tell apart; where accuracy is a colour, darker is better.
"""

from __future__ import annotations

import io
import math
import re
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .axes import (
    FEW,
    accuracy_axis,
    hyperparameter_axis,
    is_logarithmic,
    lowest_shown,
    number_axis,
    spread,
)
from .run import PALETTE, draw_image, draw_raster

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Colormap, Normalize
    from matplotlib.figure import Figure

Array = npt.NDArray[Any]
Span = tuple[float, float]

WIDTH = 7.2  # inches: 691 pixels of a web page
NAMED_CURVES = 15  # curves with an entry of their own in a legend
POINTS = 400  # of a curve, which is averaged down to them
POINTS_IN_ALL = 40_000
NUMBERED_CLASSES = 20
NEURONS_TRACED = 3  # of a hidden layer
MISSING = "0.6"  # colour of what has no accuracy
LINES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LEGEND_COLUMNS = {20: 4, 30: 3, 48: 2}  # characters of the longest label: columns
LEGEND_CHARACTERS = 100
LEGEND_ROW = 0.2  # inches
APART = 1.03  # factor between points at the same number of time steps, so that none hides another


@dataclass(frozen=True)
class Point:
    """What runs of equal settings have reached.

    Attributes:
        time_steps: T.
        accuracy: mean test accuracy, 0 to 1.
        accuracy_interval: its interval; None of one run.
        cost: mean of what the accuracy is drawn against.
        cost_interval: its interval; None of one run.
    """

    time_steps: int
    accuracy: float
    accuracy_interval: Span | None = None
    cost: float = math.nan
    cost_interval: Span | None = None


def parallel_coordinates(
    trials: Sequence[Mapping[str, Any]], accuracies: Sequence[float]
) -> Figure:
    """Hyperparameters of a search side by side, a line a trial, coloured by its accuracy.

    Positive numbers that span a factor of 10 get a logarithmic axis, what is not a number a
    categorical one. Lines that share a value are spread out a little around it, the better ones
    above. A value that is missing, None or NaN is drawn at the foot of its axis; a trial without
    accuracy is grey. Accuracies far below the others are drawn at the foot of theirs.

    Args:
        trials: the hyperparameters of each, by name.
        accuracies: 0 to 1; NaN where there is none.
    """
    from matplotlib.collections import LineCollection

    if not trials:
        return _empty("no trials")
    percent = 100 * np.asarray(accuracies, float)
    order = np.argsort(np.nan_to_num(percent, nan=-1.0), kind="stable")  # the best on top
    percent, trials = percent[order], [trials[index] for index in order]
    names = list(dict.fromkeys(key for trial in trials for key in trial))
    columns = [[trial.get(name) for trial in trials] for name in names]

    figure = _figure(3.8)
    host = figure.subplots()
    shown = [
        spread(hyperparameter_axis(host, place, len(names), name, values))
        for place, (name, values) in enumerate(zip(names, columns, strict=True))
    ]
    shown.append(accuracy_axis(host, len(names), percent))
    points = np.stack([np.tile(np.arange(len(shown)), (len(trials), 1)), np.stack(shown, 1)], 2)
    few = len(trials) <= 30
    lines = LineCollection(
        list(points),
        array=np.ma.masked_invalid(percent),
        cmap=_darker_is_better(),
        norm=_accuracy_norm(percent),
        linewidths=1.8 if few else 0.8,
        alpha=0.9 if few else 0.7,
    )
    host.add_collection(lines)
    _colour_bar(figure, host, lines, percent, "accuracy (%)")
    host.set(xlim=(0, len(names)), ylim=(0, 1), yticks=[])
    crowded = len(names) > 5
    host.set_xticks(
        range(len(shown)),
        [*names, "accuracy (%)"],
        rotation=25 if crowded else 0,
        ha="right" if crowded else "center",
    )
    host.tick_params(axis="x", length=0, pad=8)
    host.spines[:].set_visible(False)
    return figure


def training_curves(
    curves: Mapping[str, tuple[Array, Array]], drops: Mapping[str, Sequence[float]] | None = None
) -> Figure:
    """Training accuracy of runs over their steps; long curves are averaged.

    Up to `NAMED_CURVES` runs stand in the legend. More are coloured by their last accuracy. The
    axis leaves out the first twentieth of each curve, whose rise would hide the rest.

    Args:
        curves: by name, such as the run's hyperparameters: steps ``[n]`` and accuracies ``[n]``,
            0 to 1.
        drops: by the same names, the steps of sudden drops, which are marked.
    """
    from matplotlib.collections import LineCollection
    from matplotlib.ticker import StrMethodFormatter

    points = min(POINTS, max(50, POINTS_IN_ALL // max(1, len(curves))))
    averaged = {
        name: (_averaged(np.asarray(steps, float), points), 100 * _averaged(values, points))
        for name, (steps, values) in curves.items()
        if len(steps)
    }
    if not averaged:
        return _empty("no training steps")
    figure = _figure(3.8)
    axes = figure.subplots()
    if len(averaged) <= NAMED_CURVES:
        for index, (name, (steps, values)) in enumerate(averaged.items()):
            marker = "o" if len(steps) == 1 else None  # a line of one point cannot be seen
            axes.plot(steps, values, label=name, marker=marker, linewidth=1.3, **_line(index))
    else:
        last = np.array([values[-1] for _, values in averaged.values()])
        order = np.argsort(last, kind="stable")
        lines = [np.column_stack(curve) for curve in averaged.values()]
        collection = LineCollection(
            [lines[index] for index in order],
            array=last[order],
            cmap=_darker_is_better(),
            norm=_accuracy_norm(last),
            linewidths=0.6,
            alpha=0.7,
        )
        axes.add_collection(collection)
        axes.autoscale_view()
        _colour_bar(figure, axes, collection, last, "last training accuracy (%)")
    marks = [
        (step, np.interp(step, *averaged[name]))
        for name, steps in (drops or {}).items()
        if name in averaged
        for step in steps
    ]
    if marks:
        axes.plot(
            *zip(*marks, strict=True),
            "v",
            color="black",
            markersize=6,
            markerfacecolor="white",
            label="sudden drop",
        )
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.set_xlabel("training step")
    _accuracy_of(axes, "training accuracy (%)")
    later = [values[len(values) // 20 :] for _, values in averaged.values()]
    low, high = min(map(np.min, later)), max(map(np.max, later))
    if low < high:
        axes.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
    _legend(figure, axes)
    return figure


def learning_rate_against_epochs(
    learning_rates: Sequence[float], epochs: Sequence[float], accuracies: Sequence[float]
) -> Figure:
    """Where in a search the accurate trials lie; trials at one point are rings around the best.

    Args:
        learning_rates: above 0, of each trial; on a logarithmic axis.
        epochs: of each trial.
        accuracies: test accuracies, 0 to 1; NaN, drawn in grey, where there is none.
    """
    if not len(learning_rates):
        return _empty("no trials")
    x, y = np.asarray(epochs, float), np.asarray(learning_rates, float)
    percent = 100 * np.asarray(accuracies, float)
    order = np.argsort(np.nan_to_num(percent, nan=-1.0), kind="stable")
    x, y, percent = x[order], y[order], percent[order]
    figure = _figure(3.8)
    axes = figure.subplots()
    places = list(zip(x.tolist(), y.tolist(), strict=True))
    counts = Counter(places)
    points = axes.scatter(
        x,
        y,
        c=percent,
        s=_nested_sizes(places),
        cmap=_darker_is_better(),
        norm=_accuracy_norm(percent),
        plotnonfinite=True,
        edgecolors="white",
        linewidths=[0.6 if counts[place] <= 4 else 0.0 for place in places],
        zorder=3,
    )
    for (epoch, rate), count in counts.items():
        if count > 1:
            axes.annotate(
                f"{count} trials",
                (epoch, rate),
                (_radius(count - 1, count) + 2, 0),
                textcoords="offset points",
                va="center",
                fontsize="small",
            )
    _colour_bar(figure, axes, points, percent, "test accuracy (%)")
    axes.margins(0.18, 0.12)
    axes.set_yscale("log")
    number_axis(axes, y, log=True)
    if len(distinct := np.unique(x)) <= FEW:
        axes.set_xticks(distinct, [f"{value:g}" for value in distinct])
    axes.set_xlabel("epochs")
    axes.set_ylabel("learning rate")
    axes.grid(color="0.9")
    return figure


def latency(curves: Mapping[str, Array]) -> Figure:
    """Accuracy against the time step after which the output is read.

    Args:
        curves: by name, accuracies ``[runs, T]``, 0 to 1: a line for their mean, a band from the
            lowest to the highest.
    """
    from matplotlib.ticker import MaxNLocator

    if not curves:
        return _empty("no runs")
    figure = _figure(3.6)
    axes = figure.subplots()
    for index, (name, accuracies) in enumerate(curves.items()):
        percent = 100 * np.atleast_2d(accuracies)
        steps = np.arange(1, percent.shape[1] + 1)
        mean, low, high = percent.mean(0), percent.min(0), percent.max(0)
        style = _line(index)
        marker = MARKERS[index % len(MARKERS)] if len(steps) <= 20 else None
        axes.plot(
            steps, mean, marker=marker, markersize=4, label=f"{name}: {mean[-1]:.2f} %", **style
        )
        if len(percent) > 1:
            # A band of one step has no width; its edge can be seen.
            axes.fill_between(steps, low, high, alpha=0.2, color=style["color"], linewidth=1.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel("output read after time step")
    _accuracy_of(axes, "test accuracy (%)")
    _legend(figure, axes, "accuracy after the last step")
    return figure


def energy(points: Mapping[str, tuple[Array, Array]]) -> Figure:
    """Accuracy against the spikes that an image causes.

    Args:
        points: by group, spikes per image ``[runs]`` and accuracies ``[runs]``, 0 to 1. Where the
            spikes span a factor of 10, their axis is logarithmic.
    """
    from matplotlib.ticker import StrMethodFormatter

    if not points:
        return _empty("no runs")
    figure = _figure(3.6)
    axes = figure.subplots()
    for index, (name, (spikes, accuracies)) in enumerate(points.items()):
        axes.plot(
            spikes,
            100 * np.asarray(accuracies),
            linestyle="",
            marker=MARKERS[index % len(MARKERS)],
            color=PALETTE[index % len(PALETTE)],
            markersize=6,
            markeredgecolor="white",
            label=name,
        )
    values = np.concatenate([np.ravel(spikes) for spikes, _ in points.values()])
    if is_logarithmic(values):
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter("")
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    axes.set_xlabel("spikes per image, all layers and time steps")
    _accuracy_of(axes, "test accuracy (%)")
    _legend(figure, axes)
    return figure


def accuracy_against_time_steps(curves: Mapping[str, Sequence[Point]]) -> Figure:
    """Accuracy against the number of time steps T, on a logarithmic axis, with intervals.

    Points at one T stand side by side.

    Args:
        curves: by name, such as the learning rule, a point each T.
    """
    if not any(curves.values()):
        return _empty("no runs")
    figure = _figure(3.6)
    axes = figure.subplots()
    axes.set_xscale("log")
    for index, (name, points) in enumerate(curves.items()):
        shift = APART ** (index - (len(curves) - 1) / 2)
        x = [shift * point.time_steps for point in points]
        style = _line(index) | {"marker": MARKERS[index % len(MARKERS)]}
        _draw_intervals(axes, points, x, style, name)
    steps = sorted({point.time_steps for points in curves.values() for point in points})
    axes.set_xlim(steps[0] / APART ** (len(curves) + 4), steps[-1] * APART ** (len(curves) + 4))
    axes.set_xticks(steps, [f"{number}" for number in steps])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("time steps T")
    _accuracy_of(axes, "test accuracy (%)")
    _legend(figure, axes)
    return figure


def accuracy_against_cost(curves: Mapping[str, Sequence[Point]], name: str) -> Figure:
    """Accuracy against what it costs, with the intervals of both; each T has a marker of its own.

    Args:
        curves: by name, such as the learning rule, a point each T; those without a cost (NaN) are
            left out.
        name: of the cost. Where costs span a factor of 10, their axis is logarithmic.
    """
    from matplotlib.ticker import StrMethodFormatter

    known = {
        one: [point for point in points if math.isfinite(point.cost)]
        for one, points in curves.items()
    }
    if not any(known.values()):
        return _empty("no runs")
    figure = _figure(3.6)
    axes = figure.subplots()
    steps = sorted({point.time_steps for points in known.values() for point in points})
    markers = {number: MARKERS[index % len(MARKERS)] for index, number in enumerate(steps)}
    for index, (one, points) in enumerate(known.items()):
        style = _line(index)
        axes.plot([], [], label=one, **style)
        axes.plot([p.cost for p in points], [100 * p.accuracy for p in points], **style)
        for point in points:
            alone = style | {"linestyle": "", "marker": markers[point.time_steps]}
            _draw_intervals(axes, [point], [point.cost], alone)
    for number, marker in markers.items():
        axes.plot([], [], marker, color="0.35", label=f"T = {number}")
    if is_logarithmic(np.array([point.cost for points in known.values() for point in points])):
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter("")
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    axes.set_xlabel(name)
    _accuracy_of(axes, "test accuracy (%)")
    _legend(figure, axes)
    return figure


def layers_over_training(epochs: Sequence[Mapping[str, Any]]) -> Figure:
    """Firing rate and share in warm-up of every layer, over the epochs of a run.

    Args:
        epochs: the records of a run's epochs, with ``"firing_rate"`` and ``"warm_up"`` by layer;
            None or NaN where the rule has no warm-up.
    """
    from matplotlib.ticker import MaxNLocator

    if not epochs:
        return _empty("no epochs")
    figure = _figure(3.2)
    panels = {
        "firing_rate": ("firing rate\n(spikes per neuron and time step)", 1),
        "warm_up": ("share in warm-up (%)", 100),
    }
    for axes, (key, (name, factor)) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        layers = dict.fromkeys(layer for one in epochs for layer in one.get(key) or {})
        numbers = [one["epoch"] for one in epochs]
        marker = "o" if len(epochs) == 1 else None
        for index, layer in enumerate(layers):
            raw = [(one.get(key) or {}).get(layer) for one in epochs]
            values = factor * np.array(raw, float)  # None becomes NaN
            axes.plot(numbers, values, label=layer, marker=marker, **_line(index))
        if not any(np.isfinite(line.get_ydata()).any() for line in axes.lines):
            axes.set_axis_off()
            _say(axes, f"no {key.replace('_', ' ')} in these records")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.set_xlabel("epoch")
        axes.set_ylabel(name)
        _quiet(axes)
    _legend(figure, figure.axes[0])
    return figure


def confusion(matrix: Array) -> Figure:
    """How often each class was taken for which; the errors are coloured, the diagonal is not.

    Args:
        matrix: counts ``[classes, classes]``, rows the true classes, columns the predicted ones.
            Up to `NUMBERED_CLASSES` classes the counts are written into the cells.
    """
    from matplotlib.colors import ListedColormap, PowerNorm

    matrix = np.asarray(matrix)
    classes, images = len(matrix), int(matrix.sum())
    errors = images - int(np.trace(matrix))
    shares = 100 * matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    diagonal = np.eye(classes, dtype=bool)
    figure = _figure(6)
    axes = figure.subplots()
    axes.imshow(
        np.ma.masked_array(diagonal, ~diagonal),
        cmap=ListedColormap(["0.88"]),
        interpolation="none",
    )
    wrong = np.ma.masked_array(shares, diagonal | (matrix == 0))
    worst = float(wrong.max()) if errors else 1.0
    cells = axes.imshow(
        wrong,
        cmap=_part_of("YlOrRd", 0.25, 1),
        norm=PowerNorm(0.5, 0, worst),  # a single error is seen beside many
        interpolation="none",
    )
    if errors:
        figure.colorbar(cells, ax=axes, label="share of the true class's images (%)", shrink=0.7)
    if classes <= NUMBERED_CLASSES:
        for (row, column), count in np.ndenumerate(matrix):
            if count:
                dark = row != column and shares[row, column] > 0.4 * worst
                axes.text(
                    column,
                    row,
                    f"{int(count)}",
                    ha="center",
                    va="center",
                    fontsize=10 if classes <= 12 else 7,
                    color="white" if dark else "black",
                )
    ticks = range(0, classes, 1 if classes <= NUMBERED_CLASSES else max(1, classes // 10))
    axes.set(xticks=ticks, yticks=ticks, xlabel="predicted class", ylabel="true class")
    axes.set_title(f"{errors:,} of {images:,} images wrong ({100 * errors / max(images, 1):.2f} %)")
    return figure


def image_trace(
    image: Array,
    label: int,
    prediction: int,
    spikes: Mapping[str, Array],
    potentials: Mapping[str, Array],
    threshold: float,
) -> Figure:
    """What an image causes: spikes of all layers, and membrane potentials of some neurons.

    Of each hidden layer the `NEURONS_TRACED` most active neurons, and all of the output layer.

    Args:
        image: ``[H, W]`` or ``[C, H, W]``.
        label, prediction: the true class and the network's.
        spikes: by layer, from input to output, ``[T, ...]`` with 0 and 1.
        potentials: of the same layers and neurons, ``[T, ...]``, before the reset.
        threshold: above which a neuron spikes.
    """
    rows = math.ceil(len(spikes) / 2)
    top = 2.2 + 0.15 * len(spikes)
    figure = _figure(top + 1.6 * rows)
    grid = figure.add_gridspec(1 + rows, 6, height_ratios=[top, *[1.6] * rows])
    picture, raster = figure.add_subplot(grid[0, :2]), figure.add_subplot(grid[0, 2:])
    draw_image(picture, image)
    picture.set_title(f"class {label}, predicted {prediction}", fontsize="medium")
    draw_raster(raster, spikes, numbered=False)
    raster.set_title(raster.get_title(), fontsize="medium")
    *_, output = spikes
    for index, (layer, train) in enumerate(spikes.items()):
        row, side = divmod(index, 2)
        axes = figure.add_subplot(grid[1 + row, 3 * side : 3 * side + 3])
        chosen = (
            _classes_traced(train, label, prediction)
            if layer == output
            else _most_active(train, potentials[layer])
        )
        _draw_potentials(axes, train, potentials[layer], chosen, threshold)
        axes.set_ylabel(f"{layer}\npotential")
    for axes in figure.axes[-2:]:
        axes.set_xlabel("time step (dots: spikes, dashed: threshold)")
    return figure


def histograms(weights: Mapping[str, Array], gradients: Mapping[str, Array]) -> Figure:
    """Weights, and the magnitudes of their gradients, of every layer.

    Args:
        weights: by layer, of any shape.
        gradients: by the same layers; on a logarithmic axis, with the zeros counted in the title.
    """
    from matplotlib.ticker import MaxNLocator

    if not weights:
        return _empty("no layers")
    figure = _figure(0.6 + 1.25 * len(weights))
    panels = figure.subplots(len(weights), 2, squeeze=False, sharex="col")
    for (left, right), (layer, values) in zip(panels, weights.items(), strict=True):
        finite = _finite(values)
        if finite.size:
            counts, edges = np.histogram(finite, 60)
            left.stairs(counts, edges, fill=True, color=PALETTE[0])
        left.set_title(
            f"{layer}: {np.size(values):,} weights, sd {finite.std():.3g}"
            if finite.size
            else f"{layer}: no finite weights",
            fontsize="medium",
        )
        _draw_magnitudes(right, layer, np.ravel(gradients[layer]))
        left.set_ylabel("weights")
    for axes in panels.flat:
        axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
        _quiet(axes)
    panels[-1, 0].set_xlabel("weight")
    panels[-1, 1].set_xlabel("magnitude of the gradient, where it is not 0")
    return figure


def annotate(figure: Figure, text: str) -> None:
    """Write a heading, such as a caveat of the data, above everything else in a figure."""
    if text:
        lines = [textwrap.fill(line, LEGEND_CHARACTERS) for line in text.splitlines()]
        figure.suptitle("\n".join(lines), fontsize="medium")


def svg_text(figure: Figure, prefix: str = "figure", title: str = "") -> str:
    """A figure as an SVG element, to stand among others in one page of HTML, or in a file.

    The same figure gives the same text. Text stays text, in the reader's sans-serif font; nothing
    is read from elsewhere.

    Args:
        figure: what to draw.
        prefix: of all ids, which must be unique in a page; a letter, then letters, digits, ``-``.
        title: what a screen reader says in the place of the figure.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    content = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": prefix, "svg.image_inline": True}):
        canvas: Any = FigureCanvasSVG(figure)  # matplotlib leaves it untyped
        canvas.print_svg(content, metadata={"Date": None})
    text = content.getvalue()
    text = text[text.index("<svg") :]  # without the prolog of a file
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r"<[^>]+>", lambda tag: _own_ids(tag[0], prefix), text)
    text = text.replace("*{stroke", f"#{prefix} *{{stroke", 1)  # the style of this figure alone
    spoken = f' role="img" aria-label="{_attribute(title)}"' if title else ""
    return text.replace("<svg", f'<svg id="{prefix}"{spoken}', 1)


def save_svg(figure: Figure, path: Path, title: str = "") -> None:
    """Write `svg_text` into a file, whose name is part of the ids."""
    prefix = "figure-" + re.sub(r"[^A-Za-z0-9-]", "-", path.stem)
    path.write_text(svg_text(figure, prefix, title), encoding="utf-8")


def _own_ids(tag: str, prefix: str) -> str:
    """A tag with its id, and its references to ids, beginning with `prefix`; no font by name."""
    tag = re.sub(r'(\sid="|url\(#|href="#)', rf"\g<1>{prefix}-", tag)
    return re.sub(r"'[^;\"]*', sans-serif|'[^';\"]*'(?=[;\"])", "sans-serif", tag)


def _attribute(text: str) -> str:
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return escaped.replace('"', "&quot;")


def _figure(height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH, height), layout="constrained")


def _empty(text: str) -> Figure:
    figure = _figure(1)
    axes = figure.subplots()
    axes.set_axis_off()
    _say(axes, text)
    return figure


def _say(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes, color="0.35")


def _quiet(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.9")
    axes.set_axisbelow(True)


def _accuracy_of(axes: Axes, name: str) -> None:
    """Name an axis of accuracies and write its ticks in full, not as differences from a number."""
    axes.ticklabel_format(axis="y", useOffset=False, style="plain")
    axes.set_ylabel(name)
    _quiet(axes)


def _line(index: int) -> dict[str, Any]:
    """Colour and dashes of the curve with this number, no two alike among the first 28."""
    return {
        "color": PALETTE[index % len(PALETTE)],
        "linestyle": LINES[index // len(PALETTE) % len(LINES)],
    }


def _draw_intervals(
    axes: Axes,
    points: Sequence[Point],
    x: Sequence[float],
    style: Mapping[str, Any],
    label: str | None = None,
) -> None:
    """Points with the intervals of their accuracy, and of their cost where they have one."""
    y = [100 * point.accuracy for point in points]
    axes.plot(
        x, y, label=label, markersize=6, markeredgecolor="white", markeredgewidth=0.4, **style
    )
    for point, place, height in zip(points, x, y, strict=True):
        line = {"color": style["color"], "linewidth": 1.2}
        if point.accuracy_interval:
            axes.plot([place] * 2, [100 * end for end in point.accuracy_interval], **line)
        if point.cost_interval:
            axes.plot(point.cost_interval, [height] * 2, **line)


def _legend(figure: Figure, axes: Axes, title: str | None = None) -> None:
    """A legend below the axes, for which the figure grows."""
    handles, labels = axes.get_legend_handles_labels()
    if not labels:
        return
    labels = [textwrap.fill(label, LEGEND_CHARACTERS) for label in labels]
    longest = max(map(len, labels))
    columns = next((n for limit, n in LEGEND_COLUMNS.items() if longest <= limit), 1)
    columns = min(columns, len(labels))
    rows = math.ceil(sum(1 + label.count("\n") for label in labels) / columns) + bool(title)
    figure.set_figheight(figure.get_figheight() + LEGEND_ROW * rows)
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=columns,
        fontsize="small",
        title=title,
        title_fontsize="small",
        frameon=False,
    )


def _part_of(name: str, start: float, end: float) -> Colormap:
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    return ListedColormap(colormaps[name](np.linspace(start, end, 256)))


def _darker_is_better() -> Colormap:
    """Colours of accuracies; viridis without its yellow, which cannot be seen on white."""
    return _part_of("viridis_r", 0.1, 1).with_extremes(bad=MISSING)


def _accuracy_norm(percent: Array) -> Normalize:
    from matplotlib.colors import Normalize

    if not np.isfinite(percent).any():
        return Normalize(0, 100)
    low, high = lowest_shown(percent), float(np.nanmax(percent))
    return Normalize(low if low < high else high - 1, high)


def _colour_bar(
    figure: Figure, axes: Axes, drawn: ScalarMappable, percent: Array, name: str
) -> None:
    below = np.isfinite(percent).any() and np.nanmin(percent) < lowest_shown(percent)
    bar = figure.colorbar(drawn, ax=axes, label=name, extend="min" if below else "neither")
    bar.formatter.set_useOffset(False)  # type: ignore[attr-defined]
    if bar.solids:
        bar.solids.set_alpha(1)


def _averaged(values: Array, count: int) -> Array:
    """Means of `count` stretches of `values` ``[n]``; the values themselves if they are fewer."""
    values = np.asarray(values, float)
    if len(values) <= count:
        return values
    edges = np.linspace(0, len(values), count + 1).astype(int)
    means: Array = np.add.reduceat(values, edges[:-1]) / np.diff(edges)
    return means


def _radius(rank: int, count: int) -> float:
    """Radius in points of a disc with so many smaller ones, of `count` in all, within it."""
    return 4.5 + rank * min(2.5, 6 / max(1, count - 1))


def _nested_sizes(places: Sequence[tuple[float, float]]) -> list[float]:
    """Areas of discs such that all at one place can be seen, the last one in the middle."""
    counts = Counter(places)
    left = counts.copy()
    sizes = []
    for place in places:
        left[place] -= 1
        sizes.append(math.pi * _radius(left[place], counts[place]) ** 2)
    return sizes


def _most_active(train: Array, potentials: Array) -> list[tuple[int, str, dict[str, Any]]]:
    """Number, name and line of the neurons with most spikes, then with the highest potential."""
    spikes = train.reshape(len(train), -1).sum(0)
    highest = potentials.reshape(len(train), -1).max(0)
    order = np.lexsort([-highest, -spikes])[:NEURONS_TRACED]
    shape = [side for side in train.shape[1:] if side > 1] or [1]
    chosen = []
    for line, neuron in enumerate(map(int, order)):
        place = ", ".join(str(index) for index in np.unravel_index(neuron, shape))
        chosen.append(
            (
                neuron,
                f"({place})" if len(shape) > 1 else place,
                {"color": PALETTE[line], "linestyle": LINES[line]},
            )
        )
    return chosen


def _classes_traced(
    train: Array, label: int, prediction: int
) -> list[tuple[int, str, dict[str, Any]]]:
    """`_most_active` of the output layer: all classes, the true and the predicted one in front."""
    others = [one for one in range(train[0].size) if one not in (label, prediction)]
    chosen: list[tuple[int, str, dict[str, Any]]] = []
    for index, one in enumerate(others):
        name = "others" if index == 0 else "_"
        chosen.append((one, name, {"color": "0.7", "linewidth": 0.8}))
    if prediction != label:
        wrong = {"color": PALETTE[1], "linewidth": 1.6}
        chosen.append((prediction, f"{prediction} predicted", wrong))
    right = "true" if prediction != label else "true and predicted"
    chosen.append((label, f"{label} {right}", {"color": PALETTE[0], "linewidth": 1.6}))
    return chosen


def _draw_potentials(
    axes: Axes,
    train: Array,
    potentials: Array,
    chosen: Sequence[tuple[int, str, dict[str, Any]]],
    threshold: float,
) -> None:
    """Potentials over time with a dot at every spike, and the threshold."""
    from matplotlib.ticker import MaxNLocator

    train, potentials = train.reshape(len(train), -1), potentials.reshape(len(train), -1)
    steps = np.arange(1, len(train) + 1)
    size = 4 if len(steps) <= 40 else 2.5
    axes.axhline(threshold, color="0.35", linestyle="--", linewidth=0.9)
    for neuron, name, style in chosen:
        marked = np.flatnonzero(train[:, neuron]).tolist()
        if len(steps) == 1 and not marked:  # a line of one point cannot be seen
            style = style | {"marker": "_"}
        else:
            style = style | {"marker": "o", "markevery": marked}
        axes.plot(steps, potentials[:, neuron], label=name, markersize=size, **style)
    axes.margins(y=0.12)
    axes.set_xlim(0.5, len(steps) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=3,
        fontsize="x-small",
        frameon=False,
        borderaxespad=0,
        handlelength=1.2,
        columnspacing=1,
    )
    _quiet(axes)


def _finite(values: Array) -> Array:
    flat: Array = np.ravel(values)[np.isfinite(np.ravel(values))]
    return flat


def _draw_magnitudes(axes: Axes, layer: str, gradient: Array) -> None:
    zeros = int((gradient == 0).sum())
    magnitudes = np.abs(_finite(gradient))
    magnitudes = magnitudes[magnitudes > 0]
    share = 100 * zeros / max(1, len(gradient))
    others = len(gradient) - zeros - len(magnitudes)
    axes.set_title(
        f"{layer}: {share:.0f} % zero ({zeros:,})" + (f", {others:,} not finite" if others else ""),
        fontsize="medium",
    )
    axes.set_xscale("log")
    if not magnitudes.size:
        _say(axes, "no gradient but 0")
        return
    low, high = math.log10(magnitudes.min()), math.log10(magnitudes.max())
    edges = np.logspace(low - 0.01, high + 0.01, 61)
    axes.stairs(np.histogram(magnitudes, edges)[0], edges, fill=True, color=PALETTE[1])
