"""Training on a GPU: settings of the process, and steps that never wait for the host.

The data set lies on the device. Which images a step takes is uploaded once an epoch, how they are
cropped and mirrored while the steps before are at work. A counter on the device tells a step which
one it is, and its results are written into a table there. So a step is the same work every time:
after a few steps it is captured as a CUDA graph, and from then on replayed.
"""

from __future__ import annotations

import os
import re

import torch
from torch import Tensor

from .. import losses
from ..data.dataset import channel_statistics, normalised
from ..data.images import augment
from ..errors import InvalidInput
from ..experiment import Experiment
from ..experiment.seeding import derive, generator
from ..losses import Loss
from ..network import Network
from .history import StepResult

WARM_UP = 5  # steps before the capture, in which kernels are compiled and algorithms chosen


def configure(device: str, precision: str, deterministic: bool = False) -> None:
    """Set PyTorch up for a training on `device`. This changes the whole process.

    Args:
        device: ``"cpu"`` or a GPU, ``"cuda"`` or ``"cuda:1"``.
        precision: of matrix products, see `Experiment`.
        deterministic: choose algorithms that give the same bits every time; these are slower.

    Raises:
        InvalidInput: there is no such device, or the precision needs a GPU.
    """
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise InvalidInput(f"device must be 'cpu', 'cuda' or 'cuda:N', got {device!r}")
    kind, _, index = device.partition(":")
    if kind == "cpu" and precision != "float32":
        raise InvalidInput(f"precision {precision!r} needs a GPU: --device cuda")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise InvalidInput(f"no device {device!r}: PyTorch finds {count} GPUs here")
    if index:
        torch.cuda.set_device(int(index))
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read at its first use
        torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = not deterministic
    torch.backends.cuda.matmul.allow_tf32 = precision != "float32"
    torch.backends.cudnn.allow_tf32 = precision != "float32"
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False


