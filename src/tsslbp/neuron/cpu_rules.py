"""One step of each learning rule backward in time, on tiles, for the kernels of `cpu`.

A rule is a named tuple of constants here. Its step receives these as `r`, the number of the step
`t`, dL/ds, the state that it returned one step later (a tuple of tiles), the stored history of all
steps, and the layer's constants `k`; it returns dL/dI and the state. The kernel is compiled for
each rule in use, so no rule slows down another. Only `SpikeBP` looks ahead, in `initial_state`.
`add` registers the step of a custom rule.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any, NamedTuple, cast

from numba.extending import overload

from ..errors import InvalidInput
from ..kernels.compiled import INLINED, part
from ..kernels.tiles import keep, kept, where
from ..rules import DERIVATIVES, NA, SLAYER, TSSLBP, EventProp, Rule, SpikeBP, Surrogate


class History(NamedTuple):
    """The stored history of a tile: arrays with one tile per step."""

    changes: Any  # see `potential_change`
    potentials: Any
    pscs: Any


@part(forceinline=True)
def _clamp(x, low, high):
    """Clamp; NaN stays NaN."""
    x = where(x < low, low, x)
    return where(x > high, high, x)


@part(forceinline=True)
def _timing(change, low, high):
    """Return the change of the firing time with the current, at a spike."""
    return _clamp(1 / change, low, high)


@part(forceinline=True)
def _magnitude(x):
    return where(x < 0, 0 - x, x)


class RecursiveConstants(NamedTuple):
    """Constants of `TSSLBP`."""

    intra: float  # 1, or 0 without the intra-neuron part
    warm_up_psc: float  # PSC below which the surrogate is used; -inf never, inf always
    timing_min: float
    timing_max: float
    surrogate_scale: float  # 1 / surrogate_width
    surrogate_clamp: float


class NextSpikeConstants(RecursiveConstants):
    """The same, for the intra-neuron part that depends on the next spike."""


@part(forceinline=True, fastmath={"contract"})
def _logistic(x, clamp, lanes):
    """Return the derivative of the logistic function at x, by the cosh series of README.md."""
    y = _clamp(x, -clamp, clamp) * (1 / 8)
    z = y * y
    if lanes == 8:  # float64; the other terms are negligible in float32
        m = z * (1 / 6402373705728000) + (1 / 20922789888000)
        m = m * z + (1 / 87178291200)
        m = m * z + (1 / 479001600)
        m = m * z + (1 / 3628800)
    else:
        m = z * (1 / 479001600) + (1 / 3628800)
    m = m * z + (1 / 40320)
    m = m * z + (1 / 720)
    m = m * z + (1 / 24)
    m = (m * z + (1 / 2)) * z
    for _ in range(3):
        m = m * (2 * m + 4)
    return 1 / (4 + 2 * m)


@part(forceinline=True)
def _warmed_up(gradient, grad, psc, potential, r, k):
    """Return the gradient by firing times, or in warm-up the surrogate gradient."""
    warm_up = psc < r.warm_up_psc
    x = (k.threshold - potential) * r.surrogate_scale
    slope = r.surrogate_scale * _logistic(x, r.surrogate_clamp, k.lanes)
    return where(warm_up, grad * slope, gradient)


def _recursive_step(r, t, grad, state, history, k):
    """Compute a step of `reference._recursive`: at a spike the sum, else what the leak passes."""
    potential, carry = kept(history.potentials, t), state[0]
    timing = _timing(kept(history.changes, t), r.timing_min, r.timing_max)
    fired = timing * (grad + potential * carry * k.leak)
    silent = potential <= k.threshold  # false for NaN
    gradient = where(silent, k.decay * carry, fired)
    carry = gradient * r.intra
    return _warmed_up(gradient, grad, kept(history.pscs, t), potential, r, k), (carry,)


def _next_spike_step(r, t, grad, state, history, k):
    """Compute one step of `reference._next_spike`, and the timing part."""
    later, carry, effect = state
    potential = kept(history.potentials, t)
    timing = _timing(kept(history.changes, t), r.timing_min, r.timing_max)
    silent = potential <= k.threshold
    reset = where(silent, 0, potential * carry * k.leak * r.intra)
    effect = k.psc_decay * effect + k.psc_gain * reset
    grad_psc = (grad - k.psc_decay * later) * (1 / k.psc_gain)
    carry = where(silent, k.decay * carry, grad_psc)
    total = grad + effect
    gradient = where(silent, 0, timing * total)
    gradient = _warmed_up(gradient, total, kept(history.pscs, t), potential, r, k)
    return gradient, (grad, carry, effect)


RECTANGLE, FAST_SIGMOID, SIGMOID, ARCTANGENT, TRIANGLE, EXPONENTIAL = range(6)
SHAPES = {name: shape for shape, name in enumerate(DERIVATIVES)}  # in the same order
LARGEST_EXPONENT = 32.0  # beyond it, exp(-x) is negligible compared with 1


class SlopeConstants(NamedTuple):
    """Constants of `Surrogate` and `SLAYER`."""

    shape: int
    height: float
    scale: float  # 1 / width
    reset: float  # 1: the reset stops what travels back through the membrane; else 0
    through_reset: float  # 1: the gradient flows through the reset itself; else 0


@part(forceinline=True, fastmath={"contract"})
def _exponential(x, lanes):
    """Return ``exp(-x)`` for x >= 0: 1 / (1 + m), with ``m = e^x - 1`` by a series at x / 64."""
    z = where(x > LARGEST_EXPONENT, LARGEST_EXPONENT, x) * (1 / 64)
    if lanes == 8:  # float64
        m = z * (1 / 87178291200) + (1 / 6227020800)
        m = m * z + (1 / 479001600)
        m = m * z + (1 / 39916800)
        m = m * z + (1 / 3628800)
        m = m * z + (1 / 362880)
    else:
        m = z * (1 / 3628800) + (1 / 362880)
    m = m * z + (1 / 40320)
    m = m * z + (1 / 5040)
    m = m * z + (1 / 720)
    m = m * z + (1 / 120)
    m = m * z + (1 / 24)
    m = m * z + (1 / 6)
    m = m * z + (1 / 2)
    m = (m * z + 1) * z
    for _ in range(6):
        m = m * (m + 2)
    return 1 / (1 + m)


@part(forceinline=True)
def _slope(potential, r, k):
    """Return the surrogate derivative of a certain shape."""
    x = (potential - k.threshold) * r.scale
    size = _magnitude(x)
    if r.shape == RECTANGLE:
        return where(size < 0.5, r.height, 0 * x)
    if r.shape == FAST_SIGMOID:
        return r.height / ((1 + size) * (1 + size))
    if r.shape == SIGMOID:
        return 4 * r.height * _logistic(x, 16.0, k.lanes)
    if r.shape == ARCTANGENT:
        return r.height / (1 + x * x)
    if r.shape == TRIANGLE:
        return r.height * where(size < 1, 1 - size, 0 * x)
    return r.height * _exponential(size, k.lanes)


def _slope_step(r, t, grad, state, history, k):
    potential = kept(history.potentials, t)
    slope = _slope(potential, r, k)
    spike = where(potential > k.threshold, r.reset, 0)
    through = r.through_reset * potential * slope
    gradient = slope * grad + k.decay * (1 - spike - through) * state[0]
    return gradient, (gradient,)


class EventPropConstants(NamedTuple):
    """Constants of `EventProp`."""

    timing_max: float


def _eventprop_step(r, t, grad, state, history, k):
    carry, later = k.decay * state[0], state[1]
    potential = kept(history.potentials, t)
    timing = _timing(kept(history.changes, t), -math.inf, r.timing_max)
    at_spike = carry + timing * (k.threshold * k.leak * carry + grad - later)
    gradient = where(potential <= k.threshold, carry, at_spike)
    return gradient, (gradient, grad)


class NAConstants(NamedTuple):
    """Constants of `NA`."""

    slope_max: float


def _na_step(r, t, grad, state, history, k):
    currents, potentials, effects = history  # effects replace the PSC, which NA does not need
    potential = kept(potentials, t)
    effect = k.psc_decay * state[0] + grad
    keep(effect, effects, t)
    fires = potential > k.threshold
    total = where(fires, 0 - effect, effect)
    rest = where(fires, k.threshold, 0 * potential)
    for later in range(t + 1, k.steps):
        neighbour = k.decay * rest + kept(currents, later)
        fires = neighbour > k.threshold
        rest = where(fires, 0, neighbour)
        added = where(fires, kept(effects, later), 0)
        total = (
            total + added - where(kept(potentials, later) > k.threshold, kept(effects, later), 0)
        )
    distance = k.threshold - potential
    slope = _clamp(1 / (distance * distance * distance), -r.slope_max, r.slope_max)
    gradient = slope * total
    return gradient, (effect, state[1] + _magnitude(gradient))


class SpikeBPConstants(NamedTuple):
    """Constants of `SpikeBP`."""

    per_threshold: float  # 1 / threshold


def _spike_bp_step(r, t, grad, state, history, k):
    potential = kept(history.potentials, t)
    silent = potential <= k.threshold
    fired = state[1] * grad * r.per_threshold + 0 * potential  # keeps NaN visible
    gradient = where(silent, state[0], fired)
    return gradient, (gradient, state[1])


STEPS: dict[type, Callable[..., Any]] = {  # by the type of a rule's constants
    RecursiveConstants: _recursive_step,
    NextSpikeConstants: _next_spike_step,
    SlopeConstants: _slope_step,
    EventPropConstants: _eventprop_step,
    NAConstants: _na_step,
    SpikeBPConstants: _spike_bp_step,
}


STATES = {NextSpikeConstants: 3, EventPropConstants: 2, NAConstants: 2}  # tiles; 1 unless listed


def rule_step(r, t, grad, state, history, k):
    """Return one step backward of the rule with the constants `r`; in kernels only."""
    raise NotImplementedError


@overload(rule_step, jit_options=INLINED)
def _choose_step(r, t, grad, state, history, k):
    return STEPS[r.instance_class]


def initial_state(r, zero, history, k):
    """Return the state before the last step; in kernels only."""
    raise NotImplementedError


@overload(initial_state, jit_options=INLINED)
def _choose_initial_state(r, zero, history, k):
    def one(r, zero, history, k):
        return (zero,)

    def two(r, zero, history, k):
        return zero, zero

    def three(r, zero, history, k):
        return zero, zero, zero

    def with_leak(r, zero, history, k):
        left = number = zero
        for t in range(k.steps):
            spikes = where(kept(history.potentials, t) > k.threshold, 1, zero)
            left, number = k.decay * left + spikes, number + spikes
        return zero, 1 - k.leak * left / where(number < 1, 1, number)

    if r.instance_class is SpikeBPConstants:
        return with_leak
    return (one, two, three)[STATES.get(r.instance_class, 1) - 1]


def potential_change(r, current, potential, rest):
    """Return the history that a rule needs of the potential; `rest` is left from the step before.

    This is the increment of the potential, but for `NA`, which changes earlier steps, the current.
    """
    raise NotImplementedError


@overload(potential_change, jit_options=INLINED)
def _choose_potential_change(r, current, potential, rest):
    if r.instance_class is NAConstants:
        return lambda r, current, potential, rest: current
    return lambda r, current, potential, rest: potential - rest


def magnitude(r, state):
    """Return the sum of a gradient's magnitudes, for rules that have it in their state."""
    raise NotImplementedError


