"""Event-driven connections for the CPU, whose work is proportional to the number of spikes.

An event is a nonzero value of a connection's input: a spike, or a sum of spikes after pooling. Let
A be the matrix whose row for an output pixel holds the inputs in its window (im2col), W the weights
and D the output's gradient. A convolution is ``A W``, and the weights' gradient is ``A^T D``. A is
mostly zeros, so both are sums over events of a value times a row, of W or of D, with all output
channels of a row at once (`simd.gather`):

- Forward, events are listed for one output line at a time, column by column. Those in the window of
  a pixel are then adjacent.
- For the weights' gradient they are listed for one input channel at a time, line by line. A weight
  meets all events of its channel, each with the D at the same distance from it.

The input's gradient ``D W^T`` is not sparse, because silent neurons have a gradient as well. It is
PyTorch's matrix product or transposed convolution or, for unpadded windows of 3 x 3 and 5 x 5, a
faster kernel.

Legend: frames ``[F, H, W, C]``, channels last and flat; a linear layer's rows are frames of one
pixel. A *line* is a row of a frame. A *block* is up to `simd.MOST_VECTORS` vectors of output
channels. Weights are packed as ``[block][kernel column, kernel row, C][block's channels]``, where
the last block is padded. The number of vectors in a block and the width of a window are constants
in a kernel's code, which is compiled for those that a network uses.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from . import not_traced, simd
from .compiled import DONE, ParallelKernel, new_images, part, workers_for

# Fractions of nonzero inputs at which dense products become as fast, forward plus backward, by the
# instruction set that PyTorch uses and the dimensions of the weights: "events" in results/bench.
CROSSOVERS = {"AVX512": {4: 0.4, 2: 0.01}, "AVX2": {4: 0.6, 2: 0.01}}
SMALLEST_LINEAR = 1 << 28  # products; a smaller linear layer gains less than compiling takes
SAMPLED = 512  # values in each sampled segment (one of eight), which estimate that fraction
OWN_INPUT_GRADIENTS = ((3, 3), (5, 5))  # windows
PIXELS_IN_GROUP = 256  # most output pixels of a group of lines, which use a block in turn
GROUPS = 8  # least number of groups of lines per worker, if there are enough lines


class Sizes(NamedTuple):
    """Sizes of a convolution, and how its output channels are cut into blocks."""

    height: int
    width: int
    channels: int
    kernel_height: int
    kernel_width: int
    padding: int
    stride: int
    out_height: int
    out_width: int
    out_channels: int
    rows: int  # of packed weights: inputs in a window
    lanes: int  # values in a vector
    block: int  # output channels in a block
    # The grid of the output's gradient, which is placed where its window begins; with a stride
    # there are zeros in between.
    margin: int  # pixels before the first line
    grid_height: int
    pitch: int  # pixels in a line


# Kernels: one worker's share of the work


class EventLists(NamedTuple):
    """Lists of events."""

    rows: Any  # of the matrix that they meet
    values: Any
    starts: Any  # flat [i, j]: where those of column or line j begin, in list i


@part()
def _list_by_column(x, first, lines, s, events):
    """List the events that reach each of some output lines, column by column."""
    rows, values, starts = events
    count = 0
    for i in range(lines):
        frame, line = divmod(first + i, s.out_height)
        top = line * s.stride - s.padding
        for column in range(s.width):
            starts[i * (s.width + 1) + column] = count
            for row in range(max(0, -top), min(s.kernel_height, s.height - top)):
                pixel = ((frame * s.height + top + row) * s.width + column) * s.channels
                weights = (column * s.kernel_height + row) * s.channels
                for c in range(0, s.channels, s.lanes):
                    some = min(s.lanes, s.channels - c)
                    count = simd.compress(x, pixel + c, some, weights + c, rows, values, count)
        starts[i * (s.width + 1) + s.width] = count


@functools.cache
def _forward_kernel(vectors: int) -> Any:
    """Return the kernel for blocks of this many vectors."""

    @ParallelKernel
    def forward_kernel(arguments, worker, workers):
        """Compute every `workers`-th group of lines, since later time steps have more events."""
        x, packed, out, lines, s = arguments[0]
        group = max(min(PIXELS_IN_GROUP // s.out_width, lines // (GROUPS * workers)), 1)
        reach = s.kernel_height * s.channels  # weight rows of a kernel column
        room = group * s.width * reach + s.lanes
        rows, values = simd.scratch(room, np.int32), simd.scratch(room, x.dtype)
        starts = simd.scratch(group * (s.width + 1), np.intp)
        events = EventLists(rows, values, starts)
        for line in range(worker * group, lines, workers * group):
            members = min(group, lines - line)
            _list_by_column(x, line, members, s, events)
            for channel in range(0, s.out_channels, s.block):
                size = min(s.block, s.out_channels - channel)
                for i in range(members):
                    columns = i * (s.width + 1)
                    for column in range(s.out_width):
                        left = column * s.stride - s.padding
                        start = starts[columns + min(max(left, 0), s.width)]
                        end = starts[columns + min(max(left + s.kernel_width, 0), s.width)]
                        base = channel * s.rows - left * reach * s.block
                        to = ((line + i) * s.out_width + column) * s.out_channels + channel
                        simd.gather(
                            1, vectors, packed, base, rows, values, start, end, out, to, size
                        )
        return DONE

    return forward_kernel


@part()
def _list_by_channel(x, frame, first, s, events, ends, found):
    """List the events of a frame sorted by channel, from `first` on, then by line.

    Lines are ordered by their remainder modulo the stride. Events of channel c begin at
    ``c * area``; they meet the grid at ``line * pitch + column``. The events of each line are found
    pixel by pixel, whose channels are adjacent in memory, and then sorted.
    """
    area, channels = s.height * s.width, len(ends)
    numbers, values = found
    bits = 0  # of a channel's number, which is stored below a column's in 32 bits
    while (channels - 1) >> bits:
        bits += 1
    for c in range(channels):
        ends[c] = c * area
    line = 0
    for rest in range(min(s.stride, s.height)):
        for row in range(rest, s.height, s.stride):
            for c in range(channels):
                events.starts[c * (s.height + 1) + line] = ends[c]
            line += 1
            count = 0
            for column in range(s.width):
                start = (frame * area + row * s.width + column) * s.channels + first
                for c in range(0, channels, s.lanes):
                    some, number = min(s.lanes, channels - c), (column << bits) + c
                    count = simd.compress(x, start + c, some, number, numbers, values, count)
            for i in range(count):
                c = numbers[i] & ((1 << bits) - 1)
                to = ends[c]
                events.rows[to] = row * s.pitch + (numbers[i] >> bits)
                events.values[to] = values[i]
                ends[c] = to + 1
    for c in range(channels):
        events.starts[c * (s.height + 1) + s.height] = ends[c]


@part()
def _copy_to_grid(grad_out, frame, channel, s, grid):
    """Copy a block of a frame's gradient to a grid that has zeros between its lines."""
    channels = min(s.block, s.out_channels - channel)
    for line in range(s.out_height):
        for column in range(s.out_width):
            pixel = (frame * s.out_height + line) * s.out_width + column
            at = pixel * s.out_channels + channel
            to = (s.margin + (line * s.pitch + column) * s.stride) * s.block
            for j in range(0, s.block, s.lanes):
                some = max(min(s.lanes, channels - j), 0)
                simd.move(grad_out, at + j, some, grid, to + j, s.lanes)


