"""Random augmentation of a batch of training images, as tensor operations on their device.

The random numbers are drawn on the CPU (`draw`, `draw_...`) separately from their use (`apply`,
`roll`, `cut_out`, `warp`, `brighten`). Every device therefore uses the same numbers, and a training
step need not wait for them. The numbers for one transformation do not depend on the others.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional


class Placement(NamedTuple):
    """Crop position of each of N images, and whether it is mirrored; each ``[N]``, on the CPU."""

    top: Tensor  # int64, 0 to 2 * padding
    left: Tensor  # in the same form
    mirrored: Tensor  # bool


def draw(count: int, padding: int, horizontal_flip: bool, generator: torch.Generator) -> Placement:
    """Draw the positions of `count` crops uniformly, and mirror each image with probability 1/2.

    Args:
        count: number of images.
        padding: black pixels added on each side before the crop; 0: no crop.
        horizontal_flip: whether images are mirrored at all. The crops do not depend on it.
        generator: random number generator on the CPU.
    """
    top, left = torch.randint(2 * padding + 1, (2, count), generator=generator)
    mirrored = torch.rand(count, generator=generator) < 0.5
    return Placement(top, left, mirrored & horizontal_flip)


def apply(images: Tensor, placement: Placement, padding: int) -> Tensor:
    """Return crops of the images' own size; the chosen images are mirrored left to right.

    Args:
        images: ``[N, C, H, W]``, any dtype and device, not normalised yet, so that 0 is black; or
            frames ``[T, N, C, H, W]``, cropped alike at all time steps.
        placement: for the same number of images, drawn with the same `padding`.
        padding: black pixels added on each side before the crop.

    Returns:
        A new tensor of the same shape, dtype and device.
    """
    if images.dim() == 5:
        steps, count, channels, *sides = images.shape
        folded = images.transpose(0, 1).reshape(count, steps * channels, *sides)
        cropped = apply(folded, placement, padding)
        return cropped.view(count, steps, channels, *sides).transpose(0, 1)
    top, left, mirrored = (part.to(images.device, non_blocking=True) for part in placement)
    count, _, height, width = images.shape
    # A view of all crops: [N, C, 2 * padding + 1, 2 * padding + 1, H, W].
    crops = functional.pad(images, 4 * [padding]).unfold(2, height, 1).unfold(3, width, 1)
    cropped = crops[torch.arange(count, device=images.device), :, top, left]
    return torch.where(mirrored[:, None, None, None], cropped.flip(-1), cropped)


def draw_shifts(count: int, distance: int, generator: torch.Generator) -> Tensor:
    """Draw shifts for `roll`, from ``-distance`` to `distance` pixels, ``[2, count]`` int64."""
    return torch.randint(-distance, distance + 1, (2, count), generator=generator)


def draw_centres(count: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """Draw pixels for `cut_out`, row and column, ``[2, count]`` int64."""
    sides = height, width
    return torch.stack([torch.randint(side, (count,), generator=generator) for side in sides])


def draw_uniform(parts: int, count: int, limit: float, generator: torch.Generator) -> Tensor:
    """Draw `parts` numbers between ``-limit`` and `limit` for each of `count` images.

    Returns:
        ``[parts, count]`` float32.
    """
    return limit * (2 * torch.rand(parts, count, generator=generator) - 1)


def roll(images: Tensor, shifts: Tensor) -> Tensor:
    """Shift images down and to the right; pixels that leave on one side return on the other.

    Args:
        images: ``[N, C, H, W]``, or frames ``[T, N, C, H, W]``, shifted alike at all time steps.
        shifts: ``[2, N]`` int64, rows and columns.

    Returns:
        A new tensor of the same shape, dtype and device.

    Source: Li, Kim, Park, Geller & Panda, "Neuromorphic data augmentation for training spiking
    neural networks" (ECCV 2022), rolling.
    """
    height, width = images.shape[-2:]
    down, right = shifts.to(images.device, non_blocking=True)
    rows = (torch.arange(height, device=images.device) - down[:, None]) % height  # [N, H]
    columns = (torch.arange(width, device=images.device) - right[:, None]) % width  # [N, W]
    index = rows[:, None, :, None] * width + columns[:, None, None, :]  # [N, 1, H, W]
    flat = index.flatten(2).expand(*images.shape[:-2], -1)
    return images.flatten(-2).gather(-1, flat).view_as(images)


def cut_out(images: Tensor, centres: Tensor, size: int) -> Tensor:
    """Set a square around a pixel to 0; the part of it beyond the image's edges has no effect.

    A square of even side extends one pixel further up and left than down and right.

    Args:
        images: normalised ``[N, C, H, W]``, or frames ``[T, N, C, H, W]``, cut alike at all time
            steps.
        centres: ``[2, N]`` int64, row and column.
        size: side of the square in pixels.

    Returns:
        A new tensor of the same shape, dtype and device.

    Source: DeVries & Taylor, "Improved regularization of convolutional neural networks with
    cutout" (2017), which also cuts normalised images and lets squares extend beyond the edges.
    """
    height, width = images.shape[-2:]
    row, column = centres.to(images.device, non_blocking=True)[..., None] - size // 2  # [N, 1]
    rows = torch.arange(height, device=images.device) - row  # [N, H], from the square's top
    columns = torch.arange(width, device=images.device) - column
    cut_rows, cut_columns = (rows >= 0) & (rows < size), (columns >= 0) & (columns < size)
    mask = cut_rows[:, None, :, None] & cut_columns[:, None, None, :]
    return images.masked_fill(mask, 0)


def warp(images: Tensor, degrees: Tensor, shifts: Tensor) -> Tensor:
    """Rotate images about their centre, then shift them; bilinear, black beyond the edges.

    Args:
        images: floating point ``[N, C, H, W]``, where 0 is black.
        degrees: ``[N]``, counter-clockwise when the first row is at the top.
        shifts: ``[2, N]``, down and to the right, as fractions of the height and the width.

    Returns:
        A new tensor of the same shape, dtype and device.
    """
    height, width = images.shape[-2:]
    angle = (degrees * (math.pi / 180)).to(images)
    down, right = shifts.to(images)
    cosine, sine = angle.cos(), angle.sin()
    # Maps a pixel of the result to its source, in units of half the sides. A rotation acts on
    # pixels, so it must convert between the units of the two sides.
    ratio = height / width
    x, y = 2 * right, 2 * down
    matrix = torch.stack(
        [
            torch.stack([cosine, -sine * ratio, -cosine * x + sine * ratio * y], 1),
            torch.stack([sine / ratio, cosine, -sine / ratio * x - cosine * y], 1),
        ],
        1,
    )
    grid = functional.affine_grid(matrix, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False)


def brighten(images: Tensor, factors: Tensor, largest: float | None) -> Tensor:
    """Multiply the pixels of each image by its factor.

    Args:
        images: floating point ``[N, C, H, W]``, where 0 is black.
        factors: ``[N]``.
        largest: upper limit of the pixels; None: no limit.
    """
    brighter = images * factors.to(images)[:, None, None, None]
    return brighter if largest is None else brighter.clamp(max=largest)


class Mixture(NamedTuple):
    """How the images of a batch are mixed, each with one other image."""

    share: float  # weight of the image itself, at least 1/2
    partner: Tensor  # ``[N]`` int64, the number of the other image in the batch


def draw_mixture(count: int, alpha: float, generator: torch.Generator) -> Mixture:
    """Draw one weight for a batch from Beta(alpha, alpha), and the partners of the images.

    The weight is the larger one of the drawn number and 1 minus it. This makes no difference,
    because the partners are a random permutation.

    Args:
        count: number of images.
        alpha: parameter of the distribution, above 0.
        generator: random number generator on the CPU.

    Source: Zhang, Cisse, Dauphin & Lopez-Paz, "mixup: beyond empirical risk minimization" (ICLR
    2018); one weight per batch, as in the authors' code.
    """
    seed = int(torch.randint(2**32, (), generator=generator))
    # RandomState, because its numbers are the same in every version of NumPy.
    share = float(np.random.RandomState(seed).beta(alpha, alpha))
    return Mixture(max(share, 1 - share), torch.randperm(count, generator=generator))


def mix(images: Tensor, others: Tensor, share: float) -> Tensor:
    """Return ``share images + (1 - share) others`` for normalised images ``[N, C, H, W]``."""
    return torch.lerp(others, images, share)
