"""Recipes: an experiment as a TOML file, and as settings ``key=value`` of another one.

Some ship with the package (`recipe_names`); a file of the user's own, and the configuration in a
run's folder, are read in the same way.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, final

import tomli_w

from .. import toml_files
from ..checked import Checked, Positive, Text, check_keys, type_hints
from ..errors import InvalidInput
from ..rules import as_table
from ..toml_files import parse_value
from .experiment import Experiment

_SHIPPED = Path(__file__).parent / "recipes"


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

    A relative path to data in a user's recipe starts from the recipe's folder.

    Raises:
        InvalidInput: there is no such recipe, or it cannot be read (names the file, and the line
            or the key).
    """
    path = Path(name_or_path)
    is_folder = is_path(str(name_or_path)) and path.suffix != ".toml" and path.is_dir()
    if path.suffix == ".npz" or is_folder:
        raise InvalidInput(
            f"{path} holds data, not a recipe: write a .toml file with the line "
            f'data = "{path.name}{"/" if is_folder else ""}", see docs/guide.md'
        )
    experiment = toml_files.load("recipe", name_or_path, _SHIPPED, Experiment.from_table)
    return replace(experiment, data=_absolute(experiment.data, path.parent))


@cache
def recorded() -> dict[str, Recorded]:
    """What recorded runs took and reached, by name of the recipe; not every recipe has some."""
    text = (Path(__file__).parent / "recorded.toml").read_text(encoding="utf-8")
    return {name: Recorded.from_table(table) for name, table in tomllib.loads(text).items()}


def save(experiment: Experiment, path: Path) -> None:
    """Write the experiment as a recipe; a path to data becomes absolute."""
    table = experiment.to_table()
    table["data"] = _absolute(experiment.data, Path())
    Path(path).write_text(tomli_w.dumps(table, multiline_strings=True), encoding="utf-8")


def with_settings(
    experiment: Experiment, settings: Iterable[str], changes: Mapping[str, Any] | None = None
) -> Experiment:
    """Return the experiment with ``"key=value"`` settings applied in order, then `changes`.

    Values are TOML; text may go without quotation marks. A dotted key sets a part of a
    table: ``rule.warm_up=always``, ``weight_scale.conv=5``, ``binning.window=3``; another
    ``rule.name`` brings its own fields. A relative path to data starts from the current folder
    and becomes absolute. Of the changes, values by key, those that are None are left out.

    Raises:
        InvalidInput: a setting cannot be read, or the experiment does not allow it.
    """
    table = experiment.to_table()
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise InvalidInput(f"expected a setting key=value, got {setting!r}")
        name, dot, part = key.strip().partition(".")
        check_keys([name], type_hints(Experiment))
        if dot:
            fresh = (name, part) == ("rule", "name")
            before = {} if fresh else _as_table(name, table.get(name))
            table[name] = before | {part: parse_value(text)}
        else:
            is_text = type_hints(Experiment)[name] in (str, Text)
            value = parse_value(text)
            table[name] = text.strip() if is_text and not isinstance(value, str) else value
    table |= {key: value for key, value in (changes or {}).items() if value is not None}
    changed = Experiment.from_table(table)
    return replace(changed, data=_absolute(changed.data, Path()))


def is_path(data: str) -> bool:
    """Whether the data of an experiment are a file or a folder, not a set of the catalogue.

    A folder's path has a slash, since a folder may have the name of a set.
    """
    return data.endswith(".npz") or "/" in data or os.sep in data


def _absolute(data: str, folder: Path) -> str:
    return str((folder / data).resolve()) if is_path(data) else data


def _as_table(name: str, value: Any) -> dict[str, Any]:
    if name == "binning" and value is None:
        return {}
    if name == "weight_scale" and not isinstance(value, dict):
        return {"conv": value, "linear": value}
    if name == "rule" and isinstance(value, str):
        return as_table(value)
    if isinstance(value, dict):
        return value
    raise InvalidInput(f"{name} is not a table, so no part of it can be set")
