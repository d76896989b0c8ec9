"""The data sets that tsslbp knows, and all that is known about them: `catalogue.toml`, read."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal, final

from ..checked import Checked, Count, Text
from ..errors import InvalidInput, nearest
from ..experiment.binning import Binning

Reader = Literal[
    "digits", "idx", "cifar10", "nmnist", "cifar10_dvs", "dvs_gesture", "moving_digits"
]


@final
@dataclass(frozen=True)
class Entry(Checked, called=""):
    """What is known about one data set.

    Attributes:
        name: by which `tsslbp.data.load` finds it.
        title: what it shows, in some words.
        kind: ``"images"``, or ``"events"`` of recordings.
        reader: the module in ``images/`` or ``events/`` that reads its files.
        origin: how it is got: it comes with a ``"package"``, tsslbp ``"download"`` s it, it is
            downloaded by ``"hand"``, or it is ``"generated"``.
        train, test: number of samples.
        shape: channels, height and width; of recordings the channels are the two polarities.
        classes: number of classes.
        class_names: what they are called, in their order; empty: by their numbers.
        citation: the paper to cite.
        homepage: where it is described.
        licence: of the data; empty where it is not known for certain.
        download, disk: bytes to download, and that the files take; None where that is not known.
        folders: what its folder may be called, in the folder of all data; by default as the set.
        layout: how it is got or laid out, where that is not tsslbp's work.
        url: address of the folder with the files to download, with a slash at its end.
        md5: official MD5 sum of each file to download.
        sha1: SHA-1 sum of each file that is unpacked from these.
        note: a caveat that every result made with the data must carry, or nothing.

    Raises:
        InvalidInput: a value is not one of these.
    """

    name: Text
    title: Text
    kind: Literal["images", "events"]
    reader: Reader
    origin: Literal["package", "download", "hand", "generated"]
    train: Count
    test: Count
    shape: tuple[Count, Count, Count]
    classes: Count
    citation: Text
    homepage: Text
    class_names: tuple[Text, ...] = ()
    licence: str = ""
    download: Count | None = None
    disk: Count | None = None
    folders: tuple[str, ...] = ()
    layout: str = ""
    url: str = ""
    md5: Mapping[str, str] = field(default_factory=dict)
    sha1: Mapping[str, str] = field(default_factory=dict)
    note: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.folders:
            object.__setattr__(self, "folders", (self.name,))
        if len(self.class_names) not in (0, self.classes):
            raise InvalidInput(
                f"it has {self.classes} classes and {len(self.class_names)} class_names"
            )
        if self.origin in ("package", "hand") and not self.layout:
            raise InvalidInput(f"it comes by {self.origin}, so its layout must say how")
        if (self.origin == "download") != bool(self.url and self.md5):
            raise InvalidInput("url and md5 are those of a set that tsslbp downloads")

    @property
    def folder(self) -> str:
        """What its folder is called where tsslbp makes it, and in messages."""
        return self.folders[0]


@cache
def entries(text: str = "") -> dict[str, Entry]:
    """All data sets by name, in their order; or those in another `text` than `catalogue.toml`'s.

    Raises:
        InvalidInput: a key or value that is not allowed.
    """
    text = text or (Path(__file__).parent / "catalogue.toml").read_text(encoding="utf-8")
    result: dict[str, Entry] = {}
    for name, table in tomllib.loads(text).items():
        try:
            result[name] = Entry.from_table({"name": name} | table)
        except InvalidInput as error:
            raise InvalidInput(f"{name}: {error}") from None
    return result


def find(name: str, others: str = "") -> Entry:
    """The data set of that name.

    Raises:
        InvalidInput: there is none; the message ends in `others`, what else may be given.
    """
    if name not in entries():
        raise InvalidInput(
            f"no data set is called {name!r}{nearest(name, entries())}; "
            f"known: {', '.join(entries())}{others}"
        )
    return entries()[name]


def holds_events(name: str) -> bool:
    """Whether a data set of that name is known, and one of recordings of events."""
    return name in entries() and entries()[name].kind == "events"


def known_shape(name: str, binning: Binning | None) -> tuple[tuple[int, int, int], int] | None:
    """Shape of an image or a frame of the set called `name`, and its classes; None: not known."""
    entry = entries().get(name)
    if entry is None or entry.kind == "images":
        return entry and (entry.shape, entry.classes)
    return (binning or Binning()).shape(*entry.shape[1:]), entry.classes


def of_folder(name: str) -> str:
    """Return the name of the set whose folder is called `name`.

    Raises:
        InvalidInput: none is.
    """
    for entry in entries().values():
        if name in (entry.name, *entry.folders):
            return entry.name
    known = sorted({folder for entry in entries().values() for folder in entry.folders})
    raise InvalidInput(
        f"no data set lies in a folder called {name!r}{nearest(name, known)}; known: "
        f"{', '.join(known)}"
    )
