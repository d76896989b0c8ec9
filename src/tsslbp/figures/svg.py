"""Figures as files: SVG without external resources, PDF, PNG, GIF; reproducible to the byte."""

from __future__ import annotations

import io
import re
import tempfile
import textwrap
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InvalidInput, printable
from ..storage import write_file
from .style import LEGEND_CHARACTERS, label, own_settings

if TYPE_CHECKING:
    from matplotlib.animation import Animation
    from matplotlib.figure import Figure


SUFFIXES = (".svg", ".pdf", ".png")
DPI = 300  # of PNG


@own_settings()
def annotate(figure: Figure, text: str) -> None:
    """Write a heading, such as a caveat of the data, above everything else in a figure."""
    if text:
        lines = [textwrap.fill(label(line), LEGEND_CHARACTERS) for line in text.splitlines()]
        figure.suptitle("\n".join(lines), fontsize="medium")


@own_settings()
def svg_text(figure: Figure, prefix: str = "figure", title: str = "") -> str:
    """Return a figure as an SVG element for a page of HTML with others, or for a file.

    The same figure gives the same text. Text remains text, in the reader's sans-serif font; nothing
    is loaded from elsewhere.

    Args:
        figure: the figure.
        prefix: prefix of all ids, which must be unique in a page; a letter, then letters, digits,
            ``-``.
        title: text that a screen reader says instead of the figure.
    """
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    content = io.StringIO()
    with own_settings({"svg.fonttype": "none", "svg.hashsalt": prefix}):
        canvas: Any = FigureCanvasSVG(figure)  # matplotlib leaves it untyped
        canvas.print_svg(content, metadata={"Date": None})
    text = content.getvalue()
    text = text[text.index("<svg") :]  # without the prolog of a file
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r"<[^>]+>", lambda tag: _own_ids(tag[0], prefix), text)
    text = text.replace("*{stroke", f"#{prefix} *{{stroke", 1)  # limits the style to this figure
    spoken = escape(printable(title), quote=False).replace('"', "&quot;")
    label = f' role="img" aria-label="{spoken}"' if title else ""
    return text.replace("<svg", f'<svg id="{prefix}"{label}', 1)


def save_svg(figure: Figure, path: Path, title: str = "") -> None:
    """Write `svg_text` to a file, atomically; the file's name is part of the ids.

    Raises:
        RunError: the file cannot be written.
    """
    prefix = "figure-" + re.sub(r"[^A-Za-z0-9-]", "-", path.stem)
    write_file(path, svg_text(figure, prefix, title))


@own_settings()
def save_png(figure: Figure, path: Path, dpi: int) -> None:
    """Write a figure as PNG with `dpi` pixels per inch, atomically.

    Raises:
        RunError: the file cannot be written.
    """
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=dpi)
    write_file(path, content.getbuffer())


@own_settings()
def save_gif(animation: Animation, path: Path) -> None:
    """Write an animation as GIF, atomically.

    Raises:
        RunError: the file cannot be written.
    """
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "animation.gif"  # the name tells the writer the format
        animation.save(whole, writer="pillow")
        write_file(path, whole.read_bytes())


@own_settings()
def save(figure: Figure, path: Path, title: str = "") -> None:
    """Write a figure to a file, in the format of the path's suffix, one of `SUFFIXES`.

    A PDF has its fonts embedded as TrueType, as publishers require; a PNG has `DPI` pixels per
    inch.

    Raises:
        InvalidInput: the suffix is another one.
        RunError: the file cannot be written.
    """
    if path.suffix not in SUFFIXES:
        known = ", ".join(SUFFIXES)
        raise InvalidInput(f"a figure's file must end in one of {known}, got {str(path)!r}")
    if path.suffix == ".svg":
        save_svg(figure, path, title)
        return
    metadata = {"CreationDate": None} if path.suffix == ".pdf" else {"Software": None}
    content = io.BytesIO()
    with own_settings({"pdf.fonttype": 42}):
        figure.savefig(content, format=path.suffix[1:], dpi=DPI, metadata=metadata)
    write_file(path, content.getbuffer())


def _own_ids(tag: str, prefix: str) -> str:
    """Return a tag whose id and references to ids begin with `prefix`; without font names."""
    tag = re.sub(r'(\sid="|url\(#|href="#)', rf"\g<1>{prefix}-", tag)
    return re.sub(r"'[^;\"]*', sans-serif|'[^';\"]*'(?=[;\"])", "sans-serif", tag)
