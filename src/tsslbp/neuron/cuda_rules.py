"""One step of each learning rule backward in time, for the kernels of `cuda`.

The step of a rule receives four things. First, the number of the step. Second, the moment: the
potential before the reset, the potential that was left after the step before (`rest`), dL/ds
(`grad`), and whether the surrogate is used (only for `TSSLBP`). Third, the state: three tiles that
it returned one step later. Fourth, the history: inputs and potentials of all steps, and the second
tile of its state (`effect`) at the later steps. It returns dL/dI and the new state. The rule's
fields are constants of the compiler.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from ..rules import NA, SLAYER, TSSLBP, EventProp, Rule, Surrogate


@triton.jit
def filtered(x, state, tau_s: tl.constexpr):
    """Return one step of the synaptic filter."""
    return (1 - 1 / tau_s) * state + (1 / tau_s) * x


@triton.jit
def _logistic(x, most: tl.constexpr):
    """Return the derivative of the logistic function at x, which is clamped to `most`."""
    f = tl.exp(tl.minimum(tl.maximum(x, -most), most))
    return f / ((1 + f) * (1 + f))


@triton.jit
def _timing(potential, rest, low: tl.constexpr, high: tl.constexpr):
    """Return the change of the firing time with the current; `rest` is from the step before."""
    return tl.minimum(tl.maximum(1 / (potential - rest), low), high)


@triton.jit
def _recursive(potential, rest, grad, carry, rule: tl.constexpr, k: tl.constexpr):
    """Compute a step of `reference._recursive`; it carries the gradient itself (README.md)."""
    timing = _timing(potential, rest, rule.timing_min, rule.timing_max)
    if rule.intra_neuron == "none":
        return tl.where(potential > k.neuron.threshold, timing * grad, 0.0)
    at_spike = timing * (grad + carry * potential * (1 / k.neuron.tau_m))
    return tl.where(potential > k.neuron.threshold, at_spike, carry * (1 - 1 / k.neuron.tau_m))


@triton.jit
def _next_spike(potential, grad, carry, effect, later, k: tl.constexpr):
    """Compute one step of `reference._next_spike`: the new `carry` and `effect`."""
    fires = potential > k.neuron.threshold
    reset = tl.where(fires, potential * carry * (1 / k.neuron.tau_m), 0.0)
    grad_psc = k.neuron.tau_s * (grad - (1 - 1 / k.neuron.tau_s) * later)
    return tl.where(fires, grad_psc, carry * (1 - 1 / k.neuron.tau_m)), filtered(
        reset, effect, k.neuron.tau_s
    )


@triton.jit
def _tsslbp_step(t: tl.constexpr, moment, state, history, rule: tl.constexpr, k: tl.constexpr):
    potential, rest, grad, in_warm_up = moment
    carry, effect, later = state
    if rule.intra_neuron == "next-spike":
        carry, effect = _next_spike(potential, grad, carry, effect, later, k)
        later = grad
        grad = grad + effect
        fires = potential > k.neuron.threshold
        timing = _timing(potential, rest, rule.timing_min, rule.timing_max)
        gradient = tl.where(fires, timing * grad, 0.0)
    else:
        carry = _recursive(potential, rest, grad, carry, rule, k)
        gradient = carry
    if rule.warm_up != "never":
        x = (k.neuron.threshold - potential) * (1 / rule.surrogate_width)
        slope = _logistic(x, rule.surrogate_clamp) * (1 / rule.surrogate_width)
        if rule.warm_up == "always":
            gradient = grad * slope
        else:
            gradient = tl.where(in_warm_up, grad * slope, gradient)
    return gradient, (carry, effect, later)


@triton.jit
def _surrogate_step(t: tl.constexpr, moment, state, history, rule: tl.constexpr, k: tl.constexpr):
    potential, _, grad, _ = moment
    carry, effect, later = state
    x = (potential - k.neuron.threshold) * (1 / rule.width)
    size = tl.abs(x)
    if rule.derivative == "rectangle":
        slope = tl.where(size < 0.5, 1.0, 0 * x)
    elif rule.derivative == "fast-sigmoid":
        slope = 1 / ((1 + size) * (1 + size))
    elif rule.derivative == "sigmoid":
        slope = 4 * _logistic(x, 16.0)
    elif rule.derivative == "arctangent":
        slope = 1 / (1 + x * x)
    else:
        slope = tl.where(size < 1, 1 - size, 0 * x)
    slope = rule.height * slope
    carry = (1 - 1 / k.neuron.tau_m) * carry
    gradient = slope * grad + tl.where(potential > k.neuron.threshold, 0.0, carry)
    if rule.through_reset:
        gradient -= potential * slope * carry
    return gradient, (gradient, effect, later)


@triton.jit
def _slayer_step(t: tl.constexpr, moment, state, history, rule: tl.constexpr, k: tl.constexpr):
    potential, _, grad, _ = moment
    carry, effect, later = state
    slope = rule.height * tl.exp(-tl.abs(potential - k.neuron.threshold) * (1 / rule.width))
    gradient = slope * grad + (1 - 1 / k.neuron.tau_m) * carry
    return gradient, (gradient, effect, later)


@triton.jit
def _eventprop_step(t: tl.constexpr, moment, state, history, rule: tl.constexpr, k: tl.constexpr):
    potential, rest, grad, _ = moment
    carry, effect, later = state
    carry = (1 - 1 / k.neuron.tau_m) * carry
    timing = tl.minimum(1 / (potential - rest), rule.timing_max)
    at_spike = carry + timing * (k.neuron.threshold / k.neuron.tau_m * carry + grad - later)
    gradient = tl.where(potential > k.neuron.threshold, at_spike, carry)
    return gradient, (gradient, effect, grad)


@triton.jit
def _na_step(t: tl.constexpr, moment, state, history, rule: tl.constexpr, k: tl.constexpr):
    potential, _, grad, _ = moment
    carry, effect, later = state
    currents, potentials, effects = history
    effect = (1 - 1 / k.neuron.tau_s) * effect + grad
    fires = potential > k.neuron.threshold
    total = tl.where(fires, -effect, effect)
    # Of the potential's dtype, whereas a choice between two numbers is float32.
    rest = tl.where(fires, k.neuron.threshold, 0 * potential)
    for after in tl.static_range(t + 1, len(currents)):
        neighbour = (1 - 1 / k.neuron.tau_m) * rest + currents[after]
        fires = neighbour > k.neuron.threshold
        rest = tl.where(fires, 0.0, neighbour)
        total += tl.where(fires, effects[after - t - 1], 0.0)
        total -= tl.where(potentials[after] > k.neuron.threshold, effects[after - t - 1], 0.0)
    distance = k.neuron.threshold - potential
    slope = 1 / (distance * distance * distance)
    slope = tl.minimum(tl.maximum(slope, -rule.slope_max), rule.slope_max)
    return slope * total, (carry, effect, later)


STEPS: dict[type[Rule], Any] = {
    TSSLBP: _tsslbp_step,
    Surrogate: _surrogate_step,
    SLAYER: _slayer_step,
    EventProp: _eventprop_step,
    NA: _na_step,
}
