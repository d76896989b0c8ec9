"""Tests of operation counts against NeuroBench's, on the same network of plain modules.

NeuroBench and the snnTorch that it imports are installed without their other requirements
(tests/requirements.txt).
"""

import pytest
import torch
from torch import Tensor, nn

from tsslbp import Network
from tsslbp.analysis import cost
from tsslbp.export import to_plain

models = pytest.importorskip("neurobench.models")
workload = pytest.importorskip("neurobench.metrics.workload")

STEPS = 5


class Neurons(nn.Module):
    """Leaky neurons after a synaptic filter; each call is one time step."""

    def __init__(self) -> None:
        super().__init__()
        self.current: Tensor | float = 0.0
        self.potential: Tensor | float = 0.0

    def forward(self, x: Tensor) -> Tensor:
        self.current = (1 - 1 / 3) * self.current + x / 3
        self.potential = (1 - 1 / 5) * self.potential + self.current
        spikes = (self.potential > 1).to(x.dtype)
        self.potential = self.potential * (1 - spikes)
        return spikes


class Plain(nn.Module):
    """The network as modules that NeuroBench knows, run step by step."""

    def __init__(self, net: Network) -> None:
        super().__init__()
        parts: list[nn.Module] = []
        for layer in net.spiking_layers:
            weight = layer.connection.weight
            one: nn.Linear | nn.Conv2d
            if weight.ndim == 2:
                parts.append(nn.Flatten())
                one = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
            else:
                padding = layer.connection.padding
                one = nn.Conv2d(*weight.shape[1::-1], weight.shape[2], padding=padding, bias=False)
            one.weight = weight
            parts += [one, Neurons()]
        self.parts = nn.Sequential(*parts)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.parts(x) for _ in range(STEPS)]).sum(0)


@pytest.mark.parametrize(
    ("description", "padding"), [("64-32", ()), ("100", ()), ("4C3-3C3-9", (1, 2))]
)
def test_operations_are_those_of_neurobench(description: str, padding: tuple[int, ...]) -> None:
    """Additions agree; NeuroBench multiplies the image at every step, tsslbp only once."""
    generator = torch.Generator().manual_seed(0)
    net = Network(
        description, (1, 9, 8), 10, STEPS, padding=padding, weight_scale=2.0, generator=generator
    ).double()
    images = 2 * torch.randn(30, 1, 9, 8, generator=generator).double()
    model = models.TorchModel(Plain(net))
    model.register_hooks()
    spikes = model(images)
    theirs = workload.SynapticOperations()(model, spikes, (images, torch.zeros(30)))
    ours = cost(net, images)
    assert ours.layers[-1].spikes == pytest.approx(spikes.sum().item() / 30)
    assert theirs["Effective_ACs"] > 100
    assert theirs["Effective_ACs"] == pytest.approx(ours.total.spiking.additions, rel=1e-12)
    assert theirs["Effective_MACs"] == STEPS * ours.total.spiking.multiplications
    assert theirs["Dense"] == STEPS * ours.total.dense_multiplications
    if not padding:  # firing rates times fan-out
        trains = {name: trace.spikes for name, trace in net.trace(images).items()}
        widths = [*(len(layer.connection.weight) for layer in net.spiking_layers)]
        rates = zip(list(trains.values())[:-1], widths[1:], strict=True)
        expected = sum(train.mean() * train[0, 0].numel() * STEPS * wide for train, wide in rates)
        assert ours.total.spiking.additions == pytest.approx(float(expected))


class Summed(nn.Module):
    """Module that sums a network's output over time, as NeuroBench expects it."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).sum(0)


def test_neurobench_understands_an_exported_network() -> None:
    """NeuroBench's hooks find the modules of `to_plain`, which multiply a static image once."""
    generator = torch.Generator().manual_seed(0)
    net = Network("64-32", (1, 9, 8), 10, STEPS, weight_scale=2.0, generator=generator).double()
    images = 2 * torch.randn(30, 1, 9, 8, generator=generator).double()
    model = models.TorchModel(Summed(to_plain(net.eval())))
    model.register_hooks()
    outputs = model(images)
    theirs = workload.SynapticOperations()(model, outputs, (images, torch.zeros(30)))
    ours = cost(net, images).total.spiking
    assert theirs["Effective_ACs"] > 100
    assert theirs["Effective_ACs"] == pytest.approx(ours.additions, rel=1e-12)
    assert theirs["Effective_MACs"] == ours.multiplications
