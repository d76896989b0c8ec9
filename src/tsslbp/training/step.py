"""One training step on the host, the evaluation, and an epoch's steps: `Steps`, `HostSteps`."""

from __future__ import annotations

import ctypes
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, pairwise
from typing import final

import torch
from torch import Tensor

from .. import losses
from ..data import batches
from ..data.dataset import channel_statistics, normalised
from ..errors import Diverged
from ..experiment import Experiment
from ..experiment.seeding import derive, generator
from ..losses import Loss
from ..network import Activity, Model
from .batch import Batch, Part
from .build import Split, build_loss
from .history import StepResult
from .parallel import ONE_PROCESS, Processes

ACTIVITY_EVERY = 25  # steps between two measurements of firing rate and warm-up
EVALUATION_BATCH = 200  # images at most, whose frames, one for each time step, are at most
EVALUATION_FRAMES = 2000
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h

Parts = tuple[Model, torch.optim.Optimizer, Split, Experiment]  # what `Steps` is made of


def train_step(
    net: Model,
    optimizer: torch.optim.Optimizer,
    loss_function: Loss,
    images: Tensor,
    labels: Tensor,
    *,
    gradient_clip: float = 1.0,
    weight_limit: float = 4.0,
    processes: Processes = ONE_PROCESS,
    more: Iterable[Part] = (),
) -> StepResult:
    """Forward, loss, backward, clipping of the gradient's norm, update, clamp of the weights.

    Args:
        loss_function: of the output PSC and the labels; the losses of the processes add up.
        images: normalised ``[N, C, H, W]``, or spike trains ``[T, N, C, H, W]``.
        labels: ``[N]`` int64.
        gradient_clip: bound of the gradient's norm over all weights.
        weight_limit: bound of the magnitude of every connection's weight after the update.
        processes: each of which takes the step on its part of the batch; the result is the whole's.
        more: the batch goes on in these parts, whose gradients are added up.

    Raises:
        Diverged: the loss or the gradient is NaN or infinite; the weights have not been touched.
    """
    weights = trained_weights(net)
    optimizer.zero_grad()
    parts = chain([Part(images, labels, loss_function)], more)
    totals, suspect = _add_gradients(net, parts, processes)
    norm = clip_gradient(weights, gradient_clip)
    loss, correct, count = processes.sum(*totals)
    result = StepResult(loss.item(), int(correct), norm.item(), int(count))
    if not result.finite:
        where = processes.first_known(net.first_nonfinite(suspect))
        raise Diverged(_explain(net, where, result))
    optimizer.step()
    clamp_weights(weights, weight_limit)
    return result


def _add_gradients(
    net: Model, parts: Iterable[Part], processes: Processes
) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
    """Forward and backward on all parts of a batch.

    Returns:
        Loss, number correct and number of images, scalars; and the images of the first part whose
        loss is not finite, or of the last one.
    """
    totals: list[tuple[Tensor, Tensor, Tensor]] = []
    suspect: Tensor | None = None
    for part, following in pairwise(chain(parts, [None])):
        assert part is not None
        psc = processes.output(net, part.images, sums=following is None)
        loss = part.loss(psc, part.labels)
        loss.backward()
        correct = (losses.predict(psc.detach()) == part.labels).sum()
        count = torch.tensor(len(part.labels), device=loss.device)
        totals.append((loss.detach(), correct, count))
        if suspect is None and (following is None or not torch.isfinite(loss)):
            suspect = part.images
    assert suspect is not None  # there is at least one part
    first, *others = totals
    for one in others:
        first = first[0] + one[0], first[1] + one[1], first[2] + one[2]
    return first, suspect


def trained_weights(net: Model) -> list[Tensor]:
    """The parameters that a step changes: all but those that are frozen."""
    return [weight for weight in net.parameters() if weight.requires_grad]


@torch.no_grad()
def clip_gradient(weights: list[Tensor], limit: float) -> Tensor:
    """Scale the gradients down where their norm over all weights is above `limit`; return it.

    `torch.nn.utils.clip_grad_norm_` without its search for devices and dtypes, which takes longer
    than the work on a small network.
    """
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    if not gradients:
        return torch.zeros(())
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    torch._foreach_mul_(gradients, (limit / (norm + 1e-6)).clamp(max=1.0))
    return norm


@torch.no_grad()
def clamp_weights(weights: list[Tensor], limit: float) -> None:
    """Bound the magnitude of the connections' weights, which have two dimensions or more.

    What has fewer are biases, norms, and constants of neurons, for which the bound is not meant.
    """
    if connections := [weight for weight in weights if weight.dim() > 1]:
        torch._foreach_clamp_min_(connections, -limit)
        torch._foreach_clamp_max_(connections, limit)


