"""The figure of the gradient microscope."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from .style import (
    PALETTE,
    Array,
    colour,
    label,
    new_figure,
    own_settings,
    place_legend,
    write_cell,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


PANELS = 4  # layers side by side


@own_settings()
def microscope(
    widths: Sequence[float],
    truth: Mapping[str, Mapping[str, Array]],
    between: Mapping[str, Array],
    control: Mapping[str, float],
) -> Figure:
    """Draw the cosines of rules' gradients with the true one and each other, layer by layer.

    The upper panels show the cosine with the true gradient against the width of the noise that
    smoothed the loss. The lower panels show the cosines between the rules, which the legend
    numbers.

    Args:
        widths: ``[n]``, relative to the layer's weights.
        truth: by layer from input to output, and by rule, ``[n, 3]``: cosine and the ends of its
            interval; NaN if missing.
        between: by layer ``[rules, rules]``, NaN if missing.
        control: by layer the control's cosine, NaN if missing.
    """
    columns = min(PANELS, len(truth))
    bands = -(-len(truth) // columns)
    rules = list(next(iter(truth.values())))
    legend_columns = 2 if len(rules) > 3 else 1
    height = 4.2 * bands + 0.2 * -(-len(rules) // legend_columns)
    figure = new_figure(height)
    panels = figure.subplots(2 * bands, columns, squeeze=False, height_ratios=[1.3, 1] * bands)
    for axes in panels.flat:
        axes.set_axis_off()
        axes.tick_params(labelsize="small")
    ends = np.concatenate([rows for one in truth.values() for rows in one.values()])
    low, high = np.nanmin([0.0, *ends.flat]), np.nanmax([1.0, *ends.flat])
    for place, layer in enumerate(truth):
        band, column = divmod(place, columns)
        above, below = panels[2 * band, column], panels[2 * band + 1, column]
        _draw_truth(above, widths, truth[layer])
        above.set_ylim(max(low, -1) - 0.05, min(high, 1.5) + 0.05)  # the same for all layers
        above.set_title(f"{label(layer)}\ncontrol {control[layer]:.3f}", fontsize="medium")
        _draw_between(below, between[layer])
        if column == 0:
            above.set_ylabel("cosine with the true gradient")
            below.set_ylabel("rule")
    place_legend(figure, figure.axes[0].get_legend_handles_labels()[1], legend_columns)
    return figure


def _draw_truth(axes: Axes, widths: Sequence[float], cosines: Mapping[str, Array]) -> None:
    """Draw cosines with intervals against the noise width, one numbered line per rule."""
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
            color=colour(index),
            linestyle="-" if index < len(PALETTE) else "--",
            marker="o",
            markersize=3,
            linewidth=1,
            label=label(f"{index + 1}  {rule}"),
        )
    axes.axhline(1, color="0.7", linewidth=0.8)
    axes.set_xticks(widths, [f"{width:g}" for width in widths])
    axes.minorticks_off()
    axes.set_xlabel("noise width", fontsize="small")
    axes.grid(color="0.9")


def _draw_between(axes: Axes, cosines: Array) -> None:
    """Draw cosines ``[rules, rules]`` as cells: blue if two rules agree, red if they oppose."""
    axes.set_axis_on()
    axes.imshow(cosines, cmap="RdBu", vmin=-1, vmax=1)
    ticks = np.arange(len(cosines))
    axes.set(xticks=ticks, yticks=ticks, xticklabels=ticks + 1, yticklabels=ticks + 1)
    axes.tick_params(length=0)
    for row, column in np.argwhere(np.isfinite(cosines)):
        value, size = cosines[row, column], min(8, 32 / len(cosines))
        colour = "white" if abs(value) > 0.7 else "black"
        write_cell(axes, (row, column), f"{value:.2f}", fontsize=size, color=colour)
