"""Fused kernels for the CPU (Numba): one pass forward, one pass backward, any number of steps.

A kernel takes one tile of neurons (`tiles`) after the other through all time steps, with its state
in registers. Only the input is stored for the backward pass, which recomputes potentials and spikes
by the same function, in the order of operations of `reference.simulate`: without fast-math and
without contraction into fused multiply-adds. A tile's history stays in the cache.

A layer's arrays are flat. Row t starts at ``t * n``, where n is the number of the layer's neurons.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple, cast

import torch
from numba.extending import overload
from torch import Tensor

from ..errors import InvalidInput
from ..kernels import not_traced, simd
from ..kernels.compiled import (
    DONE,
    INLINED,
    PART,
    Function,
    ParallelKernel,
    new_images,
    part,
    workers_for,
)
from ..kernels.tiles import (
    VECTORS,
    count,
    first_of_rows,
    keep,
    kept,
    load_row,
    load_tile,
    repeat,
    store_row,
    store_tile,
    sum_of_rows,
    where,
    zero_row,
    zero_tile,
)
from ..rules import Rule
from . import reference
from .cpu_rules import CONSTANTS as BACKWARD
from .cpu_rules import (
    THROUGH_SPIKE,
    History,
    initial_state,
    magnitude,
    potential_change,
    rule_step,
    through_spike,
)
from .reference import Shared, output_scale
from .settings import NeuronLayer
from .tracing import Gradient, check_rule, fold, unfold

SUMS = 4  # computed by the backward kernel, for each worker


class Constants(NamedTuple):
    """The facts about a layer that the kernels need."""

    steps: int
    static: bool  # whether the input is the same at every step
    input_decay: float  # of the filter before the neuron; 0 and a gain of 1 without a filter
    input_gain: float
    output_psc: bool  # whether the synaptic filter follows the neuron
    psc_decay: float  # 1 - 1 / tau_s
    psc_gain: float  # 1 / tau_s
    decay: float  # 1 - 1 / tau_m
    leak: float  # 1 / tau_m
    threshold: float
    width: int  # of the image, for pooling; otherwise 1, as are the channels
    channels: int
    lanes: int  # values in a vector
    pool: int
    pool_scale: float
    is_normalised: bool  # whether the rule's state adds up the gradient's magnitude


class LearnedConstants(Constants):
    """The same, for a layer whose neuron's constants are trained."""


# One time step, on tiles


@part(forceinline=True)
def _step(x, current, rest, k):
    """Compute one step of `reference.simulate`, including the input filter."""
    current = k.input_decay * current + k.input_gain * x
    potential = k.decay * rest + current
    fires = potential > k.threshold
    return current, potential, fires, where(fires, 0, potential)


