"""Warns once about each layer that is silent, saturated or without a gradient.

Such a network trains to its end without an error, but those layers learn nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import numpy as np
from torch import Tensor

from ..network import Activity, Model
from ..wording import joined
from .history import History

LEAST_STEPS = 25  # of a run before any warning
ALWAYS = 1 - 1e-6  # firing rate of a layer that fires at every step, up to rounding

_SILENT, _SATURATED, _STILL = "silent", "saturated", "still"
_MORE = (
    "larger weights (weight_scale), a lower threshold or a shorter tau_m usually help, and a lower "
    "learning rate if the network fired before"
)
_LESS = "smaller weights (weight_scale), a higher threshold or a lower learning rate usually help"
_REACH = (
    "a rule with a gradient for silent neurons (TSSLBP with warm_up neuron or always, Surrogate), "
    "or changes that make the following layers fire, usually help"
)
_TEXT = {  # singular, plural
    _SILENT: (f"{{}} has not fired: {_MORE}", f"{{}} have not fired: {_MORE}"),
    _SATURATED: (f"{{}} fires at every step: {_LESS}", f"{{}} fire at every step: {_LESS}"),
    _STILL: (f"{{}} has no gradient: {_REACH}", f"{{}} have no gradient: {_REACH}"),
}


def without_gradient(net: Model, among: Iterable[str] | None = None) -> list[str]:
    """Return names of parameters whose gradient was zero in the last step, by default of all."""
    gradients = {name: weight.grad for name, weight in net.named_parameters()}
    return [
        name
        for name in (gradients if among is None else among)
        if (gradient := gradients.get(name)) is not None and not gradient.any()
    ]


def suspects(history: History, epoch: int, layers: Iterable[str]) -> dict[str, str]:
    """Return layers that were silent or saturated at all measured steps of an epoch.

    At least `LEAST_STEPS` steps are examined, that is, several epochs if these are short. A shorter
    run has no suspects yet.
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
    """Return whether a finding has not been reported yet."""
    return any(_word(what, name) not in told for name, what in found.items())


def confirmed(found: Mapping[str, str], now: Mapping[str, Activity]) -> dict[str, str]:
    """Return the findings that are still true."""
    rates = {layer: now[layer].firing_rate for layer in found}
    return {
        layer: what for layer, what in found.items() if _state(rates[layer], rates[layer]) == what
    }


def warnings(found: Mapping[str, str], still: Iterable[str], told: list[str]) -> list[str]:
    """Return the warnings that have not been given yet, one line per kind.

    Args:
        found: layers and their condition.
        still: parameters without a gradient; ignored if a layer is silent, which explains them.
        told: warnings given so far, such as ``"silent conv1"``; new ones are appended.
    """
    kinds: dict[str, list[str]] = {}
    others = () if _SILENT in found.values() else ((name, _STILL) for name in still)
    for name, what in [*found.items(), *others]:
        if (word := _word(what, name)) not in told:
            told.append(word)
            kinds.setdefault(what, []).append(name)
    return [_TEXT[what][len(names) > 1].format(joined(names)) for what, names in kinds.items()]


def of_labels(labels: Tensor) -> list[str]:
    """Return a warning if all training images have the same class."""
    if (labels == labels[0]).all():
        return [
            f"all {len(labels):,} training images are of class {int(labels[0])}, so there is "
            "nothing to classify: check how the labels are read, and whether train_images takes a "
            "part of sorted data"
        ]
    return []


def _word(what: str, name: str) -> str:
    return f"{what} {name}"


def _state(least: float, most: float) -> str:
    return _SILENT if most == 0 else _SATURATED if least >= ALWAYS else ""
