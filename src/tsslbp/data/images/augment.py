"""Random changes of a batch of training images, as tensor operations on the device of the images.

The random numbers are drawn on the CPU (`draw`, `draw_...`) and used apart from that (`apply`,
`roll`, `cut_out`, `warp`, `brighten`), so that every device sees the same, and a training step need
not wait for them. What is drawn for one of the changes does not depend on the others.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional


class Placement(NamedTuple):
    """Where each of N images is cropped, and whether it is mirrored; ``[N]`` each, on the CPU."""

    top: Tensor  # int64, 0 to 2 * padding
    left: Tensor  # the same
    mirrored: Tensor  # bool


def draw(count: int, padding: int, horizontal_flip: bool, generator: torch.Generator) -> Placement:
    """Draw the places of `count` crops, all equally likely, and mirror each image with odds 1:1.

    Args:
        count: number of images.
        padding: black pixels on each side before the crop; 0: no crop.
        horizontal_flip: whether images are mirrored at all. The crops do not depend on it.
        generator: on the CPU.
    """
    top, left = torch.randint(2 * padding + 1, (2, count), generator=generator)
    mirrored = torch.rand(count, generator=generator) < 0.5
    return Placement(top, left, mirrored & horizontal_flip)


def apply(images: Tensor, placement: Placement, padding: int) -> Tensor:
    """Return the crops, of the images' own size, with the chosen ones mirrored left to right.

    Args:
        images: ``[N, C, H, W]``, any dtype and device, 0 being black: not normalised yet; or
            frames ``[T, N, C, H, W]``, cropped alike at all time steps.
        placement: of as many images, drawn with the same `padding`.
        padding: black pixels on each side before the crop.

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
    """Shift images down and to the right; what leaves on one side comes back on the other.

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
    """Set a square around a pixel to 0; beyond the edges of the image nothing is.

    A square of even side reaches one pixel further up and to the left than down and to the right.

    Args:
        images: normalised ``[N, C, H, W]``, or frames ``[T, N, C, H, W]``, cut alike at all time
            steps.
        centres: ``[2, N]`` int64, row and column.
        size: side of the square in pixels.

    Returns:
        A new tensor of the same shape, dtype and device.

    Source: DeVries & Taylor, "Improved regularization of convolutional neural networks with
    cutout" (2017): of normalised images, and over their edges.
    """
    height, width = images.shape[-2:]
    row, column = centres.to(images.device, non_blocking=True)[..., None] - size // 2  # [N, 1]
    rows = torch.arange(height, device=images.device) - row  # [N, H], from the square's first
    columns = torch.arange(width, device=images.device) - column
    cut_rows, cut_columns = (rows >= 0) & (rows < size), (columns >= 0) & (columns < size)
    mask = cut_rows[:, None, :, None] & cut_columns[:, None, None, :]
    return images.masked_fill(mask, 0)


def warp(images: Tensor, degrees: Tensor, shifts: Tensor) -> Tensor:
    """Turn images about their centre, then shift them; bilinear, black beyond their edges.

    Args:
        images: floating point ``[N, C, H, W]``, 0 being black.
        degrees: ``[N]``, counter-clockwise as one sees them, the first row being at the top.
        shifts: ``[2, N]``, down and to the right, as shares of the height and the width.

    Returns:
        A new tensor of the same shape, dtype and device.
    """
    height, width = images.shape[-2:]
    angle = (degrees * (math.pi / 180)).to(images)
    down, right = shifts.to(images)
    cosine, sine = angle.cos(), angle.sin()
    # From a pixel of the result to the pixel that it comes from, in units of half the sides; a
    # turn is one of pixels, so that it changes between the units of the two sides.
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
        images: floating point ``[N, C, H, W]``, 0 being black.
        factors: ``[N]``.
        largest: what no pixel exceeds; None: no limit.
    """
    brighter = images * factors.to(images)[:, None, None, None]
    return brighter if largest is None else brighter.clamp(max=largest)


class Mixture(NamedTuple):
    """How the images of a batch are mixed, each with one other."""

    share: float  # of an image itself, at least 1/2
    partner: Tensor  # ``[N]`` int64, the number in the batch of the other one


def draw_mixture(count: int, alpha: float, generator: torch.Generator) -> Mixture:
    """Draw one share for a batch from Beta(alpha, alpha), and the images' partners.

    The share is the larger one of the drawn and what it leaves, which makes no difference: the
    partners are a random permutation.

    Args:
        count: number of images.
        alpha: above 0.
        generator: on the CPU.

    Source: Zhang, Cisse, Dauphin & Lopez-Paz, "mixup: beyond empirical risk minimization" (ICLR
    2018), with one share for a batch, as in their code.
    """
    seed = int(torch.randint(2**32, (), generator=generator))
    # RandomState, because its numbers are the same in every version of NumPy.
    share = float(np.random.RandomState(seed).beta(alpha, alpha))
    return Mixture(max(share, 1 - share), torch.randperm(count, generator=generator))


def mix(images: Tensor, others: Tensor, share: float) -> Tensor:
    """``share images + (1 - share) others``, normalised images ``[N, C, H, W]``."""
    return torch.lerp(others, images, share)
