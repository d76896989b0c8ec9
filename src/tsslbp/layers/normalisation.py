"""Normalisation of signals ``[T, N, ...]``: batch normalisation and neuron normalisation."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..checked import POSITIVE, PROBABILITY, SHARE, check_number, check_whole
from ..errors import InvalidInput
from ..neuron.reference import psc
from ..neuron.settings import check_dense
from ..neuron.tracing import is_mapped
from .connections import Conv, Linear


@final
class BatchNorm(nn.Module):
    """Threshold-dependent batch normalisation (tdBN), between a connection and its neurons.

    ``y = scale (x - mean) / sqrt(variance + eps) + bias`` with
    ``scale = alpha threshold weight``, for each channel. In training, mean and variance are taken
    over time, batch and image. Running averages of them replace them in evaluation. The input of
    the neurons therefore starts with a standard deviation of `alpha` thresholds, at any depth.
    `weight`, initially 1, and `bias`, initially 0, are trained.

    For inference, `fold_batch_norms` merges the normalisation into the connection.

    Args:
        channels: C, or the features of a linear layer.
        threshold: threshold of the neurons that follow; a number, even if they learn theirs.
        alpha: factor for signals that are summed before a neuron. It is 1 if nothing is summed, as
            in `tsslbp.layers.Residual`, which adds spikes.
        eps: added to the variance.
        momentum: weight of a batch in the running averages, above 0 and at most 1.

    Shape:
        ``[T, N, C, H, W]`` or ``[T, N, C]``, input and output. Also without time, ``[N, C, H, W]``
        or ``[N, C]``; the output is the same as if the input were repeated over time.

    Raises:
        InvalidInput: an argument or an input is invalid.

    Source: Zheng, Wu, Deng, Hu & Li, "Going deeper with directly-trained larger spiking neural
    networks" (AAAI 2021), threshold-dependent batch normalisation.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(
        self,
        channels: int,
        threshold: float = 1.0,
        alpha: float = 1.0,
        *,
        eps: float = 1e-5,
        momentum: float = 0.1,
    ) -> None:
        super().__init__()
        channels = check_whole("channels", channels)
        self.threshold = check_number("threshold", threshold, POSITIVE)
        self.alpha = check_number("alpha", alpha, POSITIVE)
        self.eps = check_number("eps", eps, POSITIVE)
        self.momentum = check_number("momentum", momentum, SHARE)
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        check_dense("the input", x)
        has_time = x.ndim in (3, 5)
        if x.ndim not in (2, 3, 4, 5) or x.shape[1 + has_time] != len(self.weight):
            raise InvalidInput(
                f"BatchNorm expects a signal [T, N, {len(self.weight)}, ...], "
                f"got shape {list(x.shape)}"
            )
        frames = x.flatten(0, 1) if has_time else x
        if self.training and is_mapped(x, self.weight):
            raise InvalidInput(
                "torch.func.vmap cannot map a BatchNorm in training, which uses the whole batch's "
                "mean and variance; use .eval(), which takes the running averages"
            )
        if self.training and frames.numel() == len(self.weight):
            raise InvalidInput(
                f"BatchNorm needs more than one value per channel in training, got shape "
                f"{list(x.shape)}; if an epoch's last batch contains only one image, choose "
                "another batch_size"
            )
        weight = self.weight * (self.alpha * self.threshold)
        out = functional.batch_norm(
            frames,
            self.running_mean,
            self.running_var,
            weight,
            self.bias,
            training=self.training,
            momentum=self.momentum,
            eps=self.eps,
        )
        return out.view_as(x)

    def affine(self) -> tuple[Tensor, Tensor]:
        """Return each channel's factor and summand, ``[C]``, as applied in evaluation."""
        factor = self.weight * (self.alpha * self.threshold) / (self.running_var + self.eps).sqrt()
        return factor, self.bias - factor * self.running_mean

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, threshold={self.threshold}, alpha={self.alpha}"


