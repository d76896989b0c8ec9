"""Recipes: an experiment as a TOML file, and as settings ``key=value`` of another one.

Some ship with the package (`recipe_names`); a file of the user's own, and the configuration in a
run's folder, are read in the same way.
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
from ..rules import as_table
from ..storage import write_file
from ..toml_files import flat, parse_value
from .experiment import Experiment
from .networks import AT_HAND, checksum_of, is_described, network_file
from .weights import placed_weights, weights_source

_log = logging.getLogger(__name__)
_SHIPPED = Path(__file__).parent / "recipes"
NAMES = ("name", "changed")  # keys that say how runs are called, and nothing of what is trained
CHECKSUMS = ("network_checksum", "weights_checksum")
UNCHANGED = (*NAMES, *CHECKSUMS, "seed", "description")  # never among the `changed` ones


@final
@dataclass(frozen=True)
class Recorded(Checked):
    """What recorded runs of a recipe took and reached: `recorded.toml`, which explains the keys."""

    runs: tuple[Text, ...]
    seconds: Positive
    accuracy: Positive


def recipe_names() -> list[str]:
    """Names of the recipes that ship with the package, sorted."""
    return toml_files.shipped_names(_SHIPPED)


def load_recipe(name_or_path: str | Path) -> Experiment:
    """Read a recipe that ships with the package, or a file whose path ends in ``.toml``.

    A relative path to data in a user's recipe starts from the recipe's folder, and so does that of
    the network's file and of weights, which are not read here.

    Raises:
        InvalidInput: there is no such recipe, or it cannot be read (names the file, and the line
            or the key), or the network's file lies outside of its folder.
    """
    path = Path(name_or_path)
    if os.path.isfile(path / "config.toml"):
        raise InvalidInput(
            f"{path} is the folder of a run: tsslbp resume {path} continues it, tsslbp train "
            f"{path / 'config.toml'} trains another one by its settings"
        )
    is_folder = is_path(str(name_or_path)) and path.suffix != ".toml" and os.path.isdir(path)
    if path.suffix == ".npz" or is_folder:
        raise InvalidInput(
            f"{path} holds data, not a recipe: write a .toml file with the line "
            f'data = "{path.name}{"/" if is_folder else ""}", see docs/guide.md'
        )
    experiment = toml_files.load("recipe", name_or_path, _SHIPPED, Experiment.from_table)
    network = experiment.network
    if file := network_file(network):
        network = _placed(network, path.parent)
        if file.path.is_absolute() or os.path.normpath(file.path).startswith(os.pardir):
            raise InvalidInput(
                f"{path}: the file of network = {experiment.network!r} lies outside of the "
                "recipe's folder, with which it is to be kept: put it beside the recipe, and give "
                "its path from there"
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
    """What recorded runs took and reached, by name of the recipe; not every recipe has some."""
    text = (Path(__file__).parent / "recorded.toml").read_text(encoding="utf-8")
    return {name: Recorded.from_table(table) for name, table in tomllib.loads(text).items()}


def save(experiment: Experiment, path: Path) -> None:
    """Write the experiment as a recipe, whole or not at all; a path to data becomes absolute.

    The network's file is put beside it, and its checksum into it, as is that of the weights.

    Raises:
        InvalidInput: a file cannot be read, or is not that of the checksum, or a path holds bytes
            that are no text.
        RunError: one of them cannot be written, or another file of its name is there.
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
        raise InvalidInput(f"a recipe is text, and {part!r} holds bytes that are none") from None
    write_file(Path(path), content)


