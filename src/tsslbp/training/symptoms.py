"""Layers that are silent, saturated or without a gradient, told once each while a training goes on.

Such a network trains to its end without an error, and learns nothing there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import numpy as np
from torch import Tensor

from ..network import Activity, Model
from ..wording import joined
from .history import History

LEAST_STEPS = 25  # of a run before anything is said
ALWAYS = 1 - 1e-6  # firing rate from which on a layer fires at every step, but for rounding

_SILENT, _SATURATED, _STILL = "silent", "saturated", "still"
_MORE = "larger weights (weight_scale), a lower threshold or a shorter tau_m usually help"
_LESS = "smaller weights (weight_scale), a higher threshold or a lower learning rate usually help"
_REACH = (
    "a rule that reaches silent neurons (TSSLBP with warm_up neuron or always, Surrogate), or "
    "whatever makes the layers behind fire, usually helps"
)
_TEXT = {  # of one name, of several
    _SILENT: (f"{{}} has not fired: {_MORE}", f"{{}} have not fired: {_MORE}"),
    _SATURATED: (f"{{}} fires at every step: {_LESS}", f"{{}} fire at every step: {_LESS}"),
    _STILL: (f"{{}} has no gradient: {_REACH}", f"{{}} have no gradient: {_REACH}"),
}


def without_gradient(net: Model, among: Iterable[str] | None = None) -> list[str]:
    """Names of parameters whose gradient is zero in the step that was last; by default of all."""
    gradients = {name: weight.grad for name, weight in net.named_parameters()}
    return [
        name
        for name in (gradients if among is None else among)
        if (gradient := gradients.get(name)) is not None and not gradient.any()
    ]


def suspects(history: History, epoch: int, layers: Iterable[str]) -> dict[str, str]:
    """Layers that were silent, or saturated, at all measured steps of an epoch, and which.

    Of at least `LEAST_STEPS` steps, so of several epochs where these are short; of a run that has
    taken fewer nothing is said yet.
    """
    arrays = history.arrays()
    last = len(arrays["epoch"])
    first = min(int(np.searchsorted(arrays["epoch"], epoch)), last - LEAST_STEPS)
    rates = arrays["firing_rate"][arrays["activity_step"] >= first]
    if first < 0 or not len(rates):
        return {}
    extremes = zip(layers, rates.min(0), rates.max(0), strict=True)
    found = {layer: _state(least, most) for layer, least, most in extremes}
    return {layer: what for layer, what in found.items() if what}


def is_new(found: Mapping[str, str], told: Collection[str]) -> bool:
    """Whether there is something among what was found that has not been told."""
    return any(_word(what, name) not in told for name, what in found.items())


def confirmed(found: Mapping[str, str], now: Mapping[str, Activity]) -> dict[str, str]:
    """Those that still are what they were found to be."""
    rates = {layer: now[layer].firing_rate for layer in found}
    return {
        layer: what for layer, what in found.items() if _state(rates[layer], rates[layer]) == what
    }


def warnings(found: Mapping[str, str], still: Iterable[str], told: list[str]) -> list[str]:
    """What has not been told yet, a line for each kind.

    Args:
        found: layers, and what they are.
        still: parameters without a gradient; where a layer is silent, that is the reason.
        told: what has been told, such as ``"silent conv1"``; is added to.
    """
    kinds: dict[str, list[str]] = {}
    others = () if _SILENT in found.values() else ((name, _STILL) for name in still)
    for name, what in [*found.items(), *others]:
        if (word := _word(what, name)) not in told:
            told.append(word)
            kinds.setdefault(what, []).append(name)
    return [_TEXT[what][len(names) > 1].format(joined(names)) for what, names in kinds.items()]


def of_labels(labels: Tensor) -> list[str]:
    """A line where all training images are of one class."""
    if (labels == labels[0]).all():
        return [
            f"all {len(labels):,} training images are of class {int(labels[0])}, so there is "
            "nothing to tell apart: are the labels read as they should, or is a part of sorted "
            "data taken?"
        ]
    return []


def _word(what: str, name: str) -> str:
    return f"{what} {name}"


def _state(least: float, most: float) -> str:
    return _SILENT if most == 0 else _SATURATED if least >= ALWAYS else ""
