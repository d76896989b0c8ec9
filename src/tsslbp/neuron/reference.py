"""The neuron in plain PyTorch: the specification against which every implementation is tested.

Time is the first axis, and the state starts at rest. The loops follow the equations of README.md in
this folder. The order of operations in `simulate` is part of the specification: it ensures, in
every implementation, that the backward pass recomputes exactly the spikes of the forward pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from ..errors import InvalidInput
from ..rules import NA, SLAYER, TSSLBP, EventProp, Rule, SpikeBP, Surrogate
from . import tracing
from .settings import Neuron, NeuronLayer

Mean = Callable[[Tensor, int], Tensor]  # over processes, from this process's sum and number


@dataclass
class Shared:
    """What the layers of a network share in one forward and backward pass.

    Attributes:
        mean: the mean over all processes that share a batch, given the sum and the number of this
            process's values; for rules that depend on the firing rate of the whole layer. None:
            this process has the whole batch.
        output_gradient: mean magnitude of the output layer's scaled gradient, a scalar, after that
            layer's backward pass has set it; for rules that rescale gradients.
    """

    mean: Mean | None = None
    output_gradient: Tensor | None = None


class Trace(NamedTuple):
    """The variables of a layer of neurons over time, each ``[T, ...]``."""

    current: Tensor  # I: the input
    potential: Tensor  # u: before the reset
    increment: Tensor  # du: what the step added to the potential
    spikes: Tensor  # s: 0 or 1
    psc: Tensor  # a: the spikes through the synaptic filter

    @property
    def rate(self) -> float:
        """Mean firing rate, in spikes per neuron and step."""
        return self.spikes.mean().item()


def psc(x: Tensor, tau_s: float | Tensor) -> Tensor:
    """Synaptic filter ``a[t] = (1 - 1/tau_s) a[t-1] + x[t] / tau_s``, by ordinary autograd.

    A `tau_s` that is a scalar float64 tensor receives its gradient by autograd, too.
    """
    a = torch.zeros_like(x[0])
    filtered = []
    for x_t in x:
        a = (1 - 1 / tau_s) * a + (1 / tau_s) * x_t
        filtered.append(a)
    return torch.stack(filtered)


def simulate(current: Tensor, neuron: Neuron) -> Trace:
    """Run leaky integrate-and-fire neurons with a hard reset on a current ``[T, ...]``."""
    rest = torch.zeros_like(current[0])  # u', the potential after the reset
    steps = []
    for current_t in current:
        increment = current_t - (1 / neuron.tau_m) * rest
        potential = (1 - 1 / neuron.tau_m) * rest + current_t
        spikes = (potential > neuron.threshold).to(current.dtype)
        rest = potential * (1 - spikes)
        steps.append((potential, increment, spikes))
    potentials, increments, spikes = (torch.stack(part) for part in zip(*steps, strict=True))
    return Trace(current, potentials, increments, spikes, psc(spikes, neuron.tau_s))


def sum_pool(x: Tensor, size: int, scale: float) -> Tensor:
    """Sum over windows of ``size x size`` of ``[..., C, H, W]``, times `scale`."""
    sums = torch.nn.functional.avg_pool2d(x.flatten(0, -4), size, divisor_override=1)
    return (sums * scale).view(*x.shape[:-3], *sums.shape[1:])


def layer(
    x: Tensor,
    neurons: NeuronLayer,
    time_steps: int = 0,
    shared: Shared | None = None,
    constants: Tensor | None = None,
) -> Tensor:
    """Synaptic filter, spikes, then sum pooling and a second filter if requested.

    `x` is ``[T, N, ...]``, or with ``time_steps > 0`` a constant input ``[N, ...]``. Backward, the
    rule maps dL/ds to dL/d(current), from which the gradients of `constants`, ``[3]``, follow.
    """
    if time_steps:
        x = x.expand(time_steps, *x.shape)
    tau_s = neurons.neuron.tau_s if constants is None else constants[1]
    current = psc(x, tau_s) if neurons.filter_input else x
    if tracing.is_exported():  # an exported graph has no backward pass
        output = simulate(current, neurons.neuron).spikes
    else:
        function: Any = _Spikes.apply  # PyTorch leaves it untyped
        output = function(current, neurons, shared, constants)
    if neurons.pool > 1:
        output = sum_pool(output, neurons.pool, neurons.pool_scale)
    return psc(output, tau_s) if neurons.output_psc else output


class _Spikes(torch.autograd.Function):
    @staticmethod
    def forward(
        current: Tensor, neurons: NeuronLayer, shared: Shared | None, constants: Tensor | None
    ) -> Tensor:
        return simulate(current, neurons.neuron).spikes

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        current, ctx.neurons, ctx.shared, constants = inputs
        ctx.learns = constants is not None
        mean = ctx.shared and ctx.neurons.rule.reads_rate and ctx.shared.mean
        ctx.rate = mean(output.sum(), output.numel()) if mean else None
        ctx.save_for_backward(current)

    @staticmethod
    def backward(ctx: Any, grad_spikes: Tensor) -> tuple[Tensor | None, ...]:
        (current,) = ctx.saved_tensors
        tracing.check_rule(ctx.neurons.rule, current)
        function: Any = _Gradient.apply
        arguments = current, grad_spikes, ctx.neurons, ctx.shared, ctx.rate, ctx.learns
        grad_current, learned = function(*arguments)
        return grad_current, None, None, learned

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], current: Tensor, *rest: Any) -> Any:
        function: Any = _Spikes.apply
        folded, is_joined = tracing.fold(current, in_dims[0], info.batch_size, 1)
        output = function(folded, *rest)
        return tracing.unfold(output, info.batch_size, 1, is_joined), 1


class _Gradient(tracing.Gradient):
    @staticmethod
    def forward(
        current: Tensor,
        grad_spikes: Tensor,
        neurons: NeuronLayer,
        shared: Shared | None,
        known_rate: Tensor | None,
        learns: bool,
    ) -> Any:
        neuron, rule = neurons.neuron, neurons.rule
        trace = simulate(current, neuron)
        rate = trace.spikes.mean() if known_rate is None else known_rate
        grad_current = BACKWARD[type(rule)](rule, trace, rate, grad_spikes, neuron)
        if rule.is_normalised:
            magnitude = grad_current.abs().mean()
            grad_current *= output_scale(magnitude, shared, neurons.output_psc)
        learned = grad_constants(rule, trace, rate, grad_current, neuron) if learns else None
        return grad_current, learned

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], current: Tensor, grad_spikes: Tensor, *rest: Any
    ) -> Any:
        function: Any = _Gradient.apply
        size, pairs = info.batch_size, zip((current, grad_spikes), in_dims, strict=False)
        (current, is_joined), (grad_spikes, _) = (tracing.fold(*pair, size, 1) for pair in pairs)
        grad_current, _ = function(current, grad_spikes, *rest)
        return (tracing.unfold(grad_current, size, 1, is_joined), None), (1, None)


def grad_constants(
    rule: Rule, trace: Trace, rate: Tensor, grad_current: Tensor, neuron: Neuron
) -> Tensor:
    """Return the gradients ``[3]`` of the neuron's constants in float64: README.md, 24 and 27.

    The gradient of `tau_s` is 0 here, because `tau_s` acts through the filters.
    """
    rest = trace.potential * (1 - trace.spikes)
    tau_m = (grad_current[1:] * rest[:-1]).sum(dtype=torch.float64) / neuron.tau_m**2
    threshold = torch.zeros_like(tau_m)  # which `LIF` trains only by the rules of the table
    if by_spike := THROUGH_SPIKE.get(type(rule)):
        part = by_spike(rule, trace, rate, grad_current, neuron)
        threshold = -part.sum(dtype=torch.float64)
    return torch.stack([tau_m, torch.zeros_like(tau_m), threshold])


def output_scale(magnitude: Tensor, shared: Shared | None, is_output: bool) -> Tensor:
    """Return the scalar by which a rule that `is_normalised` scales a layer's gradient.

    `magnitude` is the mean magnitude of the layer's gradient. The output layer stores its scaled
    magnitude in `shared`, from which the other layers read it.
    """
    known = shared and not is_output
    reference = shared.output_gradient if shared and known else magnitude
    if reference is None:
        raise InvalidInput("the output layer's backward pass must come first, but it has not run")
    scale = 1.2 * torch.log(torch.round(reference, decimals=3) / (magnitude + 1e-5) + 1.02)
    if shared and is_output:
        shared.output_gradient = scale * magnitude
    return scale


def surrogate(potential: Tensor, threshold: float, width: float, clamp: float) -> Tensor:
    """Derivative of a logistic function of ``(potential - threshold) / width``."""
    exact = potential.float() if potential.dtype == torch.float16 else potential  # f^2 overflows
    f = torch.exp(torch.clamp((threshold - exact) / width, -clamp, clamp))
    return (f / (width * (1 + f) ** 2)).to(potential.dtype)


def in_warm_up(rule: TSSLBP, rate: Tensor, psc: Tensor, tau_s: float) -> Tensor:
    """Return where `rule` uses the surrogate gradient, a bool tensor of the shape of `psc`.

    `rate` is the layer's mean firing rate over the whole batch, a scalar.
    """
    if rule.warm_up == "neuron":
        return psc < rule.warm_up_psc / tau_s
    if rule.warm_up == "layer":
        return (rate <= rule.rate_threshold).expand_as(psc)
    return torch.full_like(psc, rule.warm_up == "always", dtype=torch.bool)


def tsslbp_backward(
    rule: TSSLBP, trace: Trace, rate: Tensor, grad_spikes: Tensor, neuron: Neuron
) -> Tensor:
    """Return dL/d(current) by TSSL-BP; `grad_spikes` is G, dL/ds."""
    timing = torch.clamp(1 / trace.increment, rule.timing_min, rule.timing_max) * trace.spikes
    slope = surrogate(trace.potential, neuron.threshold, rule.surrogate_width, rule.surrogate_clamp)
    if rule.intra_neuron == "next-spike":
        grad_spikes = grad_spikes + _next_spike(trace, grad_spikes, neuron)
    if rule.intra_neuron == "recursive":
        gradient = _recursive(trace, timing, grad_spikes, neuron)
    else:
        gradient = timing * grad_spikes
    warm_up = in_warm_up(rule, rate, trace.psc, neuron.tau_s)
    return torch.where(warm_up, grad_spikes * slope, gradient)


def _recursive(trace: Trace, timing: Tensor, grad_spikes: Tensor, neuron: Neuron) -> Tensor:
    """Both parts of the revised rule; `carry` propagates the intra-neuron part back in time."""
    carry = torch.zeros_like(grad_spikes[0])
    gradient = torch.empty_like(grad_spikes)
    for t in reversed(range(len(gradient))):
        silent = (1 - 1 / neuron.tau_m) * (1 - trace.spikes[t])
        through_reset = trace.potential[t] * timing[t] / neuron.tau_m
        gradient[t] = timing[t] * grad_spikes[t] + carry * (through_reset + silent)
        carry = gradient[t] * trace.spikes[t] + carry * silent
    return gradient


def _next_spike(trace: Trace, grad_spikes: Tensor, neuron: Neuron) -> Tensor:
    """The published rule's intra-neuron part: the gradient at each neuron's next spike."""
    later = torch.zeros_like(grad_spikes[0])  # G one step later
    carry = torch.zeros_like(grad_spikes[0])  # dL/da at the neuron's next spike
    filtered = torch.zeros_like(grad_spikes[0])
    effect = torch.empty_like(grad_spikes)
    for t in reversed(range(len(effect))):
        reset = trace.spikes[t] * trace.potential[t] * carry / neuron.tau_m
        filtered = (1 - 1 / neuron.tau_s) * filtered + reset / neuron.tau_s
        effect[t] = filtered
        grad_psc = neuron.tau_s * (grad_spikes[t] - (1 - 1 / neuron.tau_s) * later)
        carry = trace.spikes[t] * grad_psc + (1 - trace.spikes[t]) * (1 - 1 / neuron.tau_m) * carry
        later = grad_spikes[t]
    return effect


def derivative(potential: Tensor, threshold: float, rule: Surrogate) -> Tensor:
    """Return the surrogate derivative of the spike with respect to the potential."""
    height, width = cast("tuple[float, float]", (rule.height, rule.width))
    x = (potential - threshold) * (1 / width)
    f = torch.exp(-x.abs().clamp(max=16))
    shape = {
        "rectangle": lambda: (x.abs() < 1 / 2).to(x),
        "fast-sigmoid": lambda: 1 / (1 + x.abs()) ** 2,
        "sigmoid": lambda: 4 * f / (1 + f) ** 2,
        "arctangent": lambda: 1 / (1 + x**2),
        "triangle": lambda: (1 - x.abs()).clamp(min=0),
    }
    return height * shape[rule.derivative]()


def surrogate_backward(
    rule: Surrogate, trace: Trace, rate: Tensor, grad_spikes: Tensor, neuron: Neuron
) -> Tensor:
    """Return dL/d(current) by backpropagation through time with a surrogate derivative."""
    slope = derivative(trace.potential, neuron.threshold, rule)
    kept = 1 - trace.spikes - rule.through_reset * trace.potential * slope
    return _carried(slope * grad_spikes, (1 - 1 / neuron.tau_m) * kept)


def slayer_backward(
    rule: SLAYER, trace: Trace, rate: Tensor, grad_spikes: Tensor, neuron: Neuron
) -> Tensor:
    """Return dL/d(current) by SLAYER: the gradient passes the membrane as if without resets."""
    slope = rule.height * torch.exp(-(trace.potential - neuron.threshold).abs() / rule.width)
    return _carried(slope * grad_spikes, torch.full_like(slope, 1 - 1 / neuron.tau_m))


def eventprop_backward(
    rule: EventProp, trace: Trace, rate: Tensor, grad_spikes: Tensor, neuron: Neuron
) -> Tensor:
    """Return dL/d(current) by the adjoint of a neuron with events, whose spike times can move."""
    # Masked rather than multiplied, since `inf * 0` is NaN; a NaN must stay visible.
    timing = (1 / trace.increment).masked_fill(trace.increment <= 0, math.inf)
    timing = timing.clamp(max=rule.timing_max).masked_fill(trace.potential <= neuron.threshold, 0)
    kept = 1 + timing * neuron.threshold / neuron.tau_m
    return _carried(timing * (grad_spikes - _later(grad_spikes)), (1 - 1 / neuron.tau_m) * kept)


def spike_bp_backward(
    rule: SpikeBP, trace: Trace, rate: Tensor, grad_spikes: Tensor, neuron: Neuron
) -> Tensor:
    """Return dL/d(current) by Lee et al.: each spike's error goes to all steps since the last."""
    left = torch.zeros_like(trace.spikes[0])  # the trace that the spikes leave at the end
    for spikes in trace.spikes:
        left = (1 - 1 / neuron.tau_m) * left + spikes
    leak = 1 - left / (neuron.tau_m * trace.spikes.sum(0).clamp(min=1))
    return _carried(trace.spikes * leak * grad_spikes / neuron.threshold, 1 - trace.spikes)