@torch.no_grad()
def fold_batch_norms(module: nn.Module) -> nn.Module:
    """Return a copy for inference whose connections include the `BatchNorm` that follows them.

    ``W' = factor W`` and ``b' = factor b + summand`` for each output channel, where
    ``factor = alpha threshold weight / sqrt(running_var + eps)`` and
    ``summand = bias - factor running_mean``. An `nn.Identity` replaces the BatchNorm, so that all
    other names in the state stay the same. Each `Conv` or `Linear` that directly precedes a
    BatchNorm in an `nn.Sequential` is folded. All other modules are copied unchanged.

    Args:
        module: a network or a part of one; it is not changed.

    Returns:
        The copy in evaluation mode. It equals the original in evaluation mode up to rounding.
    """
    folded = copy.deepcopy(module).eval()
    for part in list(folded.modules()):
        if not isinstance(part, nn.Sequential):
            continue
        for index in range(len(part) - 1):
            connection, norm = part[index], part[index + 1]
            if isinstance(connection, Conv | Linear) and isinstance(norm, BatchNorm):
                part[index], part[index + 1] = _folded(connection, norm), nn.Identity()
    return folded


def _folded(connection: Conv | Linear, norm: BatchNorm) -> Conv | Linear:
    """Return a folded copy of the connection, which may occur in several places."""
    factor, summand = norm.affine()
    folded = copy.deepcopy(connection)
    rows = factor.view(-1, *(1,) * (connection.weight.ndim - 1))
    folded.weight.mul_(rows)
    before = 0.0 if connection.bias is None else factor * connection.bias
    folded.bias = nn.Parameter(summand + before)
    return folded


@final
class NeuNorm(nn.Module):
    """Neuron normalisation: at every position an auxiliary neuron inhibits all feature maps.

    The signal ``s [T, N, F, H, W]`` has F feature maps of spikes or pooled spikes. The state of the
    auxiliary neuron is ``x[t] = k x[t-1] + (v/F) sum_f s_f[t]``, ``x[-1] = 0``, and the output is
    ``s_c[t] - U_c x[t]``, of the same shape. U, ``[F, H, W]``, is trained. Since ``k + v F = 1``,
    ``v/F = (1 - k)/F^2``, and x is a moving average of the mean signal of the maps, divided by F:
    it is small if there are many maps. Once U is not zero, the output is real-valued and nonzero
    wherever a map has been active, so the connections that follow mostly use the dense product
    (`Conv`).

    Not to be confused with batch normalisation: nothing is divided, no statistics are kept, and the
    output for an image does not depend on the other images of the batch.

    Args:
        shape: ``(F, H, W)`` of the signal at one step.
        k: decay factor of the auxiliary neuron per step, at least 0 and below 1.

    Raises:
        InvalidInput: `k` is out of range, or a signal has a different shape.

    Source: Wu, Deng, Li, Zhu, Xie & Shi, "Direct training for spiking neural networks: faster,
    larger, better" (AAAI 2019), section on neuron normalisation. The default of k, and one weight
    per map and position, follow the layer in SpikingJelly. U starts at zero, where the layer has no
    effect; SpikingJelly draws it within ``1 / sqrt(H W)``.
    """

    def __init__(self, shape: Sequence[int], k: float = 0.9) -> None:
        super().__init__()
        self.k = check_number("k", k, PROBABILITY)
        self.weight = nn.Parameter(torch.zeros([check_whole("shape", side) for side in shape]))

    def forward(self, x: Tensor) -> Tensor:
        check_dense("the input", x)
        if x.ndim != 5 or x.shape[2:] != self.weight.shape:
            maps, height, width = self.weight.shape
            raise InvalidInput(
                f"NeuNorm expects a signal [T, N, {maps}, {height}, {width}], got shape "
                f"{list(x.shape)}"
            )
        # The auxiliary neuron is a synaptic filter over the mean of the maps.
        state = psc(x.mean(2, keepdim=True), 1 / (1 - self.k)) / len(self.weight)
        return x - self.weight * state

    def extra_repr(self) -> str:
        return f"{tuple(self.weight.shape)}, k={self.k}"


NORMS = (  # not NeuNorm, whose U are the weights of connections from its auxiliary neurons
    BatchNorm,
    nn.modules.batchnorm._NormBase,  # all batch and instance norms
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
)
