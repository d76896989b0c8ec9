"""Tests of augmentation: each kind against its definition, and its random numbers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tsslbp.data.images import augment
from tsslbp.experiment.seeding import generator


def images(count: int = 7, height: int = 5, width: int = 6) -> Tensor:
    """Return random images whose pixels are at least 1, so that zeros in a result are padding."""
    random = torch.Generator().manual_seed(0)
    size = (count, 3, height, width)
    return torch.randint(1, 256, size, dtype=torch.uint8, generator=random)


def placement(top: list[int], left: list[int], mirrored: list[bool]) -> augment.Placement:
    return augment.Placement(torch.tensor(top), torch.tensor(left), torch.tensor(mirrored))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("padding", [0, 1, 4])
def test_every_pixel_comes_from_its_place(dtype: torch.dtype, padding: int) -> None:
    """Every pixel follows the definition: pad with black, crop, then mirror."""
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


def frames(count: int = 7) -> Tensor:
    return images(3 * count).view(3, count, 3, 5, 6)


def test_rolled_images_lose_nothing() -> None:
    """Each image is rolled by its own shift, and all frames of a recording by the same."""
    shifts = augment.draw_shifts(7, 4, generator(0, "roll"))
    assert shifts.shape == (2, 7) and len(set(shifts.flatten().tolist())) > 3
    for batch in (images(), images().float(), frames()):
        found = augment.roll(batch, shifts)
        assert found.dtype == batch.dtype and found.shape == batch.shape
        for n in range(7):
            expected = batch[..., n, :, :, :].roll(shifts[:, n].tolist(), (-2, -1))
            assert torch.equal(found[..., n, :, :, :], expected)


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_a_square_is_cut_out(size: int) -> None:
    """Every pixel is right, also at the edges, and all frames of a recording lose the same ones."""
    centres = augment.draw_centres(7, 5, 6, generator(0, "cutout"))
    many = augment.draw_centres(500, 5, 6, generator(1, "cutout"))
    assert [one.unique().tolist() for one in many] == [list(range(5)), list(range(6))]
    for batch in (images().float(), frames().float()):
        found, before = augment.cut_out(batch, centres, size), batch.clone()
        assert torch.equal(batch, before)
        for n, (row, column) in enumerate(centres.T.tolist()):
            for y in range(5):
                for x in range(6):
                    top, left = row - size // 2, column - size // 2
                    inside = top <= y < top + size and left <= x < left + size
                    pixel = found[..., n, :, y, x]
                    expected = batch[..., n, :, y, x] * (0 if inside else 1)
                    assert torch.equal(pixel, expected), (n, y, x)


def test_a_quarter_turn_goes_counter_clockwise() -> None:
    batch = images(2, 6, 6).float()
    turned = augment.warp(batch, torch.tensor([90.0, -90.0]), torch.zeros(2, 2))
    torch.testing.assert_close(turned[0], batch[0].rot90(1, (-2, -1)), rtol=0, atol=1e-3)
    torch.testing.assert_close(turned[1], batch[1].rot90(-1, (-2, -1)), rtol=0, atol=1e-3)


def test_a_shift_of_whole_pixels_leaves_black_behind() -> None:
    batch = images(1).float()
    shifted = augment.warp(batch, torch.zeros(1), torch.tensor([[2 / 5], [-1 / 6]]))
    expected = torch.zeros_like(batch)
    expected[..., 2:, :-1] = batch[..., :-2, 1:]
    torch.testing.assert_close(shifted, expected, rtol=0, atol=1e-3)


def test_every_pixel_of_a_turned_and_shifted_image() -> None:
    """A plane is interpolated exactly, so that each pixel tells where it comes from."""
    height, width = 40, 24
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    plane = (100 + 2.0 * x - 3.0 * y)[None, None].expand(5, 1, -1, -1)
    (degrees,) = augment.draw_uniform(1, 5, 30.0, generator(0, "rotate"))
    shifts = augment.draw_uniform(2, 5, 0.2, generator(0, "translate"))
    assert degrees.abs().max() > 10 and shifts.abs().max() < 0.2
    found = augment.warp(plane, degrees, shifts)
    for n in range(5):
        angle = torch.deg2rad(degrees[n])
        down, right = shifts[0, n] * height, shifts[1, n] * width
        # From the result's pixel back to where it comes from; rows count downwards.
        across, along = x - (width - 1) / 2 - right, y - (height - 1) / 2 - down
        from_x = angle.cos() * across - angle.sin() * along + (width - 1) / 2
        from_y = angle.sin() * across + angle.cos() * along + (height - 1) / 2
        inside = (from_x >= 0) & (from_x <= width - 1) & (from_y >= 0) & (from_y <= height - 1)
        outside = (from_x < -1) | (from_x > width) | (from_y < -1) | (from_y > height)
        assert inside.sum() > 400 and outside.sum() > 10
        expected = 100 + 2 * from_x - 3 * from_y
        torch.testing.assert_close(found[n, 0][inside], expected[inside], rtol=0, atol=1e-2)
        assert (found[n, 0][outside] == 0).all()


def test_brighter_pixels_stay_in_range() -> None:
    batch = images(2).float() / 255
    found = augment.brighten(batch, torch.tensor([0.5, 3.0]), 1.0)
    assert torch.equal(found[0], 0.5 * batch[0])
    assert torch.equal(found[1], (3 * batch[1]).clamp(max=1)) and found[1].max() == 1
    assert augment.brighten(batch, torch.tensor([0.5, 3.0]), None)[1].max() > 2


def test_mixtures() -> None:
    """An image keeps the larger share, and shares follow a folded Beta(alpha, alpha)."""
    drawn = [augment.draw_mixture(9, 0.3, generator(0, "mixup", 1, step)) for step in range(2000)]
    shares = torch.tensor([one.share for one in drawn], dtype=torch.float64)
    assert shares.min() >= 0.5 and shares.max() <= 1
    # The variance of Beta(a, a) is 1 / (4 (2 a + 1)), and its mean 1/2, so that folding keeps it.
    assert float(((shares - 0.5) ** 2).mean()) == pytest.approx(1 / (4 * 1.6), rel=0.05)
    assert all(sorted(one.partner.tolist()) == list(range(9)) for one in drawn)
    mixed = augment.mix(torch.full((1, 1, 2, 2), 3.0), torch.full((1, 1, 2, 2), 1.0), 0.75)
    assert (mixed == 2.5).all()
