"""Training on a GPU: settings of the process, and steps that never wait for the host.

The data set lies on the device. Which images a step takes is uploaded once an epoch, how they are
cropped and mirrored while the steps before are at work. A counter on the device tells a step which
one it is, and its results are written into a table there. So a step is the same work every time:
after a few steps it is captured as a CUDA graph, and from then on replayed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor

from .. import losses
from ..data.dataset import channel_statistics, normalised
from ..data.images import augment
from ..errors import InvalidInput
from ..experiment import Experiment
from ..experiment.seeding import derive, generator
from ..network import Activity, CustomNetwork, Model
from .history import StepResult
from .step import Parts, Steps, clamp_weights, clip_gradient, trained_weights

ACTIVITY_EVERY = 200  # steps between two measurements of firing rate and warm-up
READ_EVERY = 200  # steps between two looks at the results
HOST_ONLY = {  # keys of an experiment that `DeviceSteps` know with these values alone
    **{"optimizer": "adamw", "accumulate": 1, "roll": 0, "cutout": 0},
    **{"rotate": 0.0, "translate": 0.0, "brightness": 0.0, "mixup": 0.0},
}
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


def device_of(net: Model) -> torch.device:
    """Where a network lies; on the CPU if it has no parameters."""
    return next((one.device for one in net.parameters()), torch.device("cpu"))


def gpus() -> list[str]:
    """The GPUs that this process may use, by the names that CUDA_VISIBLE_DEVICES takes."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    return chosen.split(",")[:count] if chosen else [str(index) for index in range(count)]


def has_device_steps(experiment: Experiment) -> bool:
    """Whether `DeviceSteps` can take an experiment's steps; `HostSteps` take those of all."""
    return all(getattr(experiment, key) == value for key, value in HOST_ONLY.items())


@final
class DeviceSteps(Steps):
    """Steps on the device where the data lie, for images ``[M, C, H, W]`` and one process.

    Not for the settings of `HOST_ONLY`. The learning rate may change between steps: where it does,
    it is a tensor, which a graph reads (`tsslbp.training.build.build_optimizer`).

    Args:
        parts: as for `Steps`.
        capture: whether to capture the step as a CUDA graph; on a CPU there are none.
    """

    activity_every, read_every = ACTIVITY_EVERY, READ_EVERY
    keeps_gradients = False  # a graph's are its own

    def __init__(self, *parts: *Parts, capture: bool) -> None:
        super().__init__(*parts)
        assert isinstance(self.split.images, Tensor)  # recordings take `HostSteps`
        self.images, self.labels, self.capture = self.split.images, self.split.labels, capture
        self.weights = trained_weights(self.net)
        self.size = min(self.experiment.batch_size, len(self.labels))
        device, whole = self.labels.device, torch.int64
        self.batch_rows = torch.arange(self.size, device=device)
        self.order = torch.empty(len(self.labels), dtype=whole, device=device)
        self.placements = torch.zeros(self.per_epoch, 3, self.size, dtype=whole, device=device)
        # Page-locked, so that uploading a row does not wait for the device.
        self.host_placements = torch.zeros(
            self.placements.shape, dtype=whole, pin_memory=self.labels.is_cuda
        )
        self.counter = torch.zeros(1, dtype=whole, device=device)
        self.rows = torch.arange(self.per_epoch, device=device)
        self.results = torch.zeros(self.per_epoch, 3, dtype=torch.float64, device=device)
        self.diverged = torch.zeros((), device=device)
        # AdamW leaves the weights alone where this is 1 (PyTorch has it for gradient scaling).
        self.optimizer.found_inf = self.diverged  # type: ignore[attr-defined]
        experiment = self.experiment
        self.statistics = channel_statistics(self.images, experiment.mean, experiment.std)
        self.augments = bool(experiment.crop_padding or experiment.horizontal_flip)
        self.graph: torch.cuda.CUDAGraph | None = None
        self.warm_up_stream: torch.cuda.Stream | None = None
        self.done = 0  # steps since the start of this process

    def begin(self, epoch: int, step: int) -> None:
        """Upload what the steps of an epoch need, and stand before one of them."""
        self.epoch, self.unread = epoch, step
        order = generator(self.experiment.seed, "order", epoch)
        self.order.copy_(torch.randperm(len(self.labels), generator=order))
        self.counter.fill_(step)

    def activity(self, step: int) -> Mapping[str, Activity]:
        self.prepare(step)
        images, _ = self.batch(self.count(step))
        return self.net.activity(images)

    def count(self, step: int) -> int:
        return min(self.size, len(self.labels) - step * self.size)

    def run(self, step: int) -> None:
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
        experiment, count = self.experiment, self.count(step)
        if self.augments:
            random = generator(experiment.seed, "augmentation", self.epoch, step)
            drawn = augment.draw(count, experiment.crop_padding, experiment.horizontal_flip, random)
            placement = self.host_placements[step]  # [3, size]
            placement[:, :count] = torch.stack([part.long() for part in drawn])
            self.placements[step].copy_(placement, non_blocking=True)
        if experiment.dropout or isinstance(self.net, CustomNetwork):  # which may have its own
            torch.manual_seed(derive(experiment.seed, "dropout", self.epoch, step))

    def _warm_up(self) -> None:
        """Run a step beside the default stream, as a capture will."""
        self.warm_up_stream = self.warm_up_stream or torch.cuda.Stream()
        self.warm_up_stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.warm_up_stream):
            self._step(self.size)
        torch.cuda.current_stream().wait_stream(self.warm_up_stream)

    def read(self, until: int) -> list[StepResult]:
        first, self.unread = self.unread, until
        rows = self.results[first:until].tolist()
        return [
            StepResult(loss, int(correct), norm, self.count(step))
            for step, (loss, correct, norm) in enumerate(rows, first)
        ]

    def batch(self, count: int) -> tuple[Tensor, Tensor]:
        """Images ``[count, C, H, W]``, augmented and normalised, and labels of the next step."""
        chosen = self.order[self.counter * self.size + self.batch_rows[:count]]
        images = self.images[chosen]
        if self.augments:
            top, left, mirrored = self.placements.index_select(0, self.counter)[0, :, :count]
            placement = augment.Placement(top, left, mirrored.bool())
            images = augment.apply(images, placement, self.experiment.crop_padding)
        return normalised(images, *self.statistics), self.labels[chosen]

    def _step(self, count: int) -> None:
        """`tsslbp.training.step.train_step` on the next `count` images, with nothing that waits."""
        images, labels = self.batch(count)
        self.optimizer.zero_grad()
        psc = self.net(images)
        loss = self.loss(psc, labels)
        loss.backward()
        norm = clip_gradient(self.weights, self.experiment.gradient_clip)
        with torch.no_grad():
            correct = (losses.predict(psc) == labels).sum()
            result = torch.stack([number.double() for number in (loss, correct, norm)])
            here = (self.rows == self.counter)[:, None]
            self.results.copy_(torch.where(here, result, self.results))
            finite = torch.isfinite(loss + norm)
            self.diverged.copy_(torch.where(finite, self.diverged, 1.0))
        self.optimizer.step()
        clamp_weights(self.weights, self.experiment.weight_limit)
        self.counter += 1
