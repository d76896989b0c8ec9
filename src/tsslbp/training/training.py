"""Training: one step, one epoch, and `fit`, which resumes wherever a run was stopped."""

from __future__ import annotations

import ctypes
import sys
import time
import zlib
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from .. import data as data_sets
from .. import losses
from ..data import DataSet, batches, normalise, split_validation, subset
from ..data.dataset import Images, channel_statistics, normalised
from ..data.frames import Frames
from ..data.images import augment
from ..errors import Diverged, InvalidInput, RunError
from ..experiment import Experiment
from ..experiment.seeding import derive, generator
from ..losses import Loss
from ..network import Model, Network
from ..neuron import Neuron
from ..run import Run
from ..run.environment import peak_memory
from . import drops as instability
from .device import DeviceSteps, clamp_weights, clip_gradient
from .history import History, StepResult
from .parallel import ALONE, Processes

ACTIVITY_EVERY = 25  # steps between two measurements of firing rate and warm-up
DEVICE_EVERY = 200  # the same on a GPU, whose results are read as rarely
CHECKPOINT_SECONDS = 60.0  # between two checkpoints within an epoch
EVALUATION_BATCH = 200  # images at most, whose frames, one for each time step, are at most
EVALUATION_FRAMES = 2000
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h


class Observer(Protocol):
    """Is told how the training goes."""

    def on_step(self, epoch: int, step: int, steps: int, result: StepResult) -> None: ...

    def on_epoch(self, record: dict[str, Any]) -> None: ...


class Split(NamedTuple):
    """Images, or frames of recordings, not yet normalised, and their labels."""

    images: Images
    labels: Tensor

    def to(self, device: str) -> Split:
        return Split(self.images.to(device), self.labels.to(device))


def load_data(experiment: Experiment, data_dir: Path | None = None) -> DataSet:
    """The experiment's data; recordings binned into its time steps, see `tsslbp.data.load`."""
    return data_sets.load(experiment.data, data_dir, experiment.time_steps, experiment.binning)


def build_network(
    experiment: Experiment, input_shape: Sequence[int], classes: int, impl: str = "auto"
) -> Network:
    """The experiment's network with the initial weights of its seed."""
    return Network(
        experiment.network,
        tuple(input_shape),
        classes,
        experiment.time_steps,
        Neuron(experiment.tau_m, experiment.tau_s, experiment.threshold),
        experiment.padding,
        experiment.weight_scale,
        experiment.conv_init,
        experiment.dropout,
        experiment.dropout_kind,
        experiment.pool_scale,
        experiment.neunorm,
        experiment.rule,
        impl,
        generator(experiment.seed, "weights"),
    )


def build_loss(experiment: Experiment) -> Loss:
    """The experiment's loss as a function of the output PSP and the labels."""
    if experiment.loss == "softmax":
        return losses.softmax
    if experiment.loss == "count":
        desired, undesired = experiment.desired_count, experiment.undesired_count
        assert desired is not None and undesired is not None  # Experiment has checked it
        return lambda psp, labels: losses.count(psp, labels, desired=desired, undesired=undesired)
    return lambda psp, labels: losses.van_rossum(
        psp,
        labels,
        tau_s=experiment.tau_s,
        target_filters=experiment.target_filters,
        pattern=experiment.desired_train,
    )


def loss_per_image(experiment: Experiment, loss: float, images: int) -> float:
    """A step's loss divided by its images; the softmax loss is a mean already."""
    return loss if experiment.loss == "softmax" else loss / images


def build_optimizer(experiment: Experiment, net: Model) -> torch.optim.AdamW:
    weights = list(net.parameters())
    return torch.optim.AdamW(
        weights,
        lr=experiment.learning_rate,
        betas=experiment.betas,
        weight_decay=experiment.weight_decay,
        fused=True,
        capturable=weights[0].is_cuda,
    )


