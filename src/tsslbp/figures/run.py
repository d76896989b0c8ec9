"""Figures: arrays in, matplotlib figures out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.animation import Animation
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

Array = npt.NDArray[Any]

PANELS = 4  # layers side by side
NEURONS_SHOWN = 80  # of a layer, evenly chosen
NEURONS_NUMBERED = 10  # at most, of the last layer
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
BAND = 0.9  # height of a layer in the raster, whose next one begins 1 above
BRIGHTER, DARKER = PALETTE[1], PALETTE[0]
FRAMES_PER_ROW = 8
FULL_COLOUR = 0.95  # share of a recording's pixels that have no more than the full colour
MILLISECONDS = 150  # that an animation shows a frame
CURVES = {
    "train_accuracy": ("training", "#9aa5b1"),
    "validation_accuracy": ("validation", "#2a9d8f"),
    "test_accuracy": ("test", "#d1495b"),
}


def run_picture(
    image: Array,
    label: int,
    prediction: int,
    spikes: Mapping[str, Array],
    epochs: Sequence[Mapping[str, Any]],
) -> Figure:
    """One image, the spikes it causes in every layer, and the training so far.

    Args:
        image: ``[H, W]`` or ``[C, H, W]``.
        label, prediction: the true class and the network's.
        spikes: by layer, from input to output, ``[T, ...]`` with 0 and 1.
        epochs: the records of a run's epochs; a caveat that they carry stands above the picture.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.8), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=[1, 1.6, 1.6])
    draw_image(left, image)
    left.set_title(f"class {label}, predicted {prediction}")
    draw_raster(middle, spikes)
    draw_training(right, epochs)
    notes = dict.fromkeys(one["note"] for one in epochs if one.get("note"))
    if notes:
        figure.suptitle("; ".join(notes), fontsize="medium")
    return figure


