"""The training loop: epochs of steps, their records, and the checkpoints from which it resumes.

It sees a network as a `tsslbp.network.Model` and takes its steps through
`tsslbp.training.step.Steps`.
"""

from __future__ import annotations

import logging
import time
import zlib
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any, Protocol, final

import numpy as np
import torch
from torch import Tensor

from ..data import DataSet, digest
from ..data.dataset import channel_statistics, normalised
from ..errors import Diverged, InvalidInput
from ..experiment import Experiment
from ..experiment.recipe import is_path
from ..network import Activity, Model
from ..run import AVERAGED, WEIGHTS, Run, read_epochs
from ..run.environment import peak_memory
from ..run.results import runs_out_of_patience
from . import drops, symptoms
from .averaging import AveragedWeights
from .build import (
    Split,
    build_for,
    build_optimizer,
    check_data,
    learning_rate,
    loss_per_image,
    rate_moves,
    set_learning_rate,
    splits,
)
from .checkpoint import TrainingState, load_weights, start_from_weights
from .device import DeviceSteps, has_device_steps
from .history import StepResult
from .own import check_training
from .parallel import ONE_PROCESS, Processes
from .step import HostSteps, Steps, evaluate, evaluation_batches

logger = logging.getLogger("tsslbp")

CHECKPOINT_SECONDS = 60.0  # between two checkpoints within an epoch


class Observer(Protocol):
    """Receives the progress of a training."""

    def on_step(self, epoch: int, step: int, steps: int, result: StepResult) -> None:
        """Called after a step; epochs and steps count from 1, and an epoch has `steps` steps."""

    def on_epoch(self, record: dict[str, Any]) -> None:
        """Called after an epoch and its evaluation, with its record in ``metrics.jsonl``."""


def fit(
    run: Run | None,
    data: DataSet,
    observer: Observer | None = None,
    *,
    net: Model | None = None,
    device: str = "cpu",
    processes: Processes = ONE_PROCESS,
) -> Model:
    """Train a run's experiment to its end, resuming from the checkpoint ``last`` if there is one.

    Metrics, steps and checkpoints are written to the run folder. If the process is killed at any
    moment, another call continues to the same weights, optimiser state and metrics (except times
    and memory). On the same machine with equal versions, implementation and thread count, they are
    identical bit for bit. On a GPU this requires ``deterministic`` in
    `tsslbp.training.device.configure`, which prepares PyTorch for `device`; dropout masks are drawn
    on the GPU.

    Several `processes` (`tsslbp.training.parallel.join`) train as one process would on the same
    batches, except for rounding and different dropout masks. All of them call this function with
    the same data. `run` is None in all but the first process, which alone reads and writes the run
    folder.

    Args:
        run: what to train, and where the records go.
        data: the data of its experiment.
        observer: receives every step and epoch.
        net: the network to train, by default that of the experiment. If a file defines the network,
            the copy in the run folder is executed; it comes from `Run.create`, or `Run.open` was
            called with ``trust_code``.
        device: device to train on.
        processes: the processes that train together.

    Returns:
        The trained network in evaluation mode, with the weights of the epoch chosen on validation
        images, or of the last epoch if no images are held out.

    Raises:
        Diverged: the loss or the gradient became NaN or infinite.
        InvalidInput: the data do not match the experiment.
        RunError: the run folder cannot be read or written, or another process trains the run.
    """
    known = (run.experiment, run.trust_code, run.has_checkpoint("last")) if run else None
    experiment, trust, resumed = processes.broadcast(known)
    settings: dict[str, Any] = {"device": device, "processes": processes, "trust_code": trust}
    settings["resumed"] = resumed
    return Training(experiment, data, net, **settings).fit(run, observer)


