"""Tests of the built-in architectures: their shapes and errors, and that all weights learn."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

import tsslbp
from tsslbp import Neuron, models
from tsslbp.errors import InvalidInput
from tsslbp.layers import LIF, BatchNorm, Conv, Linear, Residual, fold_batch_norms
from tsslbp.network import CustomNetwork

SMALL: dict[str, dict[str, Any]] = {
    "vgg": {"channels": ((8,), (16,)), "hidden": (32,)},
    "sew_resnet": {"channels": (8, 16), "blocks": 1},
}


def make(name: str, *shape: Any, **settings: Any) -> nn.Sequential:
    torch.manual_seed(0)
    return getattr(models, name)(*shape, **(SMALL[name] | settings))


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (2, 9, 14)], ids=str)
@pytest.mark.parametrize("name", SMALL)
def test_images_and_spike_trains(name: str, shape: tuple[int, ...]) -> None:
    net, x = make(name, shape, 7, 3).double(), torch.randn(4, *shape, dtype=torch.float64)
    out = net(x)
    assert out.shape == (3, 4, 7) and out[-1].std(0).all()
    torch.testing.assert_close(net(x.expand(3, *x.shape)), out, rtol=1e-10, atol=1e-10)
    dropped = make(name, shape, 7, 3, dropout=0.5).double()
    assert not torch.equal(dropped(x), dropped(x))


@pytest.mark.parametrize("name", SMALL)
def test_sizes_by_default(name: str) -> None:
    """The default networks have the stages and blocks that their docstrings name."""
    with torch.device("meta"):
        net = getattr(models, name)((3, 32, 32))
    convolutions = [part.weight.shape for part in net.modules() if isinstance(part, Conv)]
    norms = sum(isinstance(part, BatchNorm) for part in net.modules())
    neurons = sum(isinstance(part, LIF) for part in net.modules())
    blocks = sum(isinstance(part, Residual) for part in net.modules())
    if name == "vgg":
        widths = [64, 64, 128, 128, 256, 256]
        assert [one[0] for one in convolutions] == widths and blocks == 0
        assert neurons == norms == 7
        assert net[-1].weight.shape == (10, 512)
    else:
        assert blocks == 6 and len(convolutions) == 1 + 2 * 6 + 2
        assert neurons == norms == len(convolutions)
        assert net[-1].weight.shape == (10, 256)


@pytest.mark.parametrize("spiking_output", [False, True])
@pytest.mark.parametrize("name", SMALL)
def test_they_learn_a_batch(name: str, spiking_output: bool) -> None:
    """A batch is learned with the default rule and cross-entropy, or with TSSL-BP and its loss."""
    settings: dict[str, Any] = {"learnable": ("tau_m",)}
    if spiking_output:
        settings |= {"neuron": Neuron(), "rule": tsslbp.TSSLBP()}
    net = make(name, (1, 12, 12), 3, 4, spiking_output=spiking_output, **settings)
    labels = torch.arange(24) % 3
    x = torch.randn(24, 1, 12, 12) + 2 * torch.eye(3).repeat(8, 4)[:, None, None, :]
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        out = net(x)
        if spiking_output:
            loss = tsslbp.losses.van_rossum(out, labels)
        else:
            loss = sum(functional.cross_entropy(step, labels) for step in out)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        assert all(weight.grad.any() for weight in net.parameters())
    assert losses[-1] < 0.5 * losses[0]
    assert (tsslbp.predict(net(x)) == labels).float().mean() > 0.8


@pytest.mark.parametrize("name", SMALL)
def test_training_knows_them_and_their_norms_fold(name: str) -> None:
    learnable = ("tau_m", "threshold")
    settings: dict[str, Any] = {"neuron": Neuron(3.0, 2.0, 0.7), "learnable": learnable}
    net = make(name, (1, 12, 12), 3, 4, impl="reference", **settings)
    custom = CustomNetwork(net, (1, 12, 12), 3, 4)
    assert len(custom.neuron_counts) == sum(isinstance(part, LIF) for part in net.modules())
    x = torch.randn(5, 1, 12, 12, dtype=torch.float64)
    custom.double()(x)
    assert {part.threshold for part in net.modules() if isinstance(part, BatchNorm)} == {0.7}
    for lif in net.modules():
        if isinstance(lif, LIF):
            assert lif.neurons.impl == "reference" and lif.learnable == learnable
    folded = fold_batch_norms(custom)
    assert not any(isinstance(part, BatchNorm) for part in folded.modules())
    torch.testing.assert_close(folded(x), custom.eval()(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize(
    ("shape", "settings"),
    [
        ((1, 3, 28), {}),
        ((28, 28), {}),
        ((1, 28, 28), {"channels": ()}),
    ],
)
def test_images_that_are_too_small(name: str, shape: tuple[int, ...], settings: dict) -> None:
    with pytest.raises(InvalidInput, match=r"expected images \(C, H, W\) of at least"):
        make(name, shape, **settings)


@pytest.mark.parametrize(
    ("kernel", "padding", "features"), [(5, 0, 4 * 4), (5, None, 7 * 7), (2, 1, 7 * 7)]
)
def test_kernels_of_other_sizes(kernel: int, padding: int | None, features: int) -> None:
    """Kernel and padding can be chosen, as for the published MNIST network 15C5-P2-40C5-P2-300."""
    settings: dict[str, Any] = {"channels": ((15,), (40,)), "hidden": (300,)}
    net = models.vgg(kernel=kernel, padding=padding, **settings)
    connections = [part for part in net if isinstance(part, Conv | Linear)]
    assert connections[1].weight.shape == (40, 15, kernel, kernel)
    assert connections[2].weight.shape == (300, 40 * features)
    assert net(torch.randn(2, 1, 28, 28)).shape == (4, 2, 10)


def test_an_image_that_the_convolutions_use_up() -> None:
    with pytest.raises(InvalidInput, match="9 x 9 pixels are too small for 2 stages of 5 x 5"):
        models.vgg((1, 9, 9), channels=((4,), (4,)), kernel=5, padding=0)
