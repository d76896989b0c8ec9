"""The parts of a report, for HTML and Markdown: sections of text, tables, figures, commands.

Text is plain; the templates escape it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal


@dataclass(frozen=True)
class Lines:
    """A paragraph, which is one line; a list of short lines; or commands, one per line."""

    kind: Literal["paragraph", "list", "code"]
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """A table; a row of one cell is a heading for the rows below it."""

    kind: ClassVar = "table"
    caption: str  # what it shows
    head: tuple[str, ...]  # names of the columns
    rows: tuple[tuple[str, ...], ...]  # what follows a line break in a cell is secondary
    text_columns: int = 1  # number of columns with text, on the left; the others are numbers
    folded: bool = False  # shown only on demand


@dataclass(frozen=True)
class Figure:
    """A figure: a drawing, or the content of a file, shown as an image that cannot run scripts."""

    kind: ClassVar = "figure"
    name: str  # of its file and element, unique in the report
    title: str  # what it shows, in a few words
    caption: str  # how to read it
    svg: str = ""  # the drawing, an element of HTML; empty where `image` is given
    image: bytes = b""  # the content of a file of SVG
    file: Path | None = None  # that file; next to it there may be the same in other formats
    interactive: dict[str, Any] | None = None  # the same as plotly's ``data`` and ``layout``
    drawing: Any = field(default=None, repr=False)  # matplotlib's, for files of other formats
    webgl: bool = False  # whether the interactive one needs WebGL


Block = Lines | Table | Figure


@dataclass(frozen=True)
class Section:
    """A part of the report: the name of its anchor, unique in the report, heading and blocks."""

    name: str
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Page:
    """A whole report."""

    title: str  # the heading
    lead: str  # what was run, in a sentence or two
    tallies: Sequence[tuple[str, str]]  # numbers in one glance: name and value
    verdicts: Sequence[tuple[str, str, str]]  # of claims that were tested: verdict, claim, reason
    made_by: str  # the program and its version
    sections: Sequence[Section] = ()  # in order, those without blocks left out
    results: Sequence[tuple[str, str]] = ()  # the first ones: settings, and what they have reached

    @property
    def figures(self) -> list[Figure]:
        blocks = (block for section in self.sections for block in section.blocks)
        return [block for block in blocks if isinstance(block, Figure)]
