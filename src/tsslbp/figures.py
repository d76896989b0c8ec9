"""Figures: arrays in, matplotlib figures out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = npt.NDArray[Any]

NEURONS_SHOWN = 80  # of a layer, evenly chosen
CURVES = {
    "train_accuracy": ("training", "#9aa5b1"),
    "validation_accuracy": ("validation", "#2a9d8f"),
    "test_accuracy": ("test", "#d1495b"),
}


def run_picture(
    image: Array, label: int, prediction: int, spikes: Mapping[str, Array], epochs: Sequence[Any]
) -> Figure:
    """One image, the spikes it causes in every layer, and the training so far.

    Args:
        image: ``[H, W]`` or ``[C, H, W]``.
        label, prediction: the true class and the network's.
        spikes: by layer, ``[T, ...]`` with 0 and 1.
        epochs: the records of a run's epochs.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=[1, 1.5, 1.8])
    draw_image(left, image)
    left.set_title(f"class {label}, predicted {prediction}")
    draw_raster(middle, spikes)
    draw_training(right, epochs)
    return figure


def draw_image(axes: Axes, image: Array) -> None:
    channels_last = np.moveaxis(image, 0, -1) if image.ndim == 3 else image
    span = max(float(np.ptp(channels_last)), 1e-12)
    scaled = (channels_last - channels_last.min()) / span
    axes.imshow(scaled.squeeze(), cmap="gray", interpolation="nearest")
    axes.set_axis_off()


def draw_raster(axes: Axes, spikes: Mapping[str, Array]) -> None:
    """Spikes over time, a band of neurons for each layer, the input's side at the bottom."""
    base, ticks = 0, []
    for name, train in spikes.items():
        flat = train.reshape(len(train), -1)
        shown = np.linspace(0, flat.shape[1] - 1, min(flat.shape[1], NEURONS_SHOWN)).astype(int)
        steps, neurons = np.nonzero(flat[:, shown])
        axes.scatter(steps + 1, base + neurons, marker="|", s=14, linewidths=1.2)
        ticks.append((base + len(shown) / 2, name))
        base += len(shown) + 6
        axes.axhline(base - 3, color="0.85", linewidth=0.8)
    steps_count = len(next(iter(spikes.values())))
    axes.set_xlim(0.5, steps_count + 0.5)
    axes.set_xticks(range(1, steps_count + 1, max(1, steps_count // 10)))
    axes.set_yticks(*zip(*ticks, strict=True))
    axes.set_xlabel("time step")
    axes.set_title(f"spikes (up to {NEURONS_SHOWN} neurons of each layer)")


def draw_training(axes: Axes, epochs: Sequence[Mapping[str, Any]]) -> None:
    """Accuracy in percent against the epoch, for every split the records hold."""
    numbers = [record["epoch"] for record in epochs]
    for key, (name, colour) in CURVES.items():
        values = [100 * record[key] for record in epochs if record.get(key) is not None]
        if values:
            axes.plot(numbers, values, color=colour, label=f"{name} {values[-1]:.2f} %")
    axes.set_xlabel("epoch")
    axes.set_ylabel("accuracy (%)")
    axes.grid(color="0.9")
    axes.legend(loc="lower right", title="last epoch")
    axes.set_title("training")
