"""Connections, pooling, normalisation and dropout over signals ``[T, N, ...]``.

None but `NeuNorm` mixes time steps, so each other one also takes a signal without time,
``[N, ...]``, and the two are told apart by the number of dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import InvalidInput
from ..neuron.reference import psc, sum_pool


@dataclass(frozen=True)
class InitialWeights:
    """How the initial weights of a connection are drawn.

    Attributes:
        kind: ``"uniform"``, within ``1 / sqrt(fan_in)``: PyTorch's default, and the revised code's
            for convolutions; or ``"kaiming"``, normal with variance ``2 / fan_in``: the published
            code's, and both codes' for linear layers.
        scale: factor on them.
        generator: source of random numbers, by default PyTorch's global one.

    Raises:
        InvalidInput: there is no such kind.
    """

    kind: str = "uniform"
    scale: float = 1.0
    generator: torch.Generator | None = None

    def __post_init__(self) -> None:
        if self.kind not in ("uniform", "kaiming"):
            raise InvalidInput(f"conv_init must be 'uniform' or 'kaiming', got {self.kind!r}")

    @torch.no_grad()
    def fill(self, weight: Tensor) -> None:
        """Draw ``[out, in, ...]``."""
        fan_in = math.prod(weight.shape[1:])
        if self.kind == "uniform":
            bound = 1 / math.sqrt(fan_in)
            weight.uniform_(-bound, bound, generator=self.generator)
        else:
            weight.normal_(0, math.sqrt(2 / fan_in), generator=self.generator)
        weight.mul_(self.scale)


class Conv(nn.Module):
    """Convolution without bias, stride 1: ``[..., C, H, W] -> [..., C', H', W']``.

    Time is folded into the batch. Results are stored channels last. On a CPU an input with a time
    axis of which few values are not zero, as spikes are, is computed event by event
    (`tsslbp.kernels.events`), except for ``impl="reference"``. With `dtype` input and weights are
    rounded to it first.
    """

    dtype: torch.dtype | None = None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        padding: int = 0,
        initial: InitialWeights = InitialWeights(),
        impl: str = "auto",
    ) -> None:
        super().__init__()
        self.impl, self.padding = impl, padding
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, kernel, kernel))
        initial.fill(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim == 5 and _event_driven(self.impl, x, self.weight):
            from ..kernels import events

            return cast(Tensor, events.conv2d(x, self.weight, self.padding))
        x, weight = _rounded(x, self.weight, self.dtype)
        weight = weight.to(memory_format=torch.channels_last)
        out = functional.conv2d(x.flatten(0, -4), weight, padding=self.padding)
        return out.view(*x.shape[:-3], *out.shape[1:])


class Linear(nn.Module):
    """Linear layer without bias: ``[..., features] -> [..., out_features]``.

    `impl` and `dtype` are those of `Conv`.
    """

    dtype: torch.dtype | None = None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        initial: InitialWeights = InitialWeights("kaiming"),
        impl: str = "auto",
    ) -> None:
        super().__init__()
        self.impl = impl
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        initial.fill(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim == 3 and _event_driven(self.impl, x, self.weight):
            from ..kernels import events

            return cast(Tensor, events.linear(x, self.weight))
        return functional.linear(*_rounded(x, self.weight, self.dtype))


def _rounded(x: Tensor, weight: Tensor, dtype: torch.dtype | None) -> tuple[Tensor, Tensor]:
    return (x, weight) if dtype is None else (x.to(dtype), weight.to(dtype))


def _event_driven(impl: str, x: Tensor, weight: Tensor) -> bool:
    """Whether to multiply only what is not zero, which pays for spikes.

    The sums are the same but for rounding; a weight that meets no spike is not even read.
    """
    if impl not in ("auto", "cpu") or x.device.type != "cpu":
        return False
    from ..kernels import events  # importing kernels takes a moment: only when used

    return cast(bool, events.is_faster(x, weight))


class SumPool(nn.Module):
    """Sum over windows of ``size x size``, times `scale`: ``[..., H, W] -> [..., H//s, W//s]``."""

    def __init__(self, size: int, scale: float) -> None:
        super().__init__()
        self.size, self.scale = size, scale

    def forward(self, x: Tensor) -> Tensor:
        return sum_pool(x, self.size, self.scale)

    def extra_repr(self) -> str:
        return f"{self.size}, scale={self.scale}"


@final
class NeuNorm(nn.Module):
    """Neuron normalisation: an auxiliary neuron at every position inhibits all feature maps there.

    With the signal ``s [T, N, F, H, W]`` of F feature maps, spikes or pooled spikes, the auxiliary
    neuron's state is ``x[t] = k x[t-1] + (v/F) sum_f s_f[t]``, ``x[-1] = 0``, and what is passed on
    is ``s_c[t] - U_c x[t]``, of the same shape. U, ``[F, H, W]``, is trained. ``k + v F = 1``, so
    ``v/F = (1 - k)/F^2``, and x is a moving average of the maps' mean signal, divided by F: small
    where maps are many. Once U is not zero, the signal that leaves is real and not zero wherever a
    map has been active, so connections behind it mostly take the dense product (`Conv`).

    Not to be confused with batch normalisation: nothing is divided, no statistics are kept, and an
    image does not depend on the others of its batch.

    Args:
        shape: ``(F, H, W)`` of one step's signal.
        k: decay of the auxiliary neuron a step, at least 0 and below 1.

    Raises:
        InvalidInput: `k` is out of range, or a signal has another shape.

    Source: Wu, Deng, Li, Zhu, Xie & Shi, "Direct training for spiking neural networks: faster,
    larger, better" (AAAI 2019), section on neuron normalisation. The default of k, and one weight
    for each map and position, are those of the layer in SpikingJelly. U starts at zero, where the
    network is the one without it; SpikingJelly draws it within ``1 / sqrt(H W)``.
    """

    def __init__(self, shape: Sequence[int], k: float = 0.9) -> None:
        super().__init__()
        if not 0 <= k < 1:
            raise InvalidInput(f"k must be at least 0 and below 1, got {k}")
        self.k = k
        self.weight = nn.Parameter(torch.zeros(*shape))

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 5 or x.shape[2:] != self.weight.shape:
            maps, height, width = self.weight.shape
            raise InvalidInput(
                f"expected a signal [T, N, {maps}, {height}, {width}], got shape {list(x.shape)}"
            )
        # The auxiliary neuron is a synaptic filter over the mean of the maps.
        state = psc(x.mean(2, keepdim=True), 1 / (1 - self.k)) / len(self.weight)
        return x - self.weight * state

    def extra_repr(self) -> str:
        return f"{tuple(self.weight.shape)}, k={self.k}"


class _Dropout(nn.Module):
    """Dropout with one mask for all time steps; `by_row` in images an entry for a whole row."""

    by_row: bool

    def __init__(self, p: float) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise InvalidInput(f"dropout must be at least 0 and below 1, got {p}")
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        shape = (*x.shape[1:-1], 1) if self.by_row and x.ndim == 5 else x.shape[1:]
        kept = torch.rand(*shape, device=x.device) >= self.p
        return x * (kept.to(x) / (1 - self.p))

    def extra_repr(self) -> str:
        return f"p={self.p}"


@final
class RowDropout(_Dropout):
    """Dropout with one mask for all time steps of ``[T, N, C, H, W]`` or ``[T, N, features]``.

    In images it drops whole rows, a mask entry per (sample, channel, row), which is what PyTorch
    before 1.11 made of the original code; in linear layers single neurons. Kept values are divided
    by ``1 - p``. The mask is drawn from PyTorch's generator of the input's device.
    """

    by_row = True


@final
class NeuronDropout(_Dropout):
    """Ordinary dropout with one mask for all time steps: as `RowDropout`, but single neurons."""

    by_row = False


DROPOUT: Mapping[str, type[_Dropout]] = {"rows": RowDropout, "neurons": NeuronDropout}