@overload(magnitude, jit_options=INLINED)
def _choose_magnitude(r, state):
    if r.instance_class is NAConstants:
        return lambda r, state: state[1]
    return lambda r, state: state[0]


def through_spike(r, t, gradient, later, history, k):
    """Return `reference.THROUGH_SPIKE` at step t; `later` is dL/dI one step later."""
    raise NotImplementedError


@overload(through_spike, jit_options=INLINED)
def _choose_through_spike(r, t, gradient, later, history, k):
    return THROUGH_SPIKE[r.instance_class]


def _slope_through_spike(r, t, gradient, later, history, k):
    spike = where(kept(history.potentials, t) > k.threshold, r.reset, 0)
    return gradient - k.decay * (1 - spike) * later


def _timing_through_spike(r, t, gradient, later, history, k):
    warm_up = kept(history.pscs, t) < r.warm_up_psc
    silent = kept(history.potentials, t) <= k.threshold
    return where(warm_up, gradient, where(silent, 0, gradient))


def _at_spikes(r, t, gradient, later, history, k):
    return where(kept(history.potentials, t) <= k.threshold, 0, gradient)


def _whole(r, t, gradient, later, history, k):
    return gradient


THROUGH_SPIKE: dict[type, Callable[..., Any]] = {  # by the type of a rule's constants
    RecursiveConstants: _timing_through_spike,
    NextSpikeConstants: _timing_through_spike,
    SlopeConstants: _slope_through_spike,
    EventPropConstants: _at_spikes,
    NAConstants: _whole,
    SpikeBPConstants: _at_spikes,
}


