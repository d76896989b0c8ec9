"""Fused kernels for the CPU (Numba): one pass forward, one pass backward, any number of steps.

A layer is cut into blocks of neurons whose whole history fits in the cache, but for layers with a
band of pooled rows larger than that. Per block the loop over time runs outside, and short loops
over the neurons, which the compiler vectorises, run inside.
Only the input is kept for the backward pass, which computes potentials and spikes again by the
same function, in the order of operations of `reference.simulate`: no fast-math, no contraction
into fused multiply-adds.

A layer's arrays are flat; row t starts at ``t * n``. ``n``: neurons of a layer, ``b``: of a block.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numba import prange
from torch import Tensor

from .. import simd
from ..compiled import Function, kernel, threads, workers_for
from ..rules import TSSLBP, Rule
from . import reference

HISTORY_BYTES = 32 * 1024  # of one quantity of a block over time; a backward block holds three
LEAST_IN_BLOCK, MOST_IN_BLOCK = 256, 2048  # neurons

RECURSIVE, NEXT_SPIKE = range(2)


class Constants(NamedTuple):
    """What the kernels need to know of a layer; `Any` stands for a number of the layer's dtype."""

    input_decay: Any  # the filter before the neuron; 0 and 1 where there is none
    input_gain: Any
    output_psp: bool  # whether the synaptic filter follows the neuron
    psp_decay: Any  # 1 - 1 / tau_s
    psp_gain: Any  # 1 / tau_s
    decay: Any  # 1 - 1 / tau_m
    leak: Any  # 1 / tau_m
    threshold: Any
    width: int  # of the image, for pooling; otherwise 1, as are the channels
    channels: int
    lanes: int  # values in a vector
    pool: int
    pool_scale: Any
    rule: int  # RECURSIVE or NEXT_SPIKE
    intra: Any  # 1, or 0 without the intra-neuron part
    warm_up_psp: Any  # PSP below which the surrogate takes over; -inf never, inf always
    timing_min: Any
    timing_max: Any
    surrogate_scale: Any  # 1 / surrogate_width
    surrogate_clamp: Any


# The time loop's short steps, vectorised over a block; all arrays ``[b]``


@kernel(forceinline=True)
def _step(x, current, rest, k):
    """One step of one neuron of `reference.simulate`, behind the input filter."""
    current = k.input_decay * current + k.input_gain * x
    increment = current - k.leak * rest
    potential = k.decay * rest + current
    return current, increment, potential, potential > k.threshold


@kernel(forceinline=True)
def _fire(x, current, rest, spikes, k):
    zero, one = x.dtype.type(0), x.dtype.type(1)
    for j in range(x.size):
        current[j], _, potential, fires = _step(x[j], current[j], rest[j], k)
        rest[j] = zero if fires else potential
        spikes[j] = one if fires else zero


@kernel(forceinline=True)
def _remember(x, current, rest, psp_before, potential, increment, psp, k):
    """As `_fire`, keeping what the backward pass needs instead of the spikes."""
    zero, one = x.dtype.type(0), x.dtype.type(1)
    for j in range(x.size):
        current[j], increment[j], u, fires = _step(x[j], current[j], rest[j], k)
        potential[j] = u
        rest[j] = zero if fires else u
        psp[j] = k.psp_decay * psp_before[j] + k.psp_gain * (one if fires else zero)


@kernel(forceinline=True)
def _filter(x, state, out, decay, gain):
    """One step of a first-order filter."""
    for j in range(x.size):
        state[j] = decay * state[j] + gain * x[j]
        out[j] = state[j]


@kernel(forceinline=True)
def _filter_and_add(x, state, out, decay, gain):
    for j in range(x.size):
        state[j] = decay * state[j] + gain * x[j]
        out[j] += state[j]


@kernel(fastmath={"reassoc"})
def _count(spikes):
    """Number of spikes of a block: a sum of ones, exact in any order."""
    count = spikes.dtype.type(0)
    for j in range(spikes.size):
        count += spikes[j]
    return count


