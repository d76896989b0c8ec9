"""Learning rules as data.

A learning rule maps dL/ds, the gradient of the loss with respect to a layer's spikes, to dL/dI, the
gradient with respect to the layer's input current. A rule object holds only numbers and names. Each
implementation of the neuron (`tsslbp.neuron`) has one table that maps the type of a rule to the
function that computes it. docs/rules.md describes how to add a rule.

Symbols, for one neuron: ``u[t]`` is the membrane potential before the reset and ``u'[t]`` after it,
``s[t]`` is the spike, ``du[t] = I[t] - u'[t-1] / tau_m`` is the increment of the potential, ``th``
is the threshold, ``G[t] = dL/ds[t]`` is the gradient that arrives through the synaptic filter,
``decay = 1 - 1 / tau_m``, and ``d[t] = dL/dI[t]``. G and d are 0 after the last step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

from .checked import Allowed, Checked, Positive, check_keys, type_hints
from .errors import InvalidInput, nearest
from .toml_files import parse_value

WarmUp = Literal["neuron", "layer", "never", "always"]
IntraNeuron = Literal["recursive", "next-spike", "none"]
Derivative = Literal["rectangle", "fast-sigmoid", "sigmoid", "arctangent", "triangle"]
DERIVATIVES: dict[Derivative, tuple[float, float]] = {  # height and width, see `Surrogate`
    "rectangle": (1.0, 1.0),
    "fast-sigmoid": (1.0, 0.1),
    "sigmoid": (1.25, 0.2),
    "arctangent": (1.0, 1 / math.pi),
    "triangle": (0.3, 1.0),
}
SurrogateClamp = Annotated[float, Allowed("a number above 0 and at most 16", lambda x: 0 < x <= 16)]


@dataclass(frozen=True)
class Rule(Checked):
    """Base class of all learning rules.

    Raises:
        InvalidInput: a field is outside its range (see `tsslbp.checked`).
    """

    @property
    def reads_rate(self) -> bool:
        """Whether the gradient depends on the mean firing rate of the whole layer."""
        return False

    @property
    def is_normalised(self) -> bool:
        """Whether a layer's gradient is rescaled by its own and the output layer's magnitude."""
        return False

    def to_table(self) -> dict[str, Any]:
        """Return the table from which `from_config` makes this rule."""
        return {"name": type(self).__name__} | super().to_table()


@dataclass(frozen=True)
class TSSLBP(Rule):
    """Temporal spike sequence learning by backpropagation (Zhang & Li, NeurIPS 2020).

    The gradient flows through the times of the spikes. The membrane's increment is
    ``du[t] = I[t] - u'[t-1] / tau_m``, and ``q[t] = clamp(1 / du[t], timing_min, timing_max) s[t]``
    is the change of the firing time with the current. The inter-neuron part of the gradient is
    ``dL/dI[t] = q[t] G[t]``, where ``G = dL/ds`` is taken through the synaptic filter. The
    intra-neuron part, from a spike to later spikes of the same neuron, has two published forms
    (`intra_neuron`). A neuron without a recent spike has no firing time that could move, so its
    gradient is a surrogate gradient (`warm_up`). The formulas are in ``neuron/README.md``.

    The defaults are the revised rule, that is, the authors' code from December 2020 on, which the
    reproduction study used. `TSSLBP.published` is the rule of October 2020, with which the
    published accuracies first appeared.

    Attributes:
        warm_up: where a surrogate gradient replaces the rule. ``"neuron"``: at every step at which
            a neuron's PSC is below ``warm_up_psc / tau_s``. ``"layer"``: in every layer whose mean
            firing rate is at most `rate_threshold`. ``"never"``. ``"always"``: everywhere, which
            leaves the surrogate gradient alone.
        warm_up_psc: PSC below which a neuron is in warm-up, in units of ``1 / tau_s``, which is the
            PSC right after an isolated spike.
        rate_threshold: mean firing rate, in spikes per neuron and step, above which a layer leaves
            warm-up; used only with ``warm_up="layer"``.
        timing_min, timing_max: bounds of ``1 / du``, in units of 1 / potential.
        surrogate_width: width of the surrogate derivative, in units of the potential. The surrogate
            is the derivative of a logistic function of the potential's distance from the threshold.
        surrogate_clamp: bound on the argument of the logistic function, at most 16.
        intra_neuron: ``"recursive"`` (revised), ``"next-spike"`` (published), or ``"none"``.

    Source: Zhang & Li, "Temporal spike sequence learning via backpropagation for deep spiking
    neural networks" (NeurIPS 2020), and its public code.
    """

    warm_up: WarmUp = "neuron"
    warm_up_psc: float = 0.25
    rate_threshold: float = 0.1
    timing_min: float = 0.0
    timing_max: float = 8.0
    surrogate_width: Positive = 0.2
    surrogate_clamp: SurrogateClamp = 8.0
    intra_neuron: IntraNeuron = "recursive"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.timing_min > self.timing_max:
            raise InvalidInput(
                f"TSSLBP: timing_min must not exceed timing_max, "
                f"got {self.timing_min} and {self.timing_max}"
            )

    @property
    def reads_rate(self) -> bool:
        return self.warm_up == "layer"

    @classmethod
    def published(cls, **changes: Any) -> TSSLBP:
        """Return the rule of October 2020, with which the published accuracies first appeared."""
        settings: dict[str, Any] = {"warm_up": "layer", "intra_neuron": "next-spike"}
        settings |= {"timing_min": -10.0, "timing_max": 10.0}
        return cls(**(settings | changes))


@dataclass(frozen=True)
class Surrogate(Rule):
    """Backpropagation through time with a surrogate derivative of the spike.

    ``d[t] = h(u[t]) G[t] + d[t+1] decay (1 - s[t] - r u[t] h(u[t]))``, where h replaces the
    derivative of the spike with respect to the potential, and r is 1 if the gradient flows through
    the reset, else 0. With ``x = (u - th) / width``, h is `height` times

    ==================  =================================  ========================================
    derivative          shape                              default height and width
    ==================  =================================  ========================================
    ``"rectangle"``     1 where ``|x| < 1/2``, else 0      1, 1: STBP, Wu et al. (2018)
    ``"fast-sigmoid"``  ``1 / (1 + |x|)^2``                1, 0.1: SuperSpike, Zenke & Ganguli
                                                           (2018): 1 mV, of 10 mV between rest
                                                           and threshold
    ``"sigmoid"``       ``4 e^x / (1 + e^x)^2``            1.25, 0.2: TSSL-BP's warm-up, the
                                                           derivative of a logistic function
    ``"arctangent"``    ``1 / (1 + x^2)``                  1, 1/pi: Fang et al. (2021)
    ``"triangle"``      ``1 - |x|`` where positive         0.3, 1: Bellec et al. (2018)
    ==================  =================================  ========================================

    For the sigmoid, x is clamped to [-16, 16].

    Not to be confused with ``TSSLBP(warm_up="always")``, whose gradient does not propagate through
    the membrane: it is h G alone.

    Attributes:
        derivative: shape of h.
        height: value of h at the threshold, in units of 1 / potential; None: the table's default.
        width: width of h, in units of the potential; None: the table's default.
        through_reset: whether the gradient flows through the reset as well.

    Source: Wu et al., Frontiers in Neuroscience 12 (2018); Zenke & Ganguli, Neural Computation 30
    (2018); Fang et al., ICCV (2021); Bellec et al., NeurIPS (2018).
    """

    derivative: Derivative = "rectangle"
    height: Positive | None = None
    width: Positive | None = None
    through_reset: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        height, width = DERIVATIVES[self.derivative]
        object.__setattr__(self, "height", self.height or height)  # both are above 0
        object.__setattr__(self, "width", self.width or width)

    def to_table(self) -> dict[str, Any]:
        """Return the table, without a height or width that is the derivative's default."""
        defaults = dict(zip(("height", "width"), DERIVATIVES[self.derivative], strict=True))
        table = super().to_table()
        return {key: value for key, value in table.items() if defaults.get(key) != value}


