"""The network of an experiment that a function builds, in a user's file or in `tsslbp.models`.

Only this module executes the code of a file.
"""

from __future__ import annotations

import copy
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, final

import torch
from torch import nn

from .. import models
from ..checked import check_keys
from ..errors import Error, InvalidInput, nearest
from ..experiment import Experiment, check_trust, network_file, network_name
from ..experiment.networks import NetworkFile, checksum_of
from ..experiment.seeding import derive
from ..layers import LIF
from ..network import CustomNetwork, Model
from ..neuron import Neuron

CALL = "make(input_shape, classes, settings)"
UNREAD = (
    "padding",
    "weight_scale",
    "conv_init",
    "pool_scale",
    "neunorm",
    "dropout_kind",
)  # keys that `models` ignore


def build_custom(
    experiment: Experiment,
    input_shape: Sequence[int],
    classes: int,
    *,
    frames: bool = False,
    trust_code: bool = False,
) -> CustomNetwork:
    """Return the network that an experiment's function builds, with initial weights by seed.

    Args:
        experiment: its `network` names a function.
        input_shape: ``(C, H, W)``.
        classes: number of classes.
        frames: whether the data are recordings.
        trust_code: whether the code of a file that came with a folder may be executed.

    Raises:
        InvalidInput: the code may not be executed, or fails, or the network that it builds is
            invalid. The message names the file and the line.
    """
    check_trust(experiment, trust_code)
    file, shape = network_file(experiment.network), tuple(input_shape)
    wrapped = partial(
        CustomNetwork,
        input_shape=shape,
        classes=classes,
        time_steps=experiment.time_steps,
        frames=frames,
        description=network_name(experiment.network),
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive(experiment.seed, "weights"))
        if file is None:
            return wrapped(_shipped(experiment, shape, classes))
        made = _made(file, experiment, shape, classes)
        try:
            return wrapped(made)
        except InvalidInput as error:
            where = _where(error.__cause__ or error, file.path)
            raise InvalidInput(f"{error}{f' ({where})' if where else ''}") from error


def check_training(net: Model, experiment: Experiment, images: int) -> None:
    """Raise `InvalidInput` if a custom network fails in training.

    Args:
        net: the network; one that is described by its layers is not tried.
        experiment: what it trains; a message names the line of its network's file.
        images: number of images in the smallest batch of an epoch.
    """
    if not isinstance(net, CustomNetwork):
        return
    try:
        net.try_training(images)
    except InvalidInput as error:
        file = network_file(experiment.network)
        where = _where(error.__cause__ or error, file.path) if file else ""
        raise InvalidInput(f"{error}{f' ({where})' if where else ''}") from error


def check_rule(net: Model, experiment: Experiment) -> None:
    """Raise `InvalidInput` if no neurons of a custom network use the experiment's rule.

    Its function then does not read ``settings.rule``, so rules could not be compared.
    """
    if not isinstance(net, CustomNetwork):
        return
    lifs = [part for part in net.module.modules() if isinstance(part, LIF)]
    if all(lif.start.rule != experiment.rule for lif in lifs):
        there = type(lifs[0].start.rule).__name__
        raise InvalidInput(
            f"the neurons of {net.description} use the rule {there}, not the experiment's, so "
            "rules cannot be compared: construct its LIF with rule=settings.rule"
        )


def _shipped(experiment: Experiment, shape: tuple[int, ...], classes: int) -> nn.Module:
    """Return a network of `tsslbp.models` with the experiment's neurons, rule, T and dropout."""
    name, default = experiment.network, Experiment("-", "-")
    for key in UNREAD:
        if getattr(experiment, key) != getattr(default, key):
            raise InvalidInput(
                f"{key} applies only to a network described by its layers, got network = {name!r}: "
                f"leave {key} at {getattr(default, key)!r}"
            )
    function: Callable[..., nn.Module] = getattr(models, name)
    parameters = inspect.signature(function).parameters.values()
    known = [one.name for one in parameters if one.kind is one.KEYWORD_ONLY]
    ours = {
        "neuron": Neuron(experiment.tau_m, experiment.tau_s, experiment.threshold),
        "rule": experiment.rule,
    }
    given = experiment.network_settings
    check_keys(given, [key for key in known if key not in ours], "network_settings: ")
    settings: dict[str, Any] = {"dropout": experiment.dropout, **given, **ours}
    try:
        return function(shape, classes, experiment.time_steps, **settings)
    except Error:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())
        raise InvalidInput(
            f"network = {name!r} does not accept network_settings = {dict(given)}: {reason}; see "
            f"tsslbp.models.{name}"
        ) from error