def batch_images(
    experiment: Experiment,
    images: Images,
    chosen: Tensor,
    epoch: int,
    step: int,
    processes: Processes = ALONE,
) -> Tensor:
    """This process's images of a step's batch, augmented and normalised.

    Args:
        experiment: says how; with `epoch` and `step` it says which crops.
        images: all training images ``[M, C, H, W]``, not normalised, or frames of recordings.
        chosen: indices of the whole batch ``[N]``.
        processes: among which the batch is shared out.

    Returns:
        ``[N, C, H, W]``, or spike trains ``[T, N, C, H, W]``, float32.
    """
    part, padding, flip = processes.part, experiment.crop_padding, experiment.horizontal_flip
    found = images[part(chosen)]
    batch = found.trains() if isinstance(found, Frames) else found
    if padding or flip:
        random = generator(experiment.seed, "augmentation", epoch, step)
        placement = augment.draw(len(chosen), padding, flip, random)
        batch = augment.apply(batch, augment.Placement(*map(part, placement)), padding)
    return batch if batch.dim() == 5 else normalise(batch, experiment.mean, experiment.std)


def train_step(
    net: Model,
    optimizer: torch.optim.Optimizer,
    loss_function: Loss,
    images: Tensor,
    labels: Tensor,
    *,
    gradient_clip: float = 1.0,
    weight_limit: float = 4.0,
    processes: Processes = ALONE,
) -> StepResult:
    """Forward, loss, backward, clipping of the gradient's norm, update, clamp of the weights.

    Args:
        loss_function: of the output PSP and the labels; the losses of the processes add up.
        images: normalised ``[N, C, H, W]``, or spike trains ``[T, N, C, H, W]``.
        labels: ``[N]`` int64.
        gradient_clip: bound of the gradient's norm over all weights.
        weight_limit: bound of every weight's magnitude after the update.
        processes: each of which takes the step on its part of the batch; the result is the whole's.

    Raises:
        Diverged: the loss or the gradient is NaN or infinite; the weights have not been touched.
    """
    weights: list[Tensor] = list(net.parameters())
    optimizer.zero_grad()
    psp = processes.output(net, images)
    loss = loss_function(psp, labels)
    loss.backward()
    norm = clip_gradient(weights, gradient_clip)
    correct = (losses.predict(psp.detach()) == labels).sum()
    loss, correct = processes.sum(loss, correct)
    result = StepResult(loss.item(), int(correct), norm.item())
    if not result.finite:
        where = processes.found(net.first_nonfinite(images))
        raise Diverged(_explain(net, where, result))
    optimizer.step()
    clamp_weights(weights, weight_limit)
    return result


@torch.no_grad()
def evaluate(
    net: Model,
    split: Split,
    mean: Sequence[float],
    std: Sequence[float],
    processes: Processes = ALONE,
) -> list[float]:
    """Accuracies of `net` on all images of a split, between 0 and 1, shared out to `processes`.

    Returns:
        ``[T]``: the accuracy if the output is read after the first step, after two, and so on; the
        last is the network's accuracy.
    """
    was_training = net.training
    net.eval()
    statistics = channel_statistics(split.images, mean, std)
    images, labels = processes.part(split.images), processes.part(split.labels)
    correct = torch.zeros(net.time_steps, dtype=torch.int64, device=labels.device)
    for part in evaluation_batches(len(labels), net.time_steps):
        psp = net(normalised(images[part], *statistics))
        for step in range(net.time_steps):
            correct[step] += (losses.predict(psp[: step + 1]) == labels[part]).sum()
    net.train(was_training)
    (correct,) = processes.sum(correct)
    return [count / len(split.labels) for count in correct.tolist()]


