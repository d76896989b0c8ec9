"""Learning rules as data.

A rule says how the gradient that arrives at a layer's spikes, dL/ds, becomes the gradient of the
layer's input current, dL/dI. It holds numbers and names only; each implementation of the neuron
(`tsslbp.neuron`) has one table from rule type to the function that carries it out. How to add one:
docs/rules.md.

Symbols, of one neuron: ``u[t]`` is its potential before the reset, ``s[t]`` its spike, ``du[t] =
I[t] - u'[t-1] / tau_m`` the increment of the potential (``u'`` after the reset), ``th`` the
threshold, ``G[t] = dL/ds[t]`` through the synaptic filter, ``decay = 1 - 1 / tau_m`` and ``d[t] =
dL/dI[t]``. G and d are 0 after the last step.
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
    """Base of all learning rules.

    Raises:
        InvalidInput: a field is outside its range; see `tsslbp.checked`.
    """

    @property
    def reads_rate(self) -> bool:
        """Whether the gradient depends on the mean firing rate of the whole layer."""
        return False

    @property
    def is_normalised(self) -> bool:
        """Whether a layer's gradient is scaled by its mean magnitude and the output layer's."""
        return False

    def to_table(self) -> dict[str, Any]:
        """Return the table that `from_config` makes the rule from."""
        return {"name": type(self).__name__} | super().to_table()


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
            which a neuron's PSC is below ``warm_up_psc / tau_s``; ``"layer"``: in a whole layer
            whose mean firing rate is not above `rate_threshold`; ``"never"``; ``"always"``
            (surrogate gradient only).
        warm_up_psc: PSC below which a neuron is in warm-up, in units of ``1 / tau_s``, the PSC
            right after a lone spike.
        rate_threshold: mean firing rate, in spikes per neuron and step, above which a layer leaves
            warm-up; read by ``warm_up="layer"`` alone.
        timing_min, timing_max: bounds of ``1 / du``, in units of 1 / potential.
        surrogate_width: width of the surrogate, the derivative of a logistic function of the
            potential's distance from the threshold, in units of the potential.
        surrogate_clamp: bound of the logistic function's argument, at most 16.
        intra_neuron: ``"recursive"`` (revised), ``"next-spike"`` (published), or ``"none"``.
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
        """The rule of October 2020, which the published accuracies belong to."""
        settings: dict[str, Any] = {"warm_up": "layer", "intra_neuron": "next-spike"}
        settings |= {"timing_min": -10.0, "timing_max": 10.0}
        return cls(**(settings | changes))


@dataclass(frozen=True)
class Surrogate(Rule):
    """Backpropagation through time with a surrogate derivative of the spike.

    ``d[t] = h(u[t]) G[t] + d[t+1] decay (1 - s[t] - r u[t] h(u[t]))``, where h replaces the
    derivative of the spike by the potential, and r is 1 if the gradient flows through the reset,
    else 0. With ``x = (u - th) / width``, h is `height` times

    ==================  =================================  ========================================
    derivative          shape                              height and width by default
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

    The sigmoid takes x between -16 and 16.

    Not to be confused with ``TSSLBP(warm_up="always")``, whose gradient does not travel through
    the membrane: it is h G alone.

    Attributes:
        derivative: shape of h.
        height: of h at the threshold, in units of 1 / potential; None: as the table says.
        width: of h, in units of the potential; None: as the table says.
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
        """Return the table without a height and width that are the derivative's own."""
        usual = dict(zip(("height", "width"), DERIVATIVES[self.derivative], strict=True))
        table = super().to_table()
        return {key: value for key, value in table.items() if usual.get(key) != value}


@dataclass(frozen=True)
class SLAYER(Rule):
    """Spike layer error reassignment in time (Shrestha & Orchard, NeurIPS 2018).

    ``d[t] = h(u[t]) G[t] + decay d[t+1]`` with the derivative of the escape rate,
    ``h(u) = height exp(-|u - th| / width)``. An error is credited to earlier steps by the kernel
    of the PSC alone, here that of synapse and membrane, as if there were no reset.

    SLAYER's own neuron is a spike response model whose refractory kernel its gradient leaves out as
    well; here its rule runs on the house's neuron.

    Attributes:
        height: of h at the threshold, in units of 1 / potential; `scaleRho / (tauRho theta)` in its
            code.
        width: of h, in units of the potential; `tauRho theta` in its code.
    """

    height: Positive = 1.0
    width: Positive = 1.0