@functools.cache
def _weight_gradient_kernel(vectors: int, taps: int) -> Any:
    """Return the kernel for blocks of this many vectors, and windows of a multiple of `taps`."""

    @ParallelKernel
    def weight_gradient_kernel(arguments, worker, workers):
        """Compute gradients ``[block][C, K, K][block's channels]`` of some input channels' weights.

        A weight's gradient is a sum over the events of its input channel, each of which meets the
        output's gradient at the same distance. `lines` is what `_lines_that_meet` returns.
        """
        x, grad_out, grads, lines, frames, s = arguments[0]
        first, last = worker * s.channels // workers, (worker + 1) * s.channels // workers
        channels, area = last - first, s.height * s.width
        rows = simd.scratch(channels * area, np.int32)
        values = simd.scratch(channels * area, x.dtype)
        starts = simd.scratch(channels * (s.height + 1), np.intp)
        ends = simd.scratch(channels, np.intp)
        events = EventLists(rows, values, starts)
        room = channels * s.width + s.lanes
        found = simd.scratch(room, np.int32), simd.scratch(room, x.dtype)
        grid = simd.scratch((s.margin + s.grid_height * s.pitch) * s.block, x.dtype)
        grid[:] = 0
        for frame in range(frames):
            _list_by_channel(x, frame, first, s, events, ends, found)
            for channel in range(0, s.out_channels, s.block):
                _copy_to_grid(grad_out, frame, channel, s, grid)
                for c in range(channels):
                    for i in range(s.kernel_height):
                        start = starts[c * (s.height + 1) + lines[2 * i]]
                        end = starts[c * (s.height + 1) + lines[2 * i + 1]]
                        above = (i - s.padding) * s.pitch - s.padding
                        row = ((first + c) * s.kernel_height + i) * s.kernel_width
                        for tap in range(0, s.kernel_width, taps):
                            base = (s.margin - above - tap) * s.block
                            to = channel * s.rows + (row + tap) * s.block
                            simd.gather(
                                taps, vectors, grid, base, rows, values, start, end, grads, to, 0
                            )
        return DONE

    return weight_gradient_kernel


