"""Custom networks as users write them, for tests."""

from torch import Tensor, nn

from tsslbp.layers import LIF, BatchNorm, Conv, Linear, MaxPool, NeuronDropout, Residual


def make(input_shape, classes, settings, width=6, learnable=("tau_m",)):
    """Return a residual network with normalisation, learned constants and dropout."""
    channels, height, breadth = input_shape
    constants = settings.tau_m, settings.tau_s, settings.threshold

    def neurons(**more):
        return LIF(*constants, settings.rule, learnable, **more)

    block = nn.Sequential(Conv(width, width, 3, padding=1), BatchNorm(width), neurons())
    return nn.Sequential(
        *(Conv(channels, width, 3, padding=1), BatchNorm(width)),
        *(neurons(time_steps=settings.time_steps), Residual(block), MaxPool(2)),
        *(nn.Flatten(-3), NeuronDropout(0.2)),
        Linear(width * (height // 2) * (breadth // 2), classes, bias=True),
    )


class Frames(nn.Module):
    """A network that accepts only recordings."""

    def __init__(self, channels: int, classes: int, rule) -> None:
        super().__init__()
        self.hidden, self.neurons = Conv(channels, 4, 3), LIF(rule=rule)
        self.output = Linear(4, classes)

    def forward(self, x: Tensor) -> Tensor:
        time_steps, count, *_ = x.shape
        spikes = self.neurons(self.hidden(x))
        return self.output(spikes.mean((3, 4))).view(time_steps, count, -1)


def frames(input_shape, classes, settings):
    return Frames(input_shape[0], classes, settings.rule)


def plain(input_shape, classes, settings):
    """Return a network without randomness in training."""
    width = settings.network_settings["width"]
    return nn.Sequential(
        *(nn.Flatten(-3), Linear(input_shape[1] * input_shape[2], width)),
        *(LIF(rule=settings.rule, time_steps=settings.time_steps), Linear(width, classes)),
    )
