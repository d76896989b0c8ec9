"""The GPU kernels (Triton) that `cuda` launches.

A program takes a tile of neurons through all time steps, with their state in registers. Only the
input is stored for the backward pass, which recomputes potentials and spikes by the same function,
in the order of operations of `reference.simulate`. Arithmetic is in float32 (float64 for float64),
independently of the type of the arrays.

A layer's arrays are flat, and row t starts at ``t * n``. A row has the order of the memory, so
images may have their channels last. ``n`` is the number of neurons of a layer and ``TILE`` the
number of neurons of a tile; in the forward kernel these are pooling windows. Values in a kernel
have the shape ``[TILE]``. Names in capitals are constants of the compiler, and so are `k` and
`rule`.

An *array* is a pointer, the offsets of its tile's neurons from there (``[TILE]``), and the distance
between its rows. The *limits* are the number of neurons of the tile and the number of steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import triton
import triton.language as tl

from .cuda_rules import filtered
from .settings import Neuron


@dataclass(frozen=True)
class LayerConstants:
    """The facts about a layer that the kernels need."""

    neuron: Neuron
    static: bool = False  # whether the input is the same at every step
    filter_input: bool = False  # whether a synaptic filter precedes the neuron
    output_psc: bool = False  # whether a synaptic filter follows the neuron
    pool: int = 1  # side of the pooling window, which divides the image's sides
    pool_scale: float = 1.0


# Parts of the kernels


@triton.jit
def _first_neurons(first_out, row, inner, POOL: tl.constexpr, TILE: tl.constexpr):
    """Return the first neuron of each of a tile's windows: a number, and offsets ``[TILE]``."""
    windows = tl.arange(0, TILE)
    if POOL == 1:
        return first_out, windows
    band = first_out // row  # of POOL rows of the input
    along = (first_out - band * row).to(tl.int32) + windows
    channel = along % inner
    return band * (POOL * POOL) * row, (along // row) * (POOL * POOL - POOL) * row + (
        along * POOL - channel * (POOL - 1)
    )


@triton.jit
def _windows(first, row, inner, POOL: tl.constexpr, TILE: tl.constexpr):
    """Return the window of each of a tile's neurons: a number, and offsets ``[TILE]``."""
    neurons = tl.arange(0, TILE)
    if POOL == 1:
        return first, neurons
    width = row * POOL
    band = first // (width * POOL)  # of POOL rows of the input
    along = (first - band * width * POOL).to(tl.int32) + neurons
    below = along // width
    along = along - below * width
    return band * row, below // POOL * row + along // inner // POOL * inner + along % inner


@triton.jit
def _inside(neurons, t, limits, EXACT: tl.constexpr):
    """Whether a neuron of the tile belongs to the layer, and step `t` exists."""
    count, steps = limits
    if EXACT:
        return neurons < count
    return neurons < tl.where(t < steps, count, 0)


@triton.jit
def _rows(array, first, limits, STEPS: tl.constexpr, EXACT: tl.constexpr):
    """Load STEPS tiles of an array from step `first` on, as a tuple; zeros outside of it."""
    start, offsets, stride = array
    neurons = tl.arange(0, offsets.shape[0])
    rows = ()
    for i in tl.static_range(STEPS):
        inside = _inside(neurons, first + i, limits, EXACT)
        rows = rows + (tl.load(start + (first + i) * stride + offsets, inside, 0.0),)
    return rows


@triton.jit
def _step(x, current, rest, k: tl.constexpr):
    """Compute one step of `reference.simulate`, including the input filter, if any."""
    current = filtered(x, current, k.neuron.tau_s) if k.filter_input else x
    potential = (1 - 1 / k.neuron.tau_m) * rest + current
    return current, potential, _rest(potential, k)


@triton.jit
def _rest(potential, k: tl.constexpr):
    """The potential after the reset."""
    return tl.where(potential > k.neuron.threshold, 0.0, potential)


@triton.jit
def _forward_again(xs, state, rule: tl.constexpr, k: tl.constexpr, BY_NEURON: tl.constexpr):
    """Return inputs and potentials of the steps of `xs`; bit i of a number is warm-up at step i."""
    current, rest, psc = state
    currents = ()
    potentials = ()
    bits = tl.zeros(rest.shape, tl.int32)
    for i in tl.static_range(len(xs)):
        current, potential, rest = _step(xs[i].to(rest.dtype), current, rest, k)
        currents = currents + (current,)
        potentials = potentials + (potential,)
        if BY_NEURON:
            psc = filtered((potential > k.neuron.threshold).to(rest.dtype), psc, k.neuron.tau_s)
            bits |= tl.where(psc < rule.warm_up_psc / k.neuron.tau_s, 1 << i, 0)
    return currents, potentials, bits