@functools.cache
def _input_gradient_kernel(taps: int) -> Any:
    """Return the kernel for a kernel width."""

    @ParallelKernel
    def input_gradient_kernel(arguments, worker, workers):
        """Compute some frames, line by line, without padding."""
        packed, grad_out, grad_x, frames, s = arguments[0]
        first, last = worker * frames // workers, (worker + 1) * frames // workers
        line, pitch = simd.scratch(s.width * s.lanes, grad_x.dtype), taps * s.lanes
        step = s.out_channels
        for frame in range(first, last):
            for channel in range(0, s.channels, s.lanes):
                for row in range(s.height):
                    line[:] = 0
                    for i in range(max(0, row - s.out_height + 1), min(taps, row + 1)):
                        base = (channel * taps + i * s.lanes) * s.out_channels * taps
                        start = (frame * s.out_height + row - i) * s.out_width
                        column = 0
                        while column < s.out_width:  # in pieces that hide an addition's latency
                            at, to = (start + column) * step, column * s.lanes
                            if s.out_width - column >= 8:
                                simd.spread(
                                    taps, 8, packed, base, pitch, grad_out, at, step, line, to
                                )
                                column += 8
                            elif s.out_width - column >= 4:
                                simd.spread(
                                    taps, 4, packed, base, pitch, grad_out, at, step, line, to
                                )
                                column += 4
                            else:
                                simd.spread(
                                    taps, 1, packed, base, pitch, grad_out, at, step, line, to
                                )
                                column += 1
                    for column in range(s.width):
                        to = ((frame * s.height + row) * s.width + column) * s.channels + channel
                        count = min(s.lanes, s.channels - channel)
                        simd.move(line, column * s.lanes, count, grad_x, to, count)
        return DONE

    return input_gradient_kernel


# Host


@not_traced
def is_faster(x: Tensor, weight: Tensor) -> bool:
    """Whether `conv2d` or `linear` can take these tensors and is likely to be faster.

    False for inputs with too many events, few outputs, small linear layers, and tensors without
    memory of their own, which `torch.func` uses. Tensors of incompatible shapes are left to
    PyTorch's error message.
    """
    if x.device.type != "cpu" or x.dtype not in (torch.float32, torch.float64):
        return False
    if weight.dtype != x.dtype or weight.device != x.device or not x.numel():
        return False
    if len(weight) < simd.lanes(x.element_size()) or x.numel() >= 1 << 30:  # see _list_by_channel
        return False
    if weight.ndim == 4:
        channels, *sizes = x.shape[-3:]
        if channels != weight.shape[1] or any(map(operator.lt, sizes, weight.shape[2:])):
            return False
        x = x if x.is_contiguous() else x.movedim(-3, -1)
    elif x.shape[-1] != weight.shape[-1] or x.numel() * len(weight) < SMALLEST_LINEAR:
        return False
    try:
        weight.detach().numpy()
        values = x.detach().contiguous().view(-1).numpy()
    except RuntimeError:
        return False
    return _share_of_events(values) <= crossover(weight)


def _share_of_events(values: np.ndarray[Any, Any]) -> float:
    """Estimate the fraction of nonzero values from segments whose starting column varies."""
    period = 8 * SAMPLED + 17  # odd
    whole = len(values) // period
    stretches = values[: whole * period].reshape(-1, period)[:, :SAMPLED]
    rest = values[whole * period :][:SAMPLED]
    count = np.count_nonzero(stretches != 0) + np.count_nonzero(rest != 0)
    return float(count / max(stretches.size + rest.size, 1))


