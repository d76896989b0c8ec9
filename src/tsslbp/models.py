"""Networks made of `tsslbp.layers` for small images: a plain and a residual one.

Each is an ordinary module that maps images ``[N, C, H, W]``, or spike trains ``[T, N, C, H, W]``,
to ``[T, N, classes]``. By default the last connection returns the outputs of each step, which serve
as logits for a cross-entropy. With `spiking_output` a layer of neurons follows, as in
`tsslbp.Network`, and the output is their PSC, on which TSSL-BP's own loss is defined.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import nn

from .checked import check_whole
from .errors import InvalidInput
from .layers import LIF, AvgPool, BatchNorm, Conv, Linear, MaxPool, NeuronDropout, Residual
from .neuron import Neuron
from .rules import Rule, Surrogate

FAST = Neuron(tau_m=2.0, tau_s=1.0)  # without a synaptic filter
ARCTANGENT = Surrogate("arctangent")


def vgg(
    input_shape: Sequence[int] = (1, 28, 28),
    classes: int = 10,
    time_steps: int = 4,
    *,
    channels: Sequence[Sequence[int]] = ((64, 64), (128, 128), (256, 256)),
    hidden: Sequence[int] = (512,),
    kernel: int = 3,
    padding: int | None = None,
    dropout: float = 0.0,
    neuron: Neuron = FAST,
    rule: Rule = ARCTANGENT,
    learnable: Sequence[str] = (),
    impl: str = "auto",
    spiking_output: bool = False,
) -> nn.Sequential:
    """Return a plain deep network: stages of convolutions with max pooling, then linear layers.

    `tsslbp.layers.BatchNorm` and `LIF` follow each convolution and each hidden linear layer.

    Args:
        input_shape: ``(C, H, W)``, large enough for the convolutions and poolings.
        classes: number of outputs.
        time_steps: T.
        channels: output channels of the convolutions, one sequence per stage.
        hidden: numbers of neurons of the linear layers before the last one.
        kernel: side of the convolutions' kernels.
        padding: zeros around the input of each convolution; by default half the kernel size,
            rounded down, which keeps the size of the image if the kernel size is odd.
        dropout: probability of dropout before each linear layer.
        neuron, rule, learnable, impl: settings of every `tsslbp.layers.LIF`.
        spiking_output: whether a layer of neurons follows the last connection.

    Raises:
        InvalidInput: an argument is invalid, or the images are too small.

    Source: Simonyan & Zisserman (ICLR 2015) for the layout; batch normalisation as in Zheng et al.
    (AAAI 2021).
    """
    make = _Maker(neuron, rule, learnable, impl, time_steps)
    stages = [_numbers("a stage of channels", one) for one in _sequence("channels", channels)]
    width, sides = _image(input_shape, len(stages))
    padding = kernel // 2 if padding is None else padding
    parts: list[nn.Module] = []
    for stage in stages:
        for outputs in stage:
            parts += make.convolution(width, outputs, kernel=kernel, padding=padding)
            width, sides = outputs, tuple(side + 2 * padding - kernel + 1 for side in sides)
        parts.append(MaxPool(2))
        sides = tuple(side // 2 for side in sides)
        if min(sides) < 1:
            raise InvalidInput(
                f"images of {input_shape[1]} x {input_shape[2]} pixels are too small for "
                f"{len(stages)} stages of {kernel} x {kernel} convolutions with a padding of "
                f"{padding}: no pixel is left; use larger images, fewer stages or more padding"
            )
    parts.append(nn.Flatten(-3))
    features = width * math.prod(sides)
    for outputs in _numbers("hidden", hidden):
        dropped = [NeuronDropout(dropout)] * bool(dropout)
        parts += [*dropped, Linear(features, outputs, impl=impl), make.norm(outputs), make.lif()]
        features = outputs
    return nn.Sequential(*parts, *make.output(features, classes, dropout, spiking_output))


def sew_resnet(
    input_shape: Sequence[int] = (1, 28, 28),
    classes: int = 10,
    time_steps: int = 4,
    *,
    channels: Sequence[int] = (64, 128, 256),
    blocks: int = 2,
    dropout: float = 0.0,
    neuron: Neuron = FAST,
    rule: Rule = ARCTANGENT,
    learnable: Sequence[str] = (),
    impl: str = "auto",
    spiking_output: bool = False,
) -> nn.Sequential:
    """Return a residual network with spike-element-wise addition (SEW ResNet) for small images.

    A convolution is followed by stages of `tsslbp.layers.Residual` blocks with two convolutions
    each. The first block of every stage but the first halves the image by a stride of 2; its
    shortcut is a 1 x 1 convolution. The last connection takes the mean over the image.

    Args:
        input_shape: ``(C, H, W)``; H and W are at least 2 to the power of the number of stages.
        classes: number of outputs.
        time_steps: T.
        channels: number of channels of each stage.
        blocks: number of blocks of each stage.
        dropout: probability of dropout before the last connection.
        neuron, rule, learnable, impl, spiking_output: as for `vgg`.

    Raises:
        InvalidInput: an argument is invalid, or the images are too small.

    Source: Fang et al. (NeurIPS 2021), SEW ResNet with ADD; He et al. (CVPR 2016) for the layout.
    """
    make = _Maker(neuron, rule, learnable, impl, time_steps)
    blocks = check_whole("blocks", blocks)
    channels = _numbers("channels", channels)
    inputs, _ = _image(input_shape, len(channels))
    width = channels[0]
    parts: list[nn.Module] = make.convolution(inputs, width)
    for stage, outputs in enumerate(channels):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            body = make.convolution(width, outputs, stride) + make.convolution(outputs, outputs)
            shortcut = None
            if stride > 1 or width != outputs:
                shortcut = nn.Sequential(*make.convolution(width, outputs, stride, kernel=1))
            parts.append(Residual(nn.Sequential(*body), shortcut))
            width = outputs
    parts += [AvgPool(), nn.Flatten(-3)]
    return nn.Sequential(*parts, *make.output(width, classes, dropout, spiking_output))


class _Maker:
    """Makes the layers of a network in which all neurons share their settings."""

    def __init__(
        self, neuron: Neuron, rule: Rule, learnable: Sequence[str], impl: str, time_steps: int
    ) -> None:
        self.neuron, self.impl, self.time_steps = neuron, impl, time_steps
        constants = neuron.tau_m, neuron.tau_s, neuron.threshold
        self.settings: tuple[Any, ...] = *constants, rule, tuple(learnable), impl
        self.is_first = True

    def lif(self, **settings: Any) -> LIF:
        if self.is_first:  # this layer repeats static images over time
            settings, self.is_first = {"time_steps": self.time_steps, **settings}, False
        return LIF(*self.settings, **settings)

    def norm(self, features: int) -> BatchNorm:
        return BatchNorm(features, self.neuron.threshold)

    def convolution(
        self,
        inputs: int,
        outputs: int,
        stride: int = 1,
        kernel: int = 3,
        padding: int | None = None,
    ) -> list[nn.Module]:
        padding = kernel // 2 if padding is None else padding
        settings: dict[str, Any] = {"stride": stride, "padding": padding, "impl": self.impl}
        return [Conv(inputs, outputs, kernel, **settings), self.norm(outputs), self.lif()]

    def output(self, features: int, classes: int, dropout: float, spiking: bool) -> list[nn.Module]:
        parts: list[nn.Module] = [NeuronDropout(dropout)] if dropout else []
        parts.append(Linear(features, classes, bias=not spiking, impl=self.impl))
        return [*parts, self.norm(classes), self.lif(output_psc=True)] if spiking else parts


def _sequence(name: str, value: Any) -> Sequence[Any]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise InvalidInput(f"{name} must be a sequence, got {value!r:.60}")
    return value


def _numbers(name: str, value: Any) -> list[int]:
    return [check_whole(name, one) for one in _sequence(name, value)]


def _image(input_shape: Sequence[int], stages: int) -> tuple[int, tuple[int, ...]]:
    """Return channels and sides of the images; each stage may halve the sides once."""
    if len(input_shape) != 3 or stages < 1 or min(input_shape[1:]) < 2**stages:
        raise InvalidInput(
            f"expected images (C, H, W) of at least {2**stages} x {2**stages} pixels for "
            f"{stages} stages (at least one stage), got {tuple(input_shape)}"
        )
    channels, height, width = input_shape
    return channels, (height, width)
