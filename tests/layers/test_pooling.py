"""Pooling over signals with and without time."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tsslbp.errors import InvalidInput
from tsslbp.layers import AvgPool, MaxPool, SumPool


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def signal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=seeded(1), dtype=torch.float64)


def test_sum_pool_by_hand() -> None:
    x = torch.arange(15, dtype=torch.float64).reshape(1, 1, 3, 5)
    # the third row and the fifth column are left out: 0 + 1 + 5 + 6 and 2 + 3 + 7 + 8
    assert SumPool(2, 1.1)(x).flatten().tolist() == pytest.approx([12 * 1.1, 20 * 1.1])


def test_pools_work_step_by_step() -> None:
    """The layers treat each time step on its own, and their gradients are derivatives."""
    x = signal(4, 2, 2, 5, 6)
    for layer in (SumPool(2, 1.1), AvgPool(2), AvgPool(), MaxPool(2)):
        torch.testing.assert_close(layer(x), torch.stack([layer(x_t) for x_t in x]))
        assert torch.autograd.gradcheck(layer, (x[:2].clone().requires_grad_(),))


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("channels_last", [False, True])
def test_pools_are_pytorchs(size: int, channels_last: bool) -> None:
    x = signal(4, 2, 3, 7, 8)
    if channels_last:
        x = x.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)
    frames = x.flatten(0, 1)
    mean = functional.avg_pool2d(frames, size).unflatten(0, (4, 2))
    torch.testing.assert_close(AvgPool(size)(x), mean)
    torch.testing.assert_close(SumPool(size)(x), mean * size**2)
    largest = functional.max_pool2d(frames, size).unflatten(0, (4, 2))
    assert torch.equal(MaxPool(size)(x), largest)
    torch.testing.assert_close(AvgPool()(x).flatten(-3), x.mean((-2, -1)))


def test_the_maximum_of_spikes_is_spikes() -> None:
    spikes = (torch.rand(4, 2, 3, 6, 6, generator=seeded()) < 0.2).float()
    pooled = MaxPool(2)(spikes)
    assert torch.equal(pooled, (SumPool(2)(spikes) > 0).float())
    assert 0 < pooled.mean() < 1


@pytest.mark.parametrize("kind", [SumPool, AvgPool, MaxPool])
def test_windows_that_do_not_fit(kind) -> None:
    with pytest.raises(InvalidInput, match="size must be a whole number of at least 1, got 0"):
        kind(0)
    with pytest.raises(InvalidInput, match=f"{kind.__name__} expects images .* 4 x 4 pixels, got"):
        kind(4)(signal(2, 2, 3, 3, 8))
    with pytest.raises(InvalidInput, match=r"got shape \[2, 3, 8\]"):
        kind(2)(signal(2, 3, 8))


def test_names_in_the_printed_module() -> None:
    assert repr(SumPool(2, 1.1)) == "SumPool(2, scale=1.1)"
    assert repr(AvgPool(2)) == "AvgPool(2)" and repr(AvgPool()) == "AvgPool()"
    assert repr(MaxPool(3)) == "MaxPool(3)"