def _timing_constants(rule: TSSLBP, k: Any) -> RecursiveConstants | NextSpikeConstants:
    """Return the constants of TSSL-BP; warm-up by layer is decided in the backward pass."""
    warm_up = {"neuron": rule.warm_up_psc * k.psc_gain, "always": math.inf}
    is_next_spike = rule.intra_neuron == "next-spike"
    kind = NextSpikeConstants if is_next_spike else RecursiveConstants
    return kind(
        intra=float(rule.intra_neuron != "none"),
        warm_up_psc=warm_up.get(rule.warm_up, -math.inf),
        timing_min=rule.timing_min,
        timing_max=rule.timing_max,
        surrogate_scale=1 / rule.surrogate_width,
        surrogate_clamp=rule.surrogate_clamp,
    )


def _slope_constants(rule: Surrogate, k: Any) -> SlopeConstants:
    height, width = cast("tuple[float, float]", (rule.height, rule.width))
    through_reset = float(rule.through_reset)
    return SlopeConstants(SHAPES[rule.derivative], height, 1 / width, 1.0, through_reset)


CONSTANTS: dict[type[Rule], Callable[[Any, Any], tuple[Any, ...]]] = {
    TSSLBP: _timing_constants,
    Surrogate: _slope_constants,
    SLAYER: lambda rule, k: SlopeConstants(EXPONENTIAL, rule.height, 1 / rule.width, 0.0, 0.0),
    EventProp: lambda rule, k: EventPropConstants(rule.timing_max),
    NA: lambda rule, k: NAConstants(rule.slope_max),
    SpikeBP: lambda rule, k: SpikeBPConstants(1 / k.threshold),
}


