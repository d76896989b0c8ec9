"""What an experiment becomes: data and their splits, network, loss and optimiser."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .. import data as data_sets
from .. import losses
from ..data import DataSet, digest, split_validation, subset
from ..data.dataset import Images, channel_statistics
from ..data.frames import Frames
from ..errors import DataError, InvalidInput, nearest
from ..experiment import Experiment, is_described
from ..experiment.recipe import is_path
from ..experiment.seeding import generator
from ..losses import Loss
from ..network import CustomNetwork, Model, Network, plan
from ..neuron import Neuron
from ..run import Run
from .own import build_custom

IMAGES_ALONE = ("rotate", "translate", "brightness", "mixup")  # augmentation, not of recordings


class Split(NamedTuple):
    """Images, or frames of recordings, not yet normalised, and their labels."""

    images: Images
    labels: Tensor

    def to(self, device: str) -> Split:
        return Split(self.images.to(device), self.labels.to(device))


def load_data(experiment: Experiment, data_dir: Path | None = None) -> DataSet:
    """The experiment's data; recordings binned into its time steps, see `tsslbp.data.load`."""
    return data_sets.load(experiment.data, data_dir, experiment.time_steps, experiment.binning)


def load_run_data(run: Run, data_dir: Path | None = None, at: str | Path | None = None) -> DataSet:
    """The data that a run has trained on, which may have been moved since, and the run's folder.

    Data of the user's own are looked for where they were, in `data_dir`, in the run's folder and in
    the folder that this lies in. Those of the recorded digest are taken.

    Args:
        run: what has been trained.
        data_dir: folder of the data sets, and perhaps of data of one's own.
        at: path of data of one's own; they are looked for nowhere else.

    Raises:
        DataError: the data are nowhere, or are others.
        InvalidInput: `at` is given, and the run has trained on a data set of the catalogue.
    """
    wanted = run.experiment
    if not is_path(wanted.data):
        if at is not None:
            raise InvalidInput(
                f"{run.folder} trains on the data set {wanted.data}, which --data-dir or "
                "TSSLBP_DATA finds; --set data=PATH is for data of one's own"
            )
        return load_data(wanted, data_dir)
    was = Path(wanted.data)
    folders = [*([data_dir] if data_dir else []), run.folder, run.folder.resolve().parent]
    places = [was, *(folder / was.name for folder in folders)] if at is None else [Path(at)]
    there = [os.path.abspath(place) for place in places if place.exists()]
    if not there:
        tried = ", ".join(str(place) for place in dict.fromkeys(places))
        raise DataError(
            f"the data of {run.folder} are not there (tried {tried}): say where they are by "
            "--set data=PATH, or put them beside the run"
        )
    expected = run.data_digest()
    for place in there:
        found = load_data(replace(wanted, data=place))
        if expected is None or digest(found) == expected:
            return found
    raise DataError(
        f"{there[0]} holds other data than {run.folder} has trained on, whose SHA-256 is "
        f"{expected and expected[:12]}...: say where they are by --set data=PATH"
    )


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


def build_network(
    experiment: Experiment,
    input_shape: Sequence[int],
    classes: int,
    impl: str = "auto",
    *,
    frames: bool = False,
    trust_code: bool = False,
) -> Network | CustomNetwork:
    """The experiment's network with the initial weights of its seed.

    Args:
        experiment: says which.
        input_shape: ``(C, H, W)``.
        classes: number of classes.
        impl: implementation of a network that is described by its layers.
        frames: whether the data are recordings, on which a network of one's own is then tried.
        trust_code: whether code may be run that came with the folder of a run or a study. The file
            that a recipe of one's own names is run in any case.

    Raises:
        InvalidInput: the experiment trains a network without spikes, or its network does not fit,
            or is code that may not be run.
    """
    if experiment.activation:
        raise InvalidInput(
            f"activation = {experiment.activation!r} is a network without spikes, for "
            "`tsslbp convert` alone"
        )
    net: Network | CustomNetwork
    if is_described(experiment.network):
        net = _described(experiment, input_shape, classes, impl)
    else:
        net = build_custom(experiment, input_shape, classes, frames=frames, trust_code=trust_code)
    net.statistics = experiment.mean, experiment.std
    return net


