"""Figures of the page as files: SVG and PDF, as wide as a column, the same bytes each time."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from tsslbp.figures.style import own_settings
from tsslbp.figures.svg import svg_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMN = 3.5  # inches: the width of one of two columns
FONT = 7.5  # points
Drawing = Callable[[], "Figure"]


def files(drawings: Mapping[str, Drawing]) -> dict[str, bytes]:
    """Return SVG and PDF of every figure, by file name."""
    found: dict[str, bytes] = {}
    for name, draw in drawings.items():
        with own_settings({"font.size": FONT, "axes.linewidth": 0.6, "pdf.fonttype": 42}):
            text = svg_text(draw(), name, name.replace("-", " "))
            content = io.BytesIO()
            # A date would change the bytes each time. Each format draws the figure anew.
            draw().savefig(content, format="pdf", metadata={"CreationDate": None})
        found[f"{name}.svg"] = text.encode()
        found[f"{name}.pdf"] = content.getvalue()
    return found
