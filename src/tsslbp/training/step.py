"""One training step on the host, evaluation, and the steps of an epoch: `Steps`, `HostSteps`."""

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
EVALUATION_BATCH = 200  # most images of an evaluation batch, and most frames (images x steps)
EVALUATION_FRAMES = 2000
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h

Parts = tuple[Model, torch.optim.Optimizer, Split, Experiment]  # the arguments of `Steps`


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
    """Forward pass, loss, backward pass, gradient clipping, update, and clamping of the weights.

    Args:
        loss_function: takes the output PSC and the labels; the losses of the processes add up.
        images: normalised ``[N, C, H, W]``, or spike trains ``[T, N, C, H, W]``.
        labels: ``[N]`` int64.
        gradient_clip: bound of the norm of the gradient over all weights.
        weight_limit: bound of the magnitude of every connection's weight after the update.
        processes: each takes the step on its part of the batch; the result is for the whole batch.
        more: further parts of the batch, whose gradients are added.

    Raises:
        Diverged: the loss or the gradient is NaN or infinite; the weights are unchanged.
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
    clamp_weights(net.connection_weights(), weight_limit)
    return result


def _add_gradients(
    net: Model, parts: Iterable[Part], processes: Processes
) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
    """Run the forward and backward pass on all parts of a batch.

    Returns:
        Loss, number correct and number of images, as scalars; and the images of the first part
        whose loss is not finite, or of the last part.
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
    """Return the parameters that a step changes: all but the frozen ones."""
    return [weight for weight in net.parameters() if weight.requires_grad]


@torch.no_grad()
def clip_gradient(weights: list[Tensor], limit: float) -> Tensor:
    """Scale the gradients down if their norm over all weights exceeds `limit`; return the norm.

    This is `torch.nn.utils.clip_grad_norm_` without its grouping by device and dtype, which takes
    longer than the work on a small network.
    """
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    if not gradients:
        return torch.zeros(())
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    torch._foreach_mul_(gradients, (limit / (norm + 1e-6)).clamp(max=1.0))
    return norm


@torch.no_grad()
def clamp_weights(weights: list[Tensor], limit: float) -> None:
    """Bound the magnitude of connections' weights."""
    if weights:
        torch._foreach_clamp_min_(weights, -limit)
        torch._foreach_clamp_max_(weights, limit)


class Steps(ABC):
    """Takes the training steps of an epoch in order and returns their results.

    Epochs count from 1, the steps of an epoch from 0. All random numbers of a step depend only on
    the seed, the epoch and the step; the steps seed PyTorch's generators themselves.

    Args:
        net: the network to train, in training mode while steps run.
        optimizer: optimiser of its weights.
        split: all training images and labels, not normalised, on the device of `net`.
        experiment: loss, batch size, augmentation, normalisation, clipping, dropout and seed.

    Attributes:
        step_images: images per step, in one batch or several.
        per_epoch: number of steps in an epoch; the last one may take fewer images.
        activity_every: steps between two measurements of the layers' activity.
        read_every: steps after which results are read; a checkpoint can follow.
        keeps_gradients: whether the parameters keep the gradients of every step, instead of those
            of an epoch's last step only.
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
        """Prepare an epoch of which `step` steps are finished."""

    @abstractmethod
    def activity(self, step: int) -> Mapping[str, Activity]:
        """Return the layers' activity on the batch of the next step, by layer name."""

    @abstractmethod
    def run(self, step: int) -> None:
        """Take the next step, or start it.

        Raises:
            Diverged: the loss or gradient is NaN or infinite, and this is known immediately.
        """

    @abstractmethod
    def read(self, until: int) -> list[StepResult]:
        """Wait for and return the unread results of the steps before `until`."""


@final
class HostSteps(Steps):
    """Takes steps one by one; the host waits for each of them.

    These steps support images and recordings, a CPU or a GPU, and several `processes`, each of
    which takes its part of every batch.
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
        """Yield this process's images of a step, at most a batch at a time."""
        chosen = self.batches[step]
        batch = Batch(self.experiment, self.split, chosen, self.epoch, step, self.loss)
        for places in torch.arange(len(chosen)).split(self.experiment.batch_size):
            yield batch.part(self.processes.shard(places))

    def _seed_masks(self, step: int) -> None:
        """Seed the dropout masks of a step, so that they do not depend on when it runs."""
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
    """Return the accuracies of `net` on all images of a split, which `processes` share.

    Returns:
        ``[T]``, each from 0 to 1: the accuracy if the output is read after the first step, after
        two steps, and so on. The last one is the network's accuracy.
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
    """Cut `count` images into batches whose memory does not grow with the time steps."""
    size = max(1, min(EVALUATION_BATCH, EVALUATION_FRAMES // time_steps))
    return [slice(start, start + size) for start in range(0, count, size)]


def keep_freed_memory() -> None:
    """Make the C library keep the memory that a training step frees (glibc only).

    By default it returns most of this memory to the system, and the page faults when it is
    allocated again take 10 % of a step. This changes the whole process, so a program may call this
    function, but a library should not.
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