@kernel(forceinline=True)
def _pool_sized(x, out, k, size):
    """Pool bands of `size` image rows: ``[bands, size, W, C] -> [bands, W / size, C]``."""
    columns, row = k.width // size, k.width * k.channels
    for pixel in range(out.size // k.channels):
        band, column = divmod(pixel, columns)
        start, to = (band * size * k.width + column * size) * k.channels, pixel * k.channels
        for c in range(0, k.channels, k.lanes):
            count = min(k.lanes, k.channels - c)
            simd.pool(x, start + c, row, k.channels, size, count, k.pool_scale, out, to + c)


@kernel(forceinline=True)
def _unpool_sized(grad, out, k, size):
    columns, row = k.width // size, k.width * k.channels
    for pixel in range(grad.size // k.channels):
        band, column = divmod(pixel, columns)
        start, at = (band * size * k.width + column * size) * k.channels, pixel * k.channels
        for c in range(0, k.channels, k.lanes):
            count = min(k.lanes, k.channels - c)
            simd.unpool(grad, at + c, count, k.pool_scale, out, start + c, row, k.channels, size)


@kernel(forceinline=True)
def _pool(x, out, k):
    """Sum over windows of bands of ``k.pool`` image rows: ``[b] -> [b / pool^2]``."""
    if k.pool == 2:  # a constant lets the compiler unroll
        _pool_sized(x, out, k, 2)
    else:
        _pool_sized(x, out, k, k.pool)


@kernel(forceinline=True)
def _unpool(grad, out, k):
    """The adjoint of `_pool`: ``[b / pool^2] -> [b]``."""
    if k.pool == 2:
        _unpool_sized(grad, out, k, 2)
    else:
        _unpool_sized(grad, out, k, k.pool)


@kernel(forceinline=True, fastmath={"contract"})
def _surrogate(potential, k):
    """Derivative of the logistic function at one potential, by the cosh series of README.md."""
    real = type(potential)
    two, four = real(2), real(4)
    x = (k.threshold - potential) * k.surrogate_scale
    y = min(max(x, -k.surrogate_clamp), k.surrogate_clamp) * real(1 / 8)
    z = y * y
    m = z * real(1 / 6402373705728000) + real(1 / 20922789888000)
    m = m * z + real(1 / 87178291200)
    m = m * z + real(1 / 479001600)
    m = m * z + real(1 / 3628800)
    m = m * z + real(1 / 40320)
    m = m * z + real(1 / 720)
    m = m * z + real(1 / 24)
    m = (m * z + real(1 / 2)) * z
    for _ in range(3):
        m = two * m * (m + two)
    return k.surrogate_scale / (four + two * m)


@kernel(forceinline=True)
def _recursive(potential, increment, psp, grad, carry, out, k):
    """One step of `reference._recursive` and the warm-up; all arrays ``[b]``."""
    zero, one = grad.dtype.type(0), grad.dtype.type(1)
    for j in range(grad.size):
        fires = potential[j] > k.threshold
        timing = min(max(one / increment[j], k.timing_min), k.timing_max)
        timing = timing if fires else zero
        silent = zero if fires else k.decay
        through = potential[j] * timing * k.leak + silent
        gradient = timing * grad[j] + carry[j] * through * k.intra
        carry[j] = (gradient if fires else zero) + carry[j] * silent
        slope = _surrogate(potential[j], k)
        out[j] = grad[j] * slope if psp[j] < k.warm_up_psp else gradient


@kernel()
def _next_spike(potential, increment, psp, grad, carry, effect, later, out, k):
    """One step of `reference._next_spike`, the timing part and the warm-up; all arrays ``[b]``."""
    zero, one = grad.dtype.type(0), grad.dtype.type(1)
    for j in range(grad.size):
        fires = potential[j] > k.threshold
        reset = potential[j] * carry[j] * k.leak * k.intra
        effect[j] = k.psp_decay * effect[j] + k.psp_gain * (reset if fires else zero)
        total = grad[j] + effect[j]
        timing = min(max(one / increment[j], k.timing_min), k.timing_max)
        gradient = timing * total if fires else zero
        grad_psp = (grad[j] - k.psp_decay * later[j]) / k.psp_gain
        carry[j] = grad_psp if fires else k.decay * carry[j]
        later[j] = grad[j]
        slope = _surrogate(potential[j], k)
        out[j] = total * slope if psp[j] < k.warm_up_psp else gradient


# Kernels: one worker's share of a layer, then all workers


@kernel()
def _forward_share(x, out, steps, first, last, block, static, k):
    """Neurons `first` to `last`: ``x [T, n] -> out [T, n / pool^2]``; returns their spikes' sum."""
    n = x.size if static else x.size // steps
    ratio = k.pool * k.pool
    state = np.empty((5, block), x.dtype)
    total = 0.0
    for start in range(first, last, block):
        b = min(block, last - start)
        state[:] = 0
        current, rest, psp = state[0, :b], state[1, :b], state[2, : b // ratio]
        for t in range(steps):
            row = start if static else t * n + start
            to = (t * n + start) // ratio
            target = out[to : to + b // ratio]
            signal = state[3, :b] if k.pool > 1 or k.output_psp else target
            _fire(x[row : row + b], current, rest, signal, k)
            total += _count(signal)
            if k.pool > 1:
                pooled = state[4, : b // ratio] if k.output_psp else target
                _pool(signal, pooled, k)
                signal = pooled
            if k.output_psp:
                _filter(signal, psp, target, k.psp_decay, k.psp_gain)
    return total


@kernel()
def _backward_share(x, grad_out, grad_x, steps, first, last, block, static, k):
    """Neurons `first` to `last`: ``grad_out [T, n / pool^2] -> grad_x`` of the shape of ``x``."""
    n = x.size if static else x.size // steps
    ratio = k.pool * k.pool
    potentials = np.empty((steps, block), x.dtype)
    increments = np.empty((steps, block), x.dtype)
    psps = np.empty((steps, block), x.dtype)
    state = np.empty((8, block), x.dtype)
    for start in range(first, last, block):
        b = min(block, last - start)
        state[:] = 0
        current, rest, silence = state[0, :b], state[1, :b], state[2, :b]
        for t in range(steps):
            row = start if static else t * n + start
            before = psps[t - 1, :b] if t > 0 else silence
            history = potentials[t, :b], increments[t, :b], psps[t, :b]
            _remember(x[row : row + b], current, rest, before, *history, k)
        unpooled, out = state[0, :b], state[1, :b]
        through_input, through_output = state[2, :b], state[3, :b]
        carry, effect, later = state[4, :b], state[5, :b], state[6, :b]
        for t in range(steps - 1, -1, -1):
            source = (t * n + start) // ratio
            grad = grad_out[source : source + b // ratio]
            if k.pool > 1:
                _unpool(grad, unpooled, k)
                grad = unpooled
            if k.output_psp:
                _filter(grad, through_output, unpooled, k.psp_decay, k.psp_gain)
                grad = unpooled
            history = potentials[t, :b], increments[t, :b], psps[t, :b]
            if k.rule == NEXT_SPIKE:
                _next_spike(*history, grad, carry, effect, later, out, k)
            else:
                _recursive(*history, grad, carry, out, k)
            if static and t < steps - 1:
                target = grad_x[start : start + b]
                _filter_and_add(out, through_input, target, k.input_decay, k.input_gain)
            else:
                row = start if static else t * n + start
                target = grad_x[row : row + b]
                _filter(out, through_input, target, k.input_decay, k.input_gain)


@kernel()
def _psp_share(x, out, steps, first, last, reverse, decay, gain):
    """The synaptic filter, or its adjoint, for neurons `first` to `last`: ``[T, n] -> [T, n]``."""
    n = x.size // steps
    state = np.empty(MOST_IN_BLOCK, x.dtype)
    for start in range(first, last, MOST_IN_BLOCK):
        b = min(MOST_IN_BLOCK, last - start)
        state[:] = 0
        for i in range(steps):
            row = ((steps - 1 - i) if reverse else i) * n + start
            _filter(x[row : row + b], state[:b], out[row : row + b], decay, gain)


@kernel(parallel=True)
def _forward_parallel(x, out, steps, workers, unit, block, static, k):
    units = (x.size if static else x.size // steps) // unit
    totals = np.zeros(workers)
    for w in prange(workers):
        first, last = w * units // workers * unit, (w + 1) * units // workers * unit
        totals[w] = _forward_share(x, out, steps, first, last, block, static, k)
    return totals.sum()


@kernel(parallel=True)
def _backward_parallel(x, grad_out, grad_x, steps, workers, unit, block, static, k):
    units = (x.size if static else x.size // steps) // unit
    for w in prange(workers):
        first, last = w * units // workers * unit, (w + 1) * units // workers * unit
        _backward_share(x, grad_out, grad_x, steps, first, last, block, static, k)


@kernel(parallel=True)
def _psp_parallel(x, out, steps, workers, reverse, decay, gain):
    n = x.size // steps
    for w in prange(workers):
        first, last = w * n // workers, (w + 1) * n // workers
        _psp_share(x, out, steps, first, last, reverse, decay, gain)


# Host


def _forward(x: Tensor, steps: int, static: bool, k: Constants) -> tuple[Tensor, Tensor]:
    """Return the layer's output, flat, and the number of spikes."""
    neurons = x.numel() if static else x.numel() // steps
    unit, block = _blocks(1, x.element_size(), k)  # keeps no history
    out = torch.empty(steps * neurons // k.pool**2, dtype=x.dtype, device=x.device)
    workers = workers_for(steps * neurons)
    arrays = x.view(-1).numpy(), out.numpy()
    if workers == 1:
        total = _forward_share(*arrays, steps, 0, neurons, block, static, k)
    else:
        with threads(workers):
            total = _forward_parallel(*arrays, steps, workers, unit, block, static, k)
    return out, torch.tensor(total, dtype=torch.float64, device=x.device)


def _backward(x: Tensor, grad_out: Tensor, steps: int, static: bool, k: Constants) -> Tensor:
    """Return the gradient of the layer's input."""
    neurons = x.numel() if static else x.numel() // steps
    unit, block = _blocks(steps, x.element_size(), k)
    grad_x = torch.empty_like(x)
    workers = workers_for(steps * neurons)
    arrays = tuple(part.view(-1).numpy() for part in (x, grad_out, grad_x))
    if workers == 1:
        _backward_share(*arrays, steps, 0, neurons, block, static, k)
    else:
        with threads(workers):
            _backward_parallel(*arrays, steps, workers, unit, block, static, k)
    return grad_x


def _filtered(x: Tensor, tau_s: float, reverse: bool) -> Tensor:
    x = x.contiguous()
    out = torch.empty_like(x)
    real = _number(x.dtype)
    settings = reverse, real(1 - 1 / tau_s), real(1 / tau_s)
    arrays = x.view(-1).numpy(), out.view(-1).numpy()
    workers = workers_for(x.numel())
    if workers == 1:
        _psp_share(*arrays, len(x), 0, x[0].numel(), *settings)
    else:
        with threads(workers):
            _psp_parallel(*arrays, len(x), workers, *settings)
    return out


def _blocks(steps: int, itemsize: int, k: Constants) -> tuple[int, int]:
    """Neurons that pooling keeps together, and neurons in a block."""
    unit = k.pool * k.width * k.channels
    block = min(max(HISTORY_BYTES // (steps * itemsize), LEAST_IN_BLOCK), MOST_IN_BLOCK)
    return unit, max(block // unit, 1) * unit


def _number(dtype: torch.dtype) -> Callable[[float], Any]:
    return np.float32 if dtype == torch.float32 else np.float64


@functools.lru_cache(maxsize=256)
def _constants(
    dtype: torch.dtype,
    tau_m: float,
    tau_s: float,
    threshold: float,
    rule: Rule,
    filter_input: bool = False,
    output_psp: bool = False,
    width: int = 1,
    channels: int = 1,
    pool: int = 1,
    pool_scale: float = 1.0,
) -> Constants:
    real = _number(dtype)
    return Constants(
        input_decay=real(1 - 1 / tau_s if filter_input else 0),
        input_gain=real(1 / tau_s if filter_input else 1),
        output_psp=output_psp,
        psp_decay=real(1 - 1 / tau_s),
        psp_gain=real(1 / tau_s),
        decay=real(1 - 1 / tau_m),
        leak=real(1 / tau_m),
        threshold=real(threshold),
        width=width,
        channels=channels,
        lanes=simd.lanes(torch.finfo(dtype).bits // 8),
        pool=pool,
        pool_scale=real(pool_scale),
        **BACKWARD[type(rule)](rule, tau_s, real),
    )


def _tsslbp(rule: TSSLBP, tau_s: float, real: Callable[[float], Any]) -> dict[str, Any]:
    """The constants of TSSL-BP; its warm-up by layer is decided in the backward pass."""
    warm_up = {"neuron": rule.warm_up_psp / tau_s, "always": math.inf}
    return {
        "rule": NEXT_SPIKE if rule.intra_neuron == "next-spike" else RECURSIVE,
        "intra": real(rule.intra_neuron != "none"),
        "warm_up_psp": real(warm_up.get(rule.warm_up, -math.inf)),
        "timing_min": real(rule.timing_min),
        "timing_max": real(rule.timing_max),
        "surrogate_scale": real(1 / rule.surrogate_width),
        "surrogate_clamp": real(rule.surrogate_clamp),
    }


BACKWARD: dict[type[Rule], Callable[..., dict[str, Any]]] = {TSSLBP: _tsslbp}


# Autograd


class _Psp(Function):
    @staticmethod
    def forward(x: Tensor, tau_s: float, reverse: bool) -> Tensor:
        return _filtered(x, tau_s, reverse)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.tau_s, ctx.reverse = inputs

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return cast(Tensor, _Psp.apply(grad, ctx.tau_s, not ctx.reverse)), None, None


class _Layer(Function):
    @staticmethod
    def forward(x: Tensor, steps: int, static: bool, rule: Rule, k: Constants) -> Any:
        return _forward(x, steps, static, k)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        x, ctx.steps, ctx.static, ctx.rule, ctx.k = inputs
        neurons = x.numel() if ctx.static else x.numel() // ctx.steps
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, output[1])
        ctx.values = neurons * ctx.steps

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor, _: None) -> tuple[Tensor | None, ...]:
        x, total = ctx.saved_tensors
        k = ctx.k
        if isinstance(ctx.rule, TSSLBP) and ctx.rule.warm_up == "layer":
            rate = total.item() / max(ctx.values, 1)
            level = math.inf if rate <= ctx.rule.rate_threshold else -math.inf
            k = k._replace(warm_up_psp=type(k.warm_up_psp)(level))
        grad_x = _Gradient.apply(x, grad_out.contiguous(), ctx.steps, ctx.static, k)
        return grad_x, None, None, None, None


class _Gradient(Function):
    """The backward kernel; a function of its own so that `torch.func` can unwrap its tensors."""

    @staticmethod
    def forward(x: Tensor, grad_out: Tensor, steps: int, static: bool, k: Constants) -> Tensor:
        return _backward(x, grad_out, steps, static, k)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> None:
        raise NotImplementedError("a learning rule has no second derivative")


# The functions of `reference`, with its arguments; torch.compile cannot look into the kernels, so a
# compiled module runs them as they are.


@torch.compiler.disable
def psp(x: Tensor, tau_s: float) -> Tensor:
    return cast(Tensor, _Psp.apply(x, tau_s, False))


@torch.compiler.disable
def spikes(current: Tensor, tau_m: float, tau_s: float, threshold: float, rule: Rule) -> Tensor:
    k = _constants(current.dtype, tau_m, tau_s, threshold, rule)
    return _run(current, len(current), False, rule, k, current.shape)


@torch.compiler.disable
def lif(current: Tensor, tau_m: float, tau_s: float, threshold: float, rule: Rule) -> Tensor:
    k = _constants(current.dtype, tau_m, tau_s, threshold, rule, output_psp=True)
    return _run(current, len(current), False, rule, k, current.shape)


@torch.compiler.disable
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
) -> Tensor:
    static, steps = time_steps > 0, time_steps or len(x)
    fused = pool > 1 and x.shape[-2] % pool == 0 and x.shape[-1] % pool == 0
    if pool > 1 and not fused:
        unpooled = layer(x, time_steps, tau_m, tau_s, threshold, rule, 1, 1.0, False)
        pooled = reference.sum_pool(unpooled, pool, pool_scale)
        return psp(pooled, tau_s) if output_psp else pooled
    images = x.ndim + static == 5
    if images:
        x = x.movedim(-3, -1)  # channels last, as `Conv` stores them
    shape = torch.Size([steps, *(x.shape if static else x.shape[1:])])
    pooling = (*x.shape[-2:], pool, pool_scale) if fused else ()
    k = _constants(x.dtype, tau_m, tau_s, threshold, rule, True, output_psp, *pooling)
    if fused:
        shape = torch.Size([*shape[:-3], shape[-3] // pool, shape[-2] // pool, shape[-1]])
    out = _run(x, steps, static, rule, k, shape)
    return out.movedim(-1, -3) if images else out


def _run(
    x: Tensor, steps: int, static: bool, rule: Rule, k: Constants, shape: torch.Size
) -> Tensor:
    output, _ = _Layer.apply(x.contiguous(), steps, static, rule, k)
    return cast(Tensor, output.view(shape))