def _described(
    experiment: Experiment, input_shape: Sequence[int], classes: int, impl: str
) -> Network:
    neuron = Neuron(experiment.tau_m, experiment.tau_s, experiment.threshold)
    return Network(
        experiment.network,
        tuple(input_shape),
        classes,
        experiment.time_steps,
        neuron,
        padding=experiment.padding,
        weight_scale=experiment.weight_scale,
        conv_init=experiment.conv_init,
        dropout=experiment.dropout,
        dropout_kind=experiment.dropout_kind,
        pool_scale=experiment.pool_scale,
        neunorm=experiment.neunorm,
        rule=experiment.rule,
        impl=impl,
        generator=generator(experiment.seed, "weights"),
    )


def build_loss(experiment: Experiment) -> Loss:
    """The experiment's loss as a function of the output PSC and the labels."""
    smoothing = experiment.label_smoothing
    if experiment.loss == "softmax":
        return lambda psc, labels: losses.softmax(psc, labels, label_smoothing=smoothing)
    if experiment.loss == "tet":
        return lambda psc, labels: losses.tet(
            psc,
            labels,
            weight=experiment.tet_weight,
            target=experiment.threshold,
            label_smoothing=smoothing,
        )
    if experiment.loss == "count":
        desired, undesired = experiment.desired_count, experiment.undesired_count
        assert desired is not None and undesired is not None  # Experiment has checked it
        return lambda psc, labels: losses.count(psc, labels, desired=desired, undesired=undesired)
    return lambda psc, labels: losses.van_rossum(
        psc,
        labels,
        tau_s=experiment.tau_s,
        target_filters=experiment.target_filters,
        pattern=experiment.desired_train,
    )


def loss_per_image(experiment: Experiment, loss: float, images: int) -> float:
    """A step's loss divided by its images; some losses are means already."""
    return loss if experiment.loss in losses.MEANS else loss / images


def build_optimizer(experiment: Experiment, net: Model) -> torch.optim.Optimizer:
    """The experiment's optimiser; parameters of fewer than two dimensions do not decay.

    It does not hold those of frozen layers, which from then on ask for no gradient.

    Raises:
        InvalidInput: the network has no parameters, or none that is trained; or a layer to freeze
            is unknown.
    """
    if not any(True for _ in net.parameters()):
        raise InvalidInput(f"{net.description} has no parameters, so there is nothing to train")
    frozen = freeze(net, experiment.freeze or ())
    trained = [weight for weight in net.parameters() if weight not in frozen]
    if not trained:
        raise InvalidInput(
            f"freeze = {list(experiment.freeze or ())} leaves nothing of {net.description} to train"
        )
    decaying = [weight for weight in trained if weight.dim() > 1]
    others = [weight for weight in trained if weight.dim() <= 1]
    weights: list[dict[str, Any]] = [{"params": decaying}] if decaying else []
    weights += [{"params": others, "weight_decay": 0.0}] if others else []
    device = trained[0].device
    is_cuda = device.type == "cuda"
    rate: float | Tensor = experiment.learning_rate
    if is_cuda and rate_moves(experiment):
        rate = torch.tensor(rate, device=device)  # which a CUDA graph reads
    if experiment.optimizer == "sgd":
        momentum, decay = experiment.momentum, experiment.weight_decay
        return torch.optim.SGD(weights, lr=rate, momentum=momentum, weight_decay=decay)
    return torch.optim.AdamW(
        weights,
        lr=rate,
        betas=experiment.betas,
        weight_decay=experiment.weight_decay,
        fused=True,
        capturable=is_cuda,
    )


def freeze(net: Model, layers: Sequence[str]) -> set[nn.Parameter]:
    """Let the parameters of some layers stay as they are, and return them.

    Args:
        net: whose layers they are.
        layers: names of modules, those in them included: ``"conv1"`` of a network that is
            described, ``"0"`` or ``"blocks.1"`` of a module of one's own.

    Raises:
        InvalidInput: a layer is unknown, or has no parameters; names those that have some.
    """
    parameters = {
        key.removeprefix("module.") if isinstance(net, CustomNetwork) else key: one
        for key, one in net.named_parameters()
    }
    frozen: set[nn.Parameter] = set()
    for layer in layers:
        found = {one for key, one in parameters.items() if key.startswith(f"{layer}.")}
        if not found:
            known = list(dict.fromkeys(key.rpartition(".")[0] for key in parameters))
            raise InvalidInput(
                f"freeze: {net.description} has no layer {layer!r} with parameters"
                f"{nearest(layer, known)}; known: {', '.join(known)}"
            )
        frozen |= found
    for one in frozen:
        one.requires_grad_(False)
    return frozen


