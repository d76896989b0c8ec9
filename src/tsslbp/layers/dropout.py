"""Dropout for signals ``[T, N, ...]`` that uses one mask for all time steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor, nn

from ..checked import PROBABILITY, check_number
from ..errors import InvalidInput
from ..neuron.settings import check_dense


class _Dropout(nn.Module):
    """Dropout with one mask for all time steps; with `by_row`, one mask value per image row."""

    by_row: bool

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = check_number("dropout", p, PROBABILITY)

    def forward(self, x: Tensor) -> Tensor:
        check_dense("the input", x)
        if not self.training or self.p == 0:
            return x
        if x.ndim not in (3, 5):
            raise InvalidInput(
                f"dropout expects a signal [T, N, features] or [T, N, C, H, W], got shape "
                f"{list(x.shape)}; the first LIF turns images without time into such a signal"
            )
        shape = (*x.shape[1:-1], 1) if self.by_row and x.ndim == 5 else x.shape[1:]
        kept = torch.rand(*shape, device=x.device) >= self.p
        return x * (kept.to(x) / (1 - self.p))

    def extra_repr(self) -> str:
        return f"p={self.p}"


@final
class RowDropout(_Dropout):
    """Dropout with one mask for all time steps of ``[T, N, C, H, W]`` or ``[T, N, features]``.

    In images it drops whole rows, with one mask value per (sample, channel, row). This is how
    PyTorch before 1.11 executed the original code. In linear layers it drops single neurons. Kept
    values are divided by ``1 - p``. The mask is drawn from PyTorch's generator of the input's
    device.

    Args:
        p: probability with which a value is dropped, at least 0 and below 1.
    """

    by_row = True


@final
class NeuronDropout(_Dropout):
    """Ordinary dropout of single neurons, with one mask for all time steps.

    Args:
        p: probability with which a value is dropped, at least 0 and below 1.
    """

    by_row = False


DROPOUT: Mapping[str, type[_Dropout]] = {"rows": RowDropout, "neurons": NeuronDropout}
