"""Training on a GPU: settings of the process, and steps that never wait for the host.

The data set is stored on the device. The order of the images is uploaded once per epoch, and their
crops and mirroring are uploaded while the preceding steps run. A counter on the device tells a step
its number, and the results are written to a table there. Each step is therefore the same sequence
of operations: after a few steps it is captured as a CUDA graph, which is then replayed.
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
READ_EVERY = 200  # steps between two reads of the results
HOST_ONLY = {  # keys of an experiment for which `DeviceSteps` support only these values
    **{"optimizer": "adamw", "accumulate": 1, "roll": 0, "cutout": 0},
    **{"rotate": 0.0, "translate": 0.0, "brightness": 0.0, "mixup": 0.0},
}
WARM_UP = 5  # steps before the capture, in which kernels are compiled and algorithms chosen


def configure(device: str, precision: str, deterministic: bool = False) -> None:
    """Prepare PyTorch for training on `device`. This changes the whole process.

    Args:
        device: ``"cpu"`` or a GPU, ``"cuda"`` or ``"cuda:1"``.
        precision: precision of matrix products, see `Experiment`.
        deterministic: choose algorithms that give bit-identical results; they are slower.

    Raises:
        InvalidInput: the device does not exist, or the precision needs a GPU.
    """
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise InvalidInput(f"device must be 'cpu', 'cuda' or 'cuda:N', got {device!r}")
    kind, _, index = device.partition(":")
    if kind == "cpu" and precision != "float32":
        raise InvalidInput(f"precision {precision!r} needs a GPU: add --device cuda")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise InvalidInput(f"there is no device {device!r}: PyTorch finds {count} GPUs")
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
    """Return the device of a network; the CPU if it has no parameters."""
    return next((one.device for one in net.parameters()), torch.device("cpu"))


def gpus() -> list[str]:
    """Return the GPUs that this process may use, by their names in CUDA_VISIBLE_DEVICES."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    return chosen.split(",")[:count] if chosen else [str(index) for index in range(count)]


def has_device_steps(experiment: Experiment) -> bool:
    """Return whether `DeviceSteps` support an experiment; `HostSteps` support all."""
    return all(getattr(experiment, key) == value for key, value in HOST_ONLY.items())


@final
class DeviceSteps(Steps):
    """Steps on the device that stores the data, for images ``[M, C, H, W]`` and one process.

    They require the values of `HOST_ONLY`. If the learning rate changes between steps, it is a
    tensor that the graph reads (`tsslbp.training.build.build_optimizer`).

    Args:
        parts: as for `Steps`.
        capture: whether to capture the step as a CUDA graph; must be false on a CPU.
    """

    activity_every, read_every = ACTIVITY_EVERY, READ_EVERY
    keeps_gradients = False  # a graph has its own gradients

    def __init__(self, *parts: *Parts, capture: bool) -> None:
        super().__init__(*parts)
        assert isinstance(self.split.images, Tensor)  # recordings need `HostSteps`
        self.images, self.labels, self.capture = self.split.images, self.split.labels, capture
        self.weights = trained_weights(self.net)
        self.connections = self.net.connection_weights()
        self.size = min(self.experiment.batch_size, len(self.labels))
        device, whole = self.labels.device, torch.int64
        self.batch_rows = torch.arange(self.size, device=device)
        self.order = torch.empty(len(self.labels), dtype=whole, device=device)
        self.placements = torch.zeros(self.per_epoch, 3, self.size, dtype=whole, device=device)
        # Page-locked memory, so that uploading a row does not wait for the device.
        self.host_placements = torch.zeros(
            self.placements.shape, dtype=whole, pin_memory=self.labels.is_cuda
        )
        self.counter = torch.zeros(1, dtype=whole, device=device)
        self.rows = torch.arange(self.per_epoch, device=device)
        self.results = torch.zeros(self.per_epoch, 3, dtype=torch.float64, device=device)
        self.diverged = torch.zeros((), device=device)
        # AdamW skips the update if this is 1 (PyTorch provides it for gradient scaling).
        self.optimizer.found_inf = self.diverged  # type: ignore[attr-defined]
        experiment = self.experiment
        self.statistics = channel_statistics(self.images, experiment.mean, experiment.std)
        self.augments = bool(experiment.crop_padding or experiment.horizontal_flip)
        self.graph: torch.cuda.CUDAGraph | None = None
        self.warm_up_stream: torch.cuda.Stream | None = None
        self.done = 0  # steps since the start of this process

    def begin(self, epoch: int, step: int) -> None:
        """Upload the order of an epoch's images and set the counter to a step."""
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
        """Make crops and dropout of a step independent of when it runs.

        The crops are drawn here while the device is busy with the preceding steps, and their upload
        is queued after those. A graph also reads the seed of the dropout.
        """
        experiment, count = self.experiment, self.count(step)
        if self.augments:
            random = generator(experiment.seed, "augmentation", self.epoch, step)
            drawn = augment.draw(count, experiment.crop_padding, experiment.horizontal_flip, random)
            placement = self.host_placements[step]  # [3, size]
            placement[:, :count] = torch.stack([part.long() for part in drawn])
            self.placements[step].copy_(placement, non_blocking=True)
        if experiment.dropout or isinstance(self.net, CustomNetwork):  # which may use dropout
            torch.manual_seed(derive(experiment.seed, "dropout", self.epoch, step))

    def _warm_up(self) -> None:
        """Run a step on a side stream, as capturing does."""
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
        """Return images ``[count, C, H, W]``, augmented and normalised, and labels of a step."""
        chosen = self.order[self.counter * self.size + self.batch_rows[:count]]
        images = self.images[chosen]
        if self.augments:
            top, left, mirrored = self.placements.index_select(0, self.counter)[0, :, :count]
            placement = augment.Placement(top, left, mirrored.bool())
            images = augment.apply(images, placement, self.experiment.crop_padding)
        return normalised(images, *self.statistics), self.labels[chosen]

    def _step(self, count: int) -> None:
        """Do `tsslbp.training.step.train_step` on the next `count` images without waiting."""
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
        clamp_weights(self.connections, self.experiment.weight_limit)
        self.counter += 1
