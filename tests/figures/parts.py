"""Helpers that read the parts of drawn figures."""

from matplotlib.collections import LineCollection
from matplotlib.figure import Figure


def collections(figure: Figure) -> list[LineCollection]:
    found = [one for axes in figure.axes for one in axes.collections]
    return [one for one in found if isinstance(one, LineCollection) and one.get_array() is not None]


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for one in figure.legends for text in one.get_texts()]


def drawn(figure: Figure) -> Figure:
    """Return the figure after its layout, which warns where something has no room."""
    figure.draw_without_rendering()
    return figure
