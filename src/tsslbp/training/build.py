"""Builds what an experiment needs: data and their splits, network, loss and optimiser."""

from __future__ import annotations

import functools
import inspect
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .. import data as data_sets
from .. import losses, wording
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

IMAGES_ALONE = ("rotate", "translate", "brightness", "mixup")  # augmentation of images only


class Split(NamedTuple):
    """Images, or frames of recordings, not yet normalised, and their labels."""

    images: Images
    labels: Tensor

    def to(self, device: str) -> Split:
        """Return the same images and labels on a device."""
        return Split(self.images.to(device), self.labels.to(device))


def load_data(experiment: Experiment, data_dir: Path | None = None) -> DataSet:
    """Load the experiment's data; recordings are binned (see `tsslbp.data.load`)."""
    return data_sets.load(experiment.data, data_dir, experiment.time_steps, experiment.binning)


def load_run_data(run: Run, data_dir: Path | None = None, at: str | Path | None = None) -> DataSet:
    """Load the data on which a run was trained, even if they or the run folder have been moved.

    The user's own data are searched for at their original path, in `data_dir`, in the run folder
    and in its parent folder. The data with the recorded digest are used.

    Args:
        run: the trained run.
        data_dir: folder of the data sets, and possibly of the user's own data.
        at: path of the user's own data; if given, no other place is searched.

    Raises:
        DataError: the data are not found, or differ from those recorded.
        InvalidInput: `at` is given, but the run was trained on a data set of the catalogue; or the
            data were given to the training in Python.
    """
    wanted = run.experiment
    if not is_path(wanted.data):
        if wanted.data not in data_sets.catalogue.entries():
            raise InvalidInput(
                f"{run.folder} was trained by a script on the data set {wanted.data!r} of its own, "
                f"which this command cannot load; tsslbp.load({str(run.folder)!r}) returns the "
                "trained network in Python"
            )
        if at is not None:
            raise InvalidInput(
                f"{run.folder} was trained on the data set {wanted.data}, which is found by "
                "--data-dir or TSSLBP_DATA; use --set data=PATH only for your own data"
            )
        return load_data(wanted, data_dir)
    was = Path(wanted.data)
    folders = [*([data_dir] if data_dir else []), run.folder, run.folder.resolve().parent]
    places = [was, *(folder / was.name for folder in folders)] if at is None else [Path(at)]
    there = [os.path.abspath(place) for place in places if os.path.exists(place)]
    if not there:
        tried = ", ".join(str(place) for place in dict.fromkeys(places))
        raise DataError(
            f"the data of {run.folder} were not found (tried {tried}): give their path with "
            "--set data=PATH, or put them next to the run"
        )
    expected = run.data_digest()
    for place in there:
        found = load_data(replace(wanted, data=place))
        if expected is None or digest(found) == expected:
            return found
    raise DataError(
        f"{there[0]} differs from the data on which {run.folder} was trained, whose SHA-256 is "
        f"{expected and expected[:12]}...: give their path with --set data=PATH"
    )