@dataclass(frozen=True)
class SLAYER(Rule):
    """Spike layer error reassignment in time (Shrestha & Orchard, NeurIPS 2018).

    ``d[t] = h(u[t]) G[t] + decay d[t+1]`` with the derivative of the escape rate,
    ``h(u) = height exp(-|u - th| / width)``. The gradient propagates to earlier steps through the
    kernel of the PSC alone, here that of synapse and membrane, as if there were no reset.

    SLAYER was published for a spike response model, and its gradient ignores that model's
    refractory kernel. Here the same rule is applied to this package's leaky integrate-and-fire
    neuron, and it ignores the reset.

    Attributes:
        height: value of h at the threshold, in units of 1 / potential; `scaleRho / (tauRho theta)`
            in the authors' code.
        width: width of h, in units of the potential; `tauRho theta` in the authors' code.

    Source: Shrestha & Orchard, "SLAYER: Spike layer error reassignment in time" (NeurIPS 2018).
    """

    height: Positive = 1.0
    width: Positive = 1.0


@dataclass(frozen=True)
class EventProp(Rule):
    """The adjoint of a neuron with events at its spikes (Wunderlich & Pehle, 2021), discretised.

    At a spike, ``d[t] = decay d[t+1] (1 + q th / tau_m) + q (G[t] - G[t+1])`` with
    ``q = min(1 / du[t], timing_max)``. At all other steps, ``d[t] = decay d[t+1]``.

    Three effects give this formula. A spike that comes one step later changes the loss by
    ``G[t+1] - G[t]``, the forward difference of the gradient along time. A potential that is higher
    by 1 moves the spike ``1 / du`` steps forward. The reset, and everything after it, moves by the
    same amount, while the potential rises by ``du + th / tau_m`` per step.

    In the limit of short steps, that is, of time constants that are many steps long, the gradient
    converges at first order to the exact gradient of the spike times. At ``tau_m = 5`` steps it is
    an approximation. Like the exact gradient, it ignores spikes that appear or vanish, so a silent
    neuron has no gradient.

    Attributes:
        timing_max: bound of ``1 / du``, in units of 1 / potential.

    Source: Wunderlich & Pehle, Scientific Reports 11 (2021), the adjoint of leaky
    integrate-and-fire neurons with exponential synapses; derivation in ``neuron/README.md``.
    """

    timing_max: Positive = 8.0


