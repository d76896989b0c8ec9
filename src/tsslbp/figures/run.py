"""Figures of one run and its network; drawn from arrays and records with matplotlib."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InvalidInput
from . import style
from .sample import draw_image
from .style import Array, Look

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


NEURONS_SHOWN = 80  # of a layer, evenly spaced
NEURONS_NUMBERED = 10  # at most, in the last layer
NEURONS_TRACED = 3  # of a hidden layer
BAND = 0.9  # height of a layer in the raster; the next one begins 1 above
NUMBERED_CLASSES = 20
NAMED_CURVES = 15  # largest number of curves with separate entries in the legend
POINTS = 400  # of a curve; longer curves are averaged to this number
POINTS_IN_ALL = 40_000
CURVES = {
    "train_accuracy": ("training", "#9aa5b1"),
    "validation_accuracy": ("validation", "#2a9d8f"),
    "test_accuracy": ("test", "#d1495b"),
}
Trace = tuple[int, Look]  # a neuron whose potential is drawn: its number, and its line and name
PANELS = {  # of the layers: label of the axis, factor
    "firing_rate": ("firing rate\n(spikes per neuron and time step)", 1),
    "warm_up": ("fraction in warm-up (%)", 100),
}


@style.own_settings()
def run_picture(
    image: Array,
    label: int,
    prediction: int,
    spikes: Mapping[str, Array],
    epochs: Sequence[Mapping[str, Any]],
    class_names: Sequence[str] = (),
) -> Figure:
    """Draw one image, the spikes that it causes in every layer, and the training so far.

    Args:
        image: ``[H, W]`` or ``[C, H, W]``.
        label, prediction: the true class and the network's prediction.
        spikes: by layer, from input to output, ``[T, ...]`` with 0 and 1.
        epochs: the records of a run's epochs; a caveat in them is written above the picture.
        class_names: names of the classes; by default their numbers.
    """
    figure = style.new_figure(4.8, 12)
    left, middle, right = figure.subplots(1, 3, width_ratios=[1, 1.6, 1.6])
    draw_image(left, image)
    left.set_title(_answer(label, prediction, class_names))
    draw_raster(middle, spikes, class_names=class_names)
    draw_training(right, epochs)
    notes = dict.fromkeys(one["note"] for one in epochs if one.get("note"))
    if notes:
        figure.suptitle(style.label("; ".join(notes)), fontsize="medium")
    return figure


@style.own_settings()
def training_curves(
    curves: Mapping[str, tuple[Array, Array]], drops: Mapping[str, Sequence[float]] | None = None
) -> Figure:
    """Draw the training accuracy of runs over their steps; long curves are averaged.

    Up to `NAMED_CURVES` runs are named in the legend. More runs are coloured by their last
    accuracy. The axis leaves out the first twentieth of each curve, whose rise would hide the rest.

    Args:
        curves: by name, such as the run's hyperparameters: steps ``[n]`` and accuracies ``[n]``,
            0 to 1.
        drops: by the same names, the steps of sudden drops, which are marked.
    """
    from matplotlib.ticker import StrMethodFormatter

    points = min(POINTS, max(50, POINTS_IN_ALL // max(1, len(curves))))
    averaged = {
        name: (_averaged(steps, points), 100 * _averaged(values, points))
        for name, (steps, values) in curves.items()
    }
    figure, axes = style.new_axes(3.8)
    if len(averaged) <= NAMED_CURVES:
        for index, (name, (steps, values)) in enumerate(averaged.items()):
            marker = "o" if len(steps) == 1 else None  # a line of one point cannot be seen
            look = style.line_style(index) | {"marker": marker, "linewidth": 1.3}
            axes.plot(steps, values, label=style.label(name), **look)
    else:
        _draw_coloured(figure, list(averaged.values()))
    marks = [
        (step, np.interp(step, *averaged[name]))
        for name, steps in (drops or {}).items()
        if name in averaged
        for step in steps
    ]
    if marks:
        look = {"color": "black", "markersize": 6, "markerfacecolor": "white"}
        axes.plot(*zip(*marks, strict=True), "v", label="sudden drop", **look)
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    later = np.concatenate([values[len(values) // 20 :] for _, values in averaged.values()])
    if (span := np.ptp(later)) > 0:
        axes.set_ylim(later.min() - 0.05 * span, later.max() + 0.05 * span)
    style.label_axes(figure, "training step", "training accuracy (%)")
    return figure


@style.own_settings()
def training_panels(
    curves: Mapping[str, tuple[Array, Array]],
    drops: Mapping[str, Sequence[tuple[float, float]]] | None = None,
    width: float = style.WIDTH,
) -> Figure:
    """Draw the training accuracy of runs, one small panel each, in black: readable without colours.

    All panels share the vertical axis, which leaves out the first twentieth of each curve.

    Args:
        curves: as for `training_curves`.
        drops: by the same names, step and accuracy (0 to 1) of sudden drops, drawn as lines from
            the curve down to that accuracy.
        width: width of the figure in inches.
    """
    from matplotlib.ticker import MaxNLocator

    columns = max(1, min(len(curves), round(width / 1.75)))
    rows = math.ceil(len(curves) / columns)
    figure = style.new_figure(0.4 + 0.8 * rows, width)
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    lowest, highest = 100.0, 0.0
    for axes, (name, (steps, values)) in zip(panels.flat, curves.items(), strict=False):
        x, percent = _averaged(steps, POINTS), 100 * _averaged(values, POINTS)
        axes.plot(x, percent, color="black", linewidth=0.9, marker="." if len(x) == 1 else None)
        depths = [100 * depth for _, depth in (drops or {}).get(name, ())]
        for (step, _), depth in zip((drops or {}).get(name, ()), depths, strict=True):
            axes.plot([step] * 2, [np.interp(step, x, percent), depth], color="black", linewidth=1)
            axes.plot([step], [depth], "v", color="black", markersize=4, markerfacecolor="white")
        lowest = min(lowest, *percent[len(percent) // 20 :], *depths)
        highest = max(highest, *percent)
        axes.set_title(style.label(name), fontsize="small")
        axes.xaxis.set_major_locator(MaxNLocator(3))
        style.quiet(axes)
    for axes in panels.flat[len(curves) :]:
        axes.set_axis_off()
    margin = 0.05 * max(highest - lowest, 0.1)
    panels[0, 0].set_ylim(lowest - margin, highest + margin)
    figure.supxlabel("training step", fontsize="medium")
    figure.supylabel("training accuracy (%)", fontsize="medium")
    return figure


@style.own_settings()
def layers_over_training(epochs: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw firing rate and fraction in warm-up of every layer, over the epochs of a run.

    Args:
        epochs: the records of a run's epochs, with ``"firing_rate"`` and ``"warm_up"`` by layer;
            None or NaN if the rule has no warm-up.
    """
    figure = style.new_figure(3.2)
    for axes, (key, (name, factor)) in zip(figure.subplots(1, 2), PANELS.items(), strict=True):
        layers = dict.fromkeys(layer for one in epochs for layer in one.get(key) or {})
        numbers = [one["epoch"] for one in epochs]
        marker = "o" if len(epochs) == 1 else None
        for index, layer in enumerate(layers):
            raw = [(one.get(key) or {}).get(layer) for one in epochs]
            values = factor * np.array(raw, float)  # None becomes NaN
            look = style.line_style(index)
            axes.plot(numbers, values, label=style.label(layer), marker=marker, **look)
        if not any(np.isfinite(line.get_ydata()).any() for line in axes.lines):
            axes.set_axis_off()
            style.write_in_middle(axes, f"no {key.replace('_', ' ')} in these records")
        style.whole_numbers(axes)
        axes.set(xlabel="epoch", ylabel=name)
        style.quiet(axes)
    style.legend(figure)
    return figure


