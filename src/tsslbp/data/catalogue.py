"""The data sets that tsslbp knows, and all facts about them, read from `catalogue.toml`."""

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
    """The facts about one data set.

    Attributes:
        name: name by which `tsslbp.data.load` finds it.
        title: short description of its content.
        kind: ``"images"``, or ``"events"`` for recordings.
        reader: module in ``images/`` or ``events/`` that reads its files.
        origin: how to obtain it: ``"package"`` (included), ``"download"`` (tsslbp downloads it),
            ``"hand"`` (the user must download it) or ``"generated"``.
        train, test: number of samples.
        shape: channels, height and width; the channels of recordings are the two polarities.
        classes: number of classes.
        class_names: names of the classes, in order; empty: their numbers are used.
        citation: the paper to cite.
        homepage: address of its description.
        licence: licence of the data; empty if it is not known for certain.
        download, disk: bytes to download, and bytes that the files take; None if unknown.
        folders: possible names of its folder in the data folder; by default the set's name.
        layout: how to obtain or arrange the files, if tsslbp does not do so.
        url: address of the folder with the files to download; it ends in a slash.
        md5: official MD5 sum of each file to download.
        sha1: SHA-1 sum of each file that is unpacked from these.
        note: a caveat that every result made with the data must carry, or an empty text.

    Raises:
        InvalidInput: a value is not allowed.
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
                f"it has {self.classes} classes but {len(self.class_names)} class_names"
            )
        if self.origin in ("package", "hand") and not self.layout:
            raise InvalidInput(f"origin is {self.origin!r}, so layout must say how to obtain it")
        if (self.origin == "download") != bool(self.url and self.md5):
            raise InvalidInput("url and md5 must be set if, and only if, origin is 'download'")

    @property
    def folder(self) -> str:
        """Name of its folder in messages, and where tsslbp creates it."""
        return self.folders[0]


@cache
def entries(text: str = "") -> dict[str, Entry]:
    """Return all data sets by name, in order, from `catalogue.toml` or another `text`.

    Raises:
        InvalidInput: a key or value is not allowed.
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
    """Return the data set called `name`.

    Raises:
        InvalidInput: there is none; the message ends in `others`, which lists other accepted names.
    """
    if name not in entries():
        raise InvalidInput(
            f"there is no data set {name!r}{nearest(name, entries())}; "
            f"known: {', '.join(entries())}{others}"
        )
    return entries()[name]


def holds_events(name: str) -> bool:
    """Whether `name` is a known data set of event recordings."""
    return name in entries() and entries()[name].kind == "events"


def known_shape(name: str, binning: Binning | None) -> tuple[tuple[int, int, int], int] | None:
    """Return the shape of an image or frame of a data set, and its classes; None if unknown."""
    entry = entries().get(name)
    if entry is None or entry.kind == "images":
        return entry and (entry.shape, entry.classes)
    return (binning or Binning()).shape(*entry.shape[1:]), entry.classes


def of_folder(name: str) -> str:
    """Return the name of the data set whose folder is called `name`.

    Raises:
        InvalidInput: there is none.
    """
    for entry in entries().values():
        if name in (entry.name, *entry.folders):
            return entry.name
    known = sorted({folder for entry in entries().values() for folder in entry.folders})
    raise InvalidInput(
        f"no data set has a folder called {name!r}{nearest(name, known)}; known: {', '.join(known)}"
    )