@dataclass(frozen=True)
class NA(Rule):
    """Neighbourhood aggregation (Yang, Zhang & Li, ICML 2021), as in its authors' code.

    ``raw[t] = clamp(1 / (th - u[t])^3, -slope_max, slope_max) D[t]``, where D[t] is the effect of
    flipping the spike of step t. Let ``a_t`` be the PSC of the neighbouring spike train, in which
    the spike of step t is flipped and the later steps follow from that. (Removing a spike leaves
    the potential at the threshold, and adding one resets it.) Then
    ``D[t] = sum over k >= t of (a_t[k] - a[k]) F[k]`` with ``F = tau_s G``. The cost is quadratic
    in T.

    With `normalise`, raw is multiplied by ``1.2 log(m_ref / (m + 1e-5) + 1.02)``, where m is the
    mean of ``|raw|`` in the layer. For the output layer m_ref is m, and for all other layers it is
    the mean magnitude of the output layer's scaled gradient; both are rounded to three decimals.
    This needs the whole batch in one process. A layer outside a `Network` counts as an output
    layer.

    Attributes:
        normalise: whether a layer's gradient is rescaled.
        slope_max: bound of ``1 / (th - u)^3``, in units of 1 / potential^3.

    Source: Yang, Zhang & Li, "Backpropagated neighborhood aggregation for accurate training of
    spiking neural networks" (ICML 2021), and its public code.
    """

    normalise: bool = True
    slope_max: Positive = 5.0

    @property
    def is_normalised(self) -> bool:
        return self.normalise