def rate_moves(experiment: Experiment) -> bool:
    """Whether the learning rate is not the same at all steps."""
    return experiment.schedule != "constant" or experiment.warm_up_epochs > 0


def learning_rate(experiment: Experiment, step: int, per_epoch: int) -> float:
    """The learning rate of a step, a function of its number alone.

    With e the epochs before the step (a fraction within an epoch), w ``warm_up_epochs``, E
    ``epochs`` and r ``learning_rate``: in the warm-up, where e < w, it is ``r (step + 1) / W`` with
    ``W = w per_epoch`` steps, at most r. After it:

    - constant: r.
    - cosine: ``f + (r - f) (1 + cos(pi (e - w) / (E - w))) / 2``, f being
      ``final_learning_rate`` (Loshchilov & Hutter, "SGDR", ICLR 2017, without restarts).
    - step: ``r step_factor^k``, k being how many of ``step_epochs`` have passed, from the first
      epoch on.

    Args:
        experiment: whose keys these are.
        step: counted from the run's first, 0.
        per_epoch: steps in an epoch.
    """
    rate, warm_up = experiment.learning_rate, experiment.warm_up_epochs
    before = step / per_epoch
    if before < warm_up:
        return rate * min(1.0, (step + 1) / (warm_up * per_epoch))
    if experiment.schedule == "cosine":
        done = min(1.0, (before - warm_up) / (experiment.epochs - warm_up))
        final = experiment.final_learning_rate
        return final + (rate - final) * (1 + math.cos(math.pi * done)) / 2
    if experiment.schedule == "step":
        epochs, finished = experiment.step_epochs, step // per_epoch
        assert epochs is not None  # Experiment has checked it
        passed = (
            finished // epochs
            if isinstance(epochs, int)
            else sum(finished >= one for one in epochs)
        )
        return rate * experiment.step_factor**passed
    return rate


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of all parameters, on a GPU without waiting for it."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def check_data(experiment: Experiment, data: DataSet) -> None:
    """Raise `InvalidInput` where the channels, size or number of images do not fit."""
    channels, _, _ = data.input_shape
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
    _check_augmentation(experiment, data)
    _check_counts(experiment, data)


def check_network(
    experiment: Experiment, data: DataSet, *, trust_code: bool = False
) -> Model | None:
    """Raise `InvalidInput` where the experiment's network does not go with the data.

    Returns:
        A network of one's own, which has to be made for that; None of one that is described.
    """
    if is_described(experiment.network):
        shape, settings = data.input_shape, (experiment.padding, experiment.neunorm)
        plan(experiment.network, shape, data.classes, *settings)
        return None
    return build_for(experiment, data, trust_code=trust_code)


def build_for(
    experiment: Experiment, data: DataSet, impl: str = "auto", *, trust_code: bool = False
) -> Network | CustomNetwork:
    """`build_network` for the images or the recordings of some data."""
    frames = isinstance(data.train_images, Frames)
    shape, classes = data.input_shape, data.classes
    return build_network(experiment, shape, classes, impl, frames=frames, trust_code=trust_code)


def _check_augmentation(experiment: Experiment, data: DataSet) -> None:
    """Raise `InvalidInput` where the images cannot be augmented as the experiment says."""
    _, height, width = data.input_shape
    black = {"crop_padding": "a crop could be all black", "cutout": "an image could be all blank"}
    for name, why in black.items():
        if (pixels := getattr(experiment, name)) >= min(height, width):
            raise InvalidInput(
                f"{name} must be below the images' size, {height} x {width} for {data.name}, "
                f"got {pixels}: {why}"
            )
    if isinstance(data.train_images, Frames):
        for name in IMAGES_ALONE:
            if getattr(experiment, name):
                raise InvalidInput(
                    f"{name} is for images, and {data.name} holds recordings, which take "
                    "crop_padding, horizontal_flip, roll and cutout"
                )


def _check_counts(experiment: Experiment, data: DataSet) -> None:
    """Raise `InvalidInput` where there are fewer images than the experiment divides."""
    count, held_out = len(data.train_labels), 0
    if experiment.protocol == "validated":
        held_out = experiment.validation_images
        if not 0 < held_out < count:
            raise InvalidInput(
                f"validation_images must be between 1 and {count - 1} for {data.name}, "
                f"got {held_out}"
            )
    left = count - held_out
    if experiment.train_images is not None and experiment.train_images > left:
        raise InvalidInput(
            f"train_images must be at most {left}, the training images of {data.name} that are "
            f"left, got {experiment.train_images}"
        )
