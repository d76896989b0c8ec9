"""The neuron in plain PyTorch: the specification that every other implementation is tested against.

Time is the first axis, state starts at rest, and the loops read like the equations of README.md
beside this file. The order of the operations in `simulate` is part of the specification: it makes
the spikes that the backward pass recomputes those of the forward pass, in every implementation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from ..rules import TSSLBP, Rule

Mean = Callable[[Tensor, int], Tensor]  # over processes, of values with this sum and number here


class Trace(NamedTuple):
    """What a layer of neurons did, each ``[T, ...]``."""

    potential: Tensor  # u: before the reset
    increment: Tensor  # du: what the step added to the potential
    spikes: Tensor  # s: 0 or 1
    psp: Tensor  # a: the spikes through the synaptic filter

    @property
    def rate(self) -> float:
        """Mean firing rate, in spikes per neuron and step."""
        return self.spikes.mean().item()


def psp(x: Tensor, tau_s: float) -> Tensor:
    """Synaptic filter ``a[t] = (1 - 1/tau_s) a[t-1] + x[t] / tau_s``, by ordinary autograd."""
    a = torch.zeros_like(x[0])
    filtered = []
    for x_t in x:
        a = (1 - 1 / tau_s) * a + (1 / tau_s) * x_t
        filtered.append(a)
    return torch.stack(filtered)


def simulate(current: Tensor, tau_m: float, tau_s: float, threshold: float) -> Trace:
    """Run leaky integrate-and-fire neurons with a hard reset on `current` ``[T, ...]``."""
    rest = torch.zeros_like(current[0])  # u', the potential after the reset
    steps = []
    for current_t in current:
        increment = current_t - (1 / tau_m) * rest
        potential = (1 - 1 / tau_m) * rest + current_t
        spikes = (potential > threshold).to(current.dtype)
        rest = potential * (1 - spikes)
        steps.append((potential, increment, spikes))
    potentials, increments, spikes = (torch.stack(part) for part in zip(*steps, strict=True))
    return Trace(potentials, increments, spikes, psp(spikes, tau_s))


def spikes(
    current: Tensor,
    tau_m: float,
    tau_s: float,
    threshold: float,
    rule: Rule,
    mean: Mean | None = None,
) -> Tensor:
    """Spike train of `current`; backward, `rule` maps dL/ds to dL/d(current)."""
    function: Any = _Spikes.apply  # PyTorch leaves it untyped
    return cast(Tensor, function(current, tau_m, tau_s, threshold, rule, mean))


def lif(
    current: Tensor,
    tau_m: float,
    tau_s: float,
    threshold: float,
    rule: Rule,
    mean: Mean | None = None,
) -> Tensor:
    """PSP of the spike train of `current`."""
    return psp(spikes(current, tau_m, tau_s, threshold, rule, mean), tau_s)


def sum_pool(x: Tensor, size: int, scale: float) -> Tensor:
    """Sum over windows of ``size x size`` of ``[..., C, H, W]``, times `scale`."""
    sums = torch.nn.functional.avg_pool2d(x.flatten(0, -4), size, divisor_override=1)
    return (sums * scale).view(*x.shape[:-3], *sums.shape[1:])


def layer(
    x: Tensor,
    time_steps: int,
    tau_m: float,
    tau_s: float,
    threshold: float,
    rule: Rule,
    pool: int,
    pool_scale: float,
    output_psp: bool,
    mean: Mean | None = None,
) -> Tensor:
    """Synaptic filter, spikes, then sum pooling and a second filter where they are asked for.

    `x` is ``[T, N, ...]``, or with ``time_steps > 0`` a constant input ``[N, ...]``.
    """
    if time_steps:
        x = x.expand(time_steps, *x.shape)
    output = spikes(psp(x, tau_s), tau_m, tau_s, threshold, rule, mean)
    if pool > 1:
        output = sum_pool(output, pool, pool_scale)
    return psp(output, tau_s) if output_psp else output


class _Spikes(torch.autograd.Function):
    @staticmethod
    def forward(
        current: Tensor,
        tau_m: float,
        tau_s: float,
        threshold: float,
        rule: Rule,
        mean: Mean | None,
    ) -> Tensor:
        return simulate(current, tau_m, tau_s, threshold).spikes

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        current, *ctx.constants, ctx.rule, mean = inputs
        ctx.rate = mean(output.sum(), output.numel()) if mean else None
        ctx.save_for_backward(current)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_spikes: Tensor) -> tuple[Tensor | None, ...]:
        (current,) = ctx.saved_tensors
        tau_m, tau_s, threshold = ctx.constants
        trace = simulate(current, tau_m, tau_s, threshold)
        rule_backward = BACKWARD[type(ctx.rule)]
        rate = trace.spikes.mean() if ctx.rate is None else ctx.rate
        grad_current = rule_backward(ctx.rule, trace, rate, grad_spikes, tau_m, tau_s, threshold)
        return grad_current, None, None, None, None, None


def surrogate(potential: Tensor, threshold: float, width: float, clamp: float) -> Tensor:
    """Derivative of a logistic function of ``(potential - threshold) / width``."""
    f = torch.exp(torch.clamp((threshold - potential) / width, -clamp, clamp))
    return f / (width * (1 + f) ** 2)


def in_warm_up(rule: TSSLBP, rate: Tensor, psp: Tensor, tau_s: float) -> Tensor:
    """Where `rule` replaces its gradient by the surrogate's, bool of the shape of `psp`.

    `rate` is the layer's mean firing rate, a scalar, over the whole batch.
    """
    if rule.warm_up == "neuron":
        return psp < rule.warm_up_psp / tau_s
    if rule.warm_up == "layer":
        return (rate <= rule.rate_threshold).expand_as(psp)
    return torch.full_like(psp, rule.warm_up == "always", dtype=torch.bool)


def tsslbp_backward(
    rule: TSSLBP,
    trace: Trace,
    rate: Tensor,
    grad_spikes: Tensor,
    tau_m: float,
    tau_s: float,
    threshold: float,
) -> Tensor:
    """dL/d(current) by TSSL-BP; `grad_spikes` is G, dL/ds."""
    timing = torch.clamp(1 / trace.increment, rule.timing_min, rule.timing_max) * trace.spikes
    slope = surrogate(trace.potential, threshold, rule.surrogate_width, rule.surrogate_clamp)
    if rule.intra_neuron == "next-spike":
        grad_spikes = grad_spikes + _next_spike(trace, grad_spikes, tau_m, tau_s)
    if rule.intra_neuron == "recursive":
        gradient = _recursive(trace, timing, grad_spikes, tau_m)
    else:
        gradient = timing * grad_spikes
    warm_up = in_warm_up(rule, rate, trace.psp, tau_s)
    return torch.where(warm_up, grad_spikes * slope, gradient)


def _recursive(trace: Trace, timing: Tensor, grad_spikes: Tensor, tau_m: float) -> Tensor:
    """Both parts of the revised rule; the intra-neuron part travels back in time in `carry`."""
    carry = torch.zeros_like(grad_spikes[0])
    gradient = torch.empty_like(grad_spikes)
    for t in reversed(range(len(gradient))):
        silent = (1 - 1 / tau_m) * (1 - trace.spikes[t])
        through_reset = trace.potential[t] * timing[t] / tau_m
        gradient[t] = timing[t] * grad_spikes[t] + carry * (through_reset + silent)
        carry = gradient[t] * trace.spikes[t] + carry * silent
    return gradient


def _next_spike(trace: Trace, grad_spikes: Tensor, tau_m: float, tau_s: float) -> Tensor:
    """The published rule's intra-neuron part: the gradient at each neuron's next spike."""
    later = torch.zeros_like(grad_spikes[0])  # G one step later
    carry = torch.zeros_like(grad_spikes[0])  # dL/da at the neuron's next spike
    filtered = torch.zeros_like(grad_spikes[0])
    effect = torch.empty_like(grad_spikes)
    for t in reversed(range(len(effect))):
        reset = trace.spikes[t] * trace.potential[t] * carry / tau_m
        filtered = (1 - 1 / tau_s) * filtered + reset / tau_s
        effect[t] = filtered
        grad_psp = tau_s * (grad_spikes[t] - (1 - 1 / tau_s) * later)
        carry = trace.spikes[t] * grad_psp + (1 - trace.spikes[t]) * (1 - 1 / tau_m) * carry
        later = grad_spikes[t]
    return effect


BACKWARD: dict[type[Rule], Callable[..., Tensor]] = {TSSLBP: tsslbp_backward}
