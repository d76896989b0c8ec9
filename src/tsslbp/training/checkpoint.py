"""Checkpoints: the state of a training as tensors; `load` returns a run's trained network."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from ..checked import Checked, Natural, NonNegative
from ..errors import Diverged, InvalidInput, RunError
from ..experiment import Experiment, check_trust, is_described
from ..experiment.weights import PREFERRED, weights_source
from ..network import CustomNetwork, Model, Network, plan
from ..run import AVERAGED, WEIGHTS, Run, read_weights
from .averaging import AveragedWeights
from .build import build_network
from .history import History


@dataclass
class Progress:
    """The progress of a run, stored in its checkpoint ``last``."""

    epochs: int = 0  # finished epochs
    step: int = 0  # finished steps of the current epoch
    seconds: float = 0.0  # spent on the current epoch
    best: dict[str, float] = field(default_factory=dict)  # accuracy by checkpoint name
    best_epoch: dict[str, int] = field(default_factory=dict)
    finished: bool = False
    told: list[str] = field(default_factory=list)  # warnings given, see `symptoms`
    still: list[str] = field(default_factory=list)  # parameters without gradient in this epoch

    @property
    def steps_taken(self) -> bool:
        """Whether the training has taken any steps."""
        return self.epochs > 0 or self.step > 0


@final
@dataclass
class TrainingState:
    """All that training steps change. The checkpoint ``last`` holds it; others hold weights."""

    net: Model
    optimizer: torch.optim.Optimizer
    averaged: AveragedWeights | None = None
    progress: Progress = field(default_factory=Progress)
    history: History = field(default_factory=History)

    def weights(self, name: str) -> dict[str, Tensor]:
        """Return the weights of checkpoint `name`, the network's or the averaged ones.

        Raises:
            Diverged: a weight is NaN or infinite.
        """
        averaged = self.averaged.values if self.averaged and name == AVERAGED else None
        values = self.net.state_dict() if averaged is None else averaged
        weights = {f"{WEIGHTS}{key}": value for key, value in values.items()}
        for key, value in weights.items():
            if not torch.isfinite(value).all():
                raise Diverged(f"{key} holds NaN or infinity; the last good checkpoint is kept")
        return weights

    def save(self, run: Run, name: str, input_shape: Sequence[int], classes: int) -> None:
        """Write checkpoint `name`; `load` builds a network from `input_shape` and `classes`."""
        tensors = self.weights(name)
        state: dict[str, Any] = {"input_shape": input_shape, "classes": classes}
        state["epoch"] = self.progress.epochs
        if isinstance(self.net, CustomNetwork) and self.net.frames:
            state["frames"] = True
        if name == "last":
            progress = asdict(self.progress)
            lists = ("told", "still")  # unknown to earlier versions
            state["progress"] = {
                key: value for key, value in progress.items() if value or key not in lists
            }
            for index, moments in self.optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer.{index}.{key}": value for key, value in moments.items()}
            if self.averaged:
                tensors |= {f"averaged.{key}": one for key, one in self.averaged.values.items()}
            for key, array in self.history.arrays().items():
                tensors[f"history.{key}"] = torch.from_numpy(array)
        run.save_checkpoint(name, tensors, state)

    def restore(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any], source: str) -> None:
        """Restore the state of a checkpoint ``last``; `source` names it in errors.

        Everything is checked before anything is changed.

        Raises:
            RunError: it belongs to another network, is another checkpoint, or contains a tensor of
                an unexpected name, shape or type, or NaN or infinity.
        """
        weights = _weights(WEIGHTS, self.net, tensors, source)
        averaged = _weights("averaged.", self.net, tensors, source) if self.averaged else {}
        progress = _progress(_entry(state, "progress", source), source)
        moments = _moments(self.optimizer, _under("optimizer.", tensors), source)
        if progress.steps_taken and not _is_complete(moments, self.optimizer, self.net):
            raise RunError(f"{source} lacks moments of the optimiser, so it cannot be resumed")
        history = _history(_under("history.", tensors), source)
        self.net.load_state_dict(weights)
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        if self.averaged:
            for key, value in averaged.items():
                self.averaged.values[key].copy_(value)
        self.history, self.progress = History(history), progress


def load_weights(net: Model, tensors: Mapping[str, Tensor], source: str) -> None:
    """Load a checkpoint's weights into `net`.

    Raises:
        RunError: they belong to another network; the message names the difference.
    """
    net.load_state_dict(_weights(WEIGHTS, net, tensors, source))


def _weights(
    prefix: str, net: Model, tensors: Mapping[str, Tensor], source: str
) -> dict[str, Tensor]:
    """Return the weights of `net` that a checkpoint holds under a prefix."""
    weights = dict(net.with_present_keys(_under(prefix, tensors)))
    if not weights and _under(WEIGHTS, tensors):
        raise RunError(f"{source} holds no {prefix[:-1]} weights: the run was trained without them")
    expected = net.state_dict()
    shapes = [{key: tuple(one.shape) for key, one in all_.items()} for all_ in (weights, expected)]
    if shapes[0] != shapes[1]:
        found, wanted = shapes
        name = min(key for key in found | wanted if found.get(key) != wanted.get(key))
        raise RunError(
            f"{source} belongs to another network than {net.description!r}: {name} has shape "
            f"{found.get(name, 'none')} there and {wanted.get(name, 'none')} here"
        )
    for key, value in weights.items():
        _check_tensor(f"{prefix}{key}", value, expected[key], source)
    return weights


def _whole(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights in float32; shipped networks store them in float16."""
    return {
        key: value.float() if value.dtype == torch.float16 else value
        for key, value in weights.items()
    }


