"""What a trained network does with images: its confusions, its gradients, one image's activity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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
