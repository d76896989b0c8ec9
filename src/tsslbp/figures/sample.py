"""Figures of one sample of the data: an image, or the frames of a recording."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .style import PALETTE, Array, label, new_axes, new_figure, own_settings

if TYPE_CHECKING:
    from matplotlib.animation import Animation
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage


BRIGHTER, DARKER = PALETTE[1], PALETTE[0]
FRAMES_PER_ROW = 8
FULL_COLOUR = 0.95  # quantile of a recording's nonzero pixels that has the full colour
MILLISECONDS = 150  # for which an animation shows a frame


@own_settings()
def image_figure(image: Array, title: str) -> Figure:
    """Draw one image.

    Args:
        image: ``[H, W]`` or ``[C, H, W]``.
        title: text above it.
    """
    figure, axes = new_axes(4.4, 4)
    draw_image(axes, image)
    axes.set_title(label(title), fontsize="medium")
    return figure


@own_settings()
def frames_figure(frames: Array, title: str) -> Figure:
    """Draw the frames of a recording in a grid, each with its number and the sum of its values.

    Args:
        frames: ``[T, C, H, W]``, see `colour_frames`.
        title: text above them.
    """
    columns = min(FRAMES_PER_ROW, len(frames))
    rows = -(-len(frames) // columns)
    figure = new_figure(1.7 * rows + 0.6, 1.4 * columns)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in panels[len(frames) :]:
        axes.set_axis_off()
    for step, picture in enumerate(colour_frames(frames)):
        axes = panels[step]
        draw_colours(axes, picture)
        axes.set_title(f"{step + 1}: {frames[step].sum():g}", fontsize="small")
    figure.suptitle(label(title), fontsize="medium")
    return figure


@own_settings()
def animation(frames: Array, title: str) -> Animation:
    """Animate the frames of a recording; arguments as for `frames_figure`."""
    from matplotlib.animation import FuncAnimation

    figure, axes = new_axes(4.4, 4)
    axes.set_title(label(title), fontsize="medium")
    pictures = colour_frames(frames)
    shown = draw_colours(axes, pictures[0])

    def show(step: int) -> list[Any]:
        shown.set_data(pictures[step])
        return [shown]

    return FuncAnimation(figure, show, frames=len(pictures), interval=MILLISECONDS)


def colour_frames(frames: Array) -> Array:
    """Convert frames ``[T, C, H, W]`` to colours ``[T, H, W, 3]`` from 0 to 1, on white.

    With two channels, the first, of darker pixels, is blue, and the second, of brighter ones, is
    orange; a pixel with both is a mixture. One channel is black, as is the sum of more than two.
    The colour is full from the 95 % quantile of the values above 0 upward; pixels of 0 and below
    stay white.
    """
    from matplotlib.colors import to_rgb

    if frames.shape[1] > 2:
        frames = frames.sum(1, keepdims=True)
    names = (DARKER, BRIGHTER) if frames.shape[1] == 2 else ("black",)
    colours = np.array([to_rgb(name) for name in names])
    active = frames[frames > 0]
    full = np.quantile(active, FULL_COLOUR) if active.size else 1.0
    strength = np.moveaxis(np.clip(frames / full, 0, 1), 1, -1)
    strength = strength / np.maximum(strength.sum(-1, keepdims=True), 1)  # for mixtures
    return np.asarray(1 - strength @ (1 - colours))


def draw_colours(axes: Axes, picture: Array) -> AxesImage:
    """Draw pixels ``[H, W, 3]`` from 0 to 1 as sharp squares in a thin frame."""
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color("0.8")
    return axes.imshow(picture, interpolation="nearest")


def draw_image(axes: Axes, image: Array) -> None:
    """Draw an image with full contrast: grey, in colour for three channels, else their mean.

    Args:
        image: ``[H, W]`` or ``[C, H, W]``, with any range of values.
    """
    pixels = np.atleast_3d(np.moveaxis(image, 0, -1) if image.ndim == 3 else image).astype(float)
    if pixels.shape[2] != 3:
        pixels = pixels.mean(2)
    span = np.ptp(pixels) or 1.0
    axes.imshow((pixels - pixels.min()) / span, cmap="gray", vmin=0, vmax=1)
    axes.set_axis_off()