@triton.jit
def _save_states(array, limits, saved, rest, k: tl.constexpr, STEPS: tl.constexpr):
    """Run a tile forward from `rest` (zeros); save its state after each segment but the last."""
    current = rest
    psc = rest
    neurons = tl.arange(0, rest.shape[0])
    for segment in range(tl.cdiv(limits[1], STEPS) - 1):
        xs = _rows(array, segment * STEPS, limits, STEPS, True)
        for i in tl.static_range(STEPS):
            current, potential, rest = _step(xs[i].to(rest.dtype), current, rest, k)
            psc = filtered((potential > k.neuron.threshold).to(rest.dtype), psc, k.neuron.tau_s)
        to = saved + (segment * 3) * rest.shape[0] + neurons
        tl.store(to, current)
        tl.store(to + rest.shape[0], rest)
        tl.store(to + 2 * rest.shape[0], psc)


@triton.jit
def _state_before(segment, saved, TILE: tl.constexpr):
    """Load the saved current, potential after the reset, and PSC; zeros for segment 0."""
    neurons = tl.arange(0, TILE)
    kept = neurons < tl.where(segment > 0, TILE, 0)
    at = saved + (segment * 3 - 3) * TILE + neurons
    current = tl.load(at, kept, 0.0)
    rest = tl.load(at + TILE, kept, 0.0)
    return current, rest, tl.load(at + 2 * TILE, kept, 0.0)


# Kernels


@triton.jit(do_not_specialize=["steps", "inner"])
def forward_kernel(
    x_ptr,  # [T, n], or [n] if it is static
    out_ptr,  # [T, windows]
    count_ptr,  # spikes of the layer, if COUNT
    steps,
    windows,  # outputs a step
    row,
    inner,
    k: tl.constexpr,
    COUNT: tl.constexpr,
    STEPS: tl.constexpr,
    EXACT: tl.constexpr,
    TILE: tl.constexpr,
):
    P: tl.constexpr = k.pool * k.pool
    real: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    stride_out = tl.cast(windows, tl.int64)
    stride = 0 if k.static else stride_out * P
    first_out = tl.program_id(0).to(tl.int64) * TILE
    tile = tl.arange(0, TILE)
    limits = tl.minimum(windows - first_out, TILE).to(tl.int32), steps
    start, offsets = _first_neurons(first_out, row, inner, k.pool, TILE)
    count = tl.zeros([TILE], tl.int32)
    psc = tl.zeros([TILE], real)
    current = ()
    rest = ()
    for _ in tl.static_range(P):
        current = current + (tl.zeros([TILE], real),)
        rest = rest + (tl.zeros([TILE], real),)
    for first in range(0, STEPS if EXACT else steps, STEPS):
        xs = ()
        for p in tl.static_range(P):
            neuron = x_ptr + start + p // k.pool * k.pool * row + p % k.pool * inner
            xs = xs + (_rows((neuron, offsets, stride), first, limits, STEPS, EXACT),)
        for i in tl.static_range(STEPS):
            inside = _inside(tile, first + i, limits, EXACT)
            signal = tl.zeros([TILE], real)
            before = current, rest
            current = ()
            rest = ()
            for p in tl.static_range(P):
                x = xs[p][i].to(real)
                current_p, potential, rest_p = _step(x, before[0][p], before[1][p], k)
                current = current + (current_p,)
                rest = rest + (rest_p,)
                fires = potential > k.neuron.threshold
                signal += fires.to(real)
                if COUNT:
                    count += (fires & inside).to(tl.int32)
            signal = signal * k.pool_scale
            if k.output_psc:
                psc = filtered(signal, psc, k.neuron.tau_s)
                signal = psc
            tl.store(out_ptr + first_out + (first + i) * stride_out + tile, signal, inside)
    if COUNT:
        tl.atomic_add(count_ptr, tl.sum(count, axis=0).to(tl.int64))


