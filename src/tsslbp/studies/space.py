"""What a sweep searches: keys of a recipe, and the values or the range that each may take.

A space is a TOML file. Some ship with the package (`space_names`); their table ``[parameters]``
shows all forms.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from ..errors import InvalidInput, nearest
from ..experiment import Experiment, with_settings

TABLES = ("rule", "weight_scale")  # keys of a recipe that have parts
# Another value would change what is measured, so that trials could not be compared.
FIXED = (
    "data",
    "binning",
    "description",
    "protocol",
    "seed",
    "validation_images",
    "train_images",
)


@dataclass(frozen=True)
class Choice:
    """One of some values, in the recipe's form."""

    values: tuple[Any, ...]

    @property
    def ordered(self) -> bool:
        """Whether these are rising numbers, so that neighbours can be expected to do alike."""
        numbers = all(type(value) in (int, float) for value in self.values)
        return numbers and all(a < b for a, b in zip(self.values, self.values[1:], strict=False))

    def inside(self) -> tuple[Any, ...]:
        """Values that stand for all, to check."""
        return self.values

    def to_json(self) -> Any:
        return list(self.values)


@dataclass(frozen=True)
class Range:
    """Whole numbers, or numbers, from `low` to `high`, both included.

    Attributes:
        low, high: both int or both float.
        step: between whole numbers.
        log: whether equal ratios, not equal differences, count alike.
    """

    low: float
    high: float
    step: int = 1
    log: bool = False

    def inside(self) -> tuple[Any, ...]:
        """Values that stand for all, to check."""
        return self.low, self.high

    def to_json(self) -> Any:
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True)
class Space:
    """What to search.

    Attributes:
        parameters: by key of the recipe, dotted for a part: ``"rule.warm_up"``.
        description: what the space is for, and what searching it takes.
        trials: how many are meant to be made; None: the user says.
    """

    parameters: Mapping[str, Choice | Range]
    description: str = ""
    trials: int | None = None

    def fitted(self, experiment: Experiment) -> Space:
        """Return the space with its values in the types of the recipe.

        Raises:
            InvalidInput: a key is unknown (the nearest is named), or `experiment` does not allow
                one of its values or bounds.
        """
        items = self.parameters.items()
        try:
            parameters = {key: _fitted(key, value, experiment) for key, value in items}
        except InvalidInput as error:
            raise InvalidInput(f"the space does not fit: {error}") from None
        return replace(self, parameters=parameters)

    def variants(self, experiment: Experiment) -> Iterator[Experiment]:
        """`experiment` with each value and bound of the space, one key changed at a time."""
        for key, parameter in self.parameters.items():
            for value in parameter.inside():
                yield apply(experiment, {key: value})


def space_names() -> list[str]:
    """Names of the spaces that ship with the package, sorted."""
    files = (file.name for file in _spaces().iterdir())
    return sorted(name.removesuffix(".toml") for name in files if name.endswith(".toml"))


def load_space(name_or_path: str | Path) -> Space:
    """Read a space that ships with the package, or a file whose path ends in ``.toml``.

    Raises:
        InvalidInput: there is no such space, or it cannot be read.
    """
    name = str(name_or_path)
    if not name.endswith(".toml"):
        names = space_names()
        if name not in names:
            raise InvalidInput(
                f"unknown space {name!r}{nearest(name, names)}; known: {', '.join(names)}, "
                "or a path that ends in .toml"
            )
        return _parse((_spaces() / f"{name}.toml").read_text(encoding="utf-8"), f"space {name}")
    try:
        text = Path(name).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InvalidInput(f"cannot read the space {name}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InvalidInput(f"cannot read the space {name}: it is not UTF-8 text") from None
    return _parse(text, name)


def apply(experiment: Experiment, values: Mapping[str, Any]) -> Experiment:
    """Return the experiment with values of a space.

    Raises:
        InvalidInput: it does not allow one of them, or not all together.
    """
    return with_settings(experiment, settings(values))


def settings(values: Mapping[str, Any]) -> list[str]:
    """Values of a space as ``"key=value"``, which ``--set`` takes; a table before its parts."""
    return [f"{key}={as_text(values[key])}" for key in sorted(values)]


def as_text(value: Any) -> str:
    """Return a value as a setting has it: TOML, and text without quotation marks."""
    return value if isinstance(value, str) else _toml(value)


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key} = {_toml(item)}' for key, item in value.items())}}}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value, ensure_ascii=False)


