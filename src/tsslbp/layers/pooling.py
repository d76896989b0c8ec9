"""Pooling over windows of images ``[T, N, C, H, W]``, or ``[N, C, H, W]`` without time."""

from __future__ import annotations

from typing import final

from torch import Tensor, nn
from torch.nn import functional

from ..checked import check_number, check_whole
from ..errors import InvalidInput
from ..neuron.reference import sum_pool
from ..neuron.settings import check_dense


class _Pool(nn.Module):
    """Adjacent windows of ``size x size``; pixels that do not fill a window are left out."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = check_whole("size", size)

    def check(self, x: Tensor) -> None:
        check_dense("the input", x)
        if x.ndim not in (4, 5) or min(x.shape[-2:]) < self.size:
            raise InvalidInput(
                f"{type(self).__name__} expects images [T, N, C, H, W] of at least {self.size} x "
                f"{self.size} pixels, got shape {list(x.shape)}"
            )

    def extra_repr(self) -> str:
        return str(self.size)


@final
class SumPool(_Pool):
    """Sum over windows of ``size x size``, times `scale`: ``[..., H, W] -> [..., H//s, W//s]``.

    Directly after neurons, ``LIF(pool=size, pool_scale=scale)`` does the same in their kernel.
    """

    def __init__(self, size: int, scale: float = 1.0) -> None:
        super().__init__(size)
        self.scale = check_number("scale", scale)

    def forward(self, x: Tensor) -> Tensor:
        self.check(x)
        return sum_pool(x, self.size, self.scale)

    def extra_repr(self) -> str:
        return f"{self.size}, scale={self.scale}"


@final
class AvgPool(_Pool):
    """Mean over windows of ``size x size``: ``[..., H, W] -> [..., H//s, W//s]``.

    Without a size it is the mean over the whole image, ``[..., 1, 1]``.
    """

    def __init__(self, size: int | None = None) -> None:
        super().__init__(1 if size is None else size)
        self.is_global = size is None

    def forward(self, x: Tensor) -> Tensor:
        self.check(x)
        if self.is_global:
            return x.mean((-2, -1), keepdim=True)
        return sum_pool(x, self.size, 1 / self.size**2)

    def extra_repr(self) -> str:
        return "" if self.is_global else super().extra_repr()


@final
class MaxPool(_Pool):
    """Maximum over windows of ``size x size``: ``[..., H, W] -> [..., H//s, W//s]``.

    Applied to spikes, it is 1 if any neuron of the window fires at that step, so the output is
    again spikes. The gradient goes to one of the largest values.
    """

    def forward(self, x: Tensor) -> Tensor:
        self.check(x)
        out = functional.max_pool2d(x.flatten(0, -4), self.size)
        return out.view(*x.shape[:-3], *out.shape[1:])
