"""Networks to export, with signals that make them fire."""

import torch
from torch import Tensor, nn

import tsslbp
from tsslbp import layers, models
from tsslbp.network import CustomNetwork

SHAPE, CLASSES = (2, 9, 11), 3


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def network(description: str = "5C3-P2-13", steps: int = 5, **settings: object) -> tsslbp.Network:
    settings = {"input_shape": SHAPE, "classes": CLASSES, "weight_scale": 3.0, **settings}
    generator = torch.Generator().manual_seed(1)
    return tsslbp.Network(description, time_steps=steps, generator=generator, **settings).eval()  # type: ignore[arg-type]


def custom(*parts: nn.Module, shape: tuple[int, ...] = SHAPE, steps: int = 5) -> CustomNetwork:
    return CustomNetwork(nn.Sequential(*parts), shape, CLASSES, steps).eval()


def constants() -> CustomNetwork:
    """Return a network in which each layer has its own constants, some of them learned.

    It also has biases, stride and dilation.
    """
    return custom(
        layers.Conv(2, 4, 3, stride=2, padding=1, bias=True),
        layers.LIF(2.5, 4.0, 0.8, learnable=("tau_m", "tau_s", "threshold"), time_steps=5),
        layers.Conv(4, 6, 2, dilation=2, bias=True),
        layers.LIF(3.3, 1.0, 0.3, learnable=("threshold",)),
        layers.NeuronDropout(0.5),
        nn.Flatten(-3),
        layers.Linear(6 * 3 * 4, CLASSES, bias=True),
        layers.LIF(1.7, 2.2, 0.31, output_psc=True),
    )


def normalised() -> CustomNetwork:
    """Return a network with batch normalisation, already trained, after every connection."""
    net = custom(
        layers.Conv(2, 4, 3),
        layers.BatchNorm(4),
        layers.LIF(2.0, 1.0, pool=2, pool_scale=1.3, time_steps=5),
        nn.Sequential(layers.Conv(4, 5, 2), layers.BatchNorm(5), layers.LIF(2.0, 1.5)),
        layers.AvgPool(2),
        nn.Flatten(-3),
        layers.Linear(5, CLASSES, bias=True),
    )
    trained(net)
    return net


def residual(**settings: object) -> CustomNetwork:
    """Return a network of two residual blocks, the second of which halves the image, and logits."""
    settings = {"channels": (4, 6), "blocks": 1, "spiking_output": True, **settings}
    shape = (2, 8, 8)
    module = models.sew_resnet(shape, CLASSES, 5, **settings)  # type: ignore[arg-type]
    net = CustomNetwork(module, shape, CLASSES, 5)
    trained(net)
    return net


def shared() -> CustomNetwork:
    """Return a network that uses one connection and its neurons in two places."""
    twice = layers.Linear(9, 9), layers.LIF(3.0, 2.0, 0.6)
    parts = layers.Linear(198, 9), layers.LIF(time_steps=5), *twice, *twice
    return custom(nn.Flatten(-3), *parts, layers.Linear(9, CLASSES, bias=True), layers.LIF())


def trained(net: CustomNetwork) -> None:
    """Give normalisations running averages and weights that differ from their initial values."""
    net.train()
    for seed in range(20):
        net(1 + 2 * normal(8, *net.input_shape, seed=seed))
    for index, part in enumerate(net.modules()):
        if isinstance(part, layers.BatchNorm):
            part.weight.data = 1.2 + 0.2 * normal(len(part.weight), seed=index)
            part.bias.data = 0.3 * normal(len(part.bias), seed=index + 1)
    net.eval()


def images(net: tsslbp.Network | CustomNetwork, count: int = 7) -> Tensor:
    return 0.5 + 2 * normal(count, *net.input_shape, seed=3)
