"""Recipes: experiments as TOML files, and changes ``key=value`` to them.

Some recipes ship with the package (`recipe_names`). A user's file, and the configuration in a run
folder, are read in the same way.
"""

from __future__ import annotations

import logging
import os
import re
import tomllib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, final

import tomli_w

from .. import toml_files
from ..checked import Checked, Positive, Text, check_keys, type_hints
from ..errors import InvalidInput, RunError
from ..reading import read_whole
from ..rules import as_table
from ..storage import write_file
from ..toml_files import flat, parse_value
from .experiment import Experiment
from .networks import AT_HAND, checksum_of, is_described, network_file
from .weights import placed_weights, weights_source

_log = logging.getLogger(__name__)
_SHIPPED = Path(__file__).parent / "recipes"
NAMES = ("name", "changed")  # keys that name runs, and do not affect the training
CHECKSUMS = ("network_checksum", "weights_checksum")
UNCHANGED = (*NAMES, *CHECKSUMS, "seed", "description")  # keys never listed in `changed`


@final
@dataclass(frozen=True)
class Recorded(Checked):
    """What recorded runs of a recipe needed and reached; `recorded.toml` explains the keys."""

    runs: tuple[Text, ...]
    seconds: Positive
    accuracy: Positive


def recipe_names() -> list[str]:
    """Names of the recipes that ship with the package, sorted."""
    return toml_files.shipped_names(_SHIPPED)


def load_recipe(name_or_path: str | Path) -> Experiment:
    """Read a recipe that ships with the package, or a file whose path ends in ``.toml``.

    In a user's recipe, relative paths of data, of the network's file and of weights start from the
    recipe's folder. The network's file and the weights are not read here.

    Raises:
        InvalidInput: there is no such recipe, or it cannot be read (the message names the file and
            the line or the key), or the network's file is outside of its folder.
    """
    path = Path(name_or_path)
    if os.path.isfile(path / "config.toml"):
        raise InvalidInput(
            f"{path} is a run folder: resume the run with tsslbp resume {path}, or train another "
            f"run of its settings with tsslbp train {path / 'config.toml'}"
        )
    is_folder = is_path(str(name_or_path)) and path.suffix != ".toml" and os.path.isdir(path)
    if path.suffix == ".npz" or is_folder:
        raise InvalidInput(
            f"{path} contains data and is not a recipe: write a .toml file with the line "
            f'data = "{path.name}{"/" if is_folder else ""}", see docs/guide/own-data.md'
        )
    experiment = toml_files.load("recipe", name_or_path, _SHIPPED, Experiment.from_table)
    network = experiment.network
    if file := network_file(network):
        network = _placed(network, path.parent)
        if file.path.is_absolute() or os.path.normpath(file.path).startswith(os.pardir):
            raise InvalidInput(
                f"{path}: the file of network = {experiment.network!r} is outside of the recipe's "
                "folder, where its copy must be kept: move it into that folder, and give its path "
                "relative to it"
            )
    data, weights = (
        _absolute(experiment.data, path.parent),
        placed_weights(experiment.weights, path.parent),
    )
    if (data, network, weights) == (experiment.data, experiment.network, experiment.weights):
        return experiment
    return replace(experiment, data=data, network=network, weights=weights)


@cache
def recorded() -> dict[str, Recorded]:
    """Return what recorded runs needed and reached, by recipe; some recipes have no records."""
    text = (Path(__file__).parent / "recorded.toml").read_text(encoding="utf-8")
    return {name: Recorded.from_table(table) for name, table in tomllib.loads(text).items()}


