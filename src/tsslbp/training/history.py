"""The results of every training step, and their summary in an epoch's record."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..network import Activity

Array = npt.NDArray[Any]


class StepResult(NamedTuple):
    """Results of one training step, on its batch before the weights were updated."""

    loss: float  # as the loss function returns it
    correct: int
    gradient_norm: float  # over all weights, before clipping
    images: int  # in the batch

    @property
    def finite(self) -> bool:
        return math.isfinite(self.loss) and math.isfinite(self.gradient_norm)

    @property
    def divergence(self) -> str:
        """The text of a divergence message about these numbers."""
        return f"training diverged: the loss is {self.loss}, the gradient norm {self.gradient_norm}"


class History:
    """Numbers of every step, and of the layers at some steps; `arrays` returns them as arrays.

    ``loss`` is per image; ``activity_step`` counts the steps from the run's first, 0.
    """

    COLUMNS = ("epoch", "images", "loss", "correct", "gradient_norm")
    ACTIVITY = ("activity_step", "firing_rate", "warm_up")
    INTEGERS = ("epoch", "images", "correct", "activity_step")

    def __init__(self, arrays: dict[str, Array] | None = None) -> None:
        arrays = arrays or {}
        self.rows: dict[str, list[Any]] = {
            name: list(arrays.get(name, ())) for name in self.COLUMNS + self.ACTIVITY
        }

    def add_step(self, epoch: int, loss: float, result: StepResult) -> None:
        """Add the numbers of a step; `loss` is per image."""
        values = (epoch, result.images, loss, result.correct, result.gradient_norm)
        for name, value in zip(self.COLUMNS, values, strict=True):
            self.rows[name].append(value)

    def add_activity(self, activity: Mapping[str, Activity]) -> None:
        """Add the layers' activity in the step that is added next; no layers add nothing."""
        if not activity:
            return
        self.rows["activity_step"].append(len(self.rows["loss"]))
        self.rows["firing_rate"].append([layer.firing_rate for layer in activity.values()])
        warm_up = [layer.warm_up for layer in activity.values()]
        self.rows["warm_up"].append([math.nan if share is None else share for share in warm_up])

    @classmethod
    def dtype(cls, name: str) -> type[np.int64] | type[np.float64]:
        """Return the type of an array's numbers."""
        return np.int64 if name in cls.INTEGERS else np.float64

    def arrays(self) -> dict[str, Array]:
        return {name: np.array(rows, dtype=self.dtype(name)) for name, rows in self.rows.items()}

    def epoch_summary(
        self, epoch: int, neurons: Mapping[str, int], time_steps: int
    ) -> dict[str, Any]:
        """Return means over one epoch: loss and accuracy per image, the others per measured step.

        Args:
            epoch: number of the epoch, from 1.
            neurons: number of neurons of every spiking layer, in order; without any, the summary
                has no entries about spikes.
            time_steps: T, for ``"spikes_per_image"``, which is summed over layers and steps.
        """
        arrays = self.arrays()
        steps = np.flatnonzero(arrays["epoch"] == epoch)
        images = arrays["images"][steps]
        summary: dict[str, Any] = {
            "loss": float((arrays["loss"][steps] * images).sum() / images.sum()),
            "train_accuracy": float(arrays["correct"][steps].sum() / images.sum()),
        }
        if neurons:
            measured = np.isin(arrays["activity_step"], steps)
            rates, warm_up = (
                dict(zip(neurons, arrays[name][measured].mean(0).tolist(), strict=True))
                for name in ("firing_rate", "warm_up")
            )
            spikes = time_steps * sum(rates[name] * neurons[name] for name in neurons)
            summary |= {"firing_rate": rates, "spikes_per_image": spikes, "warm_up": warm_up}
        return summary | {"gradient_norm": float(arrays["gradient_norm"][steps].mean())}
