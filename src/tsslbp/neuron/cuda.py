"""Fused kernels for the GPU (Triton): one pass forward, one pass backward, any number of steps.

A program takes a tile of neurons through all time steps, their state in registers. Only the input
is kept for the backward pass, which computes potentials and spikes again by the same function, in
the order of operations of `reference.simulate`; `LAUNCH` forbids fused multiply-adds. Arithmetic
is in float32 (float64 for float64), whatever the arrays are stored in.

Up to `MOST_UNROLLED` steps the backward kernel is unrolled and keeps a neuron's potentials in
registers. Beyond, it works by segments of `SEGMENT` steps and runs each forward once more from a
saved state (README.md beside this file).

A layer's arrays are flat; row t starts at ``t * n``; a row's order is that of the memory, images
may have their channels last. ``n``: neurons of a layer; ``L``: lanes of a
tile, which are neurons, in the forward kernel pooling windows. What a kernel computes with has the
shape ``[L]``. Capitals are constants that the compiler knows, and so are `k` and `rule`.

With ``TRITON_INTERPRET=1`` set before this module is imported, the kernels run on CPU tensors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..rules import NA, Rule
from . import reference
from .cuda_rules import STEPS, filtered
from .reference import Shared, output_scale

LAUNCH = {"enable_fp_fusion": False}  # a spike must not depend on how it was compiled
MOST_UNROLLED = 30  # steps; a neuron's potentials in registers, its warm-up in bits of one word
SEGMENT = 16  # steps that are unrolled where T is longer
CHUNK = 8  # rows that the forward kernels load at once where T is longer
LARGE = 1 << 17  # neurons from which four warps a program leave no multiprocessor idle
L2_SHARE = 0.5  # of the second-level cache, for the segmented kernel's input
PROGRAMS = 4, 32  # least and most on a multiprocessor, of the segmented kernel


@dataclass(frozen=True)
class Neuron:
    """What the kernels need to know of a layer's neurons."""

    tau_m: float
    tau_s: float
    threshold: float
    static: bool = False  # whether the input is the same at every step
    filter_input: bool = False  # whether the synaptic filter stands before the neuron
    output_psp: bool = False  # and whether one follows it
    pool: int = 1  # side of the pooling window, which divides the image's sides
    pool_scale: float = 1.0


class Extent(NamedTuple):
    """How many neurons there are, and how images of them lie in memory."""

    steps: int
    neurons: int
    row: int = 1  # outputs in a row of the pooled image, times `inner`
    inner: int = 1  # channels where they come last in memory


# Parts of the kernels


@triton.jit
def _first_neurons(first_out, row, inner, POOL: tl.constexpr, LANES: tl.constexpr):
    """The first neuron of each of a tile's windows: a number, and distances ``[L]`` from it."""
    lanes = tl.arange(0, LANES)
    if POOL == 1:
        return first_out, lanes
    band = first_out // row  # of POOL rows of the input
    along = (first_out - band * row).to(tl.int32) + lanes
    channel = along % inner
    return band * (POOL * POOL) * row, (along // row) * (POOL * POOL - POOL) * row + (
        along * POOL - channel * (POOL - 1)
    )


@triton.jit
def _windows(first, row, inner, POOL: tl.constexpr, LANES: tl.constexpr):
    """The window of each of a tile's neurons: a number, and distances ``[L]`` from it."""
    lanes = tl.arange(0, LANES)
    if POOL == 1:
        return first, lanes
    width = row * POOL
    band = first // (width * POOL)  # of POOL rows of the input
    along = (first - band * width * POOL).to(tl.int32) + lanes
    below = along // width
    along = along - below * width
    return band * row, below // POOL * row + along // inner // POOL * inner + along % inner


@triton.jit
def _inside(lanes, count, t, steps, EXACT: tl.constexpr):
    """Whether a lane is one of `count` and step `t` one of `steps`."""
    if EXACT:
        return lanes < count
    return lanes < tl.where(t < steps, count, 0)


