"""Tests that frames equal a dense tensor, however they are indexed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tsslbp import data
from tsslbp.data import Frames
from tsslbp.data.images import augment
from tsslbp.errors import InvalidInput


def dense(seed: int = 0, kind: torch.dtype = torch.float32) -> Tensor:
    """Return frames `[N, T, C, H, W]`, of which one recording and one other frame are empty."""
    generator = torch.Generator().manual_seed(seed)
    frames = (torch.rand(7, 5, 2, 6, 8, generator=generator) < 0.1).to(torch.float32)
    if kind is not torch.bool:
        frames *= torch.randint(1, 9, frames.shape, generator=generator)
    frames[2] = frames[4, 1] = 0
    return frames.to(kind)


@pytest.mark.parametrize("kind", [torch.bool, torch.uint8, torch.float32])
@pytest.mark.parametrize(
    "chosen",
    [
        slice(None),
        slice(2, 5),
        slice(0),
        slice(1, None, 3),
        torch.tensor([3, 3, 0]),
        torch.tensor([2]),
    ],
    ids=str,
)
def test_as_the_dense_tensor(kind: torch.dtype, chosen: Tensor | slice) -> None:
    frames = dense(kind=kind)
    found = Frames.from_dense(frames)[chosen]
    expected = frames[chosen].float().transpose(0, 1)
    assert torch.equal(found.trains(), expected)
    assert found.shape == frames[chosen].shape and len(found) == len(frames[chosen])
    assert found.trains().is_contiguous()
    assert [one.tolist() for one in found] == expected.transpose(0, 1).tolist()


def test_only_values_other_than_one_are_kept() -> None:
    assert Frames.from_dense(dense(kind=torch.bool)).values is None
    assert Frames.from_dense(dense()).values is not None


def test_indexing_twice() -> None:
    frames = Frames.from_dense(dense())
    order = torch.tensor([6, 5, 3, 1])
    assert torch.equal(
        frames[order][torch.tensor([1, 3])].trains(), frames[torch.tensor([5, 1])].trains()
    )


def test_frames_are_taken_as_they_are() -> None:
    frames = Frames.from_dense(dense())
    assert torch.equal(data.normalise(frames, (0.0,), (1.0,)), frames.trains())
    with pytest.raises(InvalidInput, match="mean must be 0 and std 1"):
        data.normalise(frames, 0.1307, 0.3081)


def test_a_crop_is_the_same_at_all_steps() -> None:
    frames = dense()
    places = augment.draw(len(frames), 2, True, torch.Generator().manual_seed(3))
    found = augment.apply(Frames.from_dense(frames).trains(), places, 2)
    for step in range(frames.shape[1]):
        assert torch.equal(found[step], augment.apply(frames[:, step], places, 2))
