"""The batch of a training step: its images, augmented and normalised, its labels and its loss."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple, final

import torch
from torch import Tensor

from ..data import normalise
from ..data.frames import Frames
from ..data.images import augment
from ..experiment import Experiment
from ..experiment.seeding import generator
from ..losses import MEANS, Loss
from .build import Split


class Part(NamedTuple):
    """Images that pass through the network together: all or some of a batch."""

    images: Tensor  # normalised ``[N, C, H, W]``, or spike trains ``[T, N, C, H, W]``
    labels: Tensor  # ``[N]`` int64
    loss: Loss  # takes outputs and labels; the parts' losses add up to that of the batch


class Change(NamedTuple):
    """A transformation of images, and the random numbers for it."""

    apply: Callable[..., Tensor]  # takes images and the random numbers
    drawn: Iterable[Tensor]  # each ``[..., N]`` for the whole batch, on the CPU

    def __call__(self, images: Tensor, places: Tensor) -> Tensor:
        """Transform the images that have these places in the batch."""
        return self.apply(images, *(numbers[..., places] for numbers in self.drawn))


@final
class Batch:
    """The images of one training step, and the random numbers for them.

    All random numbers are drawn for the whole batch from (seed, epoch, step), independently for
    each kind. The result therefore does not depend on how the batch is divided into parts or over
    processes.

    Args:
        experiment: describes how images are augmented, normalised and mixed.
        split: all training images, not normalised, or frames of recordings, and their labels.
        chosen: indices of the batch ``[N]`` in the split.
        epoch, step: the step of the run.
        loss: takes outputs and labels.
    """

    def __init__(
        self,
        experiment: Experiment,
        split: Split,
        chosen: Tensor,
        epoch: int,
        step: int,
        loss: Loss,
    ) -> None:
        self.experiment, self.split, self.chosen, self.loss = experiment, split, chosen, loss
        self._place = experiment.seed, epoch, step
        self._raw, self._real, self._normalised = self._moves(), self._changes(), self._cuts()
        self._mixture: augment.Mixture | None = None
        if experiment.mixup:
            random = self._random("mixup")
            self._mixture = augment.draw_mixture(len(chosen), experiment.mixup, random)

    def part(self, places: Tensor) -> Part:
        """Return the images at some places ``[n]`` int64 of the batch."""
        labels, loss = self._labels(places), self._loss(len(places))
        if self._mixture is None:
            return Part(self.images(places), labels, loss)
        share, partners = self._mixture.share, self._mixture.partner[places]
        others = self._labels(partners)
        images = augment.mix(self.images(places), self.images(partners), share)
        return Part(
            images,
            labels,
            lambda psc, labels: share * loss(psc, labels) + (1 - share) * loss(psc, others),
        )

    def images(self, places: Tensor) -> Tensor:
        """Return the images at some places, augmented and normalised, but not mixed."""
        found, settings = self.split.images[self.chosen[places]], self.experiment
        images = found.trains() if isinstance(found, Frames) else found
        for change in self._raw:
            images = change(images, places)
        if self._real:
            images = images.float() / 255 if images.dtype == torch.uint8 else images
        for change in self._real:
            images = change(images, places)
        if images.dim() == 4:
            images = normalise(images, settings.mean, settings.std)
        for change in self._normalised:
            images = change(images, places)
        return images

    def _labels(self, places: Tensor) -> Tensor:
        return self.split.labels[self.chosen[places]]

    def _loss(self, images: int) -> Loss:
        """Return the contribution of that many images to the loss of the batch."""
        if self.experiment.loss not in MEANS:
            return self.loss  # a sum over images
        return lambda psc, labels: self.loss(psc, labels) * (images / len(self.chosen))

    def _random(self, purpose: str) -> torch.Generator:
        seed, epoch, step = self._place
        return generator(seed, purpose, epoch, step)

    def _moves(self) -> list[Change]:
        """Return the transformations that move whole pixels."""
        count, changes = len(self.chosen), list[Change]()
        padding, flip = self.experiment.crop_padding, self.experiment.horizontal_flip
        if padding or flip:
            placement = augment.draw(count, padding, flip, self._random("augmentation"))
            changes.append(
                Change(
                    lambda x, *one: augment.apply(x, augment.Placement(*one), padding), placement
                )
            )
        if distance := self.experiment.roll:
            shifts = augment.draw_shifts(count, distance, self._random("roll"))
            changes.append(Change(augment.roll, [shifts]))
        return changes

    def _changes(self) -> list[Change]:
        """Return transformations of real-valued pixels, from 0 to 1 or as they are in the data."""
        count, settings, changes = len(self.chosen), self.experiment, list[Change]()
        if settings.rotate or settings.translate:
            (degrees,) = augment.draw_uniform(1, count, settings.rotate, self._random("rotate"))
            shifts = augment.draw_uniform(2, count, settings.translate, self._random("translate"))
            changes.append(Change(augment.warp, [degrees, shifts]))
        if amount := settings.brightness:
            factors = 1 + augment.draw_uniform(1, count, amount, self._random("brightness"))[0]
            images = self.split.images
            limit = 1.0 if isinstance(images, Tensor) and images.dtype == torch.uint8 else None
            changes.append(Change(lambda x, one: augment.brighten(x, one, limit), [factors]))
        return changes

    def _cuts(self) -> list[Change]:
        """Return the transformations of normalised images."""
        if not (size := self.experiment.cutout):
            return []
        height, width = self.split.images.shape[-2:]
        random = self._random("cutout")
        centres = augment.draw_centres(len(self.chosen), height, width, random)
        return [Change(lambda x, one: augment.cut_out(x, one, size), [centres])]