def gpus() -> list[str]:
    """The GPUs that this process may use, by the names that CUDA_VISIBLE_DEVICES takes."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    return chosen.split(",")[:count] if chosen else [str(index) for index in range(count)]


class DeviceSteps:
    """The training steps of an experiment on the device where `net`, `images` and `labels` lie.

    Args:
        net: in training mode while steps run.
        optimizer: of its weights.
        loss: of the output PSP and labels.
        images, labels: all training images ``[M, C, H, W]``, not normalised, and labels ``[M]``.
        experiment: batch size, augmentation, normalisation, clipping, dropout and seed.
        capture: whether to capture the step as a CUDA graph; on a CPU there are none.
    """

    def __init__(
        self,
        net: Network,
        optimizer: torch.optim.AdamW,
        loss: Loss,
        images: Tensor,
        labels: Tensor,
        experiment: Experiment,
        capture: bool,
    ) -> None:
        self.net, self.optimizer, self.loss, self.experiment = net, optimizer, loss, experiment
        self.images, self.labels, self.capture = images, labels, capture
        self.weights: list[Tensor] = list(net.parameters())
        self.size = min(experiment.batch_size, len(labels))
        self.steps = -(-len(labels) // self.size)  # the last may be a smaller batch
        device, whole = labels.device, torch.int64
        self.lanes = torch.arange(self.size, device=device)
        self.order = torch.empty(len(labels), dtype=whole, device=device)
        self.places = torch.zeros(self.steps, 3, self.size, dtype=whole, device=device)
        # Page-locked, so that uploading a row does not wait for the device.
        self.drawn = torch.zeros(self.places.shape, dtype=whole, pin_memory=labels.is_cuda)
        self.counter = torch.zeros(1, dtype=whole, device=device)
        self.rows = torch.arange(self.steps, device=device)
        self.results = torch.zeros(self.steps, 3, dtype=torch.float64, device=device)
        self.diverged = torch.zeros((), device=device)
        # AdamW leaves the weights alone where this is 1 (PyTorch has it for gradient scaling).
        optimizer.found_inf = self.diverged  # type: ignore[attr-defined]
        self.statistics = channel_statistics(images, experiment.mean, experiment.std)
        self.augments = bool(experiment.crop_padding or experiment.horizontal_flip)
        self.graph: torch.cuda.CUDAGraph | None = None
        self.beside: torch.cuda.Stream | None = None
        self.done = 0  # steps since the start of this process

    def begin(self, epoch: int, step: int) -> None:
        """Upload what the steps of an epoch need, and stand before one of them."""
        self.epoch, self.unread = epoch, step
        order = generator(self.experiment.seed, "order", epoch)
        self.order.copy_(torch.randperm(len(self.labels), generator=order))
        self.counter.fill_(step)

    def count(self, step: int) -> int:
        """Images of a step."""
        return min(self.size, len(self.labels) - step * self.size)

    def _placement(self, step: int) -> Tensor:
        """Crops and mirror images of a step ``[3, size]``, on the CPU."""
        experiment, count = self.experiment, self.count(step)
        random = generator(experiment.seed, "augmentation", self.epoch, step)
        drawn = augment.draw(count, experiment.crop_padding, experiment.horizontal_flip, random)
        found = torch.zeros(3, self.size, dtype=torch.int64)
        found[:, :count] = torch.stack([part.long() for part in drawn])
        return found

    def run(self, step: int) -> None:
        """Start step number `step` of the epoch, the next one."""
        count = self.count(step)
        self.prepare(step)
        if not self.capture or count < self.size:
            self._step(count)
        elif self.graph is not None:
            self.graph.replay()
        elif self.done < WARM_UP:
            self._warm_up()
        else:
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self._step(count)
            self.graph.replay()
        self.done += 1

    def prepare(self, step: int) -> None:
        """Make crops and dropout of a step the same whenever it runs.

        The crops are drawn here, while the device is busy with the steps before, and uploaded
        behind these. A graph reads the seed of the dropout as well.
        """
        if self.augments:
            self.drawn[step] = self._placement(step)
            self.places[step].copy_(self.drawn[step], non_blocking=True)
        if self.experiment.dropout:
            torch.manual_seed(derive(self.experiment.seed, "dropout", self.epoch, step))

    def _warm_up(self) -> None:
        """Run a step beside the default stream, as a capture will."""
        self.beside = self.beside or torch.cuda.Stream()
        self.beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.beside):
            self._step(self.size)
        torch.cuda.current_stream().wait_stream(self.beside)

    def read(self, until: int) -> list[StepResult]:
        """Wait for the results of the steps before `until` that have not been read yet."""
        rows = self.results[self.unread : until].tolist()
        self.unread = until
        return [StepResult(loss, int(correct), norm) for loss, correct, norm in rows]

    def batch(self, count: int) -> tuple[Tensor, Tensor]:
        """Images ``[count, C, H, W]``, augmented and normalised, and labels of the next step."""
        chosen = self.order[self.counter * self.size + self.lanes[:count]]
        images = self.images[chosen]
        if self.augments:
            top, left, mirrored = self.places.index_select(0, self.counter)[0, :, :count]
            placement = augment.Placement(top, left, mirrored.bool())
            images = augment.apply(images, placement, self.experiment.crop_padding)
        return normalised(images, *self.statistics), self.labels[chosen]

    def _step(self, count: int) -> None:
        """`training.train_step` on the next `count` images, with nothing that waits."""
        images, labels = self.batch(count)
        self.optimizer.zero_grad()
        psp = self.net(images)
        loss = self.loss(psp, labels)
        loss.backward()
        norm = clip_gradient(self.weights, self.experiment.gradient_clip)
        with torch.no_grad():
            correct = (losses.predict(psp) == labels).sum()
            result = torch.stack([number.double() for number in (loss, correct, norm)])
            here = (self.rows == self.counter)[:, None]
            self.results.copy_(torch.where(here, result, self.results))
            finite = torch.isfinite(loss + norm)
            self.diverged.copy_(torch.where(finite, self.diverged, 1.0))
        self.optimizer.step()
        clamp_weights(self.weights, self.experiment.weight_limit)
        self.counter += 1


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
    """Bound every weight's magnitude."""
    torch._foreach_clamp_min_(weights, -limit)
    torch._foreach_clamp_max_(weights, limit)
