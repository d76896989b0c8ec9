"""The published tables and the paper's claims, as data: `published.toml`, read and checked."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from importlib import resources
from typing import Any, ClassVar, Literal, TypeVar

from ..errors import InvalidInput, nearest
from ..experiment import recipe_names

Source = Literal["published", "study"]
T = TypeVar("T")


@dataclass(frozen=True)
class Accuracy:
    """A published test accuracy in percent, at the best test epoch.

    Attributes:
        mean, best: over the runs.
        runs: how many.
        sd: their standard deviation; None for a single run.
    """

    mean: float
    best: float
    runs: int
    sd: float | None = None

    def __post_init__(self) -> None:
        if not 1 < self.mean <= self.best <= 100 or self.runs < 1:  # not a share of 1
            raise InvalidInput(f"an accuracy in percent and a number of runs expected, got {self}")
        if (self.sd is None) != (self.runs == 1):
            raise InvalidInput(f"a deviation belongs to several runs, got {self}")


@dataclass(frozen=True)
class Row:
    """One row of a published table.

    Attributes:
        name: of the row, unique.
        table: name of its table, one of `tables`.
        title: data set and, where its name is known by that, network.
        data: data set, as a recipe says it; `copies`: inexact copies of it that serve, too.
        network, time_steps: as a recipe says them.
        published: by the authors; `study`: by the reproduction study.
        others: what other methods reached at the same network, and how they differ.
        caveats: what to know about the numbers.
        recipes: shipped recipes that reproduce the row, the published settings first.
    """

    name: str
    table: str
    title: str
    data: str
    network: str
    time_steps: int
    published: Accuracy
    study: Accuracy | None = None
    copies: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    caveats: tuple[str, ...] = ()
    recipes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for recipe in self.recipes:
            _check_recipe(recipe)

    def reached(self, source: Source) -> Accuracy | None:
        """What the authors or the study reached."""
        return self.published if source == "published" else self.study


@dataclass(frozen=True)
class Reaches:
    """A recipe reaches a row's accuracy: its mean is not below by more than the margin.

    Attributes:
        text: the claim.
        row: name of the row.
        against: whose accuracy.
        margin: of non-inferiority, in percentage points.
        recipe: that should reach it; None where none ships yet.
    """

    kind: ClassVar = "reaches"
    text: str
    row: str
    against: Source
    margin: float
    recipe: str | None = None

    def __post_init__(self) -> None:
        _check_recipe(self.recipe)
        _check_positive(self.margin)


@dataclass(frozen=True)
class Exceeds:
    """A recipe's mean lies above the accuracy (percent) published for a rival method."""

    kind: ClassVar = "exceeds"
    text: str
    recipe: str
    rival: float

    def __post_init__(self) -> None:
        _check_recipe(self.recipe)
        _check_positive(self.rival)


@dataclass(frozen=True)
class Settings:
    """A recipe is better than another one, over the same seeds."""

    kind: ClassVar = "settings"
    text: str
    recipe: str
    other: str

    def __post_init__(self) -> None:
        _check_recipe(self.recipe)
        _check_recipe(self.other)


@dataclass(frozen=True)
class Change:
    """Runs with one setting are better than runs that differ from them in it alone.

    Attributes:
        text: the claim.
        key: the setting, such as ``"rule.warm_up"``.
        values: of the better runs.
        others: of the worse ones; empty: any other value.
        margin: None: better; else: not worse by more than so many percentage points.
    """

    kind: ClassVar = "change"
    text: str
    key: str
    values: tuple[Any, ...]
    others: tuple[Any, ...] = ()
    margin: float | None = None

    def __post_init__(self) -> None:
        if self.margin is not None:
            _check_positive(self.margin)


Claim = Reaches | Exceeds | Settings | Change


def rows() -> tuple[Row, ...]:
    """All rows of the published tables, in their order."""
    return _load()[0]


def tables() -> tuple[str, ...]:
    """Names of the published tables."""
    return tuple(dict.fromkeys(row.table for row in rows()))


def find(name: str | None) -> tuple[Row, ...]:
    """The rows of a table, or the one row of that name; all for None.

    Raises:
        InvalidInput: neither a table nor a row has the name.
    """
    found = tuple(row for row in rows() if name in (None, row.table, row.name))
    if not found:
        known = list(dict.fromkeys((*tables(), *(row.name for row in rows()))))
        raise InvalidInput(
            f"unknown table {name!r}{nearest(str(name), known)}; known: {', '.join(known)}"
        )
    return found


def claims() -> tuple[Claim, ...]:
    """The claims of the paper, and the questions that it leaves open."""
    return _load()[1]


def read(text: str) -> tuple[tuple[Row, ...], tuple[Claim, ...]]:
    """Read rows and claims from TOML with the tables of `published.toml`.

    Raises:
        InvalidInput: a key or value that is not allowed, or a claim about a row that is not there.
    """
    table = tomllib.loads(text)
    found = tuple(_row(entry) for entry in table["rows"])
    claimed = tuple(_claim(entry) for entry in table["claims"])
    names = [row.name for row in found]
    if len(set(names)) < len(names):
        raise InvalidInput(f"the rows' names must differ, got {names}")
    for claim in claimed:
        if isinstance(claim, Reaches) and claim.row not in names:
            raise InvalidInput(
                f"{claim.text}: unknown row {claim.row!r}{nearest(claim.row, names)}"
            )
    return found, claimed


@cache
def _load() -> tuple[tuple[Row, ...], tuple[Claim, ...]]:
    file = resources.files(__package__) / "published.toml"
    return read(file.read_text(encoding="utf-8"))


def _row(entry: Mapping[str, Any]) -> Row:
    accuracies = {
        name: _make(Accuracy, entry[name]) for name in ("published", "study") if name in entry
    }
    return _make(Row, {**entry, **accuracies})


def _claim(entry: Mapping[str, Any]) -> Claim:
    kinds: dict[str, type[Claim]] = {
        kind.kind: kind for kind in (Reaches, Exceeds, Settings, Change)
    }
    kind = entry.get("kind", "")
    if kind not in kinds:
        raise InvalidInput(f"unknown kind of claim {kind!r}{nearest(kind, kinds)}")
    return _make(kinds[kind], {key: value for key, value in entry.items() if key != "kind"})


def _make(cls: type[T], table: Mapping[str, Any]) -> T:
    """Make a dataclass from a table of its fields, with tuples for lists."""
    names = [field.name for field in fields(cls)]  # type: ignore[arg-type]
    for key in table:
        if key not in names:
            raise InvalidInput(f"{cls.__name__} has no field {key!r}{nearest(key, names)}")
    values = {key: tuple(item) if isinstance(item, list) else item for key, item in table.items()}
    try:
        return cls(**values)
    except TypeError as error:
        raise InvalidInput(f"{cls.__name__}: {error}") from None


def _check_recipe(name: str | None) -> None:
    if name is not None and name not in recipe_names():
        raise InvalidInput(f"unknown recipe {name!r}{nearest(name, recipe_names())}")


def _check_positive(value: float) -> None:
    if not value > 0:
        raise InvalidInput(f"a number above 0 expected, got {value!r}")
