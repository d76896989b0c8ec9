"""The search space of a sweep: keys of a recipe, with the values or the range of each.

A space is a TOML file. Some ship with the package (`space_names`); their table ``[parameters]``
shows all possible forms.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .. import toml_files
from ..checked import Checked, Count, Number, check_keys, type_hints
from ..errors import InvalidInput, shown
from ..experiment import Experiment, with_settings

TABLES = ("rule", "weight_scale", "network_settings")  # keys of a recipe that have parts
# Searching one of these would change what is measured, so trials could not be compared.
FIXED = (
    "data",
    "binning",
    "description",
    "name",
    "changed",
    "protocol",
    "seed",
    "validation_images",
    "train_images",
)
_SHIPPED = Path(__file__).parent / "spaces"


@dataclass(frozen=True)
class Choice:
    """One of several values, in the recipe's form."""

    values: tuple[Any, ...]

    @property
    def ordered(self) -> bool:
        """Whether the values are increasing numbers, so that neighbours are similar."""
        numbers = all(type(value) in (int, float) for value in self.values)
        return numbers and all(a < b for a, b in zip(self.values, self.values[1:], strict=False))

    def inside(self) -> tuple[Any, ...]:
        """Return the values to check."""
        return self.values

    def to_json(self) -> Any:
        """Return the values as a list, to record and compare the settings of sweeps."""
        return list(self.values)


@dataclass(frozen=True)
class Range(Checked, called=""):
    """Whole numbers, or real numbers, from `low` to `high` inclusive."""

    low: Number
    high: Number
    step: Count = 1  # between whole numbers
    log: bool = False  # whether the range is sampled uniformly in the logarithm

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.low < self.high:
            raise InvalidInput(f"low must be below high, got {self.low} and {self.high}")
        if self.log and (self.low <= 0 or self.step != 1):
            raise InvalidInput(
                f"a logarithmic range needs low above 0 and no step, got {self.low} and {self.step}"
            )
        if self.step != 1 and (self.high - self.low) % self.step:
            raise InvalidInput(
                f"high must be low plus a multiple of step = {self.step}, got {self.low} and "
                f"{self.high}"
            )

    def inside(self) -> tuple[Any, ...]:
        """Return the values to check, which represent the range."""
        return self.low, self.high

    def to_json(self) -> Any:
        """Return all keys as a table, to record and compare the settings of sweeps."""
        return self.to_table()


@dataclass(frozen=True)
class Space(Checked, called=""):
    """The keys and values to search."""

    parameters: Mapping[str, Choice | Range]  # by key of the recipe, such as ``"rule.warm_up"``
    description: str = ""  # what the space is for, and the time that a search takes
    trials: Count | None = None  # recommended number of trials; None: the user decides

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> Space:
        """Make a space from the table of its file.

        Raises:
            InvalidInput: a key or a value is not allowed.
        """
        try:
            check_keys(table, type_hints(cls))
        except InvalidInput as error:
            raise InvalidInput(f"{error}; keys of a recipe belong below [parameters]") from None
        parameters = table.get("parameters")
        if not isinstance(parameters, dict) or not parameters:
            raise InvalidInput("the space needs a table [parameters] with at least one key")
        read = {key: _parameter(key, value) for key, value in _dotted(parameters)}
        return super().from_table({**table, "parameters": read})

    def fitted(self, experiment: Experiment) -> Space:
        """Return the space with its values converted to the types of the recipe.

        Raises:
            InvalidInput: a key is unknown (the message names the nearest), or `experiment` does not
                allow one of its values or bounds.
        """
        items = self.parameters.items()
        try:
            parameters = {key: _fitted(key, value, experiment) for key, value in items}
        except InvalidInput as error:
            raise InvalidInput(f"the space does not fit the recipe: {error}") from None
        return replace(self, parameters=parameters)

    def variants(self, experiment: Experiment) -> Iterator[Experiment]:
        """Yield `experiment` with each value and bound of the space, one key changed at a time."""
        for key, parameter in self.parameters.items():
            for value in parameter.inside():
                yield apply(experiment, {key: value})