@part(forceinline=True)
def _unit(unit, n, k):
    """Return first neuron, distances to the next rows, size, and position when pooled."""
    if k.pool == 1:
        start = unit * VECTORS * k.lanes
        return start, 2 * k.lanes, k.lanes, min(n - start, VECTORS * k.lanes), start
    window, group = divmod(unit, -(-k.channels // k.lanes))
    band, column = divmod(window, k.width // k.pool)
    channel = group * k.lanes
    start = (band * k.width + column) * k.pool * k.channels + channel
    down = k.width * k.channels
    return start, down, k.channels, k.channels - channel, window * k.channels + channel


@part(forceinline=True)
def _first(x, size, lanes):
    """Return the mask of the first neurons of a tile whose rows are consecutive."""
    return first_of_rows(x, size, size - lanes, size - 2 * lanes, size - 3 * lanes)


@part(forceinline=True)
def _inside(x, i, j, size, k):
    """Return the mask of the neurons of the tile at pixel i, j of a window."""
    if k.pool == 1:
        return _first(x, size, k.lanes)
    beside, below = j + 1 < k.pool, i + 1 < k.pool
    return first_of_rows(x, size, size * beside, size * below, size * (beside and below))


# Kernels: one worker's share of a layer


@ParallelKernel
def _forward_kernel(arguments, worker, workers):
    """Compute ``x [T, n] -> out [T, n / pool^2]``; ``counts[worker]`` is the number of spikes."""
    x, out, counts, n, units, k = arguments[0]
    steps, pooled, total = k.steps, n // (k.pool * k.pool), 0
    sums = simd.scratch(steps * k.lanes, x.dtype)
    for unit in range(worker * units // workers, (worker + 1) * units // workers):
        start, down, across, size, to = _unit(unit, n, k)
        if k.pool > 1:
            sums[:] = 0
        for i in range(0, k.pool, 2):
            for j in range(0, k.pool, 2):
                inside = _inside(x, i, j, size, k)
                at = start + i * down + j * across
                current = rest = psc = zero_tile(x)
                for t in range(steps):
                    row = 0 if k.static else t * n
                    value = load_tile(x, row + at, down, across, inside)
                    current, _, fires, rest = _step(value, current, rest, k)
                    total += count(fires)
                    spikes = where(fires, 1, 0)
                    if k.pool > 1:
                        so_far = load_row(sums, t * k.lanes, k.lanes)
                        store_row(so_far + sum_of_rows(spikes), sums, t * k.lanes, k.lanes)
                    elif k.output_psc:
                        psc = k.psc_decay * psc + k.psc_gain * spikes
                        store_tile(psc, out, t * n + at, down, across, inside)
                    else:
                        store_tile(spikes, out, t * n + at, down, across, inside)
        if k.pool > 1:
            filtered = zero_row(x)
            for t in range(steps):
                signal = load_row(sums, t * k.lanes, k.lanes) * k.pool_scale
                if k.output_psc:
                    filtered = k.psc_decay * filtered + k.psc_gain * signal
                    store_row(filtered, out, t * pooled + to, size)
                else:
                    store_row(signal, out, t * pooled + to, size)
    counts[worker] = total
    return DONE


@ParallelKernel
def _backward_kernel(arguments, worker, workers):
    """Compute ``grad_out [T, n / pool^2] -> grad_x`` of the shape of `x`.

    `sums` has `SUMS` rows with one number per worker: the summed magnitude of dL/dI, if the
    gradient is to be scaled, and then the sums for the gradients of learned constants.
    """
    x, grad_out, grad_x, sums, n, units, k, r = arguments[0]
    steps, pooled, room = k.steps, n // (k.pool * k.pool), k.steps * VECTORS * k.lanes
    memory = simd.scratch(room, x.dtype), simd.scratch(room, x.dtype), simd.scratch(room, x.dtype)
    history = History(*memory)
    tile = simd.scratch(VECTORS * k.lanes, x.dtype)
    sums[worker::workers] = 0
    for unit in range(worker * units // workers, (worker + 1) * units // workers):
        start, down, across, size, to = _unit(unit, n, k)
        for i in range(0, k.pool, 2):
            for j in range(0, k.pool, 2):
                inside = _inside(x, i, j, size, k)
                at = start + i * down + j * across
                current = rest = psc = zero_tile(x)
                for t in range(steps):
                    row = 0 if k.static else t * n
                    value = load_tile(x, row + at, down, across, inside)
                    before = rest
                    current, potential, fires, rest = _step(value, current, rest, k)
                    psc = k.psc_decay * psc + k.psc_gain * where(fires, 1, 0)
                    keep(potential_change(r, current, potential, before), history.changes, t)
                    keep(potential, history.potentials, t)
                    keep(psc, history.pscs, t)
                filtered = through_input = total = later = zero_tile(x)
                learned = zero_tile(x), zero_tile(x), zero_tile(x)
                state = initial_state(r, zero_tile(x), history, k)
                for t in range(steps - 1, -1, -1):
                    if k.pool > 1:
                        grad = repeat(load_row(grad_out, t * pooled + to, size) * k.pool_scale)
                    else:
                        grad = load_tile(grad_out, t * n + at, down, across, inside)
                    if k.output_psc:
                        filtered = k.psc_decay * filtered + k.psc_gain * grad
                        grad = filtered
                    result, state = rule_step(r, t, grad, state, history, k)
                    through_input = k.input_decay * through_input + k.input_gain * result
                    gradients = grad, result, later, through_input
                    learned = add_learned(learned, t, gradients, r, history, k)
                    later = result
                    if k.static:
                        total = total + through_input
                    else:
                        store_tile(through_input, grad_x, t * n + at, down, across, inside)
                if k.static:
                    store_tile(total, grad_x, at, down, across, inside)
                if k.is_normalised:
                    keep(where(inside, magnitude(r, state), 0), tile, 0)
                    sums[worker] += _sum(tile)
                keep_learned(learned, inside, tile, sums, worker, workers, k)
    return DONE


@part()
def _sum(values):
    """Sum in float64, which a sum over a whole layer requires."""
    total = 0.0
    for value in values:
        total += value
    return total


# Learned constants: README.md, 24 to 27; kernels without them omit all of this.


@part(forceinline=True)
def _add_learned(sums, t, gradients, r, history, k):
    """Add step t to the sums for tau_m, tau_s and the threshold."""
    grad, result, later, through_input = gradients
    potential = kept(history.potentials, t)
    before = earlier = zero_tile(history.potentials)  # rest and input current one step earlier
    if t > 0:
        earlier = kept(history.potentials, t - 1)
        before = where(earlier > k.threshold, 0, earlier)
    if t > 1:
        long_before = kept(history.potentials, t - 2)
        earlier = earlier - k.decay * where(long_before > k.threshold, 0, long_before)
    by_filter = through_input * (potential - k.decay * before - earlier)
    if k.output_psc:
        change = where(potential > k.threshold, k.psc_gain, 0)  # of the PSC, in this step
        if t > 0:
            change = change - k.psc_gain * kept(history.pscs, t - 1)
        by_filter = by_filter + grad * change
    by_spike = through_spike(r, t, result, later, history, k)
    return sums[0] + result * before, sums[1] - by_filter, sums[2] - by_spike


def add_learned(sums, t, gradients, r, history, k):
    """Apply `_add_learned` if there are learned constants; in kernels only."""
    raise NotImplementedError


@overload(add_learned, jit_options=INLINED)
def _choose_add_learned(sums, t, gradients, r, history, k):
    if k.instance_class is LearnedConstants:
        return lambda sums, t, gradients, r, history, k: _add_learned(
            sums, t, gradients, r, history, k
        )
    return lambda sums, t, gradients, r, history, k: sums


def keep_learned(tiles, inside, room, sums, worker, workers, k):
    """Add three tiles, where `inside`, to the last rows of `sums`; in kernels only."""
    raise NotImplementedError


@overload(keep_learned, jit_options=PART)
def _choose_keep_learned(tiles, inside, room, sums, worker, workers, k):
    def keep_sums(tiles, inside, room, sums, worker, workers, k):
        for i in range(SUMS - 1):
            keep(where(inside, tiles[i], 0), room, 0)
            sums[(i + 1) * workers + worker] += _sum(room)

    def nothing(tiles, inside, room, sums, worker, workers, k):
        pass

    return keep_sums if k.instance_class is LearnedConstants else nothing


@ParallelKernel
def _psc_kernel(arguments, worker, workers):
    """Apply the synaptic filter, or its adjoint: ``[T, n] -> [T, n]``."""
    x, out, steps, reverse, decay, gain, lanes = arguments[0]
    n = x.size // steps
    units = -(-n // (VECTORS * lanes))
    for unit in range(worker * units // workers, (worker + 1) * units // workers):
        at = unit * VECTORS * lanes
        inside = _first(x, min(n - at, VECTORS * lanes), lanes)
        state = zero_tile(x)
        for i in range(steps):
            row = ((steps - 1 - i) if reverse else i) * n
            state = decay * state + gain * load_tile(x, row + at, 2 * lanes, lanes, inside)
            store_tile(state, out, row + at, 2 * lanes, lanes, inside)
    return DONE


# Host


def _neurons(x: Tensor, k: Constants) -> int:
    return x.numel() if k.static else x.numel() // k.steps


def _units(n: int, k: Constants) -> int:
    """Return the number of units of work.

    A unit is, with pooling, a window of some channels, in tiles of 2 x 2 pixels. Without pooling,
    it is one tile of consecutive neurons, whose rows are its four vectors.
    """
    if k.pool == 1:
        return -(-n // (VECTORS * k.lanes))
    return n // (k.pool * k.pool * k.channels) * -(-k.channels // k.lanes)


@functools.lru_cache(maxsize=256)
def _constants(
    neurons: NeuronLayer, itemsize: int, steps: int, static: bool, image: tuple[int, int]
) -> Constants:
    """Return the constants of a layer with values of `itemsize` bytes; `image`: width, channels."""
    neuron, filters = neurons.neuron, neurons.filter_input
    return Constants(
        steps=steps,
        static=static,
        input_decay=1 - 1 / neuron.tau_s if filters else 0.0,
        input_gain=1 / neuron.tau_s if filters else 1.0,
        output_psc=neurons.output_psc,
        psc_decay=1 - 1 / neuron.tau_s,
        psc_gain=1 / neuron.tau_s,
        decay=1 - 1 / neuron.tau_m,
        leak=1 / neuron.tau_m,
        threshold=neuron.threshold,
        width=image[0],
        channels=image[1],
        lanes=simd.lanes(itemsize),
        pool=neurons.pool,
        pool_scale=float(neurons.pool_scale),
        is_normalised=neurons.rule.is_normalised,
    )


@functools.lru_cache(maxsize=256)
def _rule_constants(make: Callable[[Rule, Constants], Any], rule: Rule, k: Constants) -> Any:
    return make(rule, k)


# Autograd


class _Psc(Function):
    @staticmethod
    def forward(x: Tensor, tau_s: float, reverse: bool) -> Tensor:
        x = x.contiguous().resolve_neg()
        out = torch.empty_like(x)
        settings = len(x), reverse, 1 - 1 / tau_s, 1 / tau_s, simd.lanes(x.itemsize)
        _psc_kernel(x, out, *settings, workers=workers_for(x.numel()))
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.tau_s, ctx.reverse = inputs

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return cast(Tensor, _Psc.apply(grad, ctx.tau_s, not ctx.reverse)), None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], x: Tensor, *settings: Any) -> Any:
        return _Psc.apply(x.movedim(in_dims[0], 1), *settings), 1


class _Layer(Function):
    """`images` are processed with channels last, as `Conv` stores them."""

    @staticmethod
    def forward(
        x: Tensor,
        images: bool,
        rule: Rule,
        r: Any,
        k: Constants,
        shared: Shared | None,
        constants: Tensor | None,
    ) -> Any:
        shape = [k.steps, *(x.shape if k.static else x.shape[1:])]
        if k.pool > 1:
            shape[-2:] = shape[-2] // k.pool, shape[-1] // k.pool
        out = new_images(x, shape) if images else x.new_empty(shape)
        n = _neurons(x, k)
        workers = workers_for(n * k.steps)
        counts = x.new_empty(workers, dtype=torch.float64)
        arrays = _last(x, images), _last(out, images), counts
        _forward_kernel(*arrays, n, _units(n, k), k, workers=workers)
        total = counts.sum()
        mean = shared and rule.reads_rate and shared.mean
        return out, mean(total, n * k.steps) if mean else total

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        x, ctx.images, ctx.rule, ctx.r, ctx.k, ctx.shared, constants = inputs
        ctx.learns = constants is not None
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, output[1])

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor, _: None) -> tuple[Tensor | None, ...]:
        x, total = ctx.saved_tensors
        r = ctx.r
        check_rule(ctx.rule, x)
        check_rule(ctx.rule, grad_out)
        if ctx.rule.reads_rate:
            told = ctx.shared and ctx.shared.mean  # the rate itself instead of a sum
            values = _neurons(x, ctx.k) * ctx.k.steps
            rate = total.item() / (1 if told else max(values, 1))
            level = math.inf if rate <= ctx.rule.rate_threshold else -math.inf
            r = r._replace(warm_up_psc=level)
        arguments = x, grad_out, ctx.images
        if not ctx.learns:
            return _Gradient.apply(*arguments, ctx.k, r, ctx.shared), *6 * (None,)
        k = LearnedConstants._make(ctx.k)
        grad_x, grad_constants = _Gradient.apply(*arguments, k, r, ctx.shared)
        return grad_x, *5 * (None,), grad_constants

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], x: Tensor, *settings: Any) -> Any:
        axis, size = 0 if settings[3].static else 1, info.batch_size
        x, is_joined = fold(x, in_dims[0], size, axis)
        output, total = _Layer.apply(x, *settings)
        return (unfold(output, size, 1, is_joined), total), (1, None)


class _Gradient(Gradient):
    @staticmethod
    def forward(
        x: Tensor, grad_out: Tensor, images: bool, k: Constants, r: Any, shared: Shared | None
    ) -> Any:
        grad_x = new_images(x, x.shape) if images else x.new_empty(x.shape)
        arrays = [_last(array, images) for array in (x, grad_out, grad_x)]
        n = _neurons(x, k)
        workers = workers_for(n * k.steps)
        sums = x.new_empty(SUMS, workers, dtype=torch.float64)
        _backward_kernel(*arrays, sums, n, _units(n, k), k, r, workers=workers)
        scale: float | Tensor = 1.0
        if k.is_normalised:
            magnitude = sums[0].sum() / max(n * k.steps, 1)
            scale = output_scale(magnitude, shared, k.output_psc)
            grad_x *= scale
        if not isinstance(k, LearnedConstants):
            return grad_x
        grad_constants = sums[1:].sum(1) * scale
        grad_constants[0] *= k.leak**2
        return grad_x, grad_constants

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], x: Tensor, grad_out: Tensor, *settings: Any
    ) -> Any:
        axis, size = 0 if settings[1].static else 1, info.batch_size
        x, is_joined = fold(x, in_dims[0], size, axis)
        grad_out, _ = fold(grad_out, in_dims[1], size, 1)
        return unfold(_Gradient.apply(x, grad_out, *settings), size, axis, is_joined), axis