def evaluation_batches(count: int, time_steps: int) -> list[slice]:
    """Cut `count` images into batches that need no more memory with many time steps."""
    size = max(1, min(EVALUATION_BATCH, EVALUATION_FRAMES // time_steps))
    return [slice(start, start + size) for start in range(0, count, size)]


def splits(experiment: Experiment, data: DataSet) -> tuple[Split, Split | None, Split]:
    """Training, validation and test images; no validation under the published protocol."""
    images, labels = data.train_images, data.train_labels
    test = Split(data.test_images, data.test_labels)
    train, validation = torch.arange(len(labels)), None
    if experiment.protocol == "validated":
        train, held_out = split_validation(len(labels), experiment.validation_images)
        validation = Split(images[held_out], labels[held_out])
    if experiment.train_images is not None:
        train = train[subset(len(train), experiment.train_images)]
    every = len(train) == len(labels)  # then without a copy
    return Split(images, labels) if every else Split(images[train], labels[train]), validation, test


@dataclass
class Progress:
    """Where a run stands; kept in the state of its checkpoint ``last``."""

    epochs: int = 0  # finished
    step: int = 0  # finished ones of the current epoch
    seconds: float = 0.0  # spent on the current epoch
    best: dict[str, float] = field(default_factory=dict)  # accuracy by checkpoint name
    best_epoch: dict[str, int] = field(default_factory=dict)
    finished: bool = False


def fit(
    run: Run | None,
    data: DataSet,
    observer: Observer | None = None,
    *,
    impl: str = "auto",
    device: str = "cpu",
    processes: Processes = ALONE,
) -> None:
    """Train a run's experiment to its end, from its checkpoint ``last`` where there is one.

    Writes metrics, steps and checkpoints into the run's folder. After a kill at any moment another
    call continues to the same weights, optimiser state and metrics, times and memory aside; bit
    for bit on an equal machine with equal versions, implementation and thread count. On a GPU
    (`device`, for which `tsslbp.training.device.configure` sets PyTorch up) that takes its
    ``deterministic``; dropout masks are drawn there.

    Several `processes` (`tsslbp.training.parallel.join`) train as one would on the same batches,
    but for rounding and other dropout masks. All of them call this with the same data; `run` is
    None for all but the first, which alone reads and writes the folder.

    Raises:
        Diverged: the loss or the gradient became NaN or infinite.
        InvalidInput: the data do not fit the experiment.
        RunError: the run's folder cannot be read or written, or another process trains the run.
    """
    with run.hold() if run else nullcontext():
        _Fit(run, data, observer, impl, device, processes).train()


class _Fit:
    def __init__(
        self,
        run: Run | None,
        data: DataSet,
        observer: Observer | None,
        impl: str,
        device: str,
        processes: Processes,
    ) -> None:
        self.run, self.data, self.observer, self.processes = run, data, observer, processes
        self.experiment = experiment = processes.broadcast(run.experiment if run else None)
        check_data(experiment, data)
        _check_same(data, processes)
        train, validation, test = splits(experiment, data)
        self.train_split, self.test = train.to(device), test.to(device)
        self.validation = validation.to(device) if validation else None
        self.input_shape = data.input_shape
        self.net = build_network(experiment, self.input_shape, data.classes, impl).to(device)
        self.loss = build_loss(experiment)
        self.optimizer = build_optimizer(experiment, self.net)
        self.on_device = None
        if self.train_split.labels.is_cuda:
            self.net.set_precision(experiment.precision)
            images, labels = self.train_split
            if processes.count == 1 and isinstance(images, Tensor):
                parts = self.net, self.optimizer, self.loss, images, labels, experiment
                self.on_device = DeviceSteps(*parts, capture=True)
        self.progress, self.history = Progress(), History()
        self.saved = 0.0  # seconds of the epoch at its last checkpoint
        has_begun = run is not None and run.has_checkpoint("last")
        checkpoint = run.load_checkpoint("last") if run and has_begun else None
        if (checkpoint := processes.broadcast(checkpoint)) is not None:
            self._restore(*checkpoint)
        if run:
            run.truncate_epochs(self.progress.epochs)

    def train(self) -> None:
        if self.run:
            self.run.record_divergence(None)
        try:
            while not self.progress.finished and self.progress.epochs < self.experiment.epochs:
                if self.on_device:
                    self._train_epoch_on_device(self.on_device)
                else:
                    self._train_epoch()
                self._end_epoch()
        except Diverged as error:
            if self.run:
                self.run.save_steps(self.history.arrays())  # the evidence
                self.run.record_divergence(str(error))
            raise

    def _train_epoch(self) -> None:
        experiment, progress = self.experiment, self.progress
        epoch = progress.epochs + 1
        order = generator(experiment.seed, "order", epoch)
        parts = list(batches(len(self.train_split.labels), experiment.batch_size, order))
        self.net.train()
        clock = _Clock(progress.seconds)
        self.saved = clock.seconds()
        for step in range(progress.step, len(parts)):
            result = self._step(epoch, step, parts[step])
            self._record(epoch, step, len(parts), len(parts[step]), result)
            self._advance(step + 1, clock)

    def _part_of_loss(self, images: int) -> Loss:
        """This process's part of the loss of a batch of so many `images`."""
        if self.experiment.loss != "softmax":
            return self.loss  # a sum over images
        return lambda psp, labels: self.loss(psp, labels) * (len(labels) / images)

    def _step(self, epoch: int, step: int, chosen: Tensor) -> StepResult:
        experiment, processes = self.experiment, self.processes
        images = batch_images(experiment, self.train_split.images, chosen, epoch, step, processes)
        labels = self.train_split.labels[processes.part(chosen)]
        with torch.random.fork_rng(devices=[]):
            mask_seed = derive(experiment.seed, processes.own("dropout"), epoch, step)
            try:
                if step % ACTIVITY_EVERY == 0:
                    torch.manual_seed(mask_seed)
                    self.history.add_activity(self.net.activity(images, processes.mean))
                torch.manual_seed(mask_seed)
                result = train_step(
                    self.net,
                    self.optimizer,
                    self._part_of_loss(len(chosen)),
                    images,
                    labels,
                    gradient_clip=experiment.gradient_clip,
                    weight_limit=experiment.weight_limit,
                    processes=processes,
                )
            except Diverged as error:
                raise Diverged(f"epoch {epoch}, step {step + 1}: {error}") from error
        return result

    def _train_epoch_on_device(self, steps: DeviceSteps) -> None:
        progress = self.progress
        epoch = progress.epochs + 1
        self.net.train()
        clock = _Clock(progress.seconds)
        self.saved = clock.seconds()
        steps.begin(epoch, progress.step)
        with torch.random.fork_rng(devices=[self.train_split.labels.device]):
            for step in range(progress.step, steps.steps):
                if step % DEVICE_EVERY == 0:
                    steps.prepare(step)
                    batch, _ = steps.batch(steps.count(step))
                    self.history.add_activity(self.net.activity(batch))
                steps.run(step)
                if (step + 1) % DEVICE_EVERY and step + 1 < steps.steps:
                    continue
                for number, result in enumerate(steps.read(step + 1), progress.step):
                    if not result.finite:
                        raise Diverged(f"epoch {epoch}, step {number + 1}: {_numbers(result)}")
                    self._record(epoch, number, steps.steps, steps.count(number), result)
                self._advance(step + 1, clock)

    def _advance(self, step: int, clock: _Clock) -> None:
        """Note that so many steps of the epoch are finished; now and then in a checkpoint."""
        self.progress.step, self.progress.seconds = step, clock.seconds()
        if self.progress.seconds - self.saved > CHECKPOINT_SECONDS:
            self._save("last")
            self.saved = self.progress.seconds

    def _record(self, epoch: int, step: int, steps: int, images: int, result: StepResult) -> None:
        loss = loss_per_image(self.experiment, result.loss, images)
        self.history.add_step(epoch, images, loss, result)
        if self.observer:
            self.observer.on_step(epoch, step + 1, steps, result)

    def _end_epoch(self) -> None:
        experiment, progress = self.experiment, self.progress
        epoch = progress.epochs + 1
        by_step = self._accuracies(self.test)
        accuracies = {"test": by_step[-1]}
        if self.validation:
            accuracies["validation"] = self._accuracies(self.validation)[-1]
        neurons = {layer.name: layer.neurons for layer in self.net.plan if layer.neurons}
        record = {
            "epoch": epoch,
            **self.history.epoch_summary(epoch, neurons, experiment.time_steps),
            **{f"{name}_accuracy": value for name, value in accuracies.items()},
            "test_accuracy_by_step": by_step,
            "seconds": progress.seconds,
            "images_per_second": len(self.train_split.labels) / progress.seconds,
            "peak_memory": peak_memory(),
            **self._device_memory(),
        }
        if self.data.note:
            record["note"] = self.data.note
        steps = self.history.arrays()
        before = int(np.searchsorted(steps["epoch"], epoch))  # steps of the earlier epochs
        if drops := instability.find(steps, list(neurons), since=before):
            record["drops"] = [drop.to_table() for drop in drops]
        progress.epochs, progress.step, progress.seconds = epoch, 0, 0.0
        for name, accuracy in accuracies.items():
            if accuracy > progress.best.get(name, -1.0):
                progress.best[name], progress.best_epoch[name] = accuracy, epoch
                self._save(f"best-{name}")
        patience = experiment.patience
        progress.finished = patience is not None and epoch - progress.best_epoch["test"] >= patience
        # The checkpoint last: a run killed before it repeats the epoch and drops the line.
        if self.run:
            self.run.append_epoch(record)
            self.run.save_steps(steps)
        self._save("last")
        if self.observer:
            self.observer.on_epoch(record)

    def _device_memory(self) -> dict[str, int]:
        if not self.test.labels.is_cuda:
            return {}
        return {"device_peak_memory": torch.cuda.max_memory_allocated(self.test.labels.device)}

    def _accuracies(self, split: Split) -> list[float]:
        statistics = self.experiment.mean, self.experiment.std
        return evaluate(self.net, split, *statistics, self.processes)

    def _save(self, name: str) -> None:
        tensors = {f"weights.{key}": value for key, value in self.net.state_dict().items()}
        for key, value in tensors.items():
            if not torch.isfinite(value).all():
                raise Diverged(f"{key} holds NaN or infinity; the last good checkpoint is kept")
        if not self.run:
            return
        state: dict[str, Any] = {
            "input_shape": self.input_shape,
            "classes": self.data.classes,
            "epoch": self.progress.epochs,
        }
        if name == "last":
            state["progress"] = asdict(self.progress)
            for index, moments in self.optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer.{index}.{key}": value for key, value in moments.items()}
            for key, array in self.history.arrays().items():
                tensors[f"history.{key}"] = torch.from_numpy(array)
        self.run.save_checkpoint(name, tensors, state)

    def _restore(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        source = f"checkpoint 'last' of {self.run.folder if self.run else 'the first process'}"
        load_weights(self.net, tensors, source)
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in _under("optimizer.", tensors).items():
            index, name = key.split(".")
            moments.setdefault(int(index), {})[name] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        arrays = {key: value.numpy() for key, value in _under("history.", tensors).items()}
        self.history = History(arrays)
        self.progress = Progress(**_entry(state, "progress", source))


def load_weights(net: Network, tensors: dict[str, Tensor], source: str) -> None:
    """Put a checkpoint's weights into `net`.

    Raises:
        RunError: they belong to another network; names what differs.
    """
    weights = _under("weights.", tensors)
    expected = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in weights.items()}
    if found != expected:
        name = min(key for key in expected | found if expected.get(key) != found.get(key))
        raise RunError(
            f"{source} belongs to another network than {net.description!r}: {name} has shape "
            f"{found.get(name, 'none')} there and {expected.get(name, 'none')} here"
        )
    net.load_state_dict(weights)


def _entry(state: Mapping[str, Any], key: str, source: str) -> Any:
    if key not in state:
        raise RunError(f"{source} holds no {key!r}: it is not the checkpoint its name says")
    return state[key]


def default_checkpoint(run: Run) -> str:
    """The one chosen on validation images where there is one, otherwise the last."""
    return "best-validation" if run.has_checkpoint("best-validation") else "last"


def load(folder: str | Path, checkpoint: str | None = None) -> Network:
    """Return a run's trained network, in evaluation mode.

    It takes images as it was trained on them: normalised by the run's mean and standard deviation
    (`tsslbp.data.normalise`).

    Args:
        folder: the run's folder.
        checkpoint: ``"last"``, ``"best-validation"`` or ``"best-test"``, by default
            `default_checkpoint`.

    Raises:
        RunError: no such run or checkpoint, or one that cannot be read.
    """
    run = Run.open(Path(folder))
    name = checkpoint or default_checkpoint(run)
    tensors, state = run.load_checkpoint(name)
    source = f"checkpoint {name!r} of {folder}"
    shape, classes = _entry(state, "input_shape", source), _entry(state, "classes", source)
    net = build_network(run.experiment, shape, classes)
    load_weights(net, tensors, source)
    return net.eval()


class _Clock:
    def __init__(self, before: float) -> None:
        self._start = time.perf_counter() - before

    def seconds(self) -> float:
        return time.perf_counter() - self._start


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
        names = [name for name, weight in net.named_parameters() if _has_bad_gradient(weight)]
        where = f"the gradient of {names[-1]}" if names else "the loss function"
    return f"{_numbers(result)}; NaN or infinity first appears in {where}"


def _numbers(result: StepResult) -> str:
    return (
        f"training diverged: the loss is {result.loss}, the gradient's norm {result.gradient_norm}"
    )


def _has_bad_gradient(weight: Tensor) -> bool:
    return weight.grad is not None and not bool(torch.isfinite(weight.grad).all())


def check_data(experiment: Experiment, data: DataSet) -> None:
    """Raise `InvalidInput` where the channels, size or number of images do not fit."""
    channels, height, width = data.input_shape
    if isinstance(data.train_images, Frames):
        channel_statistics(data.train_images, experiment.mean, experiment.std)
        if (steps := data.train_images.shape[1]) != experiment.time_steps:
            raise InvalidInput(
                f"{data.name} holds recordings of {steps} frames, and time_steps is "
                f"{experiment.time_steps}"
            )
    for name in ("mean", "std"):
        count = len(getattr(experiment, name))
        if count not in (1, channels):
            raise InvalidInput(
                f"{name} holds {count} numbers; {data.name} has images of {channels} channels"
            )
    if experiment.crop_padding >= min(height, width):
        raise InvalidInput(
            f"crop_padding must be below the images' size, {height} x {width} for {data.name}, "
            f"got {experiment.crop_padding}: a crop could be all black"
        )
    if experiment.protocol == "validated" and not (
        0 < experiment.validation_images < len(data.train_labels)
    ):
        raise InvalidInput(
            f"validation_images must be between 1 and {len(data.train_labels) - 1} for "
            f"{data.name}, got {experiment.validation_images}"
        )
    held_out = experiment.validation_images if experiment.protocol == "validated" else 0
    left = len(data.train_labels) - held_out
    if experiment.train_images is not None and experiment.train_images > left:
        raise InvalidInput(
            f"train_images must be at most {left}, the training images of {data.name} that are "
            f"left, got {experiment.train_images}"
        )


def _check_same(data: DataSet, processes: Processes) -> None:
    """Raise `InvalidInput` where a process has other data than the first; labels tell it."""
    labels = data.train_labels, data.test_labels
    here = (data.train_images.shape, *(zlib.crc32(part.numpy().tobytes()) for part in labels))
    if here != processes.broadcast(here):
        raise InvalidInput(
            f"process {processes.rank} has other data than the first under the name {data.name}"
        )


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)
    }
