"""A page as one HTML file that fetches nothing, and as Markdown."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any
from urllib.parse import quote

from ..errors import printable
from . import interactive, tables
from .blocks import Block, Figure, Page


def to_html(page: Page) -> str:
    """The page as one file, which fetches nothing."""
    graphs = any(figure.interactive for figure in page.figures)
    return _render(
        "page.html",
        page=page,
        plotly=interactive.library() if graphs else None,
        css=_text("page.css"),
        script=_text("page.js"),
        verdicts=(*tables.VERDICTS, "higher", "lower"),
        images={
            figure.name: base64.b64encode(svg(figure)).decode()
            for figure in page.figures
            if figure.image
        },
    )


def to_markdown(page: Page, folder: str) -> str:
    """The page in Markdown, with its figures in a folder of that name."""
    return _render("page.md", page=page, folder=quote(os.fsencode(folder)))


def block_to_markdown(block: Block, folder: str) -> str:
    """One block in the form of `to_markdown`."""
    return _render("block.md", block=block, folder=quote(os.fsencode(folder)))


def svg(figure: Figure) -> bytes:
    """The content of a figure's SVG file."""
    return figure.image or figure.svg.encode()


def _render(name: str, **values: Any) -> str:
    import jinja2

    environment = jinja2.Environment(
        autoescape=name.endswith(".html"),
        finalize=lambda value: printable(value) if type(value) is str else value,
        loader=jinja2.FunctionLoader(_text),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "json": _script_json,
        "line": _markdown_line,
        "cell": _markdown_cell,
        "fenced": _markdown_code,
    }
    return environment.get_template(name).render(**values)


def _script_json(table: Mapping[str, Any]) -> Any:
    """JSON for a script element: nothing in it can end the element."""
    from markupsafe import Markup

    text = json.dumps(table, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace("&", "\\u0026"))


def _markdown_code(lines: Sequence[str]) -> str:
    """Lines of code between two fences, which are longer than any fence in the lines."""
    lines = [" ".join(printable(line).splitlines()) for line in lines]
    longest = max((len(ticks) for line in lines for ticks in re.findall("`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    return "\n".join([fence, *lines, fence])


def _markdown_line(text: str) -> str:
    """Text escaped for Markdown."""
    text = printable(text)
    for letter in "\\`*_[]<>":
        text = text.replace(letter, f"\\{letter}")
    return " ".join(text.split())


def _markdown_cell(text: str) -> str:
    lines = [_markdown_line(line).replace("|", "\\|") for line in text.split("\n")]
    return "<br>".join(lines)


def _text(name: str) -> str:
    return (resources.files(__package__) / name).read_text(encoding="utf-8")