@final
@dataclass(frozen=True)
class Start:
    """The trained weights from which a network starts, a part of those in `source`.

    Attributes:
        source: `weights` in the recipe.
        taken: keys of the network's state whose values were taken.
        left: the other keys of the network and of the file, each with the reason.
    """

    source: str
    taken: tuple[str, ...]
    left: tuple[str, ...]


def start_from_weights(net: Model, experiment: Experiment) -> Start | None:
    """Load the trained weights that an experiment starts from; None if it names none.

    Raises:
        InvalidInput: the weights cannot be read, have another checksum, or do not fit; the message
            names the difference.
        RunError: the file is damaged.
    """
    if experiment.weights is None:
        return None
    file, content = weights_source(experiment.weights, experiment.weights_checksum)
    found = _whole(net.with_present_keys(read_weights(content, file)))
    if isinstance(net, CustomNetwork) and not any(key.startswith("module.") for key in found):
        found = {f"module.{key}": value for key, value in found.items()}  # of the bare module
    state = net.state_dict()
    taken = {
        key: value
        for key, value in found.items()
        if key in state and value.shape == state[key].shape
    }
    left = tuple(_difference(key, found, state) for key in (state | found) if key not in taken)
    if left and not experiment.weights_partial:
        more = f" and {len(left) - 3} more" if len(left) > 3 else ""
        raise InvalidInput(
            f"weights = {experiment.weights!r} do not fit {net.description}: "
            f"{'; '.join(left[:3])}{more}; weights_partial = true (--weights-partial) uses only "
            "those that fit"
        )
    if not taken:
        raise InvalidInput(
            f"weights = {experiment.weights!r} contain nothing that fits {net.description}: "
            f"{'; '.join(left[:3])}"
        )
    for key, value in taken.items():
        _check_finite(key, value, f"weights = {experiment.weights!r}")
    net.load_state_dict(state | taken)
    return Start(experiment.weights, tuple(taken), left)