def _made(
    file: NetworkFile, experiment: Experiment, shape: tuple[int, ...], classes: int
) -> nn.Module:
    """Return what the file's function returns for an experiment."""
    code = _executed(file, experiment)
    make = getattr(code, file.function, None)
    if make is None:
        names = [name for name, one in vars(code).items() if inspect.isfunction(one)]
        hint = nearest(file.function, names)
        raise InvalidInput(f"{file.path} has no function {file.function!r}{hint}")
    if not callable(make):
        raise InvalidInput(f"{file.path}: {file.function} must be a function, got {make!r:.40}")
    settings, table = copy.copy(experiment), _Noted(experiment.network_settings)
    object.__setattr__(settings, "network_settings", table)
    try:
        taken = _taken(make)
        keywords = {key: table[key] for key in experiment.network_settings if taken(key)}
        inspect.signature(make).bind(shape, classes, settings, **keywords)
    except (TypeError, ValueError) as error:  # ValueError: it has no signature
        raise InvalidInput(
            f"{file.path}: {file.function} must accept the call {CALL}, or the keys of "
            f"network_settings as keyword arguments, but does not: {error}"
        ) from None
    try:
        made = make(shape, classes, settings, **keywords)
    except (Exception, SystemExit) as error:
        raise _failure(error, file) from error
    if unread := sorted(experiment.network_settings.keys() - table.read):
        known = [*inspect.signature(make).parameters][3:]
        raise InvalidInput(
            f"network_settings: {file.name} does not use {unread[0]!r}{nearest(unread[0], known)}"
        )
    if not isinstance(made, nn.Module):
        hint = "; end it with 'return ...'" if made is None else ""
        raise InvalidInput(
            f"{file.path}: {file.function} must return a torch.nn.Module, got "
            f"{type(made).__name__}{hint}"
        )
    return made


def _executed(file: NetworkFile, experiment: Experiment) -> ModuleType:
    """Execute the file anew as a module; exactly the source that was read is executed."""
    source = file.source(experiment.network_checksum)
    module = ModuleType(f"tsslbp_network_{checksum_of(source)[:12]}")
    module.__file__ = str(file.path)
    sys.modules[module.__name__] = module  # where dataclasses and pickle look for it
    try:
        exec(compile(source, str(file.path), "exec", dont_inherit=True), vars(module))
    except SyntaxError as error:  # in the file, or in a file that it imports
        line = f", line {error.lineno}" if error.lineno else ""
        where = f"{error.filename or file.path}{line}"
        raise InvalidInput(f"{where} is not valid Python: {error.msg}") from error
    except (Exception, SystemExit) as error:
        raise _failure(error, file) from error
    return module


def _taken(make: Callable[..., Any]) -> Callable[[str], bool]:
    """Return whether a function accepts a key as a keyword, after its first three arguments."""
    others = list(inspect.signature(make).parameters.values())[3:]
    named = {
        one.name for one in others if one.kind in (one.KEYWORD_ONLY, one.POSITIONAL_OR_KEYWORD)
    }
    takes_all = any(one.kind is one.VAR_KEYWORD for one in others)
    return lambda key: takes_all or key in named


def _failure(error: BaseException, file: NetworkFile) -> InvalidInput:
    """Describe an error of a file in one line."""
    reason = " ".join(str(error).split())
    if isinstance(error, SystemExit):
        reason = "it ends the program (sys.exit or exit), which a network's file must not do"
    elif not isinstance(error, Error):
        reason = f"{type(error).__name__}: {reason}"
    if isinstance(error, ImportError):
        reason += "; a run keeps only this file: copy what it imports from your other files into it"
    return InvalidInput(f"{_where(error, file.path) or file.path}: {reason}")


def _where(error: BaseException, path: Path) -> str:
    """Return the last line of a file through which an error passed, or ""."""
    steps = traceback.walk_tb(error.__traceback__)
    lines = [line for frame, line in steps if frame.f_code.co_filename == str(path)]
    return f"{path}, line {lines[-1]}" if lines else ""


@final
class _Noted(Mapping[str, Any]):
    """A table that remembers which of its keys were read."""

    def __init__(self, table: Mapping[str, Any]) -> None:
        self._table, self.read = dict(table), set[str]()

    def __getitem__(self, key: str) -> Any:
        if key not in self._table:
            raise KeyError(f"no {key} in [network_settings]")
        self.read.add(key)
        return self._table[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._table)

    def __len__(self) -> int:
        return len(self._table)

    def __repr__(self) -> str:
        return repr(self._table)
