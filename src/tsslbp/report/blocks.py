"""What a report is made of, in HTML as in Markdown: sections of text, tables, figures, commands.

Text is plain; the templates escape it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    kind: ClassVar = "text"
    text: str


@dataclass(frozen=True)
class Lines:
    """A list of short lines."""

    kind: ClassVar = "lines"
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Code:
    """Commands, one a line."""

    kind: ClassVar = "code"
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        caption: what it shows.
        head: names of the columns.
        rows: cells; what follows a line break in one is secondary. A row of one cell is a heading
            of those below it.
        text_columns: so many columns on the left hold text, the others numbers.
        folded: whether it is shown on demand only.
    """

    kind: ClassVar = "table"
    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    text_columns: int = 1
    folded: bool = False


@dataclass(frozen=True)
class Figure:
    """A figure.

    Attributes:
        name: of its file and element, unique in the report.
        title: what it shows, in a few words.
        caption: how to read it.
        svg: the drawing, an element of HTML; empty where `file` is given.
        file: an SVG file, which is shown as an image: nothing in it can run.
        interactive: the same as a table of plotly's ``data`` and ``layout``.
        webgl: whether the interactive one needs WebGL.
    """

    kind: ClassVar = "figure"
    name: str
    title: str
    caption: str
    svg: str = ""
    file: Path | None = None
    interactive: dict[str, Any] | None = None
    webgl: bool = False


Block = Text | Lines | Code | Table | Figure


@dataclass(frozen=True)
class Section:
    """A part of the report: the name of its anchor, unique in the report, heading and blocks."""

    name: str
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Page:
    """A whole report.

    Attributes:
        title: the heading.
        lead: what was run, in a sentence or two.
        tallies: numbers in one glance: name and value.
        verdicts: of the claims that some run speaks to: verdict, claim and reason.
        sections: in order, those without blocks left out.
        made_by: the program and its version.
    """

    title: str
    lead: str
    tallies: Sequence[tuple[str, str]]
    verdicts: Sequence[tuple[str, str, str]]
    made_by: str
    sections: Sequence[Section] = ()

    @property
    def figures(self) -> list[Figure]:
        blocks = (block for section in self.sections for block in section.blocks)
        return [block for block in blocks if isinstance(block, Figure)]