def _spaces() -> Traversable:
    return resources.files(__package__) / "spaces"


def _parse(text: str, source: str) -> Space:
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidInput(f"{source} is not valid TOML: {error}") from None
    try:
        return _space(table)
    except InvalidInput as error:
        raise InvalidInput(f"{source}: {error}") from None


def _space(table: Mapping[str, Any]) -> Space:
    names = [field.name for field in fields(Space)]
    for key in table:
        if key not in names:
            raise InvalidInput(
                f"unknown key {key!r}{nearest(key, names)}; keys of a recipe stand below "
                "[parameters]"
            )
    parameters, trials = table.get("parameters"), table.get("trials")
    if not isinstance(parameters, dict) or not parameters:
        raise InvalidInput("a table [parameters] of at least one key is missing")
    if trials is not None and (type(trials) is not int or trials < 1):
        raise InvalidInput(f"trials must be a whole number of at least 1, got {trials!r}")
    if not isinstance(description := table.get("description", ""), str):
        raise InvalidInput(f"description must be text, got {description!r}")
    read = {key: _parameter(key, value) for key, value in _dotted(parameters)}
    return Space(read, description, trials)


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
        if any(item in value[:index] for index, item in enumerate(value)):
            raise InvalidInput(f"{key}: a value stands twice in {value}")
        return Choice(tuple(value))
    if isinstance(value, dict):
        return _range(key, value)
    raise InvalidInput(
        f"{key} must be a list of values, or a table such as {{ low = 1, high = 5 }}, got {value!r}"
    )


def _range(key: str, table: Mapping[str, Any]) -> Range:
    names = [field.name for field in fields(Range)]
    for name in table:
        if name not in names:
            raise InvalidInput(f"{key}: unknown key {name!r}{nearest(name, names)}")
    for name in ("low", "high"):
        if type(table.get(name)) not in (int, float):
            raise InvalidInput(f"{key}: {name} must be a number, got {table.get(name)!r}")
    one = Range(**table)
    if not one.low < one.high:
        raise InvalidInput(f"{key}: low must be below high, got {one.low} and {one.high}")
    if type(one.log) is not bool:
        raise InvalidInput(f"{key}: log must be true or false, got {one.log!r}")
    if type(one.step) is not int or one.step < 1:
        raise InvalidInput(f"{key}: step must be a whole number of at least 1, got {one.step!r}")
    if one.log and (one.low <= 0 or one.step != 1):
        raise InvalidInput(f"{key}: a logarithmic range has a low above 0 and no step")
    if (one.high - one.low) % one.step and one.step != 1:
        raise InvalidInput(f"{key}: high must be low and a multiple of step = {one.step}")
    return one


def _fitted(key: str, parameter: Choice | Range, experiment: Experiment) -> Choice | Range:
    values = tuple(_fit(key, value, experiment) for value in parameter.inside())
    if isinstance(parameter, Choice):
        return Choice(values)
    low, high = values
    if not all(type(value) in (int, float) for value in values):
        raise InvalidInput(f"{key} has no range: it takes {low!r}")
    if isinstance(low, float) and parameter.step != 1:
        raise InvalidInput(f"{key}: only whole numbers have a step")
    return replace(parameter, low=low, high=high)


def _fit(key: str, value: Any, experiment: Experiment) -> Any:
    """Check a value, and return a number in the type that `experiment` gives it."""
    table: Any = apply(experiment, {key: value}).to_table()
    name, dot, part = key.partition(".")
    fitted = table[name].get(part, value) if dot else table[name]  # without what is implied
    return fitted if type(fitted) is float else value