@triton.jit
def _rows(start, offsets, count, first, steps, stride, STEPS: tl.constexpr, EXACT: tl.constexpr):
    """Steps `first` and on of an array, a tuple of STEPS tiles; zeros where there is nothing."""
    lanes = tl.arange(0, offsets.shape[0])
    rows = ()
    for i in tl.static_range(STEPS):
        inside = _inside(lanes, count, first + i, steps, EXACT)
        rows = rows + (tl.load(start + (first + i) * stride + offsets, inside, 0.0),)
    return rows


@triton.jit
def _step(x, current, rest, k: tl.constexpr):
    """One step of `reference.simulate`, behind the input filter where there is one."""
    current = filtered(x, current, k) if k.filter_input else x
    potential = (1 - 1 / k.tau_m) * rest + current
    return current, potential, _rest(potential, k)


@triton.jit
def _rest(potential, k: tl.constexpr):
    """The potential after the reset."""
    return tl.where(potential > k.threshold, 0.0, potential)


@triton.jit
def _history(
    xs,
    current,
    rest,
    psp,
    rule: tl.constexpr,
    k: tl.constexpr,
    BY_NEURON: tl.constexpr,
    STEPS: tl.constexpr,
):
    """Inputs and potentials of STEPS steps, tuples; bit i of an integer: warm-up at step i."""
    currents = ()
    potentials = ()
    bits = tl.zeros(rest.shape, tl.int32)
    for i in tl.static_range(STEPS):
        current, potential, rest = _step(xs[i].to(rest.dtype), current, rest, k)
        currents = currents + (current,)
        potentials = potentials + (potential,)
        if BY_NEURON:
            psp = filtered((potential > k.threshold).to(rest.dtype), psp, k)
            bits |= tl.where(psp < rule.warm_up_psp / k.tau_s, 1 << i, 0)
    return currents, potentials, bits


@triton.jit
def _save_states(x, in_tile, saved, steps, stride, rest, k: tl.constexpr, STEPS: tl.constexpr):
    """Run a tile forward from `rest`, zeros, and keep its state after each segment but the last."""
    current = rest
    psp = rest
    lanes = tl.arange(0, rest.shape[0])
    for segment in range(tl.cdiv(steps, STEPS) - 1):
        xs = _rows(x, lanes, in_tile, segment * STEPS, steps, stride, STEPS, True)
        for i in tl.static_range(STEPS):
            current, potential, rest = _step(xs[i].to(rest.dtype), current, rest, k)
            psp = filtered((potential > k.threshold).to(rest.dtype), psp, k)
        to = saved + (segment * 3) * rest.shape[0] + lanes
        tl.store(to, current)
        tl.store(to + rest.shape[0], rest)
        tl.store(to + 2 * rest.shape[0], psp)


@triton.jit
def _state_before(segment, saved, LANES: tl.constexpr):
    """What `_save_states` kept: current, potential after the reset, PSP; zeros for segment 0."""
    lanes = tl.arange(0, LANES)
    kept = lanes < tl.where(segment > 0, LANES, 0)
    at = saved + (segment * 3 - 3) * LANES + lanes
    current = tl.load(at, kept, 0.0)
    rest = tl.load(at + LANES, kept, 0.0)
    return current, rest, tl.load(at + 2 * LANES, kept, 0.0)


# Kernels