@style.own_settings()
def confusion(matrix: Array, class_names: Sequence[str] = ()) -> Figure:
    """Draw a confusion matrix; the errors are coloured, the diagonal is not.

    Args:
        matrix: counts ``[classes, classes]``, rows the true classes, columns the predicted ones.
            With up to `NUMBERED_CLASSES` classes the counts are written into the cells.
        class_names: as for `run_picture`.
    """
    from matplotlib.colors import ListedColormap, PowerNorm

    matrix = np.asarray(matrix)
    classes, images = len(matrix), int(matrix.sum())
    errors = images - int(np.trace(matrix))
    shares = 100 * matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    diagonal = np.eye(classes, dtype=bool)
    figure, axes = style.new_axes(6)
    grey = ListedColormap(["0.88"])
    axes.imshow(np.ma.masked_array(diagonal, ~diagonal), cmap=grey, interpolation="none")
    wrong = np.ma.masked_array(shares, diagonal | (matrix == 0))
    worst = float(wrong.max()) if errors else 1.0
    cells = axes.imshow(
        wrong,
        cmap=style.part_of("YlOrRd", 0.25, 1),
        norm=PowerNorm(0.5, 0, worst),  # single errors stay visible next to many
        interpolation="none",
    )
    if errors:
        figure.colorbar(cells, ax=axes, label="fraction of the true class's images (%)", shrink=0.7)
    if classes <= NUMBERED_CLASSES:
        size = 10 if classes <= 12 else 7
        for (row, column), count in np.ndenumerate(matrix):
            if count:
                dark = row != column and shares[row, column] > 0.4 * worst
                colour = "white" if dark else "black"
                style.write_cell(axes, (row, column), f"{int(count)}", fontsize=size, color=colour)
    ticks = range(0, classes, 1 if classes <= NUMBERED_CLASSES else max(1, classes // 10))
    axes.set(xticks=ticks, yticks=ticks, xlabel="predicted class", ylabel="true class")
    if class_names:
        names = [class_name(number, class_names) for number in ticks]
        axes.set_xticklabels(names, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticklabels(names)
    axes.set_title(f"{errors:,} of {images:,} images wrong ({100 * errors / max(images, 1):.2f} %)")
    return figure


@style.own_settings()
def image_trace(
    image: Array,
    label: int | None,
    prediction: int,
    spikes: Mapping[str, Array],
    potentials: Mapping[str, Array],
    thresholds: Mapping[str, float],
    class_names: Sequence[str] = (),
    output: str = "output",
) -> Figure:
    """Draw the response to an image: spikes of all layers, and potentials of some neurons.

    These are the `NEURONS_TRACED` most active neurons of each hidden layer, and the whole output
    layer.

    Args:
        image, label, prediction, spikes, class_names: as for `run_picture`; `label` is None if the
            true class is unknown.
        potentials: by layer, for the same neurons, ``[T, ...]``, before the reset.
        thresholds: by layer, the firing thresholds.
        output: name of the layer with one neuron per class, if there is one.
    """
    rows = math.ceil(len(spikes) / 2)
    top = 2.2 + 0.15 * len(spikes)
    figure = style.new_figure(top + 1.6 * rows)
    grid = figure.add_gridspec(1 + rows, 6, height_ratios=[top, *[1.6] * rows])
    picture, raster = figure.add_subplot(grid[0, :2]), figure.add_subplot(grid[0, 2:])
    draw_image(picture, image)
    picture.set_title(_answer(label, prediction, class_names), fontsize="medium")
    draw_raster(raster, spikes, numbered=False)
    raster.set_title(raster.get_title(), fontsize="medium")
    for index, (layer, train) in enumerate(spikes.items()):
        row, side = divmod(index, 2)
        axes = figure.add_subplot(grid[1 + row, 3 * side : 3 * side + 3])
        chosen = (
            _classes_traced(train, label, prediction, class_names)
            if layer == output
            else _most_active(train, potentials[layer])
        )
        _draw_potentials(axes, train, potentials[layer], chosen, thresholds[layer])
        axes.set_ylabel(f"{style.label(layer)}\npotential")
    for axes in figure.axes[-2:]:
        axes.set_xlabel("time step (dots: spikes, dashed: threshold)")
    return figure


@style.own_settings()
def histograms(weights: Mapping[str, Array], gradients: Mapping[str, Array]) -> Figure:
    """Draw histograms of weights, and of the magnitudes of their gradients, for every layer.

    Args:
        weights: by layer, of any shape.
        gradients: by the same layers; on a logarithmic axis, with the number of zeros in the title.
    """
    from matplotlib.ticker import MaxNLocator

    figure = style.new_figure(0.6 + 1.25 * len(weights))
    panels = figure.subplots(len(weights), 2, squeeze=False, sharex="col")
    for (left, right), layer in zip(panels, weights, strict=True):
        values = np.asarray(weights[layer])
        finite = values[np.isfinite(values)]
        if finite.size:
            counts, edges = np.histogram(finite, 60)
            left.stairs(counts, edges, fill=True, color=style.PALETTE[0])
            title = f"{np.size(values):,} weights, sd {finite.std():.3g}"
        else:
            title = "no finite weights"
        left.set_title(f"{style.label(layer)}: {title}", fontsize="medium")
        left.set_ylabel("weights")
        _draw_magnitudes(right, layer, np.ravel(gradients[layer]))
    for axes in panels.flat:
        axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
        style.quiet(axes)
    panels[-1, 0].set_xlabel("weight")
    panels[-1, 1].set_xlabel("magnitude of the gradient, nonzero values")
    return figure


@style.own_settings()
def raster(spikes: Mapping[str, Array], class_names: Sequence[str] = ()) -> Figure:
    """Draw spikes of all layers over time, see `draw_raster`.

    Raises:
        InvalidInput: `spikes` is not a mapping, or contains no layer.
    """
    if not isinstance(spikes, Mapping) or not spikes:
        got = "no layer" if isinstance(spikes, Mapping) else type(spikes).__name__
        raise InvalidInput(f"spikes must be arrays [T, ...] by the name of their layer, got {got}")
    figure, axes = style.new_axes(1.4 + 0.9 * len(spikes))
    draw_raster(axes, spikes, class_names=class_names)
    return figure


def draw_raster(
    axes: Axes,
    spikes: Mapping[str, Array],
    numbered: bool = True,
    class_names: Sequence[str] = (),
) -> None:
    """Draw spikes over time, one band per layer, with the first layer at the bottom.

    Args:
        spikes: by layer, from input to output, ``[T, ...]`` with 0 and 1, arrays or tensors on the
            CPU. At most `NEURONS_SHOWN` neurons of a layer are drawn.
        numbered: number the last layer's neurons on the right, if there are only a few.
        class_names: names instead of these numbers.
    """
    trains = [np.asarray(train).reshape(len(train), -1) for train in spikes.values()]
    gap = (1 - BAND) / 2
    for band, train in enumerate(trains):
        count = train.shape[1]
        shown = np.linspace(0, count - 1, min(count, NEURONS_SHOWN)).astype(int)
        steps, neurons = np.nonzero(train[:, shown])
        row = BAND / len(shown)
        bottoms = band + row * neurons
        look: Look = {"color": style.colour(band), "linewidth": min(6, 150 / len(train))}
        axes.vlines(steps + 1, bottoms, bottoms + 0.8 * row, **look)
        axes.axhline(band - gap, color="0.85", linewidth=0.8)
    if numbered and count <= NEURONS_NUMBERED:
        for neuron in range(count):
            middle = band + BAND * (neuron + 0.4) / count
            beside: Look = {"xycoords": ("axes fraction", "data"), "fontsize": 7, "va": "center"}
            text = class_name(neuron, class_names if len(class_names) == count else ())
            axes.annotate(text, (1.01, middle), **beside)
    step_count = len(trains[0])
    axes.set(xlim=(0.5, step_count + 0.5), ylim=(-gap, len(trains) - gap), xlabel="time step")
    axes.set_xticks(range(1, step_count + 1, max(1, step_count // 10)))
    axes.set_yticks(np.arange(len(trains)) + BAND / 2, [style.label(name) for name in spikes])
    axes.tick_params(axis="y", length=0)
    axes.set_title(f"spikes (up to {NEURONS_SHOWN} neurons of each layer)")


def draw_training(axes: Axes, epochs: Sequence[Mapping[str, Any]]) -> None:
    """Draw the accuracy in percent against the epoch, for every split in the records."""
    from matplotlib.ticker import MaxNLocator

    marker = "o" if len(epochs) == 1 else None  # a line of one point is invisible
    for key, (name, colour) in CURVES.items():
        points = [(one["epoch"], 100 * one[key]) for one in epochs if one.get(key) is not None]
        if points:
            numbers, values = zip(*points, strict=True)
            label = f"{name} {values[-1]:.2f} %"
            axes.plot(numbers, values, color=colour, marker=marker, label=label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="epoch", ylabel="accuracy (%)", title="training")
    axes.grid(color="0.9")
    axes.legend(loc="lower right", title="last epoch")


def _draw_coloured(figure: Figure, curves: Sequence[tuple[Array, Array]]) -> None:
    """Draw many curves, coloured by their last value."""
    from matplotlib.collections import LineCollection

    lines = sorted((np.column_stack(curve) for curve in curves), key=lambda one: one[-1, 1])
    last = np.array([line[-1, 1] for line in lines])
    look = style.accuracy_colours(last)
    collection = LineCollection(lines, array=last, linewidths=0.6, alpha=0.7, **look)
    axes = figure.axes[0]
    axes.add_collection(collection)
    axes.autoscale_view()
    style.colour_bar(figure, collection, last, "last training accuracy (%)")


def _averaged(values: Array, count: int) -> Array:
    """Return means over `count` segments of `values` ``[n]``; unchanged if there are fewer."""
    values = np.asarray(values, float)
    if len(values) <= count:
        return values
    edges = np.linspace(0, len(values), count + 1).astype(int)
    means: Array = np.add.reduceat(values, edges[:-1]) / np.diff(edges)
    return means


def _most_active(train: Array, potentials: Array) -> list[Trace]:
    """Return the neurons with most spikes, then those with the highest potential."""
    spikes = train.reshape(len(train), -1).sum(0)
    highest = potentials.reshape(len(train), -1).max(0)
    order = np.lexsort([-highest, -spikes])[:NEURONS_TRACED]
    shape = [side for side in train.shape[1:] if side > 1] or [1]
    chosen = []
    for line, neuron in enumerate(map(int, order)):
        place = ", ".join(str(index) for index in np.unravel_index(neuron, shape))
        name = f"({place})" if len(shape) > 1 else place
        look = {"color": style.PALETTE[line], "linestyle": style.LINES[line], "label": name}
        chosen.append((neuron, look))
    return chosen


def class_name(number: int, class_names: Sequence[str] = ()) -> str:
    """Return a class's name in figures, or its number."""
    return style.label(class_names[number]) if class_names else str(number)


def _answer(label: int | None, prediction: int, class_names: Sequence[str]) -> str:
    predicted = f"predicted {class_name(prediction, class_names)}"
    return predicted if label is None else f"class {class_name(label, class_names)}, {predicted}"


def _classes_traced(
    train: Array, label: int | None, prediction: int, class_names: Sequence[str]
) -> list[Trace]:
    """Return all output neurons; the true class, if known, and the predicted one are in front."""
    others = [one for one in range(train[0].size) if one not in (label, prediction)]
    chosen: list[Trace] = [
        (one, {"color": "0.7", "linewidth": 0.8, "label": "_" if index else "others"})
        for index, one in enumerate(others)
    ]
    in_front = {prediction: f"{class_name(prediction, class_names)} predicted"}
    if label == prediction:
        in_front = {label: f"{class_name(label, class_names)} true and predicted"}
    elif label is not None:
        in_front[label] = f"{class_name(label, class_names)} true"
    for one, name in in_front.items():
        colour = style.PALETTE[0 if label in (one, None) else 1]
        chosen.append((one, {"color": colour, "linewidth": 1.6, "label": name}))
    return chosen


def _draw_potentials(
    axes: Axes, train: Array, potentials: Array, chosen: Sequence[Trace], threshold: float
) -> None:
    """Draw potentials over time with a dot at every spike, and the threshold."""
    train, potentials = train.reshape(len(train), -1), potentials.reshape(len(train), -1)
    steps = np.arange(1, len(train) + 1)
    size = 4 if len(steps) <= 40 else 2.5
    axes.axhline(threshold, color="0.35", linestyle="--", linewidth=0.9)
    for neuron, look in chosen:
        marked = np.flatnonzero(train[:, neuron]).tolist()
        if len(steps) == 1 and not marked:  # a line of one point is invisible
            look = look | {"marker": "_"}
        else:
            look = look | {"marker": "o", "markevery": marked}
        axes.plot(steps, potentials[:, neuron], markersize=size, **look)
    axes.margins(y=0.12)
    axes.set_xlim(0.5, len(steps) + 0.5)
    style.whole_numbers(axes)
    spacing: Look = {"borderaxespad": 0, "handlelength": 1.2, "columnspacing": 1}
    place: Look = {"loc": "lower left", "bbox_to_anchor": (0, 1), "ncols": 3}
    axes.legend(fontsize="x-small", frameon=False, **place, **spacing)
    style.quiet(axes)


def _draw_magnitudes(axes: Axes, layer: str, gradient: Array) -> None:
    zeros = int((gradient == 0).sum())
    magnitudes = np.abs(gradient[np.isfinite(gradient) & (gradient != 0)])
    share = 100 * zeros / max(1, len(gradient))
    others = len(gradient) - zeros - len(magnitudes)
    infinite = f", {others:,} not finite" if others else ""
    axes.set_title(
        f"{style.label(layer)}: {share:.0f} % zero ({zeros:,}){infinite}", fontsize="medium"
    )
    axes.set_xscale("log")
    style.plain_powers(axes)
    if not magnitudes.size:
        style.write_in_middle(axes, "the gradient is 0")
        return
    low, high = math.log10(magnitudes.min()), math.log10(magnitudes.max())
    edges = np.logspace(low - 0.01, high + 0.01, 61)
    axes.stairs(np.histogram(magnitudes, edges)[0], edges, fill=True, color=style.PALETTE[1])
