"""Loading by name, batches, normalisation and splits."""

from __future__ import annotations

import pytest
import torch

from tsslbp import data
from tsslbp.data.dataset import split_test
from tsslbp.errors import InvalidInput


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("name", "hint"),
    [("mnits", "did you mean 'mnist'?"), ("fashion", "'fashion-mnist'"), ("", "digits, mnist")],
)
def test_unknown_name(name: str, hint: str) -> None:
    with pytest.raises(InvalidInput) as error:
        data.load(name, binning=data.Binning())
    assert repr(name) in str(error.value) and hint in str(error.value)


@pytest.mark.parametrize(("count", "size"), [(1, 1), (10, 5), (11, 5), (3, 50), (60, 1)])
def test_batches_hold_every_index_once(count: int, size: int) -> None:
    parts = list(data.batches(count, size, generator()))
    assert sorted(torch.cat(parts).tolist()) == list(range(count))
    assert [len(part) for part in parts[:-1]] == [size] * (len(parts) - 1)
    assert len(parts[-1]) == (count - 1) % size + 1


def test_batches_depend_on_the_generator_alone() -> None:
    order = [torch.cat(list(data.batches(100, 7, generator(seed)))) for seed in (0, 0, 1)]
    assert torch.equal(order[0], order[1]) and not torch.equal(order[0], order[2])
    advancing = generator()
    epochs = [torch.cat(list(data.batches(100, 7, advancing))) for _ in range(2)]
    assert torch.equal(epochs[0], order[0]) and not torch.equal(*epochs)


@pytest.mark.parametrize(("count", "size"), [(0, 5), (5, 0), (5, -1)])
def test_batches_refuse(count: int, size: int) -> None:
    with pytest.raises(InvalidInput, match=f"got {count} images and batch size {size}"):
        data.batches(count, size, generator())


def test_normalise_uint8() -> None:
    images = torch.randint(0, 256, (4, 3, 5, 6), dtype=torch.uint8, generator=generator())
    before = images.clone()
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    result = data.normalise(images, mean, std)
    expected = torch.empty(4, 3, 5, 6, dtype=torch.float64)
    for channel in range(3):
        expected[:, channel] = (images[:, channel].double() / 255 - mean[channel]) / std[channel]
    assert result.dtype == torch.float32 and torch.equal(images, before)
    torch.testing.assert_close(result.double(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_normalise_real(dtype: torch.dtype) -> None:
    images = torch.rand(4, 2, 5, 6, generator=generator()).to(dtype)
    before = images.clone()
    result = data.normalise(images, 0.25, [0.5])
    assert result.dtype == torch.float32 and torch.equal(images, before)
    torch.testing.assert_close(result, (images.float() - 0.25) / 0.5)


def test_normalise_keeps_values_by_default_numbers() -> None:
    images = torch.rand(2, 1, 3, 3, generator=generator())
    assert torch.equal(data.normalise(images, (0.0,), (1.0,)), images)


def test_normalise_strided() -> None:
    images = torch.randint(0, 256, (4, 6, 5, 3), dtype=torch.uint8).movedim(3, 1)
    expected = data.normalise(images.contiguous(), 0.1, 0.3)
    assert torch.equal(data.normalise(images, 0.1, 0.3), expected)


@pytest.mark.parametrize(
    ("shape", "mean", "std", "message"),
    [
        ((2, 3, 4), (0.0,), (1.0,), r"\[N, C, H, W\], got shape \[2, 3, 4\]"),
        ((2, 3, 4, 4), (0.0, 0.0), (1.0,), "mean must be one number or 3"),
        ((2, 3, 4, 4), (0.0,), (1.0, 1.0), "std must be one number or 3"),
        ((2, 3, 4, 4), (), (1.0,), "mean must be one number or 3"),
        ((2, 3, 4, 4), (0.0,), (0.0,), "std must be positive"),
        ((2, 3, 4, 4), 0.0, (1.0, float("nan"), 1.0), "std must be positive"),
    ],
)
def test_normalise_refuses(shape: tuple[int, ...], mean: object, std: object, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        data.normalise(torch.zeros(shape), mean, std)


def test_normalise_refuses_other_types() -> None:
    with pytest.raises(InvalidInput, match=r"got torch\.int64"):
        data.normalise(torch.zeros(2, 1, 3, 3, dtype=torch.int64), 0.0, 1.0)


@pytest.mark.parametrize(("count", "held_out"), [(2, 1), (100, 99), (1437, 150)])
def test_split_validation(count: int, held_out: int) -> None:
    train, validation = data.split_validation(count, held_out)
    assert len(train) == count - held_out and len(validation) == held_out
    assert torch.equal(torch.cat([train, validation]).sort().values, torch.arange(count))
    assert torch.equal(train, train.sort().values)
    assert torch.equal(validation, validation.sort().values)


def test_split_validation_never_changes() -> None:
    _, validation = data.split_validation(60000, 5000)
    assert validation[:6].tolist() == [26, 49, 52, 60, 66, 70]
    assert int(validation.sum()) == 150906507


def test_a_subset_is_part_of_every_larger_one_and_never_changes() -> None:
    small, large = data.subset(55000, 100), data.subset(55000, 10000)
    assert len(small) == 100 and len(large) == 10000
    assert (small.diff() > 0).all() and torch.isin(small, large).all()
    assert small[:3].tolist() == [16, 69, 891]
    assert torch.equal(data.subset(7, 7), torch.arange(7))
    for kept in (0, 8):
        with pytest.raises(InvalidInput, match=f"train_images must be between 1 and 7, got {kept}"):
            data.subset(7, kept)


@pytest.mark.parametrize(("count", "held_out"), [(10, 0), (10, 10), (10, -1), (10, 11), (0, 0)])
def test_split_validation_refuses(count: int, held_out: int) -> None:
    with pytest.raises(InvalidInput, match=f"cannot hold out {held_out} of {count} images"):
        data.split_validation(count, held_out)


@pytest.mark.parametrize(("count", "held_out"), [(2, 1), (50, 49), (997, 100)])
def test_split_test_gives_every_class_its_share(count: int, held_out: int) -> None:
    labels = torch.randint(0, 7, (count,), generator=generator()).square()
    train, test = split_test(labels, held_out)
    assert len(test) == held_out
    assert torch.equal(torch.cat([train, test]).sort().values, torch.arange(count))
    share = labels[test].bincount(minlength=50) - labels.bincount(minlength=50) * held_out / count
    assert (share.abs() < 1).all()