@triton.jit(do_not_specialize=["steps", "inner"])
def _forward_kernel(
    x_ptr,  # [T, n], or [n] where it is static
    out_ptr,  # [T, windows]
    count_ptr,  # spikes of the layer, where COUNT
    steps,
    windows,  # outputs a step
    row,
    inner,
    k: tl.constexpr,
    COUNT: tl.constexpr,
    STEPS: tl.constexpr,
    EXACT: tl.constexpr,
    LANES: tl.constexpr,
):
    P: tl.constexpr = k.pool * k.pool
    real: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    stride_out = tl.cast(windows, tl.int64)
    stride = 0 if k.static else stride_out * P
    first_out = tl.program_id(0).to(tl.int64) * LANES
    lanes = tl.arange(0, LANES)
    in_tile = tl.minimum(windows - first_out, LANES).to(tl.int32)
    start, offsets = _first_neurons(first_out, row, inner, k.pool, LANES)
    count = tl.zeros([LANES], tl.int32)
    psp = tl.zeros([LANES], real)
    current = ()
    rest = ()
    for _ in tl.static_range(P):
        current = current + (tl.zeros([LANES], real),)
        rest = rest + (tl.zeros([LANES], real),)
    for first in range(0, STEPS if EXACT else steps, STEPS):
        xs = ()
        for p in tl.static_range(P):
            neuron = x_ptr + start + p // k.pool * k.pool * row + p % k.pool * inner
            xs = xs + (_rows(neuron, offsets, in_tile, first, steps, stride, STEPS, EXACT),)
        for i in tl.static_range(STEPS):
            inside = _inside(lanes, in_tile, first + i, steps, EXACT)
            signal = tl.zeros([LANES], real)
            before = current, rest
            current = ()
            rest = ()
            for p in tl.static_range(P):
                x = xs[p][i].to(real)
                current_p, potential, rest_p = _step(x, before[0][p], before[1][p], k)
                current = current + (current_p,)
                rest = rest + (rest_p,)
                fires = potential > k.threshold
                signal += fires.to(real)
                if COUNT:
                    count += (fires & inside).to(tl.int32)
            signal = signal * k.pool_scale
            if k.output_psp:
                psp = filtered(signal, psp, k)
                signal = psp
            tl.store(out_ptr + first_out + (first + i) * stride_out + lanes, signal, inside)
    if COUNT:
        tl.atomic_add(count_ptr, tl.sum(count, axis=0).to(tl.int64))


@triton.jit(do_not_specialize=["steps", "inner", "values"])
def _backward_kernel(
    x_ptr,  # [T, n], or [n] where it is static
    grad_ptr,  # [T, windows]
    out_ptr,  # of the shape of x
    count_ptr,  # spikes of the layer, where its warm-up is by layer (or its rate, see values)
    saved_ptr,  # [programs, segments, 3, L], where there is more than one segment
    sums_ptr,  # [programs] magnitudes of dL/d(current), where these shall be scaled
    steps,
    neurons,
    row,
    inner,
    values,  # neurons times steps (or 1)
    k: tl.constexpr,
    rule: tl.constexpr,
    STEP: tl.constexpr,  # the rule's, of cuda_rules.py
    WARM_UP: tl.constexpr,  # where the rule has one: "neuron", "layer"
    STEPS: tl.constexpr,
    EXACT: tl.constexpr,
    LANES: tl.constexpr,
):
    real: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    neurons = tl.cast(neurons, tl.int64)
    stride_out = neurons // (k.pool * k.pool)
    stride = 0 if k.static else neurons
    segments = 1 if EXACT else tl.cdiv(steps, STEPS)
    saved = saved_ptr + tl.program_id(0).to(tl.int64) * segments * (3 * LANES)
    lanes = tl.arange(0, LANES)
    zeros = tl.zeros([LANES], real)
    absolute = tl.zeros([LANES], tl.float64)
    if WARM_UP == "layer":
        in_warm_up = tl.load(count_ptr).to(tl.float64) / values <= rule.rate_threshold
    for block in range(tl.program_id(0), tl.cdiv(neurons, LANES), tl.num_programs(0)):
        start = tl.cast(block, tl.int64) * LANES
        in_tile = tl.minimum(neurons - start, LANES).to(tl.int32)
        start_out, windows = _windows(start, row, inner, k.pool, LANES)
        x, grad, out = x_ptr + start, grad_ptr + start_out, out_ptr + start
        if not EXACT:
            tl.debug_barrier()  # the last block's states have been read
            _save_states(x, in_tile, saved, steps, stride, zeros, k, STEPS)
            tl.debug_barrier()  # this block's can be read
        grad_output = zeros  # dL/d(output), through the output's filter
        grad_input = zeros  # dL/d(current), through the input's filter
        total = zeros  # its sum over time
        carry = zeros
        effect = zeros
        later = zeros
        for done in range(segments):
            segment = segments - 1 - done
            first = segment * STEPS
            xs = _rows(x, lanes, in_tile, first, steps, stride, STEPS, EXACT)
            grads = _rows(grad, windows, in_tile, first, steps, stride_out, STEPS, EXACT)
            current, rest_before, psp = zeros, zeros, zeros
            if not EXACT:
                current, rest_before, psp = _state_before(segment, saved, LANES)
            currents, potentials, bits = _history(
                xs, current, rest_before, psp, rule, k, WARM_UP == "neuron", STEPS
            )
            effects = ()  # of the later steps
            for i in tl.static_range(STEPS - 1, -1, -1):
                rest = rest_before if i == 0 else _rest(potentials[i - 1], k)
                signal = grads[i].to(real) * k.pool_scale
                if k.output_psp:
                    grad_output = filtered(signal, grad_output, k)
                    signal = grad_output
                if WARM_UP != "layer":
                    in_warm_up = (bits & (1 << i)) != 0
                history = currents, potentials, effects
                state = carry, effect, later
                gradient, carry, effect, later = STEP(
                    i, potentials[i], rest, signal, in_warm_up, *state, history, rule, k
                )
                effects = (effect,) + effects
                if rule.is_normalised:
                    absolute += tl.abs(gradient).to(tl.float64)
                if k.filter_input:
                    grad_input = filtered(gradient, grad_input, k)
                    gradient = grad_input
                if k.static:
                    total += gradient
                else:
                    inside = _inside(lanes, in_tile, first + i, steps, EXACT)
                    tl.store(out + (first + i) * stride + lanes, gradient, inside)
        if k.static:
            tl.store(out + lanes, total, lanes < in_tile)
    if rule.is_normalised:
        tl.store(sums_ptr + tl.program_id(0), tl.sum(absolute, axis=0))