def crossover(weight: Tensor) -> float:
    """Return the fraction of nonzero inputs up to which events are faster; AVX2's by default."""
    by_dimensions = CROSSOVERS.get(torch.backends.cpu.get_cpu_capability(), CROSSOVERS["AVX2"])
    return by_dimensions[weight.ndim]


def _sizes(x: Tensor, weight: Tensor, padding: int, stride: int = 1) -> Sizes:
    """Return the sizes for ``x [F, C, H, W]`` and ``weight [C', C, K, K]``."""
    out_channels, *window = weight.shape
    lanes = simd.lanes(x.element_size())
    vectors = -(-out_channels // lanes)
    block = -(-vectors // -(-vectors // simd.MOST_VECTORS)) * lanes
    images = *x.shape[-2:], *window, padding, stride, *_out_sides(x, weight, padding, stride)
    padded = [side + 2 * padding for side in x.shape[-2:]]
    grid = window[2] - 1, padded[0] - window[1] + 1, padded[1]
    return Sizes._make([*images, out_channels, math.prod(window), lanes, block, *grid])


@functools.lru_cache(maxsize=256)
def _lines_that_meet(s: Sizes) -> Tensor:
    """Return the first line of events that a kernel row meets, and the one after its last.

    A kernel row meets every `stride`-th line, and these are adjacent in `_list_by_channel`'s order.
    Returns ``[K, 2]``.
    """
    order = [line for rest in range(s.stride) for line in range(rest, s.height, s.stride)]
    found = []
    for i in range(s.kernel_height):
        top = i - s.padding
        lines = [
            number
            for number, line in enumerate(order)
            if (line - top) % s.stride == 0 and top <= line < top + s.grid_height
        ]
        found.append((lines[0], lines[-1] + 1) if lines else (0, 0))
    return torch.tensor(found)


def _out_sides(x: Tensor, weight: Tensor, padding: int, stride: int) -> list[int]:
    sides = zip(x.shape[-2:], weight.shape[-2:], strict=True)
    return [(side + 2 * padding - kernel) // stride + 1 for side, kernel in sides]


def _blocks(packed: Tensor, s: Sizes) -> Iterator[tuple[slice, Tensor]]:
    """Yield the output channels of each block of packed weights, and its rows."""
    for start, rows in zip(
        range(0, s.out_channels, s.block), packed.view(-1, s.rows, s.block), strict=True
    ):
        channels = min(s.block, s.out_channels - start)
        yield slice(start, start + channels), rows[:, :channels]


def _new_packed(weight: Tensor, s: Sizes) -> Tensor:
    return weight.new_zeros(s.rows * -(-s.out_channels // s.block) * s.block)


def _pack(weight: Tensor, s: Sizes) -> Tensor:
    """Return weights ``[C', C, K, K]`` in the layout of the forward kernel."""
    packed, rows = _new_packed(weight, s), weight.permute(3, 2, 1, 0).reshape(s.rows, -1)
    for channels, block in _blocks(packed, s):
        block.copy_(rows[:, channels])
    return packed


def _pack_transposed(weight: Tensor, lanes: int) -> Tensor:
    """Pack weights ``[C', C, K, K]`` as ``[vector of C][kernel row][C'][kernel column][lane]``."""
    filled: Tensor = functional.pad(weight, (0, 0, 0, 0, 0, -weight.shape[1] % lanes))
    return filled.view(len(weight), -1, lanes, *weight.shape[2:]).permute(1, 3, 0, 4, 2).flatten()


def _channels_last(x: Tensor) -> Tensor:
    """Return the values in the layout of the kernels, ``[F, H, W, C]``."""
    return x.permute(0, 2, 3, 1).contiguous().resolve_neg()


def _weight_gradient(
    x: Tensor, weight: Tensor, grad_out: Tensor, padding: int, stride: int
) -> Tensor:
    if x.shape[-2:] == weight.shape[-2:] == (1, 1) and padding == 0:  # a linear layer
        x, grad_out = (one.transpose(0, 3) for one in (x, grad_out))  # as one image
    s = _sizes(x, weight, padding, stride)
    packed = _new_packed(weight, s)
    workers = min(workers_for(x.numel() + grad_out.numel()), s.channels)
    signals = _channels_last(x), _channels_last(grad_out)
    width = s.kernel_width
    taps = next(taps for taps in (7, 5, 4, 3, 2, 1) if width % taps == 0)
    weight_gradient_kernel = _weight_gradient_kernel(s.block // s.lanes, taps)
    lines = _lines_that_meet(s)
    weight_gradient_kernel(*signals, packed, lines, len(x), s, workers=workers)
    grad = torch.empty_like(weight, memory_format=torch.contiguous_format)
    for channels, block in _blocks(packed, s):
        grad.view(s.out_channels, s.rows)[channels] = block.t()
    return grad


def _input_gradient(
    x: Tensor, weight: Tensor, grad_out: Tensor, padding: int, stride: int
) -> Tensor:
    """Compute the dense gradient: every input neuron has one, even if it is silent."""
    sizes = weight.shape[2], weight.shape[3]
    if padding or stride > 1 or sizes not in OWN_INPUT_GRADIENTS:  # PyTorch's is as fast then
        rest = [
            (side + 2 * padding - kernel) % stride
            for side, kernel in zip(x.shape[-2:], sizes, strict=True)
        ]
        return functional.conv_transpose2d(grad_out, weight, None, stride, padding, rest)
    height, width = (a + b - 1 for a, b in zip(grad_out.shape[-2:], sizes, strict=True))
    grad_x = grad_out.new_empty(len(grad_out), height, width, weight.shape[1])
    s = _sizes(grad_x.permute(0, 3, 1, 2), weight, padding)
    workers = workers_for(grad_x.numel() + grad_out.numel())
    arguments = _pack_transposed(weight, s.lanes), _channels_last(grad_out), grad_x, len(grad_x), s
    _input_gradient_kernel(s.kernel_width)(*arguments, workers=workers)
    return grad_x.permute(0, 3, 1, 2)


# Autograd


class _Product(torch.autograd.Function):
    """Both products; for a linear layer, each row of features is a frame of one pixel."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, padding: int, stride: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.settings = padding, stride
        frames, kernels = _frames(x, weight)
        if weight.ndim == 2:
            out = values = x.new_empty(*x.shape[:-1], len(weight))
        else:
            out = new_images(
                x, (*x.shape[:-3], len(weight), *_out_sides(x, weight, padding, stride))
            )
            values = out.movedim(-3, -1)
        s = _sizes(frames, kernels, padding, stride)
        lines, workers = len(frames) * s.out_height, workers_for(x.numel() + out.numel())
        forward_kernel = _forward_kernel(s.block // s.lanes)
        signals = _channels_last(frames), _pack(kernels, s), values
        forward_kernel(*signals, lines, s, workers=workers)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        frames, kernels = _frames(x, weight)
        grad_frames, _ = _frames(grad_out, weight)
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0] and weight.ndim == 2:
            grad_x = grad_out @ weight
        elif ctx.needs_input_grad[0]:
            grad_x = _input_gradient(frames, kernels, grad_frames, *ctx.settings)
            grad_x = grad_x.reshape(x.shape)
        if ctx.needs_input_grad[1]:
            grad_weight = _weight_gradient(frames, kernels, grad_frames, *ctx.settings)
            grad_weight = grad_weight.view(weight.shape)
        return grad_x, grad_weight, None, None


def _frames(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return frames ``[F, C, H, W]`` and weights ``[C', C, K, K]``."""
    if weight.ndim == 2:
        return x.reshape(-1, x.shape[-1], 1, 1), weight[:, :, None, None]
    return x.flatten(0, -4), weight


# The functions of `torch.nn.functional` of these names, without bias and dilation, for inputs that
# `is_faster` accepts; results are stored channels last. torch.compile cannot trace the kernels, so
# a compiled module calls them unchanged.


@not_traced
def conv2d(x: Tensor, weight: Tensor, padding: int = 0, stride: int = 1) -> Tensor:
    """Convolution ``x [..., C, H, W], weight [C', C, K, K] -> [..., C', H', W']``."""
    return cast(Tensor, _Product.apply(x, weight, padding, stride))


@not_traced
def linear(x: Tensor, weight: Tensor) -> Tensor:
    """Linear layer ``x [..., features], weight [out, features] -> [..., out]``."""
    return cast(Tensor, _Product.apply(x, weight, 0, 1))
