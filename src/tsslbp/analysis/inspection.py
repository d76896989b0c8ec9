"""What a trained network does with images: confusion, gradients, activity for one image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..data import Frames, Images, normalise
from ..errors import InvalidInput
from ..losses import Loss, predict
from ..network import CustomNetwork, Network
from ..training import Split, evaluation_batches


@torch.no_grad()
def confusion_matrix(
    net: Network | CustomNetwork, split: Split, mean: Sequence[float], std: Sequence[float]
) -> Tensor:
    """Count how often `net` assigns images of each class to each class.

    Returns:
        ``[classes, classes]`` int64, rows the true classes, columns the predicted ones.

    Raises:
        InvalidInput: a label is not a class of the network.
    """
    if (highest := int(split.labels.max())) >= net.classes:
        raise InvalidInput(
            f"the images have labels up to {highest}, but the network was trained for "
            f"{net.classes} classes: use the data on which it was trained"
        )
    parts = evaluation_batches(len(split.labels), net.time_steps)
    predicted = [predict(net(normalise(split.images[part], mean, std))) for part in parts]
    cells = split.labels * net.classes + torch.cat(predicted)
    return cells.bincount(minlength=net.classes**2).view(net.classes, net.classes)


@final
@dataclass(frozen=True)
class Answer:
    """The answer of a network to an image.

    Attributes:
        predicted: the class with the largest score.
        scores: the output summed over time, by class; for a `tsslbp.Network` the PSC.
        margin: difference between the largest score and the next one.
        spikes: number of spikes of that class's output neuron; None without an output layer of
            neurons.
        first_spike: time step of the first of these spikes, from 1; None if there is none.
    """

    predicted: int
    scores: tuple[float, ...]
    margin: float
    spikes: int | None
    first_spike: int | None

    @property
    def score(self) -> float:
        """The score of the predicted class."""
        return self.scores[self.predicted]


@torch.no_grad()
def answers(net: Network | CustomNetwork, x: Tensor) -> list[Answer]:
    """Return the answers of `net` to images, one `Answer` each.

    Args:
        net: the network, in evaluation mode.
        x: normalised ``[N, C, H, W]``, or frames ``[T, N, C, H, W]``.
    """
    found: list[Answer] = []
    size, axis = net.time_steps, 0 if x.ndim == 4 else 1
    for part in evaluation_batches(x.shape[axis], size):
        batch = x[part] if axis == 0 else x[:, part]
        psc = net(batch)
        trace = list(net.trace(batch).values())[-1] if net.has_output_layer else None
        scores, chosen = psc.sum(0), predict(psc)
        for number, (row, one) in enumerate(zip(scores.tolist(), chosen.tolist(), strict=True)):
            others = [score for name, score in enumerate(row) if name != one]
            train = trace.spikes[:, number, one] if trace else None
            steps = [] if train is None else train.nonzero().flatten().tolist()
            found.append(
                Answer(
                    one,
                    tuple(row),
                    row[one] - max(others, default=0.0),
                    None if train is None else len(steps),
                    1 + steps[0] if steps else None,
                )
            )
    return found


def picture(images: Images) -> npt.NDArray[Any]:
    """Return the first of some images ``[C, H, W]``, or all events of a recording ``[1, H, W]``."""
    if isinstance(images, Frames):
        return images[:1].trains().sum((0, 1, 2)).unsqueeze(0).numpy()
    return np.asarray(images[0])


def weights(net: Network | CustomNetwork) -> dict[str, Tensor]:
    """Return the weights of every connection, by the names that the network gives them."""
    return {name: weight.detach() for name, weight in net.weights.items()}


def gradients(
    net: Network | CustomNetwork, loss: Loss, images: Tensor, labels: Tensor
) -> dict[str, Tensor]:
    """Return the gradients of `weights` on one batch, before clipping; `net` is not changed.

    Args:
        net: in evaluation mode, without dropout.
        loss: as returned by `tsslbp.training.build_loss`; most losses are sums over the batch.
        images: normalised ``[N, C, H, W]``.
        labels: ``[N]`` int64.
    """
    value = loss(net(images), labels)
    parts = torch.autograd.grad(value, list(net.weights.values()), materialize_grads=True)
    return dict(zip(net.weights, parts, strict=True))