@triton.jit(do_not_specialize=["steps"])
def _psp_kernel(
    x_ptr,  # [T, n]
    out_ptr,  # [T, n]
    steps,
    neurons,
    k: tl.constexpr,
    REVERSE: tl.constexpr,
    STEPS: tl.constexpr,
    LANES: tl.constexpr,
):
    """The synaptic filter, or its adjoint."""
    real: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    stride = tl.cast(neurons, tl.int64)
    start = tl.program_id(0).to(tl.int64) * LANES
    lanes = tl.arange(0, LANES)
    in_tile = tl.minimum(neurons - start, LANES).to(tl.int32)
    if REVERSE:
        start += (steps - 1) * stride
        stride = -stride
    psp = tl.zeros([LANES], real)
    for first in range(0, steps, STEPS):
        xs = _rows(x_ptr + start, lanes, in_tile, first, steps, stride, STEPS, False)
        for i in tl.static_range(STEPS):
            psp = filtered(xs[i].to(real), psp, k)
            inside = _inside(lanes, in_tile, first + i, steps, False)
            tl.store(out_ptr + start + (first + i) * stride + lanes, psp, inside)


# Host


def _lanes(size: int, most: int, warps: int) -> int:
    """Lanes of a tile: at most 16 bytes, and `most` values of `size` bytes, a thread."""
    return 32 * warps * max(min(16 // size, most), 1)


def _warps(neurons: int) -> int:
    """Small layers are cut into more programs."""
    return 4 if neurons >= LARGE else 1


def _forward_settings(size: int, extent: Extent, k: Neuron) -> dict[str, Any]:
    """How the forward kernel is cut, for values of `size` bytes."""
    warps = _warps(extent.neurons)
    chunk = max(min(CHUNK, 32 // k.pool**2), 1)
    return {
        "STEPS": min(extent.steps, chunk),
        "EXACT": extent.steps <= chunk,
        "LANES": _lanes(size, 8 // k.pool**2, warps),
        "num_warps": warps,
    }


def _backward_settings(size: int, extent: Extent) -> dict[str, Any]:
    """How the backward kernel is cut: about 32 registers a thread for potentials."""
    exact = extent.steps <= MOST_UNROLLED
    warps = _warps(extent.neurons) if exact else 1
    steps = extent.steps if exact else SEGMENT
    most = 4 if steps <= 8 else 2 if steps <= 16 else 1  # values a thread
    return {
        "STEPS": steps,
        "EXACT": exact,
        "LANES": _lanes(max(size, 4), most, warps),
        "num_warps": warps,
    }


def _forward(x: Tensor, extent: Extent, k: Neuron, counts: bool) -> tuple[Tensor, Tensor]:
    """Return the layer's output, flat, and the number of spikes if it `counts` them."""
    windows = extent.neurons // k.pool**2
    out = torch.empty(extent.steps * windows, dtype=x.dtype, device=x.device)
    count = torch.zeros(int(counts), dtype=torch.int64, device=x.device)
    settings = _forward_settings(x.element_size(), extent, k)
    sizes = extent.steps, windows, extent.row, extent.inner
    if windows:
        with torch.cuda.device_of(x):
            _forward_kernel[triton.cdiv(windows, settings["LANES"]),](
                x, out, count, *sizes, k=k, COUNT=counts, **settings, **LAUNCH
            )
    return out, count


def _backward(
    x: Tensor,
    grad_out: Tensor,
    count: Tensor,
    values: int,
    extent: Extent,
    rule: Rule,
    k: Neuron,
) -> tuple[Tensor, Tensor]:
    """Return the gradient of the layer's input; ``count / values`` is the layer's rate.

    Where it shall be scaled, also the sums of the magnitudes of dL/d(current), one a program.
    """
    grad_x = torch.empty_like(x)
    settings = _backward_settings(x.element_size(), extent)
    lanes = settings["LANES"]
    programs, size = triton.cdiv(extent.neurons, lanes), 0
    if not settings["EXACT"]:
        programs = min(programs, _resident(x, extent.steps * lanes * x.element_size()))
        size = programs * triton.cdiv(extent.steps, SEGMENT) * 3 * lanes
    real = torch.promote_types(x.dtype, torch.float32)
    saved = torch.empty(size, dtype=real, device=x.device)
    sums = torch.empty(programs * rule.is_normalised, dtype=torch.float64, device=x.device)
    arrays = x, grad_out, grad_x, count, saved, sums
    sizes = *extent, values
    if programs:
        with torch.cuda.device_of(x):
            _backward_kernel[programs,](
                *arrays, *sizes, k=k, **_rule_settings(rule), **settings, **LAUNCH
            )
    return grad_x, sums


BACKWARD = STEPS  # of each rule
MOST_STEPS = {NA: MOST_UNROLLED}  # which a rule takes, if not any number


def _rule_settings(rule: Rule) -> dict[str, Any]:
    """What the backward kernel must know of a rule."""
    warm_up = getattr(rule, "warm_up", "never")
    return {"rule": rule, "STEP": BACKWARD[type(rule)], "WARM_UP": warm_up}


def _resident(x: Tensor, history: int) -> int:
    """Programs of `history` bytes of input each that run at once and share the cache."""
    if not x.is_cuda:
        return 2  # interpreted
    device = torch.cuda.get_device_properties(x.device)
    least, most = (bound * device.multi_processor_count for bound in PROGRAMS)
    return min(max(int(L2_SHARE * device.L2_cache_size) // history, least), most)


def _filtered(x: Tensor, tau_s: float, reverse: bool) -> Tensor:
    x = x.contiguous()
    out = torch.empty_like(x)
    neurons = x[0].numel()
    warps = _warps(neurons)
    lanes = _lanes(x.element_size(), 8, warps)
    settings = {"REVERSE": reverse, "STEPS": CHUNK, "LANES": lanes, "num_warps": warps}
    k = Neuron(1.0, tau_s, 1.0)  # of which the filter reads tau_s
    if neurons:
        with torch.cuda.device_of(x):
            _psp_kernel[triton.cdiv(neurons, lanes),](
                x, out, len(x), neurons, k=k, **settings, **LAUNCH
            )
    return out


def _channels_last(x: Tensor) -> bool:
    """Whether images lie in memory with the channels last, as convolutions like them."""
    return x.ndim > 3 and not x.is_contiguous() and x.movedim(-3, -1).is_contiguous()


# Autograd


class _Psp(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, tau_s: float, reverse: bool) -> Tensor:
        return _filtered(x, tau_s, reverse)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.tau_s, ctx.reverse = inputs

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return cast(Tensor, _Psp.apply(grad, ctx.tau_s, not ctx.reverse)), None, None


class _Layer(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, extent: Extent, rule: Rule, k: Neuron, shared: Shared | None) -> Any:
        out, count = _forward(x, extent, k, rule.reads_rate)
        mean = shared and rule.reads_rate and shared.mean
        return out, mean(count, extent.steps * extent.neurons) if mean else count

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        x, ctx.extent, ctx.rule, ctx.k, ctx.shared = inputs
        told = ctx.shared and ctx.shared.mean
        ctx.values = 1 if told else ctx.extent.steps * ctx.extent.neurons
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, output[1])

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor, _: None) -> tuple[Tensor | None, ...]:
        x, count = ctx.saved_tensors
        arguments = count, ctx.values, ctx.extent, ctx.rule, ctx.k, ctx.shared
        grad_x = _Gradient.apply(x, grad_out.contiguous(), *arguments)
        return grad_x, None, None, None, None


class _Gradient(torch.autograd.Function):
    """The backward kernel; a function of its own so that `torch.func` can unwrap its tensors."""

    @staticmethod
    def forward(
        x: Tensor,
        grad_out: Tensor,
        count: Tensor,
        values: int,
        extent: Extent,
        rule: Rule,
        k: Neuron,
        shared: Shared | None,
    ) -> Tensor:
        grad_x, sums = _backward(x, grad_out, count, values, extent, rule, k)
        if rule.is_normalised:
            magnitude = sums.sum() / max(extent.steps * extent.neurons, 1)
            grad_x *= output_scale(magnitude, shared, k.output_psp)
        return grad_x

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
    if _channels_last(x):
        return cast(Tensor, _Psp.apply(x.movedim(-3, -1), tau_s, False)).movedim(-1, -3)
    return cast(Tensor, _Psp.apply(x, tau_s, False))


@torch.compiler.disable
def spikes(
    current: Tensor,
    tau_m: float,
    tau_s: float,
    threshold: float,
    rule: Rule,
    shared: Shared | None = None,
) -> Tensor:
    return _run(current, len(current), rule, Neuron(tau_m, tau_s, threshold), shared)


@torch.compiler.disable
def lif(
    current: Tensor,
    tau_m: float,
    tau_s: float,
    threshold: float,
    rule: Rule,
    shared: Shared | None = None,
) -> Tensor:
    return _run(
        current, len(current), rule, Neuron(tau_m, tau_s, threshold, output_psp=True), shared
    )


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
    shared: Shared | None = None,
) -> Tensor:
    fused = pool == 1 or (x.shape[-2] % pool == 0 and x.shape[-1] % pool == 0)
    k = Neuron(
        tau_m,
        tau_s,
        threshold,
        static=time_steps > 0,
        filter_input=True,
        output_psp=output_psp and fused,
        pool=pool if fused else 1,
        pool_scale=pool_scale if fused and pool > 1 else 1.0,
    )
    output = _run(x, time_steps or len(x), rule, k, shared)
    if fused:
        return output
    pooled = reference.sum_pool(output, pool, pool_scale)
    return psp(pooled, tau_s) if output_psp else pooled


def _run(x: Tensor, steps: int, rule: Rule, k: Neuron, shared: Shared | None) -> Tensor:
    if _channels_last(x):
        return _run_images(x.movedim(-3, -1), steps, rule, k, shared, x.shape[-3]).movedim(-1, -3)
    return _run_images(x[..., None], steps, rule, k, shared, 1)[..., 0]


def _run_images(
    x: Tensor, steps: int, rule: Rule, k: Neuron, shared: Shared | None, channels: int
) -> Tensor:
    """Run a layer on images ``[T, ..., H, W, channels]``, or ``[..., H, W, channels]``."""
    shape = [steps, *(x.shape if k.static else x.shape[1:])]
    neurons = math.prod(shape[1:])
    if k.pool > 1:
        shape[-3:-1] = shape[-3] // k.pool, shape[-2] // k.pool
    row = math.prod(shape[-2:]) if k.pool > 1 else 1
    extent = Extent(steps, neurons, row, channels)
    output, _ = _Layer.apply(x.contiguous(), extent, rule, k, shared)
    return cast(Tensor, output.view(shape))