def microscope(
    widths: Sequence[float],
    truth: Mapping[str, Mapping[str, Array]],
    between: Mapping[str, Array],
    control: Mapping[str, float],
) -> Figure:
    """How far rules' gradients point from the truth and from each other, layer by layer.

    Above, the cosine with the truth against the width of the noise that the truth was smoothed
    with; below, the cosines of the rules with each other. The rules are numbered in the legend.

    Args:
        widths: ``[n]``, relative to the layer's weights.
        truth: by layer from input to output, and by rule, ``[n, 3]``: cosine and the ends of its
            interval; NaN where there is none.
        between: by layer ``[rules, rules]``, NaN where there is none.
        control: by layer the control's cosine, NaN where there is none.
    """
    from matplotlib.figure import Figure

    columns = min(PANELS, len(truth))
    bands = -(-len(truth) // columns)
    rules = list(next(iter(truth.values())))
    legend_columns = 2 if len(rules) > 3 else 1
    height = 4.2 * bands + 0.2 * -(-len(rules) // legend_columns)
    figure = Figure(figsize=(7.2, height), layout="constrained")
    panels = figure.subplots(2 * bands, columns, squeeze=False, height_ratios=[1.3, 1] * bands)
    for axes in panels.flat:
        axes.set_axis_off()
        axes.tick_params(labelsize="small")
    ends = np.concatenate([rows for one in truth.values() for rows in one.values()])
    low, high = np.nanmin([0.0, *ends.flat]), np.nanmax([1.0, *ends.flat])
    for place, layer in enumerate(truth):
        band, column = divmod(place, columns)
        above, below = panels[2 * band, column], panels[2 * band + 1, column]
        draw_truth(above, widths, truth[layer])
        above.set_ylim(max(low, -1) - 0.05, min(high, 1.5) + 0.05)  # equal, to compare layers
        above.set_title(f"{layer}\ncontrol {control[layer]:.3f}", fontsize="medium")
        draw_between(below, between[layer])
        if column == 0:
            above.set_ylabel("cosine with the truth")
            below.set_ylabel("rule")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=legend_columns,
        fontsize="small",
        frameon=False,
    )
    return figure


def image_figure(image: Array, title: str) -> Figure:
    """One image.

    Args:
        image: ``[H, W]`` or ``[C, H, W]``.
        title: above it.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4, 4.4), layout="constrained")
    axes = figure.subplots()
    draw_image(axes, image)
    axes.set_title(title, fontsize="medium")
    return figure


def frames_figure(frames: Array, title: str) -> Figure:
    """The frames of a recording side by side, each with its number and the sum of its values.

    Args:
        frames: ``[T, C, H, W]``, see `colour_frames`.
        title: above them.
    """
    from matplotlib.figure import Figure

    columns = min(FRAMES_PER_ROW, len(frames))
    rows = -(-len(frames) // columns)
    figure = Figure(figsize=(1.4 * columns, 1.7 * rows + 0.6), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in panels[len(frames) :]:
        axes.set_axis_off()
    for step, picture in enumerate(colour_frames(frames)):
        axes = panels[step]
        draw_colours(axes, picture)
        axes.set_title(f"{step + 1}: {frames[step].sum():g}", fontsize="small")
    figure.suptitle(title, fontsize="medium")
    return figure


def animation(frames: Array, title: str) -> Animation:
    """The frames of a recording one after the other; arguments as for `frames_figure`."""
    from matplotlib.animation import FuncAnimation
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4, 4.4), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, fontsize="medium")
    pictures = colour_frames(frames)
    shown = draw_colours(axes, pictures[0])

    def show(step: int) -> list[Any]:
        shown.set_data(pictures[step])
        return [shown]

    return FuncAnimation(figure, show, frames=len(pictures), interval=MILLISECONDS)


def colour_frames(frames: Array) -> Array:
    """Frames ``[T, C, H, W]`` as colours ``[T, H, W, 3]`` from 0 to 1, on white.

    With two channels the first, of darker pixels, is blue, and the second, of brighter ones,
    orange; a pixel with both is their mixture. One channel is black, as is the sum of more than
    two. The colour is full from the value on that 95 % of those above 0 do not exceed; pixels of 0
    and below stay white.
    """
    from matplotlib.colors import to_rgb

    if frames.shape[1] > 2:
        frames = frames.sum(1, keepdims=True)
    names = (DARKER, BRIGHTER) if frames.shape[1] == 2 else ("black",)
    colours = np.array([to_rgb(name) for name in names])
    active = frames[frames > 0]
    full = np.quantile(active, FULL_COLOUR) if active.size else 1.0
    strength = np.moveaxis(np.clip(frames / full, 0, 1), 1, -1)
    strength = strength / np.maximum(strength.sum(-1, keepdims=True), 1)  # of a mixture
    return np.asarray(1 - strength @ (1 - colours))


def draw_colours(axes: Axes, picture: Array) -> AxesImage:
    """Pixels ``[H, W, 3]`` from 0 to 1 as sharp squares in a thin frame."""
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color("0.8")
    return axes.imshow(picture, interpolation="nearest")


def draw_truth(axes: Axes, widths: Sequence[float], cosines: Mapping[str, Array]) -> None:
    """Cosines with their intervals against the noise width, a numbered line for each rule.

    Args:
        widths: ``[n]``, positive.
        cosines: by rule ``[n, 3]``, as for `microscope`.
    """
    axes.set_axis_on()
    axes.set_xscale("log")
    room = max((max(widths) / min(widths)) ** 0.12, 1.3)
    axes.set_xlim(min(widths) / room, max(widths) * room)
    for index, (rule, rows) in enumerate(cosines.items()):
        value, low, high = rows.T
        axes.errorbar(
            np.asarray(widths) * 1.05 ** (index - (len(cosines) - 1) / 2),  # side by side
            value,
            yerr=[value - low, high - value],
            color=PALETTE[index % len(PALETTE)],
            linestyle="-" if index < len(PALETTE) else "--",
            marker="o",
            markersize=3,
            linewidth=1,
            label=f"{index + 1}  {rule}",
        )
    axes.axhline(1, color="0.7", linewidth=0.8)
    axes.set_xticks(widths, [f"{width:g}" for width in widths])
    axes.minorticks_off()
    axes.set_xlabel("noise width", fontsize="small")
    axes.grid(color="0.9")


def draw_between(axes: Axes, cosines: Array) -> None:
    """Cosines ``[rules, rules]`` in their cells: blue where two agree, red where they oppose."""
    axes.set_axis_on()
    axes.imshow(cosines, cmap="RdBu", vmin=-1, vmax=1)
    numbers = [str(number + 1) for number in range(len(cosines))]
    axes.set_xticks(np.arange(len(cosines)), numbers)
    axes.set_yticks(np.arange(len(cosines)), numbers)
    axes.tick_params(length=0)
    for row, column in np.argwhere(np.isfinite(cosines)):
        value = cosines[row, column]
        axes.text(
            column,
            row,
            f"{value:.2f}",
            ha="center",
            va="center",
            fontsize=min(8, 32 / len(cosines)),
            color="white" if abs(value) > 0.7 else "black",
        )


def draw_image(axes: Axes, image: Array) -> None:
    """An image in full contrast: grey, in colour for three channels, else their mean.

    Args:
        image: ``[H, W]`` or ``[C, H, W]``, of any range.
    """
    pixels = np.atleast_3d(np.moveaxis(image, 0, -1) if image.ndim == 3 else image).astype(float)
    if pixels.shape[2] != 3:
        pixels = pixels.mean(2)
    span = np.ptp(pixels) or 1.0
    axes.imshow((pixels - pixels.min()) / span, cmap="gray", vmin=0, vmax=1)
    axes.set_axis_off()


def draw_raster(axes: Axes, spikes: Mapping[str, Array], numbered: bool = True) -> None:
    """Spikes over time, a band for each layer, the input's side at the bottom.

    Args:
        spikes: by layer, from input to output, ``[T, ...]`` with 0 and 1. Of a layer with more
            than `NEURONS_SHOWN` neurons, so many are drawn.
        numbered: number the last layer's neurons, if they are few.
    """
    trains = [train.reshape(len(train), -1) for train in spikes.values()]
    for band, train in enumerate(trains):
        count = train.shape[1]
        shown = np.linspace(0, count - 1, min(count, NEURONS_SHOWN)).astype(int)
        steps, neurons = np.nonzero(train[:, shown])
        row = BAND / len(shown)
        bottoms = band + row * neurons
        axes.vlines(
            steps + 1,
            bottoms,
            bottoms + 0.8 * row,
            color=PALETTE[band % len(PALETTE)],
            linewidth=min(6, 150 / len(train)),
        )
        axes.axhline(band - (1 - BAND) / 2, color="0.85", linewidth=0.8)
    if numbered:
        _number_neurons(axes, len(trains) - 1, trains[-1].shape[1])
    step_count = len(trains[0])
    axes.set_xlim(0.5, step_count + 0.5)
    axes.set_ylim(-(1 - BAND) / 2, len(trains) - (1 - BAND) / 2)
    axes.set_xticks(range(1, step_count + 1, max(1, step_count // 10)))
    axes.set_yticks(np.arange(len(trains)) + BAND / 2, list(spikes))
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("time step")
    axes.set_title(f"spikes (up to {NEURONS_SHOWN} neurons of each layer)")


def draw_training(axes: Axes, epochs: Sequence[Mapping[str, Any]]) -> None:
    """Accuracy in percent against the epoch, for every split the records hold."""
    from matplotlib.ticker import MaxNLocator

    marker = "o" if len(epochs) == 1 else None  # a line of one point cannot be seen
    for key, (name, colour) in CURVES.items():
        points = [(one["epoch"], 100 * one[key]) for one in epochs if one.get(key) is not None]
        if points:
            numbers, values = zip(*points, strict=True)
            label = f"{name} {values[-1]:.2f} %"
            axes.plot(numbers, values, color=colour, marker=marker, label=label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("epoch")
    axes.set_ylabel("accuracy (%)")
    axes.grid(color="0.9")
    axes.legend(loc="lower right", title="last epoch")
    axes.set_title("training")


def _number_neurons(axes: Axes, band: int, count: int) -> None:
    """Number the rows of a band on its right, if they are few enough to read."""
    if count > NEURONS_NUMBERED:
        return
    for neuron in range(count):
        middle = band + BAND * (neuron + 0.4) / count
        axes.annotate(
            str(neuron),
            (1.01, middle),
            xycoords=("axes fraction", "data"),
            fontsize=7,
            verticalalignment="center",
        )