def space_names() -> list[str]:
    """Names of the spaces that ship with the package, sorted."""
    return toml_files.shipped_names(_SHIPPED)


def load_space(name_or_path: str | Path) -> Space:
    """Read a space that ships with the package, or a file whose path ends in ``.toml``.

    Raises:
        InvalidInput: there is no such space, or it cannot be read.
    """
    return toml_files.load("space", name_or_path, _SHIPPED, Space.from_table)


def apply(experiment: Experiment, values: Mapping[str, Any]) -> Experiment:
    """Return the experiment with values of a space.

    Raises:
        InvalidInput: it does not allow one of the values, or their combination.
    """
    return with_settings(experiment, settings(values))


def settings(values: Mapping[str, Any]) -> list[str]:
    """Return values of a space as ``"key=value"`` for ``--set``; a table precedes its parts."""
    return [f"{key}={_setting(key, values[key])}" for key in sorted(values)]


def as_text(value: Any) -> str:
    """Return a value as a setting writes it: TOML, but text without quotation marks."""
    return value if isinstance(value, str) else _toml(value)


def _setting(key: str, value: Any) -> str:
    """Like `as_text`, but text for a function's own key is quoted if it looks like a number."""
    is_own = key.startswith("network_settings.") and isinstance(value, str)
    return _toml(value) if is_own and toml_files.parse_value(value) != value else as_text(value)


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key} = {_toml(item)}' for key, item in value.items())}}}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value, ensure_ascii=False)


def _dotted(parameters: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in parameters.items():
        if key in TABLES and isinstance(value, dict) and not {"low", "high"} & value.keys():
            yield from ((f"{key}.{part}", item) for part, item in value.items())
        else:
            yield key, value


def _parameter(key: str, value: Any) -> Choice | Range:
    if key.partition(".")[0] in FIXED:
        raise InvalidInput(f"{key} cannot be searched: it changes what is measured")
    if isinstance(value, list) and value:
        if not _is_plain(value):
            raise InvalidInput(f"{key}: a recipe has no dates or times, got {value}")
        if any(item in value[:index] for index, item in enumerate(value)):
            raise InvalidInput(f"{key}: a value occurs twice in {value}: remove one")
        return Choice(tuple(value))
    if isinstance(value, dict):
        try:
            return Range.from_table(value)
        except InvalidInput as error:
            raise InvalidInput(f"{key}: {error}") from None
    raise InvalidInput(
        f"{key} must be a list of values, or a table such as {{ low = 1, high = 5 }}, "
        f"got {shown(value)}"
    )


def _is_plain(value: Any) -> bool:
    """Whether a TOML value consists only of numbers, text, true, false, lists and tables."""
    if isinstance(value, (list, dict)):
        return all(map(_is_plain, value.values() if isinstance(value, dict) else value))
    return isinstance(value, (bool, int, float, str))


def _fitted(key: str, parameter: Choice | Range, experiment: Experiment) -> Choice | Range:
    values = tuple(_fit(key, value, experiment) for value in parameter.inside())
    if isinstance(parameter, Choice):
        return Choice(values)
    low, high = values
    if float in (type(low), type(high)):  # a function's own keys have no declared type
        low, high = (float(one) if type(one) is int else one for one in values)
    if not all(type(value) in (int, float) for value in values):
        raise InvalidInput(f"{key} cannot have a range, because it accepts {low!r}: give a list")
    if isinstance(low, float) and parameter.step != 1:
        raise InvalidInput(f"{key}: only whole numbers can have a step")
    return replace(parameter, low=low, high=high)


def _fit(key: str, value: Any, experiment: Experiment) -> Any:
    """Check a value, and return a number in the type that `experiment` has for the key."""
    table: Any = apply(experiment, {key: value}).to_table()
    name, dot, part = key.partition(".")
    fitted = table[name].get(part, value) if dot else table[name]  # without implied values
    return fitted if type(fitted) is float else value