def splits(experiment: Experiment, data: DataSet) -> tuple[Split, Split | None, Split]:
    """Return training, validation and test images; None for validation if none are held out."""
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
    """Build the experiment's network with the initial weights of its seed.

    Args:
        experiment: describes the network.
        input_shape: ``(C, H, W)``.
        classes: number of classes.
        impl: implementation of a network that is described by its layers.
        frames: whether the data are recordings; a custom network is then tried on recordings.
        trust_code: whether code that came with the folder of a run or a study may be executed. A
            file that the user's own recipe names is always executed.

    Raises:
        InvalidInput: the experiment trains a network without spikes, or its network is invalid, or
            its code may not be executed.
    """
    if experiment.activation:
        raise InvalidInput(
            f"activation = {experiment.activation!r} describes a network without spikes, which "
            "only `tsslbp convert` trains"
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
    """Return the experiment's loss, a function of the output PSC and the labels."""
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
    """Return a step's loss per image; some losses are means already."""
    return loss if experiment.loss in losses.MEANS else loss / images


def build_optimizer(experiment: Experiment, net: Model) -> torch.optim.Optimizer:
    """Build the experiment's optimiser; only the weights of connections decay.

    It excludes the parameters of frozen layers, whose gradients are then no longer computed.

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
            f"freeze = {list(experiment.freeze or ())} leaves no parameters of {net.description} "
            "to train: freeze fewer layers"
        )
    connections = set(net.connection_weights())
    decaying = [weight for weight in trained if weight in connections]
    others = [weight for weight in trained if weight not in connections]
    weights: list[dict[str, Any]] = [{"params": decaying}] if decaying else []
    weights += [{"params": others, "weight_decay": 0.0}] if others else []
    device = trained[0].device
    is_cuda = device.type == "cuda"
    rate: float | Tensor = experiment.learning_rate
    if is_cuda and rate_moves(experiment):
        rate = torch.tensor(rate, device=device)  # a CUDA graph reads it
    if experiment.optimizer == "sgd":
        momentum, decay = experiment.momentum, experiment.weight_decay
        return _light(torch.optim.SGD)(weights, lr=rate, momentum=momentum, weight_decay=decay)
    return _light(torch.optim.AdamW)(
        weights,
        lr=rate,
        betas=experiment.betas,
        weight_decay=experiment.weight_decay,
        fused=True,
        capturable=is_cuda,
    )


@functools.cache
def _light(kind: type[torch.optim.Optimizer]) -> Callable[..., torch.optim.Optimizer]:
    """Return an optimiser's class without what prepares its methods for `torch.compile`.

    Otherwise the first call of each would import PyTorch's compiler, which takes as long as
    importing PyTorch itself.
    """
    names = ("add_param_group", "zero_grad", "state_dict", "load_state_dict", "step")
    methods = {name: torch.no_grad()(inspect.unwrap(getattr(kind, name))) for name in names}
    return type(kind.__name__, (kind,), methods)


def freeze(net: Model, layers: Sequence[str]) -> set[nn.Parameter]:
    """Exclude the parameters of some layers from training, and return them.

    Args:
        net: the network.
        layers: names of modules, including the modules in them: ``"conv1"`` of a network described
            by its layers, ``"0"`` or ``"blocks.1"`` of a custom module.

    Raises:
        InvalidInput: a layer is unknown or has no parameters; the message names those that do.
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
    """Return whether the learning rate differs between steps."""
    return experiment.schedule != "constant" or experiment.warm_up_epochs > 0


def learning_rate(experiment: Experiment, step: int, per_epoch: int) -> float:
    """Return the learning rate of a step, a function of its number only.

    Let e be the epochs before the step (a fraction within an epoch), w ``warm_up_epochs``, E
    ``epochs`` and r ``learning_rate``. In the warm-up, where e < w, the learning rate is
    ``r (step + 1) / W`` with ``W = w per_epoch`` steps, and at most r. After it:

    - constant: r.
    - cosine: ``f + (r - f) (1 + cos(pi (e - w) / (E - w))) / 2``, f being
      ``final_learning_rate`` (Loshchilov & Hutter, "SGDR", ICLR 2017, without restarts).
    - step: ``r step_factor^k``, where k is the number of ``step_epochs`` that have passed, counted
      from the first epoch.

    Args:
        experiment: has the keys named above.
        step: number of the step, counted from the run's first, 0.
        per_epoch: steps per epoch.
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
    """Set the learning rate of all parameters; on a GPU without waiting for it."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def check_data(experiment: Experiment, data: DataSet) -> None:
    """Raise `InvalidInput` if channels, size or number of the images do not fit the experiment."""
    channels, _, _ = data.input_shape
    if isinstance(data.train_images, Frames):
        channel_statistics(data.train_images, experiment.mean, experiment.std)
        if (steps := data.train_images.shape[1]) != experiment.time_steps:
            raise InvalidInput(
                f"{data.name} holds recordings of {steps} frames, but time_steps is "
                f"{experiment.time_steps}: set time_steps = {steps}"
            )
    for name in ("mean", "std"):
        count = len(getattr(experiment, name))
        if count not in (1, channels):
            raise InvalidInput(
                f"{name} holds {wording.count(count, 'number')}, but {data.name} has images of "
                f"{wording.count(channels, 'channel')}: give one number"
                f"{f', or {channels}' if channels > 1 else ''}"
            )
    _check_augmentation(experiment, data)
    _check_counts(experiment, data)


def check_network(
    experiment: Experiment, data: DataSet, *, trust_code: bool = False
) -> Model | None:
    """Raise `InvalidInput` if the experiment's network does not fit the data.

    Returns:
        A custom network, which must be built for this check; None for a described network.
    """
    if is_described(experiment.network):
        shape, settings = data.input_shape, (experiment.padding, experiment.neunorm)
        plan(experiment.network, shape, data.classes, *settings)
        return None
    return build_for(experiment, data, trust_code=trust_code)


def build_for(
    experiment: Experiment, data: DataSet, impl: str = "auto", *, trust_code: bool = False
) -> Network | CustomNetwork:
    """Call `build_network` with the shape and kind of some data."""
    frames = isinstance(data.train_images, Frames)
    shape, classes = data.input_shape, data.classes
    return build_network(experiment, shape, classes, impl, frames=frames, trust_code=trust_code)


def _check_augmentation(experiment: Experiment, data: DataSet) -> None:
    """Raise `InvalidInput` if the data do not allow the experiment's augmentation."""
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
                    f"{name} applies only to images, but {data.name} holds recordings, which allow "
                    "crop_padding, horizontal_flip, roll and cutout"
                )


def _check_counts(experiment: Experiment, data: DataSet) -> None:
    """Raise `InvalidInput` if there are fewer images than the experiment's splits need."""
    count, held_out = len(data.train_labels), 0
    if experiment.protocol == "validated":
        held_out = experiment.validation_images
        if count < 2:
            raise InvalidInput(
                f"{data.name} has only {wording.count(count, 'training image')}, so none can be "
                "held out for validation: set protocol = 'published'"
            )
        if not 0 < held_out < count:
            default = "" if held_out != Experiment.validation_images else ", the default"
            raise InvalidInput(
                f"validation_images must be between 1 and {count - 1} for {data.name}, "
                f"got {held_out}{default}"
            )
    left = count - held_out
    if experiment.train_images is not None and experiment.train_images > left:
        raise InvalidInput(
            f"train_images must be at most {left}, the number of remaining training images of "
            f"{data.name}, got {experiment.train_images}"
        )