def _difference(key: str, found: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    """Return text such as ``"output.weight is 10 x 300 there and 26 x 300 here"``."""
    there, here = (
        " x ".join(map(str, one[key].shape)) or "a number" if key in one else "missing"
        for one in (found, state)
    )
    return f"{key} is {there} there and {here} here"


def _check_tensor(name: str, found: Tensor, expected: Tensor, source: str) -> None:
    """Raise `RunError` if a tensor has an unexpected shape or type, or is not finite."""
    if found.shape != expected.shape:
        raise RunError(
            f"{source} is damaged: {name} has shape {list(found.shape)}, expected "
            f"{list(expected.shape)}"
        )
    if found.dtype != expected.dtype:
        types = [str(one.dtype).removeprefix("torch.") for one in (found, expected)]
        raise RunError(
            f"{source}: {name} holds numbers of type {types[0]}, expected {types[1]}; was it "
            "written by another program?"
        )
    _check_finite(name, found, source)


def _check_finite(name: str, found: Tensor, source: str) -> None:
    # A sum is not finite if one of its numbers is not; it may be too large otherwise.
    if not (math.isfinite(found.sum()) or torch.isfinite(found).all()):
        raise RunError(f"{source} cannot be used: {name} contains NaN or infinity")


def _moments(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], source: str
) -> dict[int, dict[str, Tensor]]:
    """Return the optimiser's moments by the number of their parameter, after checking them."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    found: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, _, name = key.partition(".")
        if not (index.isdecimal() and len(index) < 10 and int(index) < len(weights)):
            raise RunError(f"{source} is damaged: optimizer.{key} belongs to no parameter here")
        found.setdefault(int(index), {})[name] = value
    for number, moments in found.items():
        expected = _expected_moments(optimizer, weights[number])
        if moments.keys() != expected.keys():
            name = min(moments.keys() ^ expected.keys())
            what = "holds no" if name in expected else "holds an unknown"
            raise RunError(f"{source} {what} optimizer.{number}.{name}")
        for name, value in moments.items():
            _check_tensor(f"optimizer.{number}.{name}", value, expected[name], source)
    return found


def _expected_moments(optimizer: torch.optim.Optimizer, weight: Tensor) -> dict[str, Tensor]:
    """Return tensors of the shapes that an optimiser keeps for a parameter."""
    if isinstance(optimizer, torch.optim.SGD):
        return {"momentum_buffer": weight} if optimizer.defaults["momentum"] else {}
    return {"step": torch.zeros(()), "exp_avg": weight, "exp_avg_sq": weight}


def _is_complete(
    moments: Mapping[int, object], optimizer: torch.optim.Optimizer, net: Model
) -> bool:
    """Return whether no moments are missing; parameters unused by a custom network have none."""
    if isinstance(optimizer, torch.optim.SGD) and not optimizer.defaults["momentum"]:
        return True
    count = sum(weight.requires_grad for weight in net.parameters())
    return bool(moments) if isinstance(net, CustomNetwork) else len(moments) == count


def _history(tensors: Mapping[str, Tensor], source: str) -> dict[str, Any]:
    """Return the numbers of all steps as arrays, after checking that they are consistent."""
    arrays = {key: value.numpy() for key, value in tensors.items()}
    for key, array in arrays.items():
        if key not in History.COLUMNS + History.ACTIVITY:
            raise RunError(f"{source} is damaged: history.{key} is unknown")
        first = "loss" if key in History.COLUMNS else "activity_step"
        length = len(arrays[first]) if first in arrays and arrays[first].ndim else -1
        dimensions = 2 if key in ("firing_rate", "warm_up") and length else 1
        if array.dtype != History.dtype(key) or array.ndim != dimensions or len(array) != length:
            raise RunError(
                f"{source} is damaged: history.{key} holds {array.dtype} of shape "
                f"{list(array.shape)}"
            )
    return arrays


def _progress(table: Any, source: str) -> Progress:
    """Return a checkpoint's progress; raise `RunError` if it is invalid."""
    try:
        known = asdict(_Known.from_table(table))
        return Progress(**{**known, "told": list(known["told"]), "still": list(known["still"])})
    except (InvalidInput, AttributeError, TypeError) as error:
        raise RunError(f"{source} is damaged: {error}") from error


@dataclass(frozen=True)
class _Known(Checked, called="progress: "):
    """The keys of `Progress`, and their permitted values in a checkpoint."""

    epochs: Natural
    step: Natural
    seconds: NonNegative
    best: Mapping[str, NonNegative]
    best_epoch: Mapping[str, Natural]
    finished: bool
    told: tuple[str, ...] = ()
    still: tuple[str, ...] = ()


def default_checkpoint(run: Run) -> str:
    """Return the checkpoint chosen on validation images if there is one, otherwise the last."""
    return next((name for name in PREFERRED if run.has_checkpoint(name)), PREFERRED[-1])


