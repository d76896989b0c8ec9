"""`to_plain`: converts a network to PyTorch's own modules for inference, exporters and hooks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast, final

import torch
from torch import Tensor, nn

from ..errors import InvalidInput
from ..layers import (
    LIF,
    AvgPool,
    Conv,
    Linear,
    NeuronDropout,
    RowDropout,
    SumPool,
    fold_batch_norms,
)
from ..network import CustomNetwork, Network, SpikingLayer
from ..neuron import Neuron, reference


@final
class OverTime(nn.Module):
    """Applies a module for frames ``[N, ...]`` to every time step of ``[T, N, ...]``.

    Time is folded into the batch, so hooks on the module see ``[T N, ...]``. A signal without time,
    of 2 or 4 dimensions, is passed to the module unchanged.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim in (2, 4):
            return cast(Tensor, self.module(x))
        out: Tensor = self.module(x.flatten(0, 1))
        return cast(Tensor, out.unflatten(0, x.shape[:2]))


@final
class SpikingNeurons(nn.Module):
    """Neurons after a synaptic filter, in plain operations, as one loop over all time steps.

    They emit the spikes of `tsslbp.layers.LIF`, but have no learning rule: the gradient by autograd
    is zero.

    Args:
        neuron: constants.
        time_steps: T, if the input may be static: an input of 2 or 4 dimensions is repeated.

    Shape:
        Input: ``[T, N, ...]``, or with `time_steps` ``[N, ...]``. Output: spikes ``[T, N, ...]``.
    """

    def __init__(self, neuron: Neuron, time_steps: int | None = None) -> None:
        super().__init__()
        self.neuron, self.time_steps = neuron, time_steps

    def forward(self, x: Tensor) -> Tensor:
        if self.time_steps is not None and x.ndim in (2, 4):
            x = x.expand(self.time_steps, *x.shape)
        return reference.simulate(reference.psc(x, self.neuron.tau_s), self.neuron).spikes

    def extra_repr(self) -> str:
        steps = "" if self.time_steps is None else f", time_steps={self.time_steps}"
        return f"{self.neuron}{steps}"


@final
class SynapticFilter(nn.Module):
    """`tsslbp.psc` in plain operations: the PSC ``[T, ...]`` of spikes ``[T, ...]``."""

    def __init__(self, tau_s: float) -> None:
        super().__init__()
        self.tau_s = tau_s

    def forward(self, x: Tensor) -> Tensor:
        return reference.psc(x, self.tau_s)

    def extra_repr(self) -> str:
        return f"tau_s={self.tau_s}"


@final
class WindowSum(nn.Module):
    """`tsslbp.layers.SumPool` as a sum over axes, since exporters ignore a mean pooling's divisor.

    Shape:
        ``[..., H, W]`` to ``[..., H // size, W // size]``.
    """

    def __init__(self, size: int, scale: float) -> None:
        super().__init__()
        self.size, self.scale = size, scale

    def forward(self, x: Tensor) -> Tensor:
        height, width = (side // self.size for side in x.shape[-2:])
        x = x[..., : height * self.size, : width * self.size]
        windows = x.unflatten(-1, (width, self.size)).unflatten(-3, (height, self.size))
        return cast(Tensor, windows.sum((-3, -1)) * self.scale)

    def extra_repr(self) -> str:
        return f"{self.size}, scale={self.scale}"


def to_plain(net: nn.Module) -> nn.Module:
    """Copy a network for inference, using only PyTorch's own modules and plain operations.

    Connections become `torch.nn.Conv2d` and `torch.nn.Linear`, each in an `OverTime`, and neurons
    become `SpikingNeurons`, whose loop over T steps is unrolled by tracers. `BatchNorm` is folded,
    dropout is removed, and learned constants become numbers. Nothing depends on the values of the
    input. `torch.export.export` therefore accepts the module, and hooks that look for convolutions,
    linear layers or spiking modules find one for each layer.

    Args:
        net: a `tsslbp.Network`, a `tsslbp.network.CustomNetwork`, or any module with
            `tsslbp.layers`, whose other modules are copied; it is not changed.

    Returns:
        A module in evaluation mode with the input and output of `net`. The output equals that of
        ``impl="reference"``; other implementations add in a different order.

    Raises:
        InvalidInput: `net` is not a module.
    """
    if not isinstance(net, nn.Module):
        raise InvalidInput(f"expected a module, got {type(net).__name__}")
    return _plain(fold_batch_norms(as_modules(net)), {})


def as_modules(net: nn.Module) -> nn.Module:
    """Return the modules of a network; a `Network` becomes a sequence of `tsslbp.layers`."""
    if isinstance(net, CustomNetwork):
        return net.module
    if not isinstance(net, Network):
        return net
    parts = nn.Sequential()
    time_steps: int | None = net.time_steps
    for index, layer in enumerate(net.layers):
        if not isinstance(layer, SpikingLayer):
            parts.add_module(f"{type(layer).__name__.lower()}{index}", layer)
            continue
        neurons = layer.neurons
        constants = neurons.neuron
        lif = LIF(
            *(constants.tau_m, constants.tau_s, constants.threshold),
            rule=neurons.rule,
            time_steps=time_steps,
            pool=neurons.pool,
            pool_scale=neurons.pool_scale,
            output_psc=neurons.output_psc,
        )
        parts.add_module(layer.name, layer.connection)
        parts.add_module(f"{layer.name}_neurons", lif)
        time_steps = None
    return parts


def _plain(part: nn.Module, done: dict[nn.Module, nn.Module]) -> nn.Module:
    """Return the replacement of a part; a module that occurs in several places has only one."""
    if part in done:
        return done[part]
    if isinstance(part, Conv | Linear):
        new: nn.Module = OverTime(connection(part))
    elif isinstance(part, LIF):
        new = _sequence(_neurons(part))
    elif isinstance(part, SumPool):
        new = WindowSum(part.size, part.scale)
    elif isinstance(part, AvgPool) and not part.is_global:
        new = WindowSum(part.size, 1 / part.size**2)
    elif isinstance(part, NeuronDropout | RowDropout):
        new = nn.Identity()
    else:
        new = part
        for name, child in list(part._modules.items()):
            if child is not None:
                part._modules[name] = _plain(child, done)
    done[part] = new
    return new.eval()


def _neurons(lif: LIF) -> list[nn.Module]:
    settings = lif.neurons
    parts: list[nn.Module] = [SpikingNeurons(settings.neuron, lif.time_steps)]
    if settings.pool > 1:
        parts.append(WindowSum(settings.pool, settings.pool_scale))
    if settings.output_psc:
        parts.append(SynapticFilter(settings.neuron.tau_s))
    return parts


def _sequence(parts: Sequence[nn.Module]) -> nn.Module:
    return nn.Sequential(*parts) if len(parts) > 1 else parts[0]


@torch.no_grad()
def connection(part: Conv | Linear) -> nn.Conv2d | nn.Linear:
    """Return the connection as PyTorch's own module for frames, with a copy of its weights."""
    bias = part.bias is not None
    outputs, inputs = part.weight.shape[:2]
    if isinstance(part, Conv):
        settings = part.stride, part.padding, part.dilation, part.groups
        side = part.weight.shape[2]
        new: nn.Conv2d | nn.Linear = nn.Conv2d(
            inputs * part.groups, outputs, side, *settings, bias=bias
        )
    else:
        new = nn.Linear(inputs, outputs, bias=bias)
    new.to(part.weight).load_state_dict(part.state_dict())
    return new