def _carried(gained: Tensor, kept: Tensor) -> Tensor:
    """``d[t] = gained[t] + kept[t] d[t+1]``, from 0 after the last step."""
    carry = torch.zeros_like(gained[0])
    gradient = torch.empty_like(gained)
    for t in reversed(range(len(gradient))):
        carry = gained[t] + kept[t] * carry
        gradient[t] = carry
    return gradient


def na_backward(
    rule: NA, trace: Trace, rate: Tensor, grad_spikes: Tensor, neuron: Neuron
) -> Tensor:
    """Return dL/d(current) by neighbourhood aggregation, before any scaling."""
    slope = (1 / (neuron.threshold - trace.potential) ** 3).clamp(-rule.slope_max, rule.slope_max)
    # Filtering the gradient backward equals filtering the neighbour's spikes forward.
    effect = _carried(grad_spikes, torch.full_like(grad_spikes, 1 - 1 / neuron.tau_s))
    gradient = torch.empty_like(grad_spikes)
    for t in range(len(gradient)):
        neighbour = _neighbour(trace, t, neuron)
        gradient[t] = slope[t] * ((neighbour - trace.spikes[t:]) * effect[t:]).sum(0)
    return gradient


def _neighbour(trace: Trace, t: int, neuron: Neuron) -> Tensor:
    """Return the spikes from step t on, ``[T - t, ...]``, if that of step t is flipped."""
    rest = neuron.threshold * trace.spikes[t]
    neighbour = [1 - trace.spikes[t]]
    for current in trace.current[t + 1 :]:
        potential = (1 - 1 / neuron.tau_m) * rest + current
        spikes = (potential > neuron.threshold).to(current.dtype)
        rest = potential * (1 - spikes)
        neighbour.append(spikes)
    return torch.stack(neighbour)


