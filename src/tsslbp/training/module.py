"""`fit`: train a PyTorch module in the same way as a recipe's network."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from torch import nn

from .. import data as data_sets
from ..data import DataSet, Frames
from ..errors import InvalidInput, RunError
from ..experiment import Experiment
from ..experiment.networks import AT_HAND
from ..layers import LIF
from ..network import CustomNetwork, Network
from ..run import Run, claim, has_begun, results
from .loop import Observer, Training
from .progress import Display

OF_MODULE = ("data", "network", "rule", "network_settings", "network_checksum", "activation")


def fit(
    module: nn.Module,
    data: DataSet | str,
    settings: Experiment | None = None,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    device: str = "cpu",
    data_dir: Path | None = None,
    observer: Observer | None = None,
    progress: bool = False,
    **changes: Any,
) -> CustomNetwork:
    """Train your own module with the settings of an experiment, in the same loop as ``train``.

    The module is trained in place, from its present weights unless `weights` names others. It must
    be a network that `tsslbp.network.CustomNetwork` accepts, with at least one `tsslbp.layers.LIF`.

        net = tsslbp.fit(module, "mnist", time_steps=4, loss="tet", epochs=10, out="runs/mine")

    Args:
        module: maps images ``[N, C, H, W]``, or recordings ``[T, N, C, H, W]``, to
            ``[T, N, classes]``.
        data: a data set, or the name or path of one, as in a recipe.
        settings: by default those of a recipe without any settings.
        out: the run folder, for records and checkpoints; None: nothing is written.
        resume: continue the run in `out`, if there is one. The module then takes the weights of its
            last checkpoint.
        device: device to train on; for a GPU see `tsslbp.training.configure`.
        data_dir: folder of the data sets.
        observer: receives every step and epoch: an object with two methods,
            ``on_step(epoch, step, steps, result)`` after each step (`step` of `steps` in the epoch,
            both from 1; `result.loss` summed as the loss sums it, `result.correct` of
            `result.images`, `result.gradient_norm`), and ``on_epoch(record)`` with the epoch's
            record as written to ``metrics.jsonl``.
        progress: show a progress bar in a terminal or a notebook, and one line per epoch.
        changes: keys of an `Experiment` that differ from `settings`, except those that the module
            or `data` determine. The run's configuration names the class of the module as its
            network (``"module:Sequential"``) and the rule of the module's first `LIF` as its rule.
            The keys tau_m, tau_s and threshold do not change the module's neurons; but the kernel
            loss filters its target with the key tau_s, and the loss tet pulls outputs towards the
            key threshold: if your output layer has other constants, set these keys to them. The
            default loss, kernel, needs an output layer of neurons; for logits, choose softmax or
            tet.

    Returns:
        The module as a trained network in evaluation mode, with the weights of the epoch chosen on
        validation images, or of the last epoch if no images are held out.
        ``tsslbp.load(out, module=...)`` loads the weights into a module of the same structure.

    Raises:
        InvalidInput: a key, the data or the module is invalid.
        Diverged: the loss or the gradient became NaN or infinite.
        RunError: `out` holds a run with other settings, or a run although `resume` is false, or it
            cannot be read or written.
    """
    for key in OF_MODULE:
        if key in changes:
            raise InvalidInput(
                f"fit cannot change {key}: the module or the data determine it; leave it out"
            )
    if not isinstance(data, str | data_sets.DataSet):
        raise InvalidInput(
            f"data must be a data set of tsslbp or the name of one, got {type(data).__name__}: "
            "tsslbp.data.DataSet.from_torch(name, pairs) makes one of images with labels"
        )
    if isinstance(module, Network):
        raise InvalidInput(
            "fit trains a module of your own, not a tsslbp.Network: write network = "
            f"{module.description!r} into a recipe, and train it with tsslbp train or "
            "tsslbp.training.fit"
        )
    name = data if isinstance(data, str) else data.name
    wanted = _experiment(module, name, settings, changes)
    if isinstance(data, str):
        data = data_sets.load(name, data_dir, wanted.time_steps, wanted.binning)
    fits = data.input_shape, data.classes, wanted.time_steps
    frames = isinstance(data.train_images, Frames)
    net = CustomNetwork(module, *fits, frames=frames, description="the module")
    with claim(Path(out)) if out is not None else nullcontext():
        resumed = resume and out is not None and has_begun(Path(out))
        training = Training(wanted, data, net, device=device, resumed=resumed)
        run = _run(Path(out), wanted, resume) if out is not None else None
        if not progress:
            training.fit(run, observer)
            return net
        with Display(wanted.epochs, then=observer) as display:
            training.fit(run, display)
    return net


def _experiment(
    module: nn.Module, data: str, settings: Experiment | None, changes: Mapping[str, Any]
) -> Experiment:
    """Return the experiment of a run that trains the module."""
    decided: dict[str, Any] = {"data": data, "network": f"{AT_HAND}{type(module).__name__}"}
    decided |= {"network_settings": {}, "network_checksum": None, "activation": None}
    if isinstance(module, nn.Module):  # otherwise `CustomNetwork` reports the error
        rules = [part.start.rule for part in module.modules() if isinstance(part, LIF)]
        decided |= {"rule": rules[0]} if rules else {}
    base = settings.to_table() if settings else {}
    return Experiment.from_table({**base, **changes, **decided})


def _run(folder: Path, wanted: Experiment, resume: bool) -> Run:
    if not os.path.exists(folder / "config.toml"):
        return Run.create(folder, wanted)
    if not resume:
        raise RunError(
            f"{folder} holds a run already: resume it with resume=True, or choose another out"
        )
    return results.reopen(folder, wanted, wanted.epochs)
