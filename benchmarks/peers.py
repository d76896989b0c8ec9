"""The MNIST network 15C5-P2-40C5-P2-300 with 10 outputs, in tsslbp and in other libraries.

It has no biases and no padding, presents static images for T steps, and has LIF neurons with decay
``1 - 1/5``, threshold 1 and hard reset. Each peer runs as fast as its interface allows on a CPU:
time is folded into the batch for convolutions, pooling and linear layers, the first convolution is
computed once, images are stored channels last, and only the neurons loop over time. The peers'
neurons have no synaptic filter; those of tsslbp do.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

import tsslbp
from tsslbp import training
from tsslbp.layers import LIF, Conv, Linear
from tsslbp.network.description import LayerPlan

TAU_M = 5.0
CLASSES = 10
LEARNING_RATE, GRADIENT_CLIP, WEIGHT_LIMIT = 5e-4, 1.0, 4.0

Step = Callable[[Tensor, Tensor], float]


@dataclass(frozen=True)
class Size:
    """The quantities over which the growth of time and memory is measured."""

    time_steps: int = 5
    batch: int = 50
    channels: int = 15  # of the first convolution; the work is linear in them


class Case(NamedTuple):
    """A network and its training step ``step(images, labels) -> loss``."""

    model: nn.Module
    step: Step


class ConvNet(nn.Module):
    """Network from images ``[N, 1, 28, 28]`` to ``[N, 10]``, with ReLU instead of neurons."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, channels, 5, bias=False)
        self.conv2 = nn.Conv2d(channels, 40, 5, bias=False)
        self.hidden = nn.Linear(640, 300, bias=False)
        self.output = nn.Linear(300, CLASSES, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        x = functional.avg_pool2d(functional.relu(self.conv1(images)), 2)
        x = functional.avg_pool2d(functional.relu(self.conv2(x)), 2)
        return cast(Tensor, self.output(functional.relu(self.hidden(x.flatten(1)))))


class SpikingNet(ConvNet):
    """The same network with `neurons()` after each layer.

    They map currents ``[T, N, ...]`` to spikes. The network returns the output neurons' spike
    counts ``[N, 10]``.
    """

    def __init__(self, neurons: Callable[[], nn.Module], size: Size) -> None:
        super().__init__(size.channels)
        self.time_steps = size.time_steps
        self.neurons = nn.ModuleList(neurons() for _ in range(4))
        with torch.no_grad():  # with average pooling, smaller weights leave layers silent
            for weight in self.parameters():
                nn.init.kaiming_normal_(weight).mul_(2)
        nn.utils.convert_conv2d_weight_memory_format(self, torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        current = self.conv1(images)
        x = self.neurons[0](current.expand(self.time_steps, *current.shape))
        x = functional.avg_pool2d(x.flatten(0, 1), 2)
        x = self._fire(1, self.conv2(x))
        x = functional.avg_pool2d(x.flatten(0, 1), 2)
        x = self._fire(2, self.hidden(x.flatten(1)))
        return self._fire(3, self.output(x.flatten(0, 1))).sum(0)

    def _fire(self, layer: int, current: Tensor) -> Tensor:
        over_time = current.view(self.time_steps, -1, *current.shape[1:])
        return cast(Tensor, self.neurons[layer](over_time))


class SnnTorchNeurons(nn.Module):
    def __init__(self, tau_m: float = TAU_M) -> None:
        super().__init__()
        import snntorch

        self.cell = snntorch.Leaky(beta=1 - 1 / tau_m, reset_mechanism="zero")

    def forward(self, current: Tensor) -> Tensor:
        potential = torch.zeros_like(current[0])
        train = []
        for step in current:
            spikes, potential = self.cell(step, potential)
            train.append(spikes)
        return torch.stack(train)


class NorseNeurons(nn.Module):
    """Norse multiplies the current by ``1 / tau_m``; a threshold of ``1 / tau_m`` cancels that."""

    def __init__(self) -> None:
        super().__init__()
        from norse.torch import LIFBoxCell, LIFBoxFeedForwardState, LIFBoxParameters

        rate = torch.tensor(1 / TAU_M)
        self.cell = LIFBoxCell(LIFBoxParameters(tau_mem_inv=rate, v_th=rate), dt=1.0)
        self.rest = LIFBoxFeedForwardState

    def forward(self, current: Tensor) -> Tensor:
        state = self.rest(v=torch.zeros_like(current[0]))
        train = []
        for step in current:
            spikes, state = self.cell(step, state)
            train.append(spikes)
        return torch.stack(train)


class SpikingJellyNeurons(nn.Module):
    def __init__(self, tau_m: float = TAU_M) -> None:
        super().__init__()
        from spikingjelly.activation_based import neuron, surrogate

        self.cell = neuron.LIFNode(
            tau=tau_m,
            decay_input=False,
            surrogate_function=surrogate.ATan(),
            detach_reset=True,
            step_mode="m",
        )

    def forward(self, current: Tensor) -> Tensor:
        self.cell.reset()
        return cast(Tensor, self.cell(current))


def _classifier(model: nn.Module) -> Case:
    """Return `model` with a step that trains it on the cross-entropy of its outputs."""
    weights: list[Tensor] = list(model.parameters())
    optimizer = torch.optim.AdamW(weights, lr=LEARNING_RATE, fused=True)

    def step(images: Tensor, labels: Tensor) -> float:
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(images), labels)
        loss.backward()
        nn.utils.clip_grad_norm_(weights, GRADIENT_CLIP)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_clamp_min_(weights, -WEIGHT_LIMIT)
            torch._foreach_clamp_max_(weights, WEIGHT_LIMIT)
        return loss.item()

    return Case(model, step)


def _relu(size: Size) -> Case:
    return _classifier(ConvNet(size.channels))


def _peer(neurons: Callable[[], nn.Module], size: Size) -> Case:
    return _classifier(SpikingNet(neurons, size))


def _connections(size: Size) -> Case:
    """Return a step of the convolutions and linear layers alone, as dense products.

    It runs them forward and backward.
    """
    model = ConvNet(size.channels)
    frames = size.time_steps * size.batch
    shapes: dict[nn.Conv2d | nn.Linear, tuple[int, ...]] = {
        model.conv2: (frames, size.channels, 12, 12),
        model.hidden: (frames, 640),
        model.output: (frames, 300),
    }
    inputs = {
        layer: torch.randint(2, shape).float().requires_grad_() for layer, shape in shapes.items()
    }

    def step(images: Tensor, labels: Tensor) -> float:
        total = 0.0
        for layer, x in [(model.conv1, images), *inputs.items()]:
            y = layer(x)
            wanted: list[Tensor] = [layer.weight, x] if x.requires_grad else [layer.weight]
            total += torch.autograd.grad(y, wanted, torch.ones_like(y))[0].sum().item()
        return total

    return Case(model, step)


def _tsslbp(size: Size) -> Case:
    model = tsslbp.Network(
        f"{size.channels}C5-P2-40C5-P2-300",
        input_shape=(1, 28, 28),
        time_steps=size.time_steps,
        neuron=tsslbp.Neuron(tau_m=TAU_M),
    )
    return _trained(model)


def _trained(model: tsslbp.network.Model) -> Case:
    """Return `model` with the training step of this library."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=True)
    loss = tsslbp.losses.van_rossum
    if model.time_steps == 1:  # the usual desired train starts with a step without a spike
        loss = partial(loss, pattern=(1,))

    def step(images: Tensor, labels: Tensor) -> float:
        return training.train_step(
            model,
            optimizer,
            loss,
            images,
            labels,
            gradient_clip=GRADIENT_CLIP,
            weight_limit=WEIGHT_LIMIT,
        ).loss

    return Case(model, step)


def _modules(size: Size) -> Case:
    """Return the MNIST network of `_tsslbp`, built from `tsslbp.layers`."""
    neurons: dict[str, Any] = {"tau_m": TAU_M}
    pooled = {**neurons, "pool": 2, "pool_scale": 1.1}
    model = nn.Sequential(
        *(Conv(1, size.channels, 5), LIF(**pooled, time_steps=size.time_steps)),
        *(Conv(size.channels, 40, 5), LIF(**pooled), nn.Flatten(-3)),
        *(Linear(640, 300), LIF(**neurons), Linear(300, CLASSES), LIF(**neurons, output_psc=True)),
    )
    shape = 1, 28, 28
    return _trained(tsslbp.network.CustomNetwork(model, shape, CLASSES, size.time_steps))


CASES: dict[str, Callable[[Size], Case]] = {
    "ReLU, without time steps (PyTorch)": _relu,
    "dense matrix products alone": _connections,
    "tsslbp": _tsslbp,
    "tsslbp, built from modules": _modules,
    "snnTorch": partial(_peer, SnnTorchNeurons),
    "Norse": partial(_peer, NorseNeurons),
    "SpikingJelly": partial(_peer, SpikingJellyNeurons),
}


# A residual network


SEW_CHANNELS, SEW_STEPS = (32, 64), 4


class SewNet(nn.Module):
    """``tsslbp.models.sew_resnet(channels=(32, 64), blocks=1)`` with a peer's neurons.

    Parameters are in the same order. Convolutions and normalisation fold time into the batch, the
    first of them are computed once, and images are stored channels last.
    """

    def __init__(self, neurons: Callable[[], nn.Module]) -> None:
        super().__init__()
        first, second = SEW_CHANNELS
        self.stem = _Unit(neurons, 1, first)
        self.block1 = nn.ModuleList([_Unit(neurons, first, first) for _ in range(2)])
        self.block2 = nn.ModuleList(
            [_Unit(neurons, first, second, 2), _Unit(neurons, second, second)]
        )
        self.shortcut = _Unit(neurons, first, second, 2, kernel=1)
        self.output = nn.Linear(second, CLASSES)
        nn.utils.convert_conv2d_weight_memory_format(self, torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        current = self.stem.current(images)
        x = self.stem.neurons(current.expand(SEW_STEPS, *current.shape))
        x = x + self.block1[1](self.block1[0](x))
        x = self.block2[1](self.block2[0](x)) + self.shortcut(x)
        return cast(Tensor, self.output(x.mean((-2, -1))))


class _Unit(nn.Module):
    """Convolution, batch normalisation and neurons on ``[T, N, C, H, W]``."""

    def __init__(
        self,
        neurons: Callable[[], nn.Module],
        inputs: int,
        outputs: int,
        stride: int = 1,
        kernel: int = 3,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.norm, self.neurons = nn.BatchNorm2d(outputs), neurons()

    def current(self, frames: Tensor) -> Tensor:
        return cast(Tensor, self.norm(self.conv(frames)))

    def forward(self, x: Tensor) -> Tensor:
        current = self.current(x.flatten(0, 1))
        return cast(Tensor, self.neurons(current.unflatten(0, x.shape[:2])))


def _by_step(model: nn.Module) -> Case:
    """Return `model` with a step on the cross-entropy of its output at every time step."""
    weights: list[Tensor] = list(model.parameters())
    optimizer = torch.optim.AdamW(weights, lr=2e-3, fused=True)

    def step(images: Tensor, labels: Tensor) -> float:
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(images).flatten(0, 1), labels.repeat(SEW_STEPS))
        loss.backward()
        optimizer.step()
        return loss.item()

    return Case(model, step)


def _sew() -> Case:
    return _by_step(
        tsslbp.models.sew_resnet((1, 28, 28), CLASSES, SEW_STEPS, channels=SEW_CHANNELS, blocks=1)
    )


def _sew_peer(neurons: Callable[[], nn.Module]) -> Case:
    return _by_step(SewNet(neurons))


SEW_CASES: dict[str, Callable[[], Case]] = {  # all with the derivative of an arctangent
    "tsslbp": _sew,
    "snnTorch": partial(_sew_peer, partial(SnnTorchNeurons, 2.0)),
    "SpikingJelly": partial(_sew_peer, partial(SpikingJellyNeurons, 2.0)),
}


def dense_layer(layer: LayerPlan) -> nn.Conv2d | nn.Linear:
    """Return a planned layer's connection in PyTorch, channels last, without bias."""
    if layer.kind == "linear":
        return nn.Linear(math.prod(layer.in_shape), layer.units, bias=False)
    channels, *_ = layer.in_shape
    conv = nn.Conv2d(channels, layer.units, layer.kernel, padding=layer.padding, bias=False)
    nn.utils.convert_conv2d_weight_memory_format(conv, torch.channels_last)
    return conv


def make(name: str, size: Size = Size()) -> Case:
    """Build a case of `CASES` with the weights of a fixed seed.

    Raises:
        ImportError: the library is not installed.
    """
    torch.manual_seed(0)
    return CASES[name](size)


def make_sew(name: str) -> Case:
    """Build a case of `SEW_CASES` with the same weights as ours.

    Raises:
        ImportError: the library is not installed.
    """
    torch.manual_seed(0)
    ours, case = _sew(), SEW_CASES[name]()
    with torch.no_grad():
        weights = zip(case.model.parameters(), ours.model.parameters(), strict=True)
        for weight, wanted in weights:
            weight.copy_(wanted)
    return case


def batch(size: Size = Size()) -> tuple[Tensor, Tensor]:
    """Return images ``[N, 1, 28, 28]`` and labels ``[N]`` that can be learned.

    A fifth of the pixels is nonzero, as in MNIST; most of them depend on the class, the others are
    random.
    """
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(CLASSES, (size.batch,), generator=generator)
    by_class = torch.rand(CLASSES, 1, 28, 28, generator=generator) < 0.15
    at_random = torch.rand(size.batch, 1, 28, 28, generator=generator) < 0.05
    brightness = torch.rand(size.batch, 1, 28, 28, generator=generator)
    return ((by_class[labels] | at_random) * brightness - 0.1307) / 0.3081, labels
