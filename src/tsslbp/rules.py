"""Learning rules as data.

A rule says how the gradient that arrives at a layer's spikes, dL/ds, becomes the gradient of the
layer's input current, dL/dI. It holds numbers and names only; each implementation of the neuron
(`tsslbp.neuron`) has one table from rule type to the function that carries it out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from .errors import InvalidInput, nearest

WarmUp = Literal["neuron", "layer", "never", "always"]
IntraNeuron = Literal["recursive", "next-spike", "none"]


@dataclass(frozen=True)
class Rule:
    """Base of all learning rules."""

    @property
    def reads_rate(self) -> bool:
        """Whether the gradient depends on the mean firing rate of the whole layer."""
        return False


@dataclass(frozen=True)
class TSSLBP(Rule):
    """Temporal spike sequence learning by backpropagation (Zhang & Li, NeurIPS 2020).

    The gradient flows through the times of the spikes. With the membrane's increment
    ``du[t] = I[t] - u'[t-1] / tau_m`` and ``q[t] = clamp(1 / du[t], timing_min, timing_max) s[t]``,
    the change of the firing time with the current, the part between neurons is
    ``dL/dI[t] = q[t] G[t]``, where ``G = dL/ds`` through the synaptic filter. The part within a
    neuron, from a spike to the later ones of the same neuron, has two published forms
    (`intra_neuron`). Where a neuron has no recent spike there is no firing time to move, and a
    surrogate derivative takes over (`warm_up`). Formulas: ``neuron/README.md``.

    The defaults are the revised rule (the authors' code from December 2020 on, which the
    reproduction study ran); `TSSLBP.published` is the rule of October 2020, when the published
    accuracies first appeared.

    Attributes:
        warm_up: where the surrogate derivative replaces the rule. ``"neuron"``: at every step at
            which a neuron's PSP is below ``warm_up_psp / tau_s``; ``"layer"``: in a whole layer
            whose mean firing rate is not above `rate_threshold`; ``"never"``; ``"always"``
            (surrogate gradient only).
        warm_up_psp: PSP below which a neuron is in warm-up, in units of ``1 / tau_s``, the PSP
            right after a lone spike.
        rate_threshold: mean firing rate, in spikes per neuron and step, above which a layer leaves
            warm-up; read by ``warm_up="layer"`` alone.
        timing_min, timing_max: bounds of ``1 / du``, in units of 1 / potential.
        surrogate_width: width of the surrogate, the derivative of a logistic function of the
            potential's distance from the threshold, in units of the potential.
        surrogate_clamp: bound of the logistic function's argument, at most 16.
        intra_neuron: ``"recursive"`` (revised), ``"next-spike"`` (published), or ``"none"``.

    Raises:
        InvalidInput: a field is outside its range.
    """

    warm_up: WarmUp = "neuron"
    warm_up_psp: float = 0.25
    rate_threshold: float = 0.1
    timing_min: float = 0.0
    timing_max: float = 8.0
    surrogate_width: float = 0.2
    surrogate_clamp: float = 8.0
    intra_neuron: IntraNeuron = "recursive"

    def __post_init__(self) -> None:
        _check_choice(self, "warm_up", get_args(WarmUp))
        _check_choice(self, "intra_neuron", get_args(IntraNeuron))
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name not in ("warm_up", "intra_neuron") and not _is_finite(value):
                raise InvalidInput(f"TSSLBP: {field.name} must be a finite number, got {value!r}")
        if self.timing_min > self.timing_max:
            raise InvalidInput(
                f"TSSLBP: timing_min must not exceed timing_max, "
                f"got {self.timing_min} and {self.timing_max}"
            )
        if self.surrogate_width <= 0 or not 0 < self.surrogate_clamp <= 16:
            raise InvalidInput(
                "TSSLBP: surrogate_width must be positive and surrogate_clamp between 0 and 16, "
                f"got {self.surrogate_width} and {self.surrogate_clamp}"
            )

    @property
    def reads_rate(self) -> bool:
        return self.warm_up == "layer"

    @classmethod
    def published(cls, **changes: Any) -> TSSLBP:
        """The rule of October 2020, which the published accuracies belong to."""
        settings: dict[str, Any] = {
            "warm_up": "layer",
            "timing_min": -10.0,
            "timing_max": 10.0,
            "intra_neuron": "next-spike",
        }
        return cls(**(settings | changes))


RULES: dict[str, Callable[..., Rule]] = {
    "TSSLBP": TSSLBP,
    "TSSLBP.published": TSSLBP.published,
}


def from_config(value: str | Mapping[str, Any] | Rule) -> Rule:
    """Make a rule from its name, one of `RULES`, or a table of a ``name`` and the rule's fields.

    Raises:
        InvalidInput: no rule, or no field of it, has that name; the nearest is suggested.
    """
    if isinstance(value, Rule):
        return value
    table = {"name": value} if isinstance(value, str) else dict(value)
    name = str(table.pop("name", None))
    if name not in RULES:
        hint = nearest(name, RULES)
        raise InvalidInput(f"unknown learning rule {name!r}{hint}; known: {', '.join(RULES)}")
    names = [field.name for field in fields(RULES[name]())]
    for key in table:
        if key not in names:
            raise InvalidInput(f"learning rule {name} has no field {key!r}{nearest(key, names)}")
    return RULES[name](**table)


def split_rules(text: str) -> list[str]:
    """Rules in a list with commas between them, each as `from_config` reads it."""
    depth, parts = 0, [""]
    for letter in text:
        depth += (letter == "(") - (letter == ")")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts if part.strip()]


def to_config(rule: Rule) -> dict[str, Any]:
    """Return the table that `from_config` makes `rule` from."""
    return {"name": type(rule).__name__} | asdict(rule)


def _check_choice(rule: Rule, name: str, choices: tuple[str, ...]) -> None:
    value = getattr(rule, name)
    if value not in choices:
        hint = nearest(str(value), choices)
        raise InvalidInput(
            f"{type(rule).__name__}: {name} must be one of {', '.join(choices)}, "
            f"got {value!r}{hint}"
        )


def _is_finite(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
