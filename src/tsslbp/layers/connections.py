"""Connections for signals ``[T, N, ...]``: convolutions, linear layers, and residual blocks.

A connection does not mix time steps, so it also accepts a signal without time, ``[N, ...]``. The
number of dimensions distinguishes the two.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..checked import check_whole
from ..errors import InvalidInput
from ..neuron.settings import COMPILES, check_dense
from ..neuron.tracing import is_exported, is_mapped


@dataclass(frozen=True)
class InitialWeights:
    """How the initial weights of a connection are drawn.

    Attributes:
        kind: ``"uniform"``, within ``1 / sqrt(fan_in)``: PyTorch's default, which the revised code
            uses for convolutions; or ``"kaiming"``, normal with variance ``2 / fan_in``, which the
            published code uses for convolutions and both codes use for linear layers.
        scale: factor on the weights.
        generator: random number generator, by default PyTorch's global one.

    Raises:
        InvalidInput: the kind is unknown.
    """

    kind: str = "uniform"
    scale: float = 1.0
    generator: torch.Generator | None = None

    def __post_init__(self) -> None:
        if self.kind not in ("uniform", "kaiming"):
            raise InvalidInput(f"conv_init must be 'uniform' or 'kaiming', got {self.kind!r}")

    @torch.no_grad()
    def fill(self, weight: Tensor) -> None:
        """Draw the weights ``[out, in, ...]`` in place."""
        fan_in = math.prod(weight.shape[1:])
        if self.kind == "uniform":
            bound = 1 / math.sqrt(fan_in)
            weight.uniform_(-bound, bound, generator=self.generator)
        else:
            weight.normal_(0, math.sqrt(2 / fan_in), generator=self.generator)
        weight.mul_(self.scale)


class Conv(nn.Module):
    """Convolution ``y[c] = sum_c' W[c, c'] * x[c'] + b[c]``, the same at every time step.

    Time is folded into the batch, and results are stored channels last. On a CPU, an input with a
    time axis that has few nonzero values, such as spikes, is computed event by event
    (`tsslbp.kernels.events`), unless ``impl="reference"`` is chosen or dilation or groups differ
    from 1. With `dtype`, input and weights are rounded to it first.

    Args:
        in_channels, out_channels: C and C'.
        kernel: side of the kernel.
        stride: distance between neighbouring windows.
        padding: zeros around the image.
        dilation: distance between neighbouring pixels of a window.
        groups: number of groups into which the channels are divided; each group of input channels
            is connected only to its own output channels.
        bias: whether each output channel has a bias, drawn within ``1/sqrt(fan_in)``.
        initial: how the weights ``[C', C / groups, kernel, kernel]`` are drawn.
        impl: ``"auto"``, or ``"reference"`` for PyTorch's dense product.

    Shape:
        Input: ``[T, N, C, H, W]`` or ``[N, C, H, W]``. Output: the same with ``C', H', W'``, where
        ``H' = (H + 2 padding - dilation (kernel - 1) - 1) // stride + 1``.

    Raises:
        InvalidInput: an argument or an input is invalid.
    """

    dtype: torch.dtype | None = None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = False,
        initial: InitialWeights = InitialWeights(),
        impl: str = "auto",
    ) -> None:
        super().__init__()
        in_channels = check_whole("in_channels", in_channels)
        out_channels = check_whole("out_channels", out_channels)
        kernel = check_whole("kernel", kernel)
        self.impl, self.stride = impl, check_whole("stride", stride)
        self.padding = check_whole("padding", padding, 0)
        self.dilation, self.groups = (
            check_whole("dilation", dilation),
            check_whole("groups", groups),
        )
        if in_channels % self.groups or out_channels % self.groups:
            raise InvalidInput(
                f"groups must divide both numbers of channels, got groups={groups} for "
                f"{in_channels} and "
                f"{out_channels} channels"
            )
        shape = out_channels, in_channels // self.groups, kernel, kernel
        self.weight = nn.Parameter(torch.empty(shape))
        initial.fill(self.weight)
        self.bias = _bias(self.weight, bias, initial)

    def forward(self, x: Tensor) -> Tensor:
        check_dense("the input", x)
        channels = self.weight.shape[1] * self.groups
        if x.ndim not in (4, 5) or x.shape[-3] != channels:
            raise InvalidInput(
                f"Conv expects a signal [T, N, {channels}, H, W] or images [N, {channels}, H, W], "
                f"got shape {list(x.shape)}"
            )
        spanned = self.dilation * (self.weight.shape[-1] - 1) + 1
        if min(x.shape[-2:]) + 2 * self.padding < spanned:
            raise InvalidInput(
                f"Conv: the kernel spans {spanned} x {spanned} values and does not fit into "
                f"{x.shape[-2]} x {x.shape[-1]} with padding {self.padding}"
            )
        is_plain = self.dilation == self.groups == 1
        if is_plain and x.ndim == 5 and _event_driven(self.impl, x, self.weight):
            from ..kernels import events

            out = events.conv2d(x, self.weight, self.padding, self.stride)
        else:
            images, weight = _rounded(x, self.weight, self.dtype)
            if not is_mapped(weight):
                weight = weight.to(memory_format=torch.channels_last)
            settings = self.stride, self.padding, self.dilation, self.groups
            out = functional.conv2d(images.flatten(0, -4), weight, None, *settings)
            out = out.view(*x.shape[:-3], *out.shape[1:])
        return out if self.bias is None else out + self.bias[:, None, None]

    def extra_repr(self) -> str:
        outputs, inputs, kernel, _ = self.weight.shape
        usual = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1, "bias": False}
        settings = {key: getattr(self, key) for key in usual} | {"bias": self.bias is not None}
        changed = "".join(f", {key}={of}" for key, of in settings.items() if of != usual[key])
        return f"{inputs * self.groups}, {outputs}, {kernel}{changed}"


class Linear(nn.Module):
    """Linear layer ``y = W x + b``, the same at every time step.

    Like `Conv`, a large layer computes sparse inputs event by event.

    Args:
        in_features, out_features: numbers of inputs and outputs.
        initial: how the weights ``[out_features, in_features]`` are drawn.
        bias: whether each output has a bias, drawn within ``1/sqrt(in_features)``.
        impl: as for `Conv`.

    Shape:
        Input: ``[T, N, in_features]`` or ``[N, in_features]``; flatten images with
        ``nn.Flatten(-3)`` first. Output: the same with `out_features`.

    Raises:
        InvalidInput: an argument or an input is invalid.
    """

    dtype: torch.dtype | None = None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        initial: InitialWeights = InitialWeights("kaiming"),
        *,
        bias: bool = False,
        impl: str = "auto",
    ) -> None:
        super().__init__()
        sizes = check_whole("out_features", out_features), check_whole("in_features", in_features)
        self.impl = impl
        self.weight = nn.Parameter(torch.empty(sizes))
        initial.fill(self.weight)
        self.bias = _bias(self.weight, bias, initial)

    def forward(self, x: Tensor) -> Tensor:
        check_dense("the input", x)
        features = self.weight.shape[1]
        if x.shape[-1:] != (features,):
            images = x.ndim in (4, 5) and math.prod(x.shape[-3:]) == features
            hint = "; put nn.Flatten(-3) before it" if images else ""
            raise InvalidInput(
                f"Linear expects a signal [T, N, {features}], got shape {list(x.shape)}{hint}"
            )
        if x.ndim == 3 and _event_driven(self.impl, x, self.weight):
            from ..kernels import events

            out = events.linear(x, self.weight)
        else:
            out = functional.linear(*_rounded(x, self.weight, self.dtype))
        return out if self.bias is None else out + self.bias

    def extra_repr(self) -> str:
        outputs, inputs = self.weight.shape
        return f"{inputs}, {outputs}{', bias=True' if self.bias is not None else ''}"


@final
class Residual(nn.Module):
    """Residual block with spike-element-wise addition: ``y = body(x) + shortcut(x)``.

    If `body` and `shortcut` each end in a `tsslbp.layers.LIF`, the sum is 0, 1 or 2 spikes. Without
    a `shortcut` the block adds x itself, so that a silent body passes x on unchanged, at any depth.
    Not to be confused with the addition of currents before a neuron, whose output cannot equal its
    input.

    Args:
        body: a module that keeps the shape, or changes it as `shortcut` does.
        shortcut: by default the identity. If the body changes the shape, use for example
            ``nn.Sequential(Conv(64, 128, 1, stride=2), BatchNorm(128), LIF())``.

    Shape:
        ``[T, N, ...]`` to ``[T, N, ...]``.

    Raises:
        InvalidInput: the outputs of body and shortcut differ in shape.

    Source: Fang, Yu, Chen, Huang, Masquelier & Tian, "Deep residual learning in spiking neural
    networks" (NeurIPS 2021), SEW block with g = ADD.
    """

    def __init__(self, body: nn.Module, shortcut: nn.Module | None = None) -> None:
        super().__init__()
        self.body, self.shortcut = body, shortcut or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        side: Tensor = self.shortcut(x)
        if y.shape != side.shape:
            raise InvalidInput(
                f"Residual cannot add its body's output {list(y.shape)} to its shortcut's output "
                f"{list(side.shape)}; give it a shortcut that changes the shape as the body does"
            )
        return y + side


def _bias(weight: Tensor, wanted: bool, initial: InitialWeights) -> nn.Parameter | None:
    if not wanted:
        return None
    bound = 1 / math.sqrt(math.prod(weight.shape[1:]))
    drawn = torch.empty(len(weight)).uniform_(-bound, bound, generator=initial.generator)
    return nn.Parameter(drawn)


def _rounded(x: Tensor, weight: Tensor, dtype: torch.dtype | None) -> tuple[Tensor, Tensor]:
    return (x, weight) if dtype is None else (x.to(dtype), weight.to(dtype))


def _event_driven(impl: str, x: Tensor, weight: Tensor) -> bool:
    """Whether to multiply only nonzero values, which is faster for sparse spikes.

    The sums are the same up to rounding. Weights that meet no spike are not even read.
    """
    if impl not in ("auto", "cpu") or x.device.type != "cpu" or is_exported() or not COMPILES:
        return False
    from ..kernels import events  # importing kernels takes time: import on first use

    return events.is_faster(x, weight)