def save(experiment: Experiment, path: Path) -> None:
    """Write the experiment as a recipe, atomically; a path of data becomes absolute.

    The network's file is copied next to it. The recipe contains the checksums of the file and of
    the weights.

    Raises:
        InvalidInput: a file cannot be read, or differs from its checksum, or a path contains bytes
            that are not text.
        RunError: a file cannot be written, or another file with the name of the network's exists.
    """
    table = experiment.to_table()
    table["data"] = _absolute(experiment.data, Path())
    if file := network_file(experiment.network):
        source = file.source(experiment.network_checksum)
        _put(Path(path).parent / file.path.name, source)
        table |= {"network": file.name, "network_checksum": checksum_of(source)}
    if experiment.weights is not None:
        table["weights"] = placed_weights(experiment.weights, Path())
        table["weights_checksum"] = _checksum_of_weights(experiment)
    try:
        content = tomli_w.dumps(table, multiline_strings=True).encode()
    except UnicodeEncodeError as error:
        part = error.object[max(0, error.start - 20) : error.end]
        raise InvalidInput(
            f"a recipe must be text, but {part!r} contains bytes that are not"
        ) from None
    write_file(Path(path), content)


def settings_table(experiment: Experiment) -> dict[str, Any]:
    """Return `Experiment.to_table` for comparisons, where files count by name and checksum.

    These files are the network's and that of weights. Copies of a file are therefore equal in any
    folder. Keys that only name runs are left out.

    Raises:
        InvalidInput: a file cannot be read, and the experiment does not have its checksum.
    """
    table = experiment.to_table()
    for key in NAMES:
        table.pop(key, None)
    if file := network_file(experiment.network):
        checksum = table.pop("network_checksum", None) or checksum_of(file.source())
        table["network"] = f"{file.name} ({checksum[:12]})"
    if experiment.weights is not None:
        table.pop("weights_checksum", None)
        checksum = _checksum_of_weights(experiment)
        table["weights"] = f"{Path(experiment.weights).name} ({checksum[:12]})"
    return table


def _checksum_of_weights(experiment: Experiment) -> str:
    assert experiment.weights is not None
    return experiment.weights_checksum or checksum_of(weights_source(experiment.weights)[1])


def check_trust(experiment: Experiment, trust_code: bool) -> None:
    """Raise `InvalidInput` if an experiment's network is code that may not be executed.

    This is a copy next to a configuration, in a folder that may come from somebody else, unless
    `trust_code`. A file that the user's own recipe names may be executed. A module that a script
    gave to `tsslbp.fit` can be rebuilt only by that script.
    """
    network = experiment.network
    if network.startswith(AT_HAND):
        raise InvalidInput(
            f"the network ({network}) is a module that a script gave to tsslbp.fit and is not "
            "stored: build it in Python and load its weights with tsslbp.load(folder, module=...)"
        )
    if experiment.network_checksum is not None and network_file(network) and not trust_code:
        raise InvalidInput(
            f"{network.rpartition(':')[0]} is code that came with the folder, so it is not "
            "executed automatically: read it and, if you trust it, add --trust-code (in Python, "
            "trust_code=True)"
        )


def with_settings(
    experiment: Experiment, settings: Iterable[str], changes: Mapping[str, Any] | None = None
) -> Experiment:
    """Return the experiment with ``"key=value"`` settings applied in order, then `changes`.

    Values are TOML; text may be given without quotation marks. A dotted key sets a part of a table:
    ``rule.warm_up=always``, ``weight_scale.conv=5``, ``binning.window=3``. Setting another
    ``rule.name`` resets the rule's fields to its defaults. A relative path of data, of the
    network's file, or of weights starts from the current folder and becomes absolute. `changes` are
    values by key; those that are None are ignored.

    Raises:
        InvalidInput: a setting cannot be parsed, or the experiment does not allow it.
    """
    table, given = experiment.to_table(), set[str]()
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise InvalidInput(f"expected a setting key=value, got {setting!r}")
        name, dot, part = key.strip().partition(".")
        check_keys([name], type_hints(Experiment))
        given.add(name)
        if dot:
            fresh = (name, part) == ("rule", "name")
            before = {} if fresh else _as_table(name, table.get(name))
            table[name] = before | {part: parse_value(text)}
        else:
            is_text = type_hints(Experiment)[name] in (str, Text, Text | None)
            value = parse_value(text)
            table[name] = text.strip() if is_text and not isinstance(value, str) else value
    changes = {key: value for key, value in (changes or {}).items() if value is not None}
    table |= changes
    if table["network"] != experiment.network:
        table = _without_belongings(table, given | changes.keys())
    changed = Experiment.from_table(table)
    changed = replace(
        changed,
        data=_absolute(changed.data, Path()),
        network=_placed(changed.network, Path()),
        weights=placed_weights(changed.weights, Path()),
    )
    if changed.network != experiment.network:  # the checksum is that of another file
        changed = replace(changed, network_checksum=None)
    if changed.weights != experiment.weights:
        changed = replace(changed, weights_checksum=None)
    return replace(changed, changed=_changed(experiment, changed)) if changed.name else changed