def settings_table(experiment: Experiment) -> dict[str, Any]:
    """`Experiment.to_table` for comparisons: files by their names and checksums alone.

    These are the network's and that of weights. So copies of a file are the same, in whatever
    folder they lie. How runs are called is left out.

    Raises:
        InvalidInput: a file cannot be read, where the experiment does not know its checksum.
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
    """Raise `InvalidInput` where an experiment's network is code that may not be run.

    That is a copy which lies beside a configuration, in a folder that may be somebody else's,
    unless `trust_code`; the file that a user's own recipe names may be run. Nor can anything but
    the script run that had a module at hand.
    """
    network = experiment.network
    if network.startswith(AT_HAND):
        raise InvalidInput(
            f"the network ({network}) is a module that a script gave to tsslbp.fit, and is not "
            "kept: in Python, tsslbp.load(folder, module=...) fills it with the weights"
        )
    if experiment.network_checksum is not None and network_file(network) and not trust_code:
        raise InvalidInput(
            f"{network.rpartition(':')[0]} is code, which came with the folder and is not run "
            "unasked: read it and, if you trust it, add --trust-code (in Python, trust_code=True)"
        )


def with_settings(
    experiment: Experiment, settings: Iterable[str], changes: Mapping[str, Any] | None = None
) -> Experiment:
    """Return the experiment with ``"key=value"`` settings applied in order, then `changes`.

    Values are TOML; text may go without quotation marks. A dotted key sets a part of a
    table: ``rule.warm_up=always``, ``weight_scale.conv=5``, ``binning.window=3``; another
    ``rule.name`` brings its own fields. A relative path to data, to the network's file, or to
    weights, starts from the current folder and becomes absolute. Of the changes, values by key,
    those that are None are left out.

    Raises:
        InvalidInput: a setting cannot be read, or the experiment does not allow it.
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
    """The settings of another network without what belonged to the old one, which is told.

    That is the padding and NeuNorm of convolutions that it has not, or not as many, and the
    settings of a function. What is `given` with the new network stays.
    """
    network = table["network"]
    if not isinstance(network, str) or network_file(network):
        return table
    convolutions = len(re.findall(r"(?<![^-])\d+C\d+(?![^-])", network))
    padding = table["padding"]
    gone: dict[str, Any] = {}
    if isinstance(padding, list) and len(padding) != convolutions and len({*padding}) == 1:
        padding = padding[0]  # of any number of convolutions
        table |= {} if "padding" in given else {"padding": padding}
    if not is_described(network):  # one that ships, which has paddings of its own
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
        _log.info("%s = %s belongs to the recipe's network, and is left out", key, table[key])
    return table | gone


def _changed(before: Experiment, after: Experiment) -> tuple[str, ...] | None:
    """The keys in which an experiment differs from its recipe, from those of one before."""
    tables = [flat(one.to_table()) for one in (before, after)]
    keys = tables[0].keys() | tables[1].keys()
    differing = {key for key in keys if tables[0].get(key) != tables[1].get(key)}
    return tuple(sorted(differing.union(before.changed or ()) - {*UNCHANGED})) or None


def is_path(data: str) -> bool:
    """Whether the data of an experiment are a file or a folder, not a set of the catalogue.

    A folder's path has a slash, since a folder may have the name of a set.
    """
    return data.endswith(".npz") or "/" in data or os.sep in data


def _absolute(data: str, folder: Path) -> str:
    """The absolute path to data: of a link that of its target, unless it alone ends in ``.npz``."""
    if not is_path(data):
        return data
    path = folder / data
    whole = os.path.realpath(path)
    is_named = path.suffix == ".npz" and not whole.endswith(".npz")
    return os.path.join(os.path.realpath(path.parent), path.name) if is_named else whole


def _placed(network: str, folder: Path) -> str:
    """A network whose file has an absolute path; links stay, so that the file keeps its name."""
    file = network_file(network)
    return f"{os.path.abspath(folder / file.path)}:{file.function}" if file else network


def _put(copy: Path, source: bytes) -> None:
    """Write a network's file into a folder, in which it may lie already."""
    if copy.exists():
        if copy.read_bytes() != source:
            raise RunError(
                f"another file {copy.name} is in {copy.parent}, where the network's file is to be "
                "kept: remove it, or give another --out"
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
    raise InvalidInput(f"{name} is not a table, so no part of it can be set")