class Steps(ABC):
    """Takes the training steps of an epoch, one after the other, and tells what came of them.

    Epochs count from 1, the steps of an epoch from 0. Whatever is random in a step depends on the
    seed, the epoch and the step alone; PyTorch's generators are the steps' to seed.

    Args:
        net: that is trained, in training mode while steps run.
        optimizer: of its weights.
        split: all training images and labels, not normalised, on the device of `net`.
        experiment: loss, batch size, augmentation, normalisation, clipping, dropout and seed.

    Attributes:
        step_images: images that a step takes, in one batch or several.
        per_epoch: number of steps in an epoch; the last may take fewer images.
        activity_every: steps between two measurements of the layers' activity.
        read_every: steps after which results are asked for; a checkpoint can follow.
        keeps_gradients: whether the parameters have the gradients of each step behind it, and not
            of an epoch's last step alone.
    """

    activity_every: int
    read_every: int
    keeps_gradients: bool

    def __init__(
        self, net: Model, optimizer: torch.optim.Optimizer, split: Split, experiment: Experiment
    ) -> None:
        self.net, self.optimizer, self.split = net, optimizer, split
        self.experiment, self.loss = experiment, build_loss(experiment)
        self.step_images = experiment.batch_size * experiment.accumulate
        self.per_epoch = -(-len(split.labels) // self.step_images)

    @abstractmethod
    def begin(self, epoch: int, step: int) -> None:
        """Prepare an epoch, of which so many steps are finished."""

    @abstractmethod
    def activity(self, step: int) -> Mapping[str, Activity]:
        """What the layers do on the batch of the step that is next, by their names."""

    @abstractmethod
    def run(self, step: int) -> None:
        """Take the step that is next, or start to.

        Raises:
            Diverged: its loss or gradient is NaN or infinite, and that is known at once.
        """

    @abstractmethod
    def read(self, until: int) -> list[StepResult]:
        """Wait for the results of the steps before `until` that have not been read yet."""


@final
class HostSteps(Steps):
    """One by one; the host waits for each.

    They take images and recordings, on a CPU or GPU, and several `processes`, each of which takes
    its part of every batch.
    """

    activity_every = ACTIVITY_EVERY
    read_every = 1
    keeps_gradients = True

    def __init__(self, *parts: *Parts, processes: Processes = ONE_PROCESS) -> None:
        super().__init__(*parts)
        self.processes = processes
        self.batches: list[Tensor] = []  # the images that each step of the epoch takes
        self._prepared: Iterable[Part] | None = None  # of the next step
        self._results: list[StepResult] = []

    def begin(self, epoch: int, step: int) -> None:
        self.epoch = epoch
        order = generator(self.experiment.seed, "order", epoch)
        self.batches = list(batches(len(self.split.labels), self.step_images, order))

    def activity(self, step: int) -> Mapping[str, Activity]:
        parts = self._parts(step)
        first = next(parts)
        self._prepared = chain([first], parts)
        self._seed_masks(step)
        return self.net.activity(first.images, self.processes.mean)

    def run(self, step: int) -> None:
        parts = iter(self._prepared or self._parts(step))
        first, self._prepared = next(parts), None
        self._seed_masks(step)
        try:
            result = train_step(
                self.net,
                self.optimizer,
                first.loss,
                first.images,
                first.labels,
                gradient_clip=self.experiment.gradient_clip,
                weight_limit=self.experiment.weight_limit,
                processes=self.processes,
                more=parts,
            )
        except Diverged as error:
            raise Diverged(f"epoch {self.epoch}, step {step + 1}: {error}") from error
        self._results.append(result)

    def read(self, until: int) -> list[StepResult]:
        results, self._results = self._results, []
        return results

    def _parts(self, step: int) -> Iterator[Part]:
        """This process's images of a step, as many at a time as a batch holds."""
        chosen = self.batches[step]
        batch = Batch(self.experiment, self.split, chosen, self.epoch, step, self.loss)
        for places in torch.arange(len(chosen)).split(self.experiment.batch_size):
            yield batch.part(self.processes.shard(places))

    def _seed_masks(self, step: int) -> None:
        """Make the dropout masks of a step the same whenever it runs."""
        purpose = self.processes.own_purpose("dropout")
        torch.manual_seed(derive(self.experiment.seed, purpose, self.epoch, step))


@torch.no_grad()
def evaluate(
    net: Model,
    split: Split,
    mean: Sequence[float],
    std: Sequence[float],
    processes: Processes = ONE_PROCESS,
) -> list[float]:
    """Accuracies of `net` on all images of a split, between 0 and 1, shared out to `processes`.

    Returns:
        ``[T]``: the accuracy if the output is read after the first step, after two, and so on; the
        last is the network's accuracy.
    """
    was_training = net.training
    net.eval()
    statistics = channel_statistics(split.images, mean, std)
    images, labels = processes.shard(split.images), processes.shard(split.labels)
    correct = torch.zeros(net.time_steps, dtype=torch.int64, device=labels.device)
    for part in evaluation_batches(len(labels), net.time_steps):
        psc = net(normalised(images[part], *statistics))
        for step in range(net.time_steps):
            correct[step] += (losses.predict(psc[: step + 1]) == labels[part]).sum()
    net.train(was_training)
    (correct,) = processes.sum(correct)
    return [count / len(split.labels) for count in correct.tolist()]


def evaluation_batches(count: int, time_steps: int) -> list[slice]:
    """Cut `count` images into batches that need no more memory with many time steps."""
    size = max(1, min(EVALUATION_BATCH, EVALUATION_FRAMES // time_steps))
    return [slice(start, start + size) for start in range(0, count, size)]


def keep_freed_memory() -> None:
    """Let the C library keep what one training step frees for the next (glibc; else nothing).

    It would give most of it back to the system, and the page faults of asking for it again take a
    tenth of a step. This changes the whole process, so a program may call it and no library should.
    """
    if sys.platform != "linux":
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(M_MMAP_THRESHOLD, 1 << 25)
        library.mallopt(M_TRIM_THRESHOLD, 1 << 30)


def _explain(net: Model, where: str | None, result: StepResult) -> str:
    if where is None:
        gradients = {name: weight.grad for name, weight in net.named_parameters()}
        known = {name: one for name, one in gradients.items() if one is not None}
        names = [name for name, one in known.items() if not torch.isfinite(one).all()]
        where = f"the gradient of {names[-1]}" if names else "the loss function"
    return f"{result.divergence}; NaN or infinity first appears in {where}"
