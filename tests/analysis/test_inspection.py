"""Tests that values read from a trained network agree with what the network does."""

import pytest
import torch
from torch import nn

from tsslbp import Network, losses, training
from tsslbp.analysis import inspection
from tsslbp.data import normalise
from tsslbp.errors import InvalidInput
from tsslbp.layers import LIF, Linear
from tsslbp.network import CustomNetwork
from tsslbp.training import Split

MEAN, STD = [0.5], [0.25]


@pytest.fixture
def net() -> Network:
    generator = torch.Generator().manual_seed(0)
    return Network("2C3-P2-12", (1, 8, 8), 4, 3, generator=generator).eval()


@pytest.fixture
def split() -> Split:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (450, 1, 8, 8), dtype=torch.uint8, generator=generator)
    return Split(images, torch.arange(450) % 4)


def test_confusion_matrix_counts_every_image_once(net: Network, split: Split) -> None:
    matrix = inspection.confusion_matrix(net, split, MEAN, STD)
    assert matrix.sum(1).tolist() == split.labels.bincount().tolist()
    accuracy = training.evaluate(net, split, MEAN, STD)[-1]
    assert matrix.trace().item() / 450 == accuracy
    alone = Split(split.images[:1], split.labels[:1])
    predicted = int(losses.predict(net(normalise(alone.images, MEAN, STD))))
    assert inspection.confusion_matrix(net, alone, MEAN, STD).nonzero().tolist() == [[0, predicted]]


def test_confusion_matrix_of_other_data(net: Network, split: Split) -> None:
    with pytest.raises(
        InvalidInput, match="labels up to 4, but the network was trained for 4 classes"
    ):
        inspection.confusion_matrix(net, Split(split.images, split.labels + 1), MEAN, STD)


def test_gradients_are_those_of_a_training_step(net: Network, split: Split) -> None:
    images, labels = normalise(split.images[:20], MEAN, STD), split.labels[:20]
    found = inspection.gradients(net, losses.van_rossum, images, labels)
    assert all(parameter.grad is None for parameter in net.parameters())
    losses.van_rossum(net(images), labels).backward()
    expected = [parameter.grad for parameter in net.parameters()]
    assert list(found) == ["conv1", "linear2", "output"]
    for mine, step in zip(found.values(), expected, strict=True):
        assert torch.equal(mine, step)


def test_a_network_of_ones_own(split: Split) -> None:
    """Its weights are the parameters of two or more dimensions; an unused one has gradient zero."""
    module = nn.Sequential(
        nn.Flatten(-3), Linear(64, 9), LIF(time_steps=3), Linear(9, 4, bias=True)
    )
    module.spare = nn.Linear(2, 3)
    module.forward = lambda x: module[3](module[2](module[1](module[0](x))))
    own = CustomNetwork(module, (1, 8, 8), 4, 3).eval()
    names = ["1.weight", "3.weight", "spare.weight"]
    assert list(inspection.weights(own)) == names
    images, labels = normalise(split.images[:20], MEAN, STD), split.labels[:20]
    found = inspection.gradients(own, losses.softmax, images, labels)
    assert list(found) == names and not found["spare.weight"].any()
    losses.softmax(own(images), labels).backward()
    assert torch.equal(found["3.weight"], module[3].weight.grad)
    accuracy = training.evaluate(own, split, MEAN, STD)[-1]
    matrix = inspection.confusion_matrix(own, split, MEAN, STD)
    assert matrix.trace().item() / 450 == accuracy


def test_weights_by_layer(net: Network) -> None:
    found = inspection.weights(net)
    assert list(found) == ["conv1", "linear2", "output"]
    assert not any(weight.requires_grad for weight in found.values())
    assert found["conv1"].shape == (2, 1, 3, 3)
