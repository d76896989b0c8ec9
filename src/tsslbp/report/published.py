"""The published tables and the paper's claims, as data: `published.toml`, read and checked."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from ..checked import Checked, Count, OneOf, Positive
from ..errors import InvalidInput, nearest
from ..experiment import recipe_names

Source = Literal["published", "study"]
RecipeName = Annotated[str, OneOf(recipe_names)]


@dataclass(frozen=True)
class Accuracy(Checked):
    """A published test accuracy in percent, at the best test epoch, over the runs."""

    mean: float
    best: float
    runs: Count
    sd: float | None = None  # standard deviation; None for a single run

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 < self.mean <= self.best <= 100:  # not a share of 1
            raise InvalidInput(f"an accuracy in percent expected, got {self}")
        if (self.sd is None) != (self.runs == 1):
            raise InvalidInput(f"a standard deviation needs several runs, got {self}")


@dataclass(frozen=True)
class Row(Checked):
    """One row of a published table."""

    name: str  # unique
    table: str  # name of its table, one of `tables`
    title: str  # data set and, where its name is known by that, network
    data: str  # as a recipe says it, like network and time_steps
    network: str
    time_steps: int
    published: Accuracy  # by the authors
    study: Accuracy | None = None  # by the reproduction study
    copies: tuple[str, ...] = ()  # inexact copies of the data that are accepted, too
    others: tuple[str, ...] = ()  # accuracies of other methods with the same network
    caveats: tuple[str, ...] = ()  # what to know about the numbers
    recipes: tuple[RecipeName, ...] = ()  # that reproduce the row, the published settings first

    def reached(self, source: Source) -> Accuracy | None:
        """The accuracy of the authors or of the study."""
        return self.published if source == "published" else self.study


@dataclass(frozen=True)
class Reaches(Checked):
    """A recipe reaches a row's accuracy: its mean is not below by more than the margin."""

    text: str
    row: str  # its name
    against: Source
    margin: Positive  # of non-inferiority, in percentage points
    recipe: RecipeName | None = None  # None where none ships yet


@dataclass(frozen=True)
class Exceeds(Checked):
    """A recipe's mean is above the accuracy (percent) published for another method."""

    text: str
    recipe: RecipeName
    rival: Positive


@dataclass(frozen=True)
class Settings(Checked):
    """A recipe is better than another one, over the same seeds."""

    text: str
    recipe: RecipeName
    other: RecipeName


@dataclass(frozen=True)
class Change(Checked):
    """Runs with one setting are better than runs that differ from them only in this setting."""

    text: str
    key: str  # the setting, such as ``"rule.warm_up"``
    values: tuple[Any, ...]  # of the better runs
    others: tuple[Any, ...] = ()  # of the worse ones; empty: any other value
    margin: Positive | None = None  # if given: not worse by more than so many percentage points


Claim = Reaches | Exceeds | Settings | Change
KINDS: dict[str, type[Claim]] = {
    kind.__name__.lower(): kind for kind in (Reaches, Exceeds, Settings, Change)
}


def rows() -> tuple[Row, ...]:
    """All rows of the published tables, in their order."""
    return _load()[0]


def of_recipe(name: str) -> Accuracy | None:
    """The accuracy with a recipe's settings, by the authors or else by the study."""
    for row in rows():
        if name in row.recipes:
            return row.published if name == row.recipes[0] else row.study
    return None


def tables() -> tuple[str, ...]:
    """Names of the published tables."""
    return tuple(dict.fromkeys(row.table for row in rows()))


def find(name: str | None) -> tuple[Row, ...]:
    """The rows of a table, or the one row of that name; all for None.

    Raises:
        InvalidInput: neither a table nor a row has the name.
    """
    matching = tuple(row for row in rows() if name in (None, row.table, row.name))
    if not matching:
        known = list(dict.fromkeys((*tables(), *(row.name for row in rows()))))
        raise InvalidInput(
            f"unknown table {name!r}{nearest(str(name), known)}; known: {', '.join(known)}"
        )
    return matching


def claims() -> tuple[Claim, ...]:
    """The claims of the paper, and the questions that it leaves open."""
    return _load()[1]


def read(text: str) -> tuple[tuple[Row, ...], tuple[Claim, ...]]:
    """Read rows and claims from TOML with the tables of `published.toml`.

    Raises:
        InvalidInput: a key or value that is not allowed, or a claim about a row that is not there.
    """
    table = tomllib.loads(text)
    read_rows = tuple(Row.from_table(entry) for entry in table["rows"])
    read_claims = tuple(_read_claim(**entry) for entry in table["claims"])
    names = [row.name for row in read_rows]
    if len(set(names)) < len(names):
        raise InvalidInput(f"the rows' names must differ, got {names}")
    for claim in read_claims:
        if not isinstance(claim, Reaches):
            continue
        if claim.row not in names:
            raise InvalidInput(
                f"{claim.text}: unknown row {claim.row!r}{nearest(claim.row, names)}"
            )
        if read_rows[names.index(claim.row)].reached(claim.against) is None:
            raise InvalidInput(f"{claim.text}: the study has no result for {claim.row!r}")
    return read_rows, read_claims


@cache
def _load() -> tuple[tuple[Row, ...], tuple[Claim, ...]]:
    file = Path(__file__).parent / "published.toml"
    return read(file.read_text(encoding="utf-8"))


def _read_claim(kind: str = "", **entry: Any) -> Claim:
    if kind not in KINDS:
        raise InvalidInput(f"unknown kind of claim {kind!r}{nearest(kind, KINDS)}")
    return KINDS[kind].from_table(entry)
