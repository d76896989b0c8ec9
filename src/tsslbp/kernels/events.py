"""Event-driven connections for the CPU: work where there are spikes, and nowhere else.

An event is a nonzero value of a connection's input: a spike, or a sum of spikes behind pooling.
With A the matrix whose row for an output pixel holds the inputs in its window (im2col), W the
weights and D the output's gradient, a convolution is ``A W`` and the weights' gradient ``A^T D``.
A is mostly zeros, so both are sums over events of a value times a row, of W or of D, with all
output channels of a row at once (`simd.gather`):

- Forward, events are listed for one output line at a time, column by column. Those in the window of
  a pixel then stand together.
- For the weights' gradient they are listed for one input channel at a time, line by line. A weight
  meets all events of its channel, each with the D at the same distance from it.

The input's gradient ``D W^T`` is not sparse: silent neurons have one, too. It is PyTorch's matrix
product or transposed convolution or, for unpadded windows of 3 x 3 and 5 x 5, a faster one.

Legend: frames ``[F, H, W, C]``, channels last and flat; a linear layer's rows are frames of one
pixel. A *line* is a row of a frame. A *block* is up to `simd.MOST_VECTORS` vectors of output
channels. Weights are packed as ``[block][kernel column, kernel row, C][block's channels]``, where
the last vector is filled up.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from . import simd
from .compiled import DONE, ParallelKernel, kernel, new_images, workers_for

DENSEST = 0.5  # share of nonzero inputs above which dense products are faster
SAMPLED = 512  # values in a row of every eighth stretch, from which that share is estimated
PIXELS_IN_GROUP = 256  # most output pixels of a group of lines, which use a block in turn
GROUPS = 8  # of lines for each worker, or more, where there are enough lines


class Sizes(NamedTuple):
    """Sizes of a convolution of stride 1, and how its output channels are cut into blocks."""

    height: int
    width: int
    channels: int
    kernel_height: int
    kernel_width: int
    padding: int
    out_height: int
    out_width: int
    out_channels: int
    rows: int  # of packed weights: inputs in a window
    lanes: int  # values in a vector
    block: int  # output channels in each block but the last


# Kernels: one worker's share of the work


@kernel()
def _share_of_events(x):
    """Share of nonzero values, estimated from a part of them."""
    count = total = 0
    for start in range(0, x.size, 8 * SAMPLED + 17):  # odd: other columns each time
        stretch = x[start : start + SAMPLED]
        for value in stretch:
            count += 1 if value != 0 else 0
        total += stretch.size
    return count / max(total, 1)


class EventLists(NamedTuple):
    """Lists of events."""

    rows: Any  # of the matrix, that they meet
    values: Any
    starts: Any  # [i, j]: where those of column or line j begin, in list i


@kernel(forceinline=True)
def _block(channel, s):
    """Output channels of the block that begins at `channel`, their vectors, and values in these."""
    channels = min(s.block, s.out_channels - channel)
    vectors = -(-channels // s.lanes)
    return channels, vectors, vectors * s.lanes


@kernel()
def _list_by_column(x, line, s, events, member, count):
    """Append the events that reach an output line, member number `member` of its group."""
    rows, values, starts = events
    frame, top = line // s.out_height, line % s.out_height - s.padding
    for column in range(s.width):
        starts[member, column] = count
        for row in range(max(0, -top), min(s.kernel_height, s.height - top)):
            pixel = ((frame * s.height + top + row) * s.width + column) * s.channels
            weights = (column * s.kernel_height + row) * s.channels
            for c in range(0, s.channels, s.lanes):
                some = min(s.lanes, s.channels - c)
                count = simd.compress(x, pixel + c, some, weights + c, rows, values, count)
    starts[member, s.width] = count
    return count


def _gather(taps: int, more: int) -> Any:
    """`simd.gather` with a branch for each number of vectors, which is a constant there."""

    @kernel(forceinline=True)
    def gather(vectors, matrix, base, rows, values, first, last, out, to, tail):
        if vectors == 1:
            simd.gather(taps, 1, matrix, base, rows, values, first, last, out, to, tail, more)
        elif vectors == 2:
            simd.gather(taps, 2, matrix, base, rows, values, first, last, out, to, tail, more)
        elif vectors == 3:
            simd.gather(taps, 3, matrix, base, rows, values, first, last, out, to, tail, more)
        else:
            simd.gather(taps, 4, matrix, base, rows, values, first, last, out, to, tail, more)

    return gather


_write = _gather(taps=1, more=0)
_add_1, _add_3, _add_5 = (_gather(taps, more=1) for taps in (1, 3, 5))


@kernel()
def _add_taps(taps, vectors, width, matrix, base, rows, values, first, last, out, to):
    """Add to the sums of all taps, as many at once as the kernel's usual widths have."""
    tail, tap = width // vectors, 0
    while tap < taps:
        if taps - tap >= 5:
            _add_5(vectors, matrix, base, rows, values, first, last, out, to, tail)
            done = 5
        elif taps - tap >= 3:
            _add_3(vectors, matrix, base, rows, values, first, last, out, to, tail)
            done = 3
        else:
            _add_1(vectors, matrix, base, rows, values, first, last, out, to, tail)
            done = 1
        tap, base, to = tap + done, base - done * width, to + done * width