def load(
    folder: str | Path,
    checkpoint: str | None = None,
    *,
    module: nn.Module | None = None,
    trust_code: bool = False,
) -> Network | CustomNetwork:
    """Return a run's trained network, in evaluation mode.

    It takes images normalised by the run's mean and standard deviation, as in training
    (`tsslbp.data.normalise`).

    Args:
        folder: the run folder, or the name of a pretrained network, such as ``"mnist"``
            (`tsslbp.experiment.trained_names`); a run folder of that name takes precedence.
        checkpoint: ``"last"``, ``"best-validation"``, ``"best-test"`` or, for a run that averages
            its weights, ``"averaged"``; by default `default_checkpoint`.
        module: a module of the same structure as the trained one, which receives the weights. No
            code of the folder is executed.
        trust_code: whether the code of the folder may be executed to build the network: a run
            keeps the file of a custom network. Set it only for a file that you know.

    Raises:
        RunError: there is no such run or checkpoint, or it cannot be read, or it belongs to another
            network.
        InvalidInput: the run was made by `tsslbp convert`, which trains a network without spikes;
            or its network needs code that may not be executed, or a module that is not given.
    """
    run = Run.open(Path(folder), trust_code)
    net, _ = read_network(run, checkpoint or default_checkpoint(run), module=module)
    return net


def read_network(
    run: Run, name: str, *, module: nn.Module | None = None
) -> tuple[Network | CustomNetwork, dict[str, Any]]:
    """Return a run's trained network, as `load` does, and the state of the same checkpoint.

    Code of the folder is executed if the run permits it.
    """
    if module is None:
        check_trust(run.experiment, run.trust_code)
    tensors, state = run.load_checkpoint(name, WEIGHTS)
    source = f"checkpoint {name!r} of {run.folder}"
    shape = _input_shape(state, source)
    classes, _ = _count(state, "classes", 1, source), _count(state, "epoch", 0, source)
    frames = bool(state.get("frames"))
    net: Network | CustomNetwork
    if module is None:
        _check_size(run.experiment, shape, classes, tensors, source)
        trust = run.trust_code
        net = build_network(run.experiment, shape, classes, frames=frames, trust_code=trust)
    else:
        steps, called = run.experiment.time_steps, "the module"
        net = CustomNetwork(module, shape, classes, steps, frames=frames, description=called)
    load_weights(net, _whole(tensors) if run.is_shipped else tensors, source)
    return net.eval(), state


def _check_size(
    experiment: Experiment,
    shape: tuple[int, ...],
    classes: int,
    tensors: Mapping[str, Tensor],
    source: str,
) -> None:
    """Raise `RunError` if the configuration describes a larger network than the weights.

    Building it first could take all memory.
    """
    if is_described(experiment.network):
        layers = plan(experiment.network, shape, classes, experiment.padding, experiment.neunorm)
        wanted = sum(layer.parameters for layer in layers)
        held = sum(one.numel() for one in _under(WEIGHTS, tensors).values())
        if wanted > 2 * held:  # below that, the message names the layer that differs
            raise RunError(
                f"{source} belongs to another network than {experiment.network!r}: it has "
                f"{held:,} weights, but that network has {wanted:,}"
            )


def _input_shape(state: Mapping[str, Any], source: str) -> tuple[int, int, int]:
    shape = _entry(state, "input_shape", source)
    if not (
        isinstance(shape, list)
        and len(shape) == 3
        and all(type(size) is int and size > 0 for size in shape)
    ):
        raise RunError(f"{source} is damaged: input_shape is {shape!r:.40}")
    return shape[0], shape[1], shape[2]


def _count(state: Mapping[str, Any], key: str, least: int, source: str) -> int:
    value = _entry(state, key, source)
    if type(value) is not int or value < least:
        raise RunError(f"{source} is damaged: {key} is {value!r:.40}")
    return value


def _entry(state: Mapping[str, Any], key: str, source: str) -> Any:
    if key not in state:
        raise RunError(f"{source} has no {key!r}, so it is not the checkpoint that its name says")
    return state[key]


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)
    }