@dataclass(frozen=True)
class SpikeBP(Rule):
    """Spike-based backpropagation with a leak-corrected derivative (Lee et al., 2020).

    ``d[t] = s[t] c G[t] / th + (1 - s[t]) d[t+1]``: the error of a spike is passed without decay to
    every step since the previous spike. The leak enters through one factor per neuron,
    ``c = 1 - f / (tau_m n)``, where n is the number of the neuron's spikes and
    ``f = sum over its spikes at t of decay^(T - 1 - t)`` is the trace that they leave.

    The recursion is that of the authors' code. There the output neurons do not spike; here they do,
    and the rule applies to them too. The term ``1 / tau_m`` in c is the paper's. The code has
    ``-log(decay)``, which is equal only in the limit of long time constants.

    Source: Lee, Sarwar, Panda, Srinivasan & Roy, Frontiers in Neuroscience 14 (2020), approximate
    derivative of leaky integrate-and-fire neurons; public code at
    chan8972/Enabling_Spikebased_Backpropagation.
    """


EARLIER_NAMES = {"warm_up_psp": "warm_up_psc"}  # names of fields in records of earlier versions

RULES: dict[str, Callable[..., Rule]] = {
    "TSSLBP": TSSLBP,
    "TSSLBP.published": TSSLBP.published,
    "Surrogate": Surrogate,
    "STBP": partial(Surrogate, derivative="rectangle"),
    "SuperSpike": partial(Surrogate, derivative="fast-sigmoid"),
    "SLAYER": SLAYER,
    "EventProp": EventProp,
    "NA": NA,
    "SpikeBP": SpikeBP,
}


def from_config(value: str | Mapping[str, Any] | Rule) -> Rule:
    """Make a rule from text, or from a table with a ``name`` (one of `RULES`) and fields.

    As text: ``"TSSLBP"`` or ``"TSSLBP(warm_up=always, timing_max=4)"``.

    Raises:
        InvalidInput: the rule or one of its fields is unknown; the message suggests the nearest
            name.
    """
    if isinstance(value, Rule):
        return value
    table = as_table(value)
    if "name" not in table:
        raise InvalidInput(f"a learning rule's table needs a name: one of {', '.join(RULES)}")
    name = str(table.pop("name"))
    if name not in RULES:
        hint = nearest(name, RULES)
        raise InvalidInput(f"unknown learning rule {name!r}{hint}; known: {', '.join(RULES)}")
    table = {EARLIER_NAMES.get(key, key): field for key, field in table.items()}
    check_keys(table, type_hints(type(RULES[name]())), f"{name}: ")
    return RULES[name](**table)


def split_rules(text: str) -> list[str]:
    """Split a comma-separated list of rules; `from_config` reads each part."""
    depth, parts = 0, [""]
    for letter in text:
        depth += (letter == "(") - (letter == ")")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts if part.strip()]


def as_table(value: str | Mapping[str, Any]) -> dict[str, Any]:
    """Return the table that a rule's text describes, or a copy of a table; names are not checked.

    Raises:
        InvalidInput: the text is not of the form ``NAME(field=value, ...)``.
    """
    if not isinstance(value, str):
        return dict(value)
    text = value.strip()
    name, bracket, inside = text.partition("(")
    table: dict[str, Any] = {"name": name.strip()}
    if not bracket:
        return table
    if not inside.endswith(")"):
        raise InvalidInput(f"expected a rule such as TSSLBP(warm_up=always), got {text!r}")
    for part in split_rules(inside[:-1]):
        key, equals, value = part.partition("=")
        if not equals:
            raise InvalidInput(f"expected field=value between the brackets of a rule, got {part!r}")
        if (key := key.strip()) in table:
            raise InvalidInput(f"{key} is given twice in the rule {text!r}: give it once")
        table[key] = parse_value(value)
    return table
