"""Crops and mirror images: every one against its definition, and what they are drawn from."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tsslbp.data.images import augment
from tsslbp.experiment.seeding import generator


def images(count: int = 7, height: int = 5, width: int = 6) -> Tensor:
    """Pixels from 1: what is 0 afterwards is padding."""
    random = torch.Generator().manual_seed(0)
    size = (count, 3, height, width)
    return torch.randint(1, 256, size, dtype=torch.uint8, generator=random)


def placement(top: list[int], left: list[int], mirrored: list[bool]) -> augment.Placement:
    return augment.Placement(torch.tensor(top), torch.tensor(left), torch.tensor(mirrored))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("padding", [0, 1, 4])
def test_every_pixel_comes_from_its_place(dtype: torch.dtype, padding: int) -> None:
    """Pixel by pixel, the definition: pad with black, crop, then mirror."""
    batch = images().to(dtype)
    drawn = augment.draw(7, padding, True, generator(3, "augmentation"))
    found = augment.apply(batch, drawn, padding)
    assert found.dtype == dtype and found.shape == batch.shape and found.is_contiguous()
    for n in range(7):
        for row in range(5):
            for column in range(6):
                x = (5 - column if drawn.mirrored[n] else column) + int(drawn.left[n]) - padding
                y = row + int(drawn.top[n]) - padding
                inside = 0 <= x < 6 and 0 <= y < 5
                expected = batch[n, :, y, x] if inside else torch.zeros(3, dtype=dtype)
                assert torch.equal(found[n, :, row, column], expected)


def test_by_hand() -> None:
    batch = torch.tensor([[1, 2], [3, 4]], dtype=torch.uint8).expand(4, 1, 2, 2)
    drawn = placement([1, 0, 2, 1], [1, 1, 1, 0], [False, False, True, True])
    assert augment.apply(batch, drawn, 1).squeeze(1).tolist() == [
        [[1, 2], [3, 4]],  # in the middle: as it was
        [[0, 0], [1, 2]],  # from one row above
        [[4, 3], [0, 0]],  # from one row below, mirrored
        [[1, 0], [3, 0]],  # from one column to the left, mirrored
    ]


def test_the_images_stay_as_they_are() -> None:
    batch = images()
    before = batch.clone()
    drawn = augment.draw(7, 0, False, generator(0, "augmentation"))
    found = augment.apply(batch, drawn, 0)
    assert torch.equal(found, batch)
    found.zero_()
    assert torch.equal(batch, before)


def test_strides_do_not_matter() -> None:
    batch = images()
    drawn = augment.draw(7, 2, True, generator(0, "augmentation"))
    expected = augment.apply(batch, drawn, 2)
    for other in (
        batch.to(memory_format=torch.channels_last),
        torch.stack([batch, batch], -1)[..., 0],
        batch.flip(0).flip(0),
    ):
        assert torch.equal(augment.apply(other, drawn, 2), expected)


def test_crops_and_flips_are_equally_likely() -> None:
    count = 90_000
    drawn = augment.draw(count, 4, True, generator(1, "augmentation"))
    places = (drawn.top * 9 + drawn.left) * 2 + drawn.mirrored
    found = places.bincount(minlength=162).double()
    assert len(found) == 162
    chi_squared = float(((found - count / 162) ** 2 / (count / 162)).sum())
    assert chi_squared < 161 + 5 * (2 * 161) ** 0.5


def test_numbers_derive_from_seed_epoch_and_step_alone() -> None:
    def numbers(*place: int, flip: bool = True) -> Tensor:
        torch.rand(3)  # PyTorch's own generator must not matter
        seed, epoch, step = place
        drawn = augment.draw(50, 4, flip, generator(seed, "augmentation", epoch, step))
        return torch.stack([drawn.top, drawn.left, drawn.mirrored.long()])

    first = numbers(0, 1, 2)
    assert torch.equal(first, numbers(0, 1, 2))
    for other in (numbers(1, 1, 2), numbers(0, 2, 2), numbers(0, 1, 3)):
        assert not torch.equal(first, other)
    unmirrored = numbers(0, 1, 2, flip=False)
    assert torch.equal(unmirrored[:2], first[:2]) and not unmirrored[2].any()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that PyTorch can use")
def test_a_gpu_makes_the_same_crops() -> None:
    batch = images()
    drawn = augment.draw(7, 2, True, generator(0, "augmentation"))
    found = augment.apply(batch.cuda(), drawn, 2)
    assert found.is_cuda
    assert torch.equal(found.cpu(), augment.apply(batch, drawn, 2))
