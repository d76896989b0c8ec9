"""Sudden drops of the training accuracy: where, how large, and what else changed at that step.

For every step, the fraction of correct images in the steps before it (`BEFORE`) is compared with
that from the step on (`AFTER`), by the test for two proportions. Its standard error is widened if
the batches before the step scatter more than sampling explains, as they do while the accuracy still
rises. The reported step is the most likely point of change nearby.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..checked import Checked

Array = npt.NDArray[Any]

BEFORE = 50  # steps: two measurements of the firing rates, made every 25
AFTER = 10  # steps: with 500 images and 99 % correct, the sampling error is 0.4 points
SIGMAS = 6.0  # standard errors; chance exceeds them once in 10^9 steps
MINIMUM = 0.03  # fraction of all images; ordinary runs on digits and MNIST fall by less
RECOVERED = 0.75  # fraction of the lost accuracy that must be regained
LEAD = 3  # steps before the drop whose updates may have caused it
SHARE_FLOOR = 1e-3  # lower bound of firing rates and fractions in warm-up in a ratio

_CERTAIN = 2 * AFTER - 1  # steps from a drop on after which no later step can be a larger drop
_CONTEXT = 2 * BEFORE + _CERTAIN  # steps that must be known before the first judged step


@dataclass(frozen=True)
class Change(Checked):
    """A quantity before and after a drop."""

    before: float
    after: float


@dataclass(frozen=True)
class Drop(Checked):
    """A sudden drop of the training accuracy.

    Attributes:
        step: the first step with the lower accuracy, counted from the run's first, 0; small drops
            are located to within one or two steps.
        epoch: epoch of that step, from 1.
        accuracy: accuracy over the `BEFORE` steps before and the `AFTER` steps from it on, 0 to 1.
        loss: mean per image over the same steps.
        gradient_norm: median over the same steps, before clipping.
        preceding_norm: before: the same median; after: the largest norm of the last `LEAD` steps
            before the drop. Their updates may be its cause, while `gradient_norm` shows its effect.
        firing_rate: by layer, the last measurement before the drop and the first from it on, which
            may be 25 steps later (200 on a GPU); empty if it was not measured yet.
        warm_up: the same for the fraction in warm-up, of layers that have a warm-up.
        recovery: the first step from which on, over `AFTER` steps, the fraction `RECOVERED` of the
            lost accuracy is regained; None if this does not happen in the given steps.
    """

    step: int
    epoch: int
    accuracy: Change
    loss: Change
    gradient_norm: Change
    preceding_norm: Change
    firing_rate: Mapping[str, Change]
    warm_up: Mapping[str, Change]
    recovery: int | None = None


def find(
    arrays: Mapping[str, Array], layers: Sequence[str] | None = None, since: int = 0
) -> list[Drop]:
    """Find the sudden drops of the training accuracy, in order.

    A drop is a fall by at least `MINIMUM` and at least `SIGMAS` standard errors. It is final once
    `AFTER` steps have confirmed it and as many more have shown no larger drop nearby. The first
    `BEFORE` steps are not judged, nor smaller drops within `BEFORE` steps after a drop.

    Args:
        arrays: the arrays of a run's steps, as `tsslbp.run.Run.steps` and
            `tsslbp.training.history.History.arrays` return them.
        layers: names of the spiking layers, in order; by default "layer 1" and so on.
        since: number of steps that were known at an earlier call; only drops that became final
            since then are returned.
    """
    origin = max(0, since - _CONTEXT)
    if len(arrays.get("correct", ())) - origin < BEFORE + _CERTAIN:
        return []
    images, correct = arrays["images"][origin:], arrays["correct"][origin:]
    first = max(BEFORE, since - _CERTAIN + 1 - origin)
    peaks = [step for step in _peaks(_scores(images, correct)) if step >= first]
    return [_drop(arrays, origin + _locate(images, correct, peak), layers) for peak in peaks]


def describe(drop: Drop) -> str:
    """Describe a drop in one line, with the largest ratio of gradient norms, rates and warm-up.

    The loss is excluded, because it carries the same information as the accuracy.
    """
    before, after = (100 * share for share in (drop.accuracy.before, drop.accuracy.after))
    back = "not recovered yet" if drop.recovery is None else f"back at step {drop.recovery}"
    causes = {
        "gradient norm": drop.gradient_norm,
        f"largest gradient norm of the {LEAD} steps before": drop.preceding_norm,
        **{f"firing rate of {layer}": change for layer, change in drop.firing_rate.items()},
        **{f"fraction in warm-up of {layer}": change for layer, change in drop.warm_up.items()},
    }
    name, change = max(causes.items(), key=lambda item: abs(math.log(_ratio(item[1]))))
    return (
        f"step {drop.step} (epoch {drop.epoch}): training accuracy {before:.1f} % to "
        f"{after:.1f} %, {back}; largest change: {name} x {_ratio(change):.2g} "
        f"({change.before:.3g} to {change.after:.3g})"
    )


def _scores(images: Array, correct: Array) -> Array:
    """Return by how many standard errors the accuracy falls at every step ``[steps]``.

    Minus infinity if it falls by less than `MINIMUM`, or if too few steps are on either side.
    """
    scores = np.full(len(images), -np.inf)
    judged = slice(BEFORE, len(images) - AFTER + 1)
    count, right = images.astype(np.float64), correct.astype(np.float64)
    before, after = _sums(count, BEFORE)[:-AFTER], _sums(count, AFTER)[BEFORE:]
    right_before, right_after = _sums(right, BEFORE)[:-AFTER], _sums(right, AFTER)[BEFORE:]
    share, fall = right_before / before, right_before / before - right_after / after
    pooled = (right_before + right_after) / (before + after)
    variance = pooled * (1 - pooled) * (1 / before + 1 / after)
    accuracy = right / count
    spread = _sums(accuracy**2, BEFORE) / BEFORE - (_sums(accuracy, BEFORE) / BEFORE) ** 2
    sampling = share * (1 - share) * _sums(1 / count, BEFORE)[:-AFTER] / BEFORE
    with np.errstate(divide="ignore", invalid="ignore"):
        scatter = np.where(sampling > 0, spread[:-AFTER] / sampling, 1.0)
        widening = np.maximum(scatter, 1.0)
        scores[judged] = np.where(fall >= MINIMUM, fall / np.sqrt(variance * widening), -np.inf)
    return scores


def _sums(values: Array, width: int) -> Array:
    """Return sums over `width` consecutive values ``[len(values) - width + 1]``."""
    total: Array = np.concatenate([[0.0], np.cumsum(values)])
    return np.subtract(total[width:], total[:-width])


def _peaks(scores: Array) -> list[int]:
    """Return steps above `SIGMAS` that none of the `BEFORE` last or `AFTER` next steps exceeds."""
    certain = np.flatnonzero(scores[: len(scores) - _CERTAIN + 1] >= SIGMAS)
    return [
        int(step)
        for step in certain
        if scores[step] > scores[max(0, step - BEFORE) : step].max()
        and scores[step] == scores[step : step + AFTER].max()
    ]


def _locate(images: Array, correct: Array, peak: int) -> int:
    """Return the most likely step of a single change of accuracy within `AFTER` of the peak."""
    steps = slice(peak - BEFORE, peak + _CERTAIN)
    right, wrong = correct[steps], (images - correct)[steps]
    cuts = range(max(BEFORE, peak - AFTER), peak + AFTER)

    def likelihood(part: slice) -> float:
        """Return the log-likelihood of the counts under their own proportions."""
        counts = int(right[part].sum()), int(wrong[part].sum())
        return sum(count * math.log(count / sum(counts)) for count in counts if count)

    at = [cut - steps.start for cut in cuts]
    return cuts[int(np.argmax([likelihood(slice(i)) + likelihood(slice(i, None)) for i in at]))]


def _drop(arrays: Mapping[str, Array], step: int, layers: Sequence[str] | None) -> Drop:
    before, after = slice(step - BEFORE, step), slice(step, step + AFTER)
    norm, images = arrays["gradient_norm"], arrays["images"]
    usual = float(np.median(norm[before]))

    def mean(values: Array) -> Change:
        return Change(*(np.average(values[part], weights=images[part]) for part in (before, after)))

    accuracy = mean(arrays["correct"] / images)
    return Drop(
        step,
        int(arrays["epoch"][step]),
        accuracy,
        mean(arrays["loss"]),
        Change(usual, float(np.median(norm[after]))),
        Change(usual, float(norm[step - LEAD : step].max())),
        _by_layer(arrays, "firing_rate", step, layers),
        _by_layer(arrays, "warm_up", step, layers),
        _recovery(arrays, step, accuracy),
    )


def _by_layer(
    arrays: Mapping[str, Array], name: str, step: int, layers: Sequence[str] | None
) -> dict[str, Change]:
    row = int(np.searchsorted(arrays["activity_step"], step))  # the first from the step on
    if not 0 < row < len(arrays["activity_step"]):
        return {}
    before, after = arrays[name][row - 1].tolist(), arrays[name][row].tolist()
    names = layers or [f"layer {number}" for number in range(1, len(before) + 1)]
    return {
        layer: Change(*pair)
        for layer, *pair in zip(names, before, after, strict=True)
        if all(map(math.isfinite, pair))  # NaN: the layer has no warm-up
    }


def _recovery(arrays: Mapping[str, Array], step: int, accuracy: Change) -> int | None:
    enough = accuracy.after + RECOVERED * (accuracy.before - accuracy.after)
    right, images = (_sums(arrays[name][step:], AFTER) for name in ("correct", "images"))
    back = np.flatnonzero(right / images >= enough)
    return step + int(back[0]) if len(back) else None


def _ratio(change: Change) -> float:
    return max(change.after, SHARE_FLOOR) / max(change.before, SHARE_FLOOR)