def _without_belongings(table: dict[str, Any], given: Collection[str]) -> dict[str, Any]:
    """Return the settings of another network without those of the old one, and log these.

    These are padding and NeuNorm, if the new network has no convolutions or another number of them,
    and the settings of a function. Settings `given` together with the new network are kept.
    """
    network = table["network"]
    if not isinstance(network, str) or network_file(network):
        return table
    convolutions = len(re.findall(r"(?<![^-])\d+C\d+(?![^-])", network))
    padding = table["padding"]
    gone: dict[str, Any] = {}
    if isinstance(padding, list) and len(padding) != convolutions and len({*padding}) == 1:
        padding = padding[0]  # valid for any number of convolutions
        table |= {} if "padding" in given else {"padding": padding}
    if not is_described(network):  # built by a function, which has its own paddings
        convolutions = 0
    fits = len(padding) == convolutions if isinstance(padding, list) else convolutions
    if padding and not fits:
        gone["padding"] = 0
    if table["neunorm"] and not convolutions:
        gone["neunorm"] = False
    if table.get("network_settings") and is_described(network):
        gone["network_settings"] = {}
    gone = {key: value for key, value in gone.items() if key not in given}
    for key in gone:
        _log.info("%s = %s belongs to the recipe's network and is left out", key, table[key])
    return table | gone


def _changed(before: Experiment, after: Experiment) -> tuple[str, ...] | None:
    """Return the keys that differ from the recipe, given the changes before."""
    tables = [flat(one.to_table()) for one in (before, after)]
    keys = tables[0].keys() | tables[1].keys()
    differing = {key for key in keys if tables[0].get(key) != tables[1].get(key)}
    return tuple(sorted(differing.union(before.changed or ()) - {*UNCHANGED})) or None


def is_path(data: str) -> bool:
    """Whether the data of an experiment are a file or folder, not a data set of the catalogue.

    The path of a folder has a slash, since a folder may have the name of a data set.
    """
    return data.endswith(".npz") or "/" in data or os.sep in data


def _absolute(data: str, folder: Path) -> str:
    """Return the absolute path of data; links are resolved unless only they end in ``.npz``."""
    if not is_path(data):
        return data
    path = folder / data
    whole = os.path.realpath(path)
    is_named = path.suffix == ".npz" and not whole.endswith(".npz")
    return os.path.join(os.path.realpath(path.parent), path.name) if is_named else whole


def _placed(network: str, folder: Path) -> str:
    """Return a network with the absolute path of its file; symbolic links are kept."""
    file = network_file(network)
    return f"{os.path.abspath(folder / file.path)}:{file.function}" if file else network


def _put(copy: Path, source: bytes) -> None:
    """Write a network's file into a folder, unless it is already there."""
    if os.path.exists(copy):
        if read_whole(copy) != source:
            raise RunError(
                f"{copy.parent} contains another file {copy.name}, where a copy of the network's "
                "file must be kept: remove it, or choose another --out"
            )
        return
    write_file(copy, source)


def _as_table(name: str, value: Any) -> dict[str, Any]:
    if name in ("binning", "network_settings") and value is None:
        return {}
    if name == "weight_scale" and not isinstance(value, dict):
        return {"conv": value, "linear": value}
    if name == "rule" and isinstance(value, str):
        return as_table(value)
    if isinstance(value, dict):
        return value
    raise InvalidInput(f"{name} is not a table, so no part of it can be set: set {name} itself")
