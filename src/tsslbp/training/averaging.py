"""The exponential moving average of a network's weights over the training steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import final

import torch
from torch import Tensor

from ..network import Model


@final
class AveragedWeights:
    """Average of weights and of the other tensors of a network, such as running statistics.

    After step n, counted from 1, ``average = d average + (1 - d) weights`` with
    ``d = min(decay, (1 + n) / (10 + n))``. The average starts at the initial weights; the smaller d
    at first makes it forget them. Tensors that are not floating point are copied.

    Args:
        net: the network.
        decay: decay of the average per step, at least 0 and below 1.

    Attributes:
        values: the averages, by the keys of the network's ``state_dict``.

    Source: Polyak & Juditsky, "Acceleration of stochastic approximation by averaging" (1992); the
    smaller decay at first is that of TensorFlow's ``ExponentialMovingAverage``.
    """

    def __init__(self, net: Model, decay: float) -> None:
        self.decay = decay
        self.values: dict[str, Tensor] = _copy(net.state_dict())

    @torch.no_grad()
    def update(self, net: Model, step: int) -> None:
        """Include the weights after a step, counted from the run's first, 1; does not wait."""
        weights = net.state_dict()
        real = [key for key, value in weights.items() if value.is_floating_point()]
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(
            [self.values[key] for key in real], [weights[key] for key in real], share
        )
        for key in weights.keys() - set(real):
            self.values[key].copy_(weights[key])

    @contextmanager
    def applied(self, net: Model) -> Iterator[None]:
        """Give `net` the averaged weights while the context lasts."""
        kept = _copy(net.state_dict())
        net.load_state_dict(self.values)
        try:
            yield
        finally:
            net.load_state_dict(kept)


def _copy(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in values.items()}