@ParallelKernel
def _forward_kernel(arguments, worker, workers):
    """Every `workers`-th group of output lines, since later time steps hold more events."""
    x, packed, out, lines, s = arguments[0]
    group = max(min(PIXELS_IN_GROUP // s.out_width, lines // (GROUPS * workers)), 1)
    reach = s.kernel_height * s.channels  # weight rows of a kernel column
    room = group * s.width * reach + s.lanes
    rows, values = np.empty(room, np.int32), np.empty(room, x.dtype)
    starts = np.empty((group, s.width + 1), np.intp)
    events = EventLists(rows, values, starts)
    for line in range(worker * group, lines, workers * group):
        members = min(group, lines - line)
        count = 0
        for i in range(members):
            count = _list_by_column(x, line + i, s, events, i, count)
        for channel in range(0, s.out_channels, s.block):
            channels, vectors, width = _block(channel, s)
            tail = channels - (vectors - 1) * s.lanes
            for i in range(members):
                for column in range(s.out_width):
                    left = column - s.padding
                    start = starts[i, min(max(left, 0), s.width)]
                    end = starts[i, min(max(left + s.kernel_width, 0), s.width)]
                    base = channel * s.rows - left * reach * width
                    to = ((line + i) * s.out_width + column) * s.out_channels + channel
                    _write(vectors, packed, base, rows, values, start, end, out, to, tail)
    return DONE


@kernel(forceinline=True)
def _grid(s):
    """Of the grid that holds the output's gradient: pixels before the first line, and of a line."""
    return s.kernel_width - 1, s.out_width + s.kernel_width - 1


@kernel()
def _list_by_channel(x, frame, channels, s, events, plane):
    """List the events of some channels of a frame, one channel after the other, by lines.

    They meet the grid at ``line * pitch + column``.
    """
    (first, last), (rows, values, starts) = channels, events
    _, pitch = _grid(s)
    count, area = 0, s.height * s.width
    for c in range(last - first):
        for pixel in range(area):
            plane[pixel] = x[(frame * area + pixel) * s.channels + first + c]
        for row in range(s.height):
            starts[c, row] = count
            for column in range(0, s.width, s.lanes):
                some = min(s.lanes, s.width - column)
                at, to = row * s.width + column, row * pitch + column
                count = simd.compress(plane, at, some, to, rows, values, count)
        starts[c, s.height] = count


@kernel()
def _copy_to_grid(grad_out, frame, channel, s, grid):
    """Put a block of a frame's gradient on a grid, zeros before, between and behind lines."""
    (margin, pitch), (channels, _, width) = _grid(s), _block(channel, s)
    grid[:] = 0
    for line in range(s.out_height):
        for column in range(s.out_width):
            pixel = (frame * s.out_height + line) * s.out_width + column
            at, to = pixel * s.out_channels + channel, (margin + line * pitch + column) * width
            for j in range(0, channels, s.lanes):
                some = min(s.lanes, channels - j)
                simd.move(grad_out, at + j, some, grid, to + j, width - j)


@ParallelKernel
def _weight_gradient_kernel(arguments, worker, workers):
    """Gradients ``[block][C, K, K][block's channels]`` of some input channels' weights.

    A weight's gradient is a sum over the events of its input channel, each of which meets the
    output's gradient at a distance that is the same for all of them.
    """
    x, grad_out, grads, frames, s = arguments[0]
    first, last = worker * s.channels // workers, (worker + 1) * s.channels // workers
    margin, pitch = _grid(s)
    area = s.height * s.width
    room = (last - first) * area + s.lanes
    rows, values = np.empty(room, np.int32), np.empty(room, x.dtype)
    starts = np.empty((last - first, s.height + 1), np.intp)
    events = EventLists(rows, values, starts)
    plane = np.empty(area, x.dtype)
    grid = simd.scratch((margin + s.out_height * pitch) * s.block, x)
    for frame in range(frames):
        _list_by_channel(x, frame, (first, last), s, events, plane)
        for channel in range(0, s.out_channels, s.block):
            _, vectors, width = _block(channel, s)
            _copy_to_grid(grad_out, frame, channel, s, grid)
            for c in range(first, last):
                for i in range(s.kernel_height):
                    top = i - s.padding
                    start = starts[c - first, min(max(top, 0), s.height)]
                    end = starts[c - first, min(max(top + s.out_height, 0), s.height)]
                    base = (margin + s.padding - top * pitch) * width
                    to = channel * s.rows + (c * s.kernel_height + i) * s.kernel_width * width
                    common = grid, base, rows, values, start, end, grads, to
                    _add_taps(s.kernel_width, vectors, width, *common)
    return DONE


def _input_gradient_kernel_of(taps: int) -> Any:
    """The kernel for a kernel width, compiled on its own: the constants multiply the code."""

    @ParallelKernel
    def input_gradient_kernel(arguments, worker, workers):
        """Some frames, line by line, without padding."""
        packed, grad_out, grad_x, frames, s = arguments[0]
        first, last = worker * frames // workers, (worker + 1) * frames // workers
        line, pitch = simd.scratch(s.width * s.lanes, grad_x), taps * s.lanes
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


INPUT_GRADIENT_KERNELS = {(taps, taps): _input_gradient_kernel_of(taps) for taps in (3, 5)}


# Host


@torch.compiler.disable
def is_faster(x: Tensor, weight: Tensor) -> bool:
    """Whether `conv2d` or `linear` can take these tensors and is likely to be the faster way.

    Not so for inputs that are mostly not zero, few outputs, and tensors without memory of their
    own, which `torch.func` works with. What does not fit together is left to PyTorch to refuse.
    """
    if x.device.type != "cpu" or x.dtype not in (torch.float32, torch.float64):
        return False
    if weight.dtype != x.dtype or weight.device != x.device or not x.numel():
        return False
    if len(weight) < simd.lanes(x.element_size()):
        return False
    if weight.ndim == 4:
        channels, *sizes = x.shape[-3:]
        if channels != weight.shape[1] or any(map(operator.lt, sizes, weight.shape[2:])):
            return False
        x = x if x.is_contiguous() else x.movedim(-3, -1)
    elif x.shape[-1] != weight.shape[-1]:
        return False
    try:
        weight.detach().numpy()
        values = x.detach().contiguous().view(-1).numpy()
    except RuntimeError:
        return False
    return bool(_share_of_events(values) <= DENSEST)


def _sizes(x: Tensor, weight: Tensor, padding: int) -> Sizes:
    """Sizes for ``x [F, C, H, W]`` and ``weight [C', C, K, K]``."""
    out_channels, *window = weight.shape
    lanes = simd.lanes(x.element_size())
    vectors = -(-out_channels // lanes)
    block = -(-vectors // -(-vectors // simd.MOST_VECTORS)) * lanes
    images = *x.shape[-2:], *window, padding, *_out_sides(x, weight, padding)
    return Sizes._make([*images, out_channels, math.prod(window), lanes, block])


def _out_sides(x: Tensor, weight: Tensor, padding: int) -> list[int]:
    sides = zip(x.shape[-2:], weight.shape[-2:], strict=True)
    return [side + 2 * padding - kernel + 1 for side, kernel in sides]


def _blocks(packed: Tensor, s: Sizes) -> Iterator[tuple[slice, Tensor]]:
    """Output channels of each block of packed weights, and its rows ``[rows, channels]``."""
    for start in range(0, s.out_channels, s.block):
        channels = min(s.block, s.out_channels - start)
        width = -(-channels // s.lanes) * s.lanes
        rows = packed[start * s.rows :][: s.rows * width].view(s.rows, width)
        yield slice(start, start + channels), rows[:, :channels]


def _new_packed(weight: Tensor, s: Sizes) -> Tensor:
    return weight.new_zeros(s.rows * -(-s.out_channels // s.lanes) * s.lanes)


def _pack(weight: Tensor, s: Sizes) -> Tensor:
    """Weights ``[C', C, K, K]`` as the forward kernel reads them."""
    packed, rows = _new_packed(weight, s), weight.permute(3, 2, 1, 0).reshape(s.rows, -1)
    for channels, block in _blocks(packed, s):
        block.copy_(rows[:, channels])
    return packed


def _pack_transposed(weight: Tensor, lanes: int) -> Tensor:
    """Weights ``[C', C, K, K]`` as ``[vector of C][kernel row][C'][kernel column][lane]``."""
    filled = functional.pad(weight, (0, 0, 0, 0, 0, -weight.shape[1] % lanes))
    return filled.unflatten(1, (-1, lanes)).permute(1, 3, 0, 4, 2).contiguous().view(-1)


def _channels_last(x: Tensor) -> Tensor:
    """The values as the kernels read them, ``[F, H, W, C]``."""
    return x.permute(0, 2, 3, 1).contiguous().resolve_neg()


def _weight_gradient(x: Tensor, weight: Tensor, grad_out: Tensor, padding: int) -> Tensor:
    if x.shape[-2:] == weight.shape[-2:] == (1, 1) and padding == 0:  # a linear layer
        x, grad_out = (part.transpose(0, 3) for part in (x, grad_out))  # as one image
    s = _sizes(x, weight, padding)
    packed = _new_packed(weight, s)
    workers = min(workers_for(x.numel() + grad_out.numel()), s.channels)
    signals = _channels_last(x), _channels_last(grad_out)
    _weight_gradient_kernel(*signals, packed, len(x), s, workers=workers)
    grad = torch.empty_like(weight, memory_format=torch.contiguous_format)
    for channels, block in _blocks(packed, s):
        grad.view(s.out_channels, s.rows)[channels] = block.t()
    return grad


def _input_gradient(weight: Tensor, grad_out: Tensor, padding: int) -> Tensor:
    """Dense: every neuron in front, silent ones too, has a gradient."""
    sizes = weight.shape[2], weight.shape[3]
    if padding or sizes not in INPUT_GRADIENT_KERNELS:  # PyTorch's is as fast then
        return functional.conv_transpose2d(grad_out, weight, padding=padding)
    height, width = (a + b - 1 for a, b in zip(grad_out.shape[-2:], sizes, strict=True))
    grad_x = grad_out.new_empty(len(grad_out), height, width, weight.shape[1])
    s = _sizes(grad_x.permute(0, 3, 1, 2), weight, padding)
    workers = workers_for(grad_x.numel() + grad_out.numel())
    arguments = _pack_transposed(weight, s.lanes), _channels_last(grad_out), grad_x, len(grad_x), s
    INPUT_GRADIENT_KERNELS[sizes](*arguments, workers=workers)
    return grad_x.permute(0, 3, 1, 2)


# Autograd


class _Product(torch.autograd.Function):
    """Both products: to a linear layer, each row of features is a frame of one pixel."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, padding: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.padding = padding
        frames, kernels = _frames(x, weight)
        if weight.ndim == 2:
            out = values = x.new_empty(*x.shape[:-1], len(weight))
        else:
            out = new_images(x, (*x.shape[:-3], len(weight), *_out_sides(x, weight, padding)))
            values = out.movedim(-3, -1)
        s = _sizes(frames, kernels, padding)
        lines, workers = len(frames) * s.out_height, workers_for(x.numel() + out.numel())
        packed = _pack(kernels, s)
        _forward_kernel(_channels_last(frames), packed, values, lines, s, workers=workers)
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
            grad_x = _input_gradient(kernels, grad_frames, ctx.padding).view(x.shape)
        if ctx.needs_input_grad[1]:
            grad_weight = _weight_gradient(frames, kernels, grad_frames, ctx.padding)
            grad_weight = grad_weight.view(weight.shape)
        return grad_x, grad_weight, None


def _frames(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Frames ``[F, C, H, W]`` and weights ``[C', C, K, K]``."""
    if weight.ndim == 2:
        return x.reshape(-1, x.shape[-1], 1, 1), weight[:, :, None, None]
    return x.flatten(0, -4), weight


# The functions of `torch.nn.functional` of these names, without bias, stride and dilation, for what
# `is_faster`; results are stored channels last. torch.compile cannot look into the kernels, so a
# compiled module runs them as they are.


@torch.compiler.disable
def conv2d(x: Tensor, weight: Tensor, padding: int = 0) -> Tensor:
    """Convolution ``x [..., C, H, W], weight [C', C, K, K] -> [..., C', H', W']``."""
    return cast(Tensor, _Product.apply(x, weight, padding))


@torch.compiler.disable
def linear(x: Tensor, weight: Tensor) -> Tensor:
    """Linear layer ``x [..., features], weight [out, features] -> [..., out]``."""
    return cast(Tensor, _Product.apply(x, weight, 0))