def add(
    rule: type[Rule],
    step: Callable[..., Any],
    states: int = 1,
    through_spike: Callable[..., Any] | None = None,
) -> None:
    """Register the step of a custom rule with the fused kernels.

    ``step(r, t, grad, state, history, k)``, with arguments of these names, is called for the last
    time step first. It returns dL/dI at step t and the state for the step before. Numba compiles it
    when the rule is first used, in each process, and provides the operators and functions of
    `tsslbp.kernels.tiles`:

    - ``r``: the rule's fields, by name, as numbers;
    - ``t``: the number of the step, from 0;
    - ``grad``: a tile of dL/ds[t], after the synaptic filter;
    - ``state``: the tuple of tiles that the call for step t + 1 returned; zeros at the last step;
    - ``history``: `History`; ``kept(history.potentials, t)`` is u[t]; it also has the potential's
      increment ``changes`` and the PSC ``pscs``;
    - ``k``: constants of the layer, including ``steps``, ``decay`` (1 - 1/tau_m), ``leak``
      (1/tau_m), ``psc_decay``, ``psc_gain`` (1/tau_s) and ``threshold``.

    A rule that depends on a layer's firing rate, or scales a layer's gradient, is not supported.

    Args:
        rule: class of the rule, a dataclass whose fields are all numbers or booleans.
        step: its step.
        states: number of tiles in the state, 1 to 3.
        through_spike: returns the part of dL/dI[t] that acts through the spike of step t, from
            ``(r, t, gradient, later, history, k)``, where ``gradient`` is dL/dI[t] and ``later`` is
            dL/dI[t+1]. Networks with learned constants need it.

    Raises:
        InvalidInput: a function has other arguments, or the name of a field or `states` is invalid.
            A field that is not a number is rejected when the rule is used.
    """
    wanted = [(step, rule_step, "step"), (through_spike, _whole, "through_spike")]
    for function, like, name in wanted:
        expected = list(inspect.signature(like).parameters)
        if function and (found := list(inspect.signature(function).parameters)) != expected:
            raise InvalidInput(
                f"the {name} of {rule.__name__} must take {', '.join(expected)}, "
                f"got {', '.join(found)}"
            )
    if states not in (1, 2, 3):
        raise InvalidInput(f"states must be 1, 2 or 3, got {states!r}")
    if not is_dataclass(rule) or any(one.name.startswith("_") for one in fields(rule)):
        raise InvalidInput(
            f"{rule.__name__} must be a dataclass whose fields do not start with an underscore"
        )
    names = [one.name for one in fields(rule)]
    kind = cast(Any, NamedTuple)(rule.__name__, [(name, float) for name in names])
    kind.is_foreign = True  # its compiled code depends on sources that the cache does not check
    STEPS[kind], STATES[kind] = step, states
    if through_spike:
        THROUGH_SPIKE[kind] = through_spike
    CONSTANTS[rule] = partial(_numbers, kind)


def _numbers(kind: Any, rule: Rule, k: Any) -> Any:
    """Return the fields of a custom rule as numbers."""
    name, elsewhere = type(rule).__name__, "use impl='reference'"
    if rule.reads_rate or rule.is_normalised:
        raise InvalidInput(
            f"the fused kernels do not support a custom rule that reads the firing rate or scales "
            f"the gradient of a layer, as {name} does: {elsewhere}"
        )
    values = {field: getattr(rule, field) for field in kind._fields}
    for field, value in values.items():
        if not isinstance(value, (int, float)):
            raise InvalidInput(
                f"the fused kernels need numbers, but {name}.{field} is {value!r}: {elsewhere}"
            )
    return kind(**{field: float(value) for field, value in values.items()})
