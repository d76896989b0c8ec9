"""Random crops and mirror images of a batch, as tensor operations on the device of the images.

The random numbers are drawn on the CPU (`draw`) and used apart from that (`apply`), so that every
device sees the same crops, and a training step need not wait for them.
"""

from __future__ import annotations

from typing import NamedTuple

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