def _last(x: Tensor, images: bool) -> Tensor:
    """Return the values in the layout of the kernels: contiguous, images with channels last."""
    return (x.movedim(-3, -1) if images else x).contiguous().resolve_neg()


# The functions of `reference`, with its arguments. torch.compile cannot trace the kernels, so a
# compiled module calls them unchanged.


@not_traced
def psc(x: Tensor, tau_s: float) -> Tensor:
    return cast(Tensor, _Psc.apply(x, tau_s, False))


@not_traced
def layer(
    x: Tensor,
    neurons: NeuronLayer,
    time_steps: int = 0,
    shared: Shared | None = None,
    constants: Tensor | None = None,
) -> Tensor:
    static, steps, pool = time_steps > 0, time_steps or len(x), neurons.pool
    if pool > 1 and (x.shape[-2] % pool or x.shape[-1] % pool):
        plain = replace(neurons, pool=1, output_psc=False)
        pooled = reference.sum_pool(
            layer(x, plain, time_steps, shared, constants), pool, neurons.pool_scale
        )
        if not neurons.output_psc:
            return pooled
        if constants is None:
            return psc(pooled, neurons.neuron.tau_s)
        return reference.psc(pooled, constants[1])
    images = neurons.filter_input and x.ndim + static == 5  # stored in this layout by a convolution
    image = (x.shape[-1], x.shape[-3]) if pool > 1 else (1, 1)
    k = _constants(neurons, x.itemsize, steps, static, image)
    r = _rule_constants(BACKWARD[type(neurons.rule)], neurons.rule, k)
    if constants is not None and type(r) not in THROUGH_SPIKE:
        raise InvalidInput(
            f"the fused kernels cannot train constants with the rule {type(r).__name__}: "
            "pass through_spike to tsslbp.neuron.cpu_rules.add, or use impl='reference'"
        )
    output, _ = _Layer.apply(x, images, neurons.rule, r, k, shared, constants)
    return cast(Tensor, output)