# The part of dL/dI[t], `grad_current`, that acts through the spike of step t and not through the
# remaining potential. The gradient of the threshold is its negative sum.


def _surrogate_through_spike(
    rule: Surrogate, trace: Trace, rate: Tensor, grad_current: Tensor, neuron: Neuron
) -> Tensor:
    return grad_current - (1 - 1 / neuron.tau_m) * (1 - trace.spikes) * _later(grad_current)


def _slayer_through_spike(
    rule: SLAYER, trace: Trace, rate: Tensor, grad_current: Tensor, neuron: Neuron
) -> Tensor:
    return grad_current - (1 - 1 / neuron.tau_m) * _later(grad_current)


def _tsslbp_through_spike(
    rule: TSSLBP, trace: Trace, rate: Tensor, grad_current: Tensor, neuron: Neuron
) -> Tensor:
    warm_up = in_warm_up(rule, rate, trace.psc, neuron.tau_s)
    return torch.where(warm_up, grad_current, grad_current * trace.spikes)


def _at_spikes(
    rule: Rule, trace: Trace, rate: Tensor, grad_current: Tensor, neuron: Neuron
) -> Tensor:
    return grad_current * trace.spikes


def _all(rule: Rule, trace: Trace, rate: Tensor, grad_current: Tensor, neuron: Neuron) -> Tensor:
    return grad_current


def _later(x: Tensor) -> Tensor:
    """``x[t + 1]``, 0 after the last step."""
    return torch.cat([x[1:], torch.zeros_like(x[:1])])


BACKWARD: dict[type[Rule], Callable[..., Tensor]] = {
    TSSLBP: tsslbp_backward,
    Surrogate: surrogate_backward,
    SLAYER: slayer_backward,
    EventProp: eventprop_backward,
    NA: na_backward,
    SpikeBP: spike_bp_backward,
}
THROUGH_SPIKE: dict[type[Rule], Callable[..., Tensor]] = {
    TSSLBP: _tsslbp_through_spike,
    Surrogate: _surrogate_through_spike,
    SLAYER: _slayer_through_spike,
    EventProp: _at_spikes,
    NA: _all,
    SpikeBP: _at_spikes,
}
