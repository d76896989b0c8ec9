"""What is known about each data set: size, licence, source. The facts are in `catalogue.toml`."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from functools import cache
from importlib import resources
from typing import Any, Literal, final, get_args

from ..errors import InvalidInput, nearest

Kind = Literal["images", "events"]
Origin = Literal["package", "download", "hand", "generated"]


@final
@dataclass(frozen=True)
class Entry:
    """Facts about one data set.

    Attributes:
        name: by which `tsslbp.data.load` finds it.
        title: what it shows, in some words.
        kind: ``"images"``, or ``"events"`` of recordings.
        origin: how it is got: it comes with a ``"package"``, tsslbp ``"download"`` s it, it is
            downloaded by ``"hand"``, or it is ``"generated"``.
        train, test: number of samples.
        shape: channels, height and width; of recordings the channels are the two polarities.
        classes: number of classes.
        citation: the paper to cite.
        homepage: where it is described.
        licence: of the data; empty where it is not known for certain.
        download, disk: bytes to download, and that the files take; None where that is not known.
        folders: what the folder of a set of recordings may be called, in the folder of all data.
        layout: how it is got or laid out, where that is not tsslbp's work.

    Raises:
        InvalidInput: a value is not one of these.
    """

    name: str
    title: str
    kind: Kind
    origin: Origin
    train: int
    test: int
    shape: tuple[int, int, int]
    classes: int
    citation: str
    homepage: str
    licence: str = ""
    download: int | None = None
    disk: int | None = None
    folders: tuple[str, ...] = ()
    layout: str = ""

    def __post_init__(self) -> None:
        for key, known in (("kind", get_args(Kind)), ("origin", get_args(Origin))):
            value = getattr(self, key)
            if value not in known:
                raise InvalidInput(
                    f"{self.name}: {key} must be one of {', '.join(known)}, got {value!r}"
                    f"{nearest(str(value), known)}"
                )
        numbers = (self.train, self.test, *self.shape, self.classes)
        if len(self.shape) != 3 or any(number < 1 for number in numbers):
            raise InvalidInput(
                f"{self.name}: numbers above 0 and a shape (C, H, W) expected, got {numbers}"
            )
        if self.origin in ("package", "hand") and not self.layout:
            raise InvalidInput(f"{self.name} comes by {self.origin}, so its layout must say how")


def entries() -> tuple[Entry, ...]:
    """All data sets, in their order."""
    return _load()


def find(name: str) -> Entry:
    """The data set of that name.

    Raises:
        InvalidInput: there is none.
    """
    for entry in entries():
        if entry.name == name:
            return entry
    names = [entry.name for entry in entries()]
    raise InvalidInput(
        f"no data set is called {name!r}{nearest(name, names)}; known: {', '.join(names)}"
    )


def read(text: str) -> tuple[Entry, ...]:
    """Read entries from TOML with the tables of `catalogue.toml`.

    Raises:
        InvalidInput: a key or value that is not allowed, or a name twice.
    """
    found = tuple(_entry(table) for table in tomllib.loads(text)["sets"])
    names = [entry.name for entry in found]
    if len(set(names)) < len(names):
        raise InvalidInput(f"the names of data sets must differ, got {names}")
    return found


@cache
def _load() -> tuple[Entry, ...]:
    file = resources.files(__package__) / "catalogue.toml"
    return read(file.read_text(encoding="utf-8"))


def _entry(table: Mapping[str, Any]) -> Entry:
    names = [field.name for field in fields(Entry)]
    for key in table:
        if key not in names:
            raise InvalidInput(f"a data set has no field {key!r}{nearest(key, names)}")
    for field in fields(Entry):
        if field.default is MISSING and field.name not in table:
            raise InvalidInput(f"{table.get('name', 'a data set')} lacks the field {field.name!r}")
    values: dict[str, Any] = {
        key: tuple(item) if isinstance(item, list) else item for key, item in table.items()
    }
    return Entry(**values)


def of_folder(name: str) -> str:
    """Return the name of the set whose folder is called `name`.

    Raises:
        InvalidInput: none is.
    """
    for entry in entries():
        if name in (entry.name, *entry.folders):
            return entry.name
    known = sorted({folder for entry in entries() for folder in entry.folders or (entry.name,)})
    raise InvalidInput(
        f"no data set lies in a folder called {name!r}{nearest(name, known)}; known: "
        f"{', '.join(known)}"
    )