@final
class Training:
    """An experiment with its data, checked and built, before its first step.

    Args:
        experiment: what to train.
        data: the data of the experiment.
        net, device, processes: as for `fit`.
        trust_code: as for `tsslbp.training.build_network`.
        resumed: whether a run resumes from a checkpoint; the weights from which the experiment
            started then need not exist any more.

    Attributes:
        net: the network, on its device.
        start: the trained weights that it was given; None if it starts from random weights.
        train, validation, test: the images, on the device.

    Raises:
        InvalidInput: the data do not match the experiment, or processes have different data.
    """

    def __init__(
        self,
        experiment: Experiment,
        data: DataSet,
        net: Model | None = None,
        *,
        device: str = "cpu",
        processes: Processes = ONE_PROCESS,
        trust_code: bool = False,
        resumed: bool = False,
    ) -> None:
        check_data(experiment, data)
        _check_same(data, processes)
        self.experiment, self.data, self.processes = experiment, data, processes
        train, validation, test = splits(experiment, data)
        self.train, self.test = train.to(device), test.to(device)
        self.validation = validation.to(device) if validation else None
        net = build_for(experiment, data, trust_code=trust_code) if net is None else net
        self.start = None if resumed else start_from_weights(net, experiment)
        self.net = net.to(device)
        decay = experiment.average_weights
        averaged = None if decay is None else AveragedWeights(self.net, decay)
        self.state = TrainingState(self.net, build_optimizer(experiment, self.net), averaged)
        self.steps = self._build_steps()
        size = min(experiment.batch_size, len(train.labels))
        check_training(self.net, experiment, len(train.labels) % size or size)
        self._chosen: dict[str, Tensor] = {}  # weights of the best validation epoch

    @property
    def image_counts(self) -> dict[str, int]:
        """Number of images by split; without held-out images there is no ``"validation"``."""
        splits = {"training": self.train, "validation": self.validation, "test": self.test}
        return {name: len(split.labels) for name, split in splits.items() if split}

    def _build_steps(self) -> Steps:
        parts = self.net, self.state.optimizer, self.train, self.experiment
        if self.train.labels.is_cuda:
            self.net.set_precision(self.experiment.precision)
            one_process = self.processes.count == 1 and isinstance(self.train.images, Tensor)
            if one_process and has_device_steps(self.experiment):
                return DeviceSteps(*parts, capture=not self.net.waits_for_device)
        return HostSteps(*parts, processes=self.processes)

    def fit(self, run: Run | None, observer: Observer | None = None) -> Model:
        """Train to the end and return `net`, as described for the function `fit`.

        The number of epochs is that of the `run`; without a run nothing is written.
        """
        self.run, self.observer = run, observer
        self.experiment = self.processes.broadcast(run.experiment if run else self.experiment)
        with run.hold() if run else nullcontext():
            self._resume()
            try:
                progress = self.state.progress
                while not progress.finished and progress.epochs < self.experiment.epochs:
                    self._train_epoch()
                    self._end_epoch()
            except Diverged as error:
                if run:
                    run.save_steps(self.state.history.arrays())  # including those that diverge
                    run.record_divergence(str(error))
                raise
        self._load_chosen()
        return self.net.eval()

    def _resume(self) -> None:
        """Restore the state of the run's checkpoint ``last``, if there is one."""
        run, checkpoint = self.run, None
        if run:
            read_epochs(run)  # damage is refused before anything is written
        if run and run.has_checkpoint("last"):
            checkpoint = run.load_checkpoint("last")
        if (checkpoint := self.processes.broadcast(checkpoint)) is not None:
            source = f"checkpoint 'last' of {run.folder if run else 'the first process'}"
            self.state.restore(*checkpoint, source)
        if run:
            if is_path(run.experiment.data):
                run.record_data(digest(self.data), self.data.class_names)
            run.truncate_epochs(self.state.progress.epochs)
            run.record_divergence(None)

    def _train_epoch(self) -> None:
        steps, progress, history = self.steps, self.state.progress, self.state.history
        epoch = progress.epochs + 1
        device = self.train.labels.device
        self.net.train()
        started = time.perf_counter() - progress.seconds
        saved = progress.seconds
        steps.begin(epoch, progress.step)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            for step in range(progress.step, steps.per_epoch):
                if measured := step % steps.activity_every == 0:
                    history.add_activity(steps.activity(step))
                self._take(step)
                if (measured and steps.keeps_gradients) or step + 1 == steps.per_epoch:
                    first = step == 0 or not steps.keeps_gradients
                    among = None if first else progress.still
                    progress.still = symptoms.without_gradient(self.net, among)
                if (step + 1) % steps.read_every and step + 1 < steps.per_epoch:
                    continue
                self._record(epoch, steps.read(step + 1))
                progress.step, progress.seconds = step + 1, time.perf_counter() - started
                if progress.seconds - saved > CHECKPOINT_SECONDS:
                    self._save("last")
                    saved = progress.seconds

    def _take(self, step: int) -> None:
        """Take a step of the epoch with its learning rate, then average the weights."""
        steps, state = self.steps, self.state
        number = state.progress.epochs * steps.per_epoch + step
        if rate_moves(self.experiment):
            rate = learning_rate(self.experiment, number, steps.per_epoch)
            set_learning_rate(state.optimizer, rate)
        steps.run(step)
        if state.averaged:
            state.averaged.update(self.net, number + 1)

    def _record(self, epoch: int, results: list[StepResult]) -> None:
        """Record the results of the steps after those that are finished."""
        for step, result in enumerate(results, self.state.progress.step + 1):
            if not result.finite:
                raise Diverged(f"epoch {epoch}, step {step}: {result.divergence}")
            loss = loss_per_image(self.experiment, result.loss, result.images)
            self.state.history.add_step(epoch, loss, result)
            if self.observer:
                self.observer.on_step(epoch, step, self.steps.per_epoch, result)

    def _end_epoch(self) -> None:
        progress = self.state.progress
        epoch, started = progress.epochs + 1, time.perf_counter()
        by_step = self._accuracies(self.test)
        accuracies = {"test": by_step[-1]}
        if self.validation:
            accuracies["validation"] = self._accuracies(self.validation)[-1]
        averaged = self._averaged_accuracies()
        evaluation = {"evaluation_seconds": time.perf_counter() - started}
        record = self._epoch_record(epoch, accuracies | averaged, by_step) | evaluation
        if found := self._warnings(epoch):
            record["warnings"] = found
        progress.epochs, progress.step, progress.seconds = epoch, 0, 0.0
        for name, accuracy in accuracies.items():
            if accuracy > progress.best.get(name, -1.0):
                progress.best[name], progress.best_epoch[name] = accuracy, epoch
                self._save(f"best-{name}")
        progress.finished = runs_out_of_patience(self.experiment, epoch, progress.best_epoch)
        if self.state.averaged:
            self._save(AVERAGED)
        # The checkpoint comes last: a run killed before it repeats the epoch and drops the line.
        if self.run:
            self.run.append_epoch(record)
            self.run.save_steps(self.state.history.arrays())
        self._save("last")
        if self.observer:
            self.observer.on_epoch(record)
        for text in found if self.processes.is_first else ():
            logger.warning("epoch %d: %s", epoch, text)

    def _warnings(self, epoch: int) -> list[str]:
        """Return the warnings of `symptoms` about the epoch's layers and the data, once each."""
        progress, history, layers = self.state.progress, self.state.history, self.net.neuron_counts
        still, progress.still = progress.still, []
        lines = symptoms.of_labels(self.train.labels) if epoch == 1 else []
        if len(history.rows["loss"]) < symptoms.LEAST_STEPS:
            return lines
        found = symptoms.suspects(history, epoch, layers)
        if symptoms.is_new(found, progress.told):
            found = symptoms.confirmed(found, self._activity())
        return lines + symptoms.warnings(found, still, progress.told)

    def _activity(self) -> Mapping[str, Activity]:
        """Return the layers' activity on the first training images, without dropout."""
        statistics = channel_statistics(
            self.train.images, self.experiment.mean, self.experiment.std
        )
        first = evaluation_batches(len(self.train.labels), self.net.time_steps)[0]
        images = normalised(self.train.images[first], *statistics)
        self.net.eval()
        found = self.net.activity(images, self.processes.mean)
        self.net.train()
        return found

    def _epoch_record(
        self, epoch: int, accuracies: Mapping[str, float], by_step: list[float]
    ) -> dict[str, Any]:
        history, neurons = self.state.history, self.net.neuron_counts
        seconds = self.state.progress.seconds
        record = {
            "epoch": epoch,
            **history.epoch_summary(epoch, neurons, self.net.time_steps),
            **{f"{name}_accuracy": value for name, value in accuracies.items()},
            "test_accuracy_by_step": by_step,
            **self._rate(),
            "seconds": seconds,
            "images_per_second": len(self.train.labels) / seconds,
            "peak_memory": peak_memory(),
        }
        if self.test.labels.is_cuda:
            record["device_peak_memory"] = torch.cuda.max_memory_allocated(self.test.labels.device)
        if self.data.note:
            record["note"] = self.data.note
        steps = history.arrays()
        before = int(np.searchsorted(steps["epoch"], epoch))  # steps of the earlier epochs
        if found := drops.find(steps, list(neurons), since=before):
            record["drops"] = [asdict(drop) for drop in found]
        return record

    def _rate(self) -> dict[str, float]:
        """Return the learning rate of the epoch's last step, unless it is constant."""
        per_epoch = self.steps.per_epoch
        last = (self.state.progress.epochs + 1) * per_epoch - 1
        moves = rate_moves(self.experiment)
        return {"learning_rate": learning_rate(self.experiment, last, per_epoch)} if moves else {}

    def _averaged_accuracies(self) -> dict[str, float]:
        """Return the accuracies of the averaged weights, by their names in an epoch's record."""
        if not self.state.averaged:
            return {}
        with self.state.averaged.applied(self.net):
            found = {"averaged_test": self._accuracies(self.test)[-1]}
            if self.validation:
                found["averaged_validation"] = self._accuracies(self.validation)[-1]
        return found

    def _accuracies(self, split: Split) -> list[float]:
        statistics = self.experiment.mean, self.experiment.std
        return evaluate(self.net, split, *statistics, self.processes)

    def _save(self, name: str) -> None:
        weights = self.state.weights(name)  # checked in all processes
        if name == "best-validation":
            self._chosen = {key: value.clone() for key, value in weights.items()}
        if self.run:
            self.state.save(self.run, name, self.data.input_shape, self.data.classes)

    def _load_chosen(self) -> None:
        """Load the weights of the best validation epoch, possibly from before a resume."""
        name = "best-validation"
        if not self._chosen and self.run and self.run.has_checkpoint(name):
            self._chosen, _ = self.run.load_checkpoint(name, WEIGHTS)
        if self._chosen:
            load_weights(self.net, self._chosen, f"checkpoint {name!r}")


def _check_same(data: DataSet, processes: Processes) -> None:
    """Raise `InvalidInput` if the data differ between processes, judged by shape and labels."""
    labels = data.train_labels, data.test_labels
    here = (data.train_images.shape, *(zlib.crc32(part.numpy().tobytes()) for part in labels))
    if here != processes.broadcast(here):
        raise InvalidInput(
            f"process {processes.rank} has different data than the first process under the name "
            f"{data.name}: give all processes the same data"
        )