@dataclass(frozen=True)
class EventProp(Rule):
    """The adjoint of a neuron with events at its spikes (Wunderlich & Pehle, 2021), in steps.

    At a spike ``d[t] = decay d[t+1] (1 + q th / tau_m) + q (G[t] - G[t+1])`` with
    ``q = min(1 / du[t], timing_max)``, elsewhere ``d[t] = decay d[t+1]``.

    A spike that comes one step later changes the loss by ``G[t+1] - G[t]``, the forward difference
    of the gradient along time; a potential that is higher by 1 brings it ``1 / du`` steps forward;
    and what follows the reset starts earlier by as much, while the potential rises by
    ``du + th / tau_m`` a step. As the step tends to 0 and all time constants to infinity in steps,
    the gradient tends to the exact one of the spikes' times, at first order. At ``tau_m = 5`` steps
    it is an approximation, and like the exact one it says nothing about spikes that appear or
    vanish: a silent neuron has no gradient.

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
    flipping the spike of step t: with ``a_t`` the PSC of the spike train in which it is flipped (a
    suppressed spike leaves the potential at the threshold, an added one resets it) and the later
    steps follow from that, ``D[t] = sum over k >= t of (a_t[k] - a[k]) F[k]``, ``F = tau_s G``.
    Its cost is quadratic in T.

    With `normalise`, raw is scaled by ``1.2 log(m_ref / (m + 1e-5) + 1.02)``, where m is the mean
    of ``|raw|`` in the layer, and m_ref, rounded to three decimals, the same m for the output layer
    and the mean magnitude of the output layer's scaled gradient for all others. That takes the
    whole batch in one process; a layer outside a `Network` counts as an output layer.

    Attributes:
        normalise: whether a layer's gradient is scaled.
        slope_max: bound of ``1 / (th - u)^3``.
    """

    normalise: bool = True
    slope_max: Positive = 5.0

    @property
    def is_normalised(self) -> bool:
        return self.normalise


@dataclass(frozen=True)
class SpikeBP(Rule):
    """Spike-based backpropagation with a leak-corrected derivative (Lee et al., 2020).

    ``d[t] = s[t] c G[t] / th + (1 - s[t]) d[t+1]``: the error of a spike is credited undiminished
    to every step since the one before. The leak enters by one factor for each neuron,
    ``c = 1 - f / (tau_m n)`` with n the number of its spikes and ``f = sum over its spikes at t of
    decay^(T - 1 - t)``, the trace that they leave.

    The recursion is that of its authors' code, whose output neurons do not spike; here they do, and
    the rule serves them as well. ``1 / tau_m`` in c is the paper's; the code has ``-log(decay)``,
    which is the same for long time constants only.

    Source: Lee, Sarwar, Panda, Srinivasan & Roy, Frontiers in Neuroscience 14 (2020), approximate
    derivative of leaky integrate-and-fire neurons; public code
    chan8972/Enabling_Spikebased_Backpropagation.
    """


EARLIER_NAMES = {"warm_up_psp": "warm_up_psc"}  # of fields, in records of earlier versions

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
    """Make a rule from text or a table of a ``name``, one of `RULES`, and the rule's fields.

    As text: ``"TSSLBP"`` or ``"TSSLBP(warm_up=always, timing_max=4)"``.

    Raises:
        InvalidInput: no rule, or no field of it, has that name; the nearest is suggested.
    """
    if isinstance(value, Rule):
        return value
    table = as_table(value)
    if "name" not in table:
        raise InvalidInput(f"a learning rule's table needs a name, one of {', '.join(RULES)}")
    name = str(table.pop("name"))
    if name not in RULES:
        hint = nearest(name, RULES)
        raise InvalidInput(f"unknown learning rule {name!r}{hint}; known: {', '.join(RULES)}")
    table = {EARLIER_NAMES.get(key, key): field for key, field in table.items()}
    check_keys(table, type_hints(type(RULES[name]())), f"{name}: ")
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


def as_table(value: str | Mapping[str, Any]) -> dict[str, Any]:
    """The table that a rule's text stands for; of a table a copy. Names are not checked yet.

    Raises:
        InvalidInput: the text cannot be read.
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
            raise InvalidInput(f"expected field=value in the brackets of a rule, got {part!r}")
        if (key := key.strip()) in table:
            raise InvalidInput(f"{key} stands twice in the rule {text!r}")
        table[key] = parse_value(value)
    return table
