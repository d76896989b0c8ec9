"""Tests of a training step's batch: its random numbers, the order of changes, and its parts."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tsslbp import losses
from tsslbp.data import Frames, normalise
from tsslbp.data.images import augment
from tsslbp.experiment import Experiment
from tsslbp.experiment.seeding import generator
from tsslbp.training import Split
from tsslbp.training.batch import Batch

PLAIN = Experiment("toy", "8", mean=(0.5,), std=(0.25,))
KEYS: dict[str, dict[str, Any]] = {
    "crop_padding": {"crop_padding": 2},
    "horizontal_flip": {"horizontal_flip": True},
    "roll": {"roll": 3},
    "cutout": {"cutout": 4},
    "rotate": {"rotate": 20.0},
    "translate": {"translate": 0.2},
    "brightness": {"brightness": 0.4},
    "mixup": {"mixup": 0.5},
}
ALL = replace(PLAIN, **{key: value for one in KEYS.values() for key, value in one.items()})
CHOSEN = torch.arange(20, 8, -1)


def split(dtype: torch.dtype = torch.uint8) -> Split:
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (30, 2, 8, 10), dtype=torch.uint8, generator=random)
    return Split(images.to(dtype), torch.arange(30) % 3)


def batch(experiment: Experiment, step: int = 4, data: Split | None = None) -> Batch:
    return Batch(experiment, data or split(), CHOSEN, 2, step, losses.softmax)


def images(experiment: Experiment, **more: Any) -> Tensor:
    return batch(experiment, **more).part(torch.arange(12)).images


def test_as_they_are() -> None:
    part = batch(PLAIN).part(torch.tensor([3, 0]))
    assert torch.equal(part.images, normalise(split().images[[17, 20]], 0.5, 0.25))
    assert part.labels.tolist() == [17 % 3, 20 % 3]


@pytest.mark.parametrize("key", KEYS)
def test_a_key_changes_images_by_seed_epoch_and_step_alone(key: str) -> None:
    experiment = replace(PLAIN, **KEYS[key])
    found = images(experiment)
    torch.rand(3)  # PyTorch's own generator must not matter
    assert torch.equal(found, images(experiment))
    others = [images(PLAIN), images(experiment, step=5), images(replace(experiment, seed=1))]
    assert not any(torch.equal(found, one) for one in others)


def test_in_any_parts() -> None:
    whole = batch(ALL)
    expected = whole.part(torch.arange(12))
    for parts in (torch.arange(12).split(5), [torch.arange(12)[1::2], torch.arange(12)[::2]]):
        for places in parts:
            part = batch(ALL).part(places)
            torch.testing.assert_close(part.images, expected.images[places], rtol=0, atol=1e-6)
            assert torch.equal(part.labels, expected.labels[places])


def test_the_order_of_the_changes() -> None:
    """Crops and flips come first, then roll, warp, brightness, normalisation, cutout and mixup."""

    def random(purpose: str) -> torch.Generator:
        return generator(0, purpose, 2, 4)

    x = split().images[CHOSEN]
    x = augment.apply(x, augment.draw(12, 2, True, random("augmentation")), 2)
    x = augment.roll(x, augment.draw_shifts(12, 3, random("roll"))).float() / 255
    degrees = augment.draw_uniform(1, 12, 20.0, random("rotate"))[0]
    x = augment.warp(x, degrees, augment.draw_uniform(2, 12, 0.2, random("translate")))
    factors = 1 + augment.draw_uniform(1, 12, 0.4, random("brightness"))[0]
    assert factors.max() > 1.2
    x = normalise(augment.brighten(x, factors, 1.0), 0.5, 0.25)
    x = augment.cut_out(x, augment.draw_centres(12, 8, 10, random("cutout")), 4)
    share, partner = augment.draw_mixture(12, 0.5, random("mixup"))
    expected = share * x + (1 - share) * x[partner]
    torch.testing.assert_close(images(ALL), expected, rtol=0, atol=1e-5)


def test_floats_are_taken_as_they_are() -> None:
    """Real-valued pixels are not divided by 255, and brightness does not clip them at 1."""
    experiment = replace(PLAIN, rotate=20.0, brightness=0.4, mean=(0.0,), std=(1.0,))
    whole, real = images(experiment), images(experiment, data=split(torch.float32))
    dimmed = whole < 1
    torch.testing.assert_close(real[dimmed], 255 * whole[dimmed], rtol=1e-4, atol=1e-2)
    assert real.max() > 260


@pytest.mark.parametrize("loss", ["softmax", "count"])
def test_the_loss_of_a_mixture_is_mixed(loss: str) -> None:
    counts = {"desired_count": 2.0, "undesired_count": 0.5} if loss == "count" else {}
    experiment = replace(PLAIN, mixup=1.0, loss=loss, **counts)

    def function(psc: Tensor, labels: Tensor) -> Tensor:
        if loss == "softmax":
            return losses.softmax(psc, labels)
        return losses.count(psc, labels, desired=2.0, undesired=0.5)

    whole = Batch(experiment, split(), CHOSEN, 2, 4, function)
    part, psc = whole.part(torch.arange(12)), torch.rand(5, 12, 3)
    share, partner = augment.draw_mixture(12, 1.0, generator(0, "mixup", 2, 4))
    own, others = split().labels[CHOSEN], split().labels[CHOSEN[partner]]
    expected = share * function(psc, own) + (1 - share) * function(psc, others)
    torch.testing.assert_close(part.loss(psc, part.labels), expected)
    halves = [whole.part(places) for places in torch.arange(12).split(5)]
    found = [one.loss(psc[:, at], one.labels) for one, at in zip(halves, _thirds(), strict=True)]
    torch.testing.assert_close(torch.stack(found).sum(), expected)


def _thirds() -> list[slice]:
    return [slice(0, 5), slice(5, 10), slice(10, 12)]


def test_frames_of_a_recording_change_alike() -> None:
    """Every frame of a recording changes as an image would, and frames keep their order."""
    dense = (torch.rand(30, 3, 2, 8, 10) < 0.3).float()
    data = Split(Frames.from_dense(dense), torch.arange(30) % 3)
    experiment = Experiment(
        "toy", "8", time_steps=3, crop_padding=2, horizontal_flip=True, roll=3, cutout=4
    )
    found = images(experiment, data=data)
    assert found.shape == (3, 12, 2, 8, 10)
    for step in range(3):
        still = Split(dense[:, step], data.labels)
        assert torch.equal(found[step], images(experiment, data=still))
        assert not torch.equal(found[step], dense[CHOSEN, step])