@triton.jit(do_not_specialize=["steps", "inner", "values"])
def backward_kernel(
    x_ptr,  # [T, n], or [n] if it is static
    grad_ptr,  # [T, windows]
    out_ptr,  # of the shape of x
    count_ptr,  # spikes of the layer, if warm-up is by layer (or its rate, see values)
    saved_ptr,  # [programs, segments, 3, TILE], if there is more than one segment
    sums_ptr,  # [programs] magnitudes of dL/d(current), if they are to be scaled
    steps,
    neurons,
    row,
    inner,
    values,  # neurons times steps (or 1)
    k: tl.constexpr,
    rule: tl.constexpr,
    STEP: tl.constexpr,  # the rule's, of cuda_rules.py
    WARM_UP: tl.constexpr,  # if the rule has one: "neuron", "layer"
    STEPS: tl.constexpr,
    EXACT: tl.constexpr,
    TILE: tl.constexpr,
):
    real: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    neurons = tl.cast(neurons, tl.int64)
    stride_out = neurons // (k.pool * k.pool)
    stride = 0 if k.static else neurons
    segments = 1 if EXACT else tl.cdiv(steps, STEPS)
    saved = saved_ptr + tl.program_id(0).to(tl.int64) * segments * (3 * TILE)
    tile = tl.arange(0, TILE)
    zeros = tl.zeros([TILE], real)
    absolute = tl.zeros([TILE], tl.float64)
    if WARM_UP == "layer":
        in_warm_up = tl.load(count_ptr).to(tl.float64) / values <= rule.rate_threshold
    for block in range(tl.program_id(0), tl.cdiv(neurons, TILE), tl.num_programs(0)):
        start = tl.cast(block, tl.int64) * TILE
        limits = tl.minimum(neurons - start, TILE).to(tl.int32), steps
        start_out, windows = _windows(start, row, inner, k.pool, TILE)
        x = x_ptr + start, tile, stride
        grad = grad_ptr + start_out, windows, stride_out
        out = out_ptr + start
        if not EXACT:
            tl.debug_barrier()  # the last block's states have been read
            _save_states(x, limits, saved, zeros, k, STEPS)
            tl.debug_barrier()  # this block's can be read
        grad_output = zeros  # dL/d(output), through the output's filter
        grad_input = zeros  # dL/d(current), through the input's filter
        total = zeros  # its sum over time
        state = zeros, zeros, zeros  # the rule's
        for done in range(segments):
            segment = segments - 1 - done
            first = segment * STEPS
            xs = _rows(x, first, limits, STEPS, EXACT)
            grads = _rows(grad, first, limits, STEPS, EXACT)
            before = (zeros, zeros, zeros) if EXACT else _state_before(segment, saved, TILE)
            currents, potentials, bits = _forward_again(xs, before, rule, k, WARM_UP == "neuron")
            effects = ()  # of the later steps
            for i in tl.static_range(STEPS - 1, -1, -1):
                rest = before[1] if i == 0 else _rest(potentials[i - 1], k)
                signal = grads[i].to(real) * k.pool_scale
                if k.output_psc:
                    grad_output = filtered(signal, grad_output, k.neuron.tau_s)
                    signal = grad_output
                if WARM_UP != "layer":
                    in_warm_up = (bits & (1 << i)) != 0
                moment = potentials[i], rest, signal, in_warm_up
                gradient, state = STEP(i, moment, state, (currents, potentials, effects), rule, k)
                effects = (state[1],) + effects
                if rule.is_normalised:
                    absolute += tl.abs(gradient).to(tl.float64)
                if k.filter_input:
                    grad_input = filtered(gradient, grad_input, k.neuron.tau_s)
                    gradient = grad_input
                if k.static:
                    total += gradient
                else:
                    inside = _inside(tile, first + i, limits, EXACT)
                    tl.store(out + (first + i) * stride + tile, gradient, inside)
        if k.static:
            tl.store(out + tile, total, tile < limits[0])
    if rule.is_normalised:
        tl.store(sums_ptr + tl.program_id(0), tl.sum(absolute, axis=0))


@triton.jit(do_not_specialize=["steps"])
def psc_kernel(
    x_ptr,  # [T, n]
    out_ptr,  # [T, n]
    steps,
    neurons,
    tau_s: tl.constexpr,
    REVERSE: tl.constexpr,
    STEPS: tl.constexpr,
    TILE: tl.constexpr,
):
    """The synaptic filter, or its adjoint."""
    real: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    stride = tl.cast(neurons, tl.int64)
    start = tl.program_id(0).to(tl.int64) * TILE
    tile = tl.arange(0, TILE)
    limits = tl.minimum(neurons - start, TILE).to(tl.int32), steps
    if REVERSE:
        start += (steps - 1) * stride
        stride = -stride
    psc = tl.zeros([TILE], real)
    for first in range(0, steps, STEPS):
        xs = _rows((x_ptr + start, tile, stride), first, limits, STEPS, False)
        for i in tl.static_range(STEPS):
            psc = filtered(xs[i].to(real), psc, tau_s)
            inside = _inside(tile, first + i, limits, False)
            tl.store(out_ptr + start + (first + i) * stride + tile, psc, inside)
