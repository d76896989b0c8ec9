"""What a trained network does with images: its confusions, its gradients, one image's activity."""

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
    """How often `net` takes the images of each class for which.

    Returns:
        ``[classes, classes]`` int64, rows the true classes, columns the predicted ones.

    Raises:
        InvalidInput: a label that the network does not know.
    """
    if (highest := int(split.labels.max())) >= net.classes:
        raise InvalidInput(
            f"the images have labels up to {highest}, the network was trained for {net.classes} "
            "classes: are these the data it was trained on?"
        )
    parts = evaluation_batches(len(split.labels), net.time_steps)
    predicted = [predict(net(normalise(split.images[part], mean, std))) for part in parts]
    cells = split.labels * net.classes + torch.cat(predicted)
    return cells.bincount(minlength=net.classes**2).view(net.classes, net.classes)


@final
@dataclass(frozen=True)
class Answer:
    """What a network says of an image.

    Attributes:
        predicted: the class with the largest score.
        scores: the output summed over time, by class; of a `tsslbp.Network` the PSC.
        margin: by how much the class's score is above the next one's.
        spikes: of the output neuron of that class; None without an output layer of neurons.
        first_spike: time step of the first of these, from 1; None if there is none.
    """

    predicted: int
    scores: tuple[float, ...]
    margin: float
    spikes: int | None
    first_spike: int | None

    @property
    def score(self) -> float:
        return self.scores[self.predicted]


@torch.no_grad()
def answers(net: Network | CustomNetwork, x: Tensor) -> list[Answer]:
    """What `net` says of images, one `Answer` for each.

    Args:
        net: in evaluation mode.
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
    """The first of some images ``[C, H, W]``; of recordings all events together ``[1, H, W]``."""
    if isinstance(images, Frames):
        return images[:1].trains().sum((0, 1, 2)).unsqueeze(0).numpy()
    return np.asarray(images[0])


def weights(net: Network | CustomNetwork) -> dict[str, Tensor]:
    """The weights of every connection, by the names that the network gives them."""
    return {name: weight.detach() for name, weight in net.weights.items()}


def gradients(
    net: Network | CustomNetwork, loss: Loss, images: Tensor, labels: Tensor
) -> dict[str, Tensor]:
    """Gradients of `weights` on one batch, before clipping; the network stays as it is.

    Args:
        net: in evaluation mode without dropout.
        loss: as `tsslbp.training.build_loss` makes it; most are sums over the batch.
        images: normalised ``[N, C, H, W]``.
        labels: ``[N]`` int64.
    """
    value = loss(net(images), labels)
    parts = torch.autograd.grad(value, list(net.weights.values()), materialize_grads=True)
    return dict(zip(net.weights, parts, strict=True))
