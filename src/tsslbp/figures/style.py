"""The common style of all figures: matplotlib settings, width, colours, lines, legends, axes.

Figures have the width of a page of text, accuracies in percent, and colours that colour-blind
readers can distinguish. Where accuracy is a colour, darker is better.
"""

from __future__ import annotations

import importlib
import math
import os
import sys
import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..errors import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

Array = npt.NDArray[Any]
Look = dict[str, Any]  # matplotlib's keywords for lines and text

WIDTH = 7.2  # inches: 691 pixels of a web page
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
LINES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LEGEND_COLUMNS = {20: 4, 30: 3, 48: 2}  # characters of the longest label: columns
LEGEND_CHARACTERS = 100
LEGEND_ROW = 0.2  # inches
SETTINGS: Look = {"text.parse_math": False}  # names are text, even ``$x$``
_IS_OWN: ContextVar[bool] = ContextVar("is_own", default=False)


@contextmanager
def own_settings(changes: Mapping[str, Any] | None = None) -> Iterator[None]:
    """Use matplotlib's defaults and our settings, not the user's, within this context.

    Every function that makes or writes a figure does so in this context. The user's settings are
    restored when it ends.

    Args:
        changes: changes of matplotlib's settings within the context.
    """
    matplotlib = _matplotlib()
    with matplotlib.rc_context(), warnings.catch_warnings():
        # A letter that the font lacks is a box in a PNG; in an SVG the reader's font has it. A
        # very long name leaves no space for the layout.
        warnings.filterwarnings("ignore", "Glyph .* missing from font|constrained_layout not app")
        if not _IS_OWN.get():
            matplotlib.rcdefaults()
            matplotlib.rcParams.update(SETTINGS)
        matplotlib.rcParams.update(changes or {})
        token = _IS_OWN.set(True)
        try:
            yield
        finally:
            _IS_OWN.reset(token)


def _matplotlib() -> Any:
    """Import matplotlib, even if the user's settings would prevent it.

    Examples are MPLBACKEND as Jupyter sets it for its kernels, and a matplotlibrc that is not text.
    """
    try:
        return importlib.import_module("matplotlib")
    except (ImportError, MemoryError):
        raise
    except Exception:
        before = {name: os.environ.pop(name, None) for name in ("MPLBACKEND", "MATPLOTLIBRC")}
        os.environ["MATPLOTLIBRC"] = os.devnull
        for part in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
            del sys.modules[part]  # remove the partly imported package
        try:
            with chdir(os.path.dirname(__file__)):  # ignore a matplotlibrc in the current folder
                return importlib.import_module("matplotlib")
        finally:
            del os.environ["MATPLOTLIBRC"]
            os.environ.update({name: value for name, value in before.items() if value is not None})


def label(name: str) -> str:
    """Return a name from data for a figure; matplotlib would omit one that begins with ``_``."""
    name = printable(name)
    return f" {name}" if name.startswith("_") else name


def new_figure(height: float, width: float = WIDTH) -> Figure:
    """Return an empty figure of this height in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def new_axes(height: float, width: float = WIDTH) -> tuple[Figure, Axes]:
    """Return a figure with axes."""
    figure = new_figure(height, width)
    return figure, figure.subplots()


def write_in_middle(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes, color="0.35")


def write_cell(axes: Axes, place: tuple[int, int], text: str, **style: Any) -> None:
    """Write into a cell of a matrix, given by its row and column."""
    row, column = place
    axes.text(column, row, text, ha="center", va="center", **style)


def colour(index: int) -> str:
    """Return the colour of the curve or group with this number."""
    return PALETTE[index % len(PALETTE)]


def line_style(index: int) -> Look:
    """Return colour and dashes of the curve with this number; the first 28 all differ."""
    return {"color": colour(index), "linestyle": LINES[index // len(PALETTE) % len(LINES)]}


def marker_of(index: int) -> str:
    """Return the marker of the curve with this number."""
    return MARKERS[index % len(MARKERS)]


def quiet(axes: Axes) -> None:
    """Draw a light grid behind the data, and remove the frame above and on the right."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.9")
    axes.set_axisbelow(True)


def whole_numbers(axes: Axes) -> None:
    """Set the ticks of the horizontal axis at whole numbers."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def plain_powers(axes: Axes) -> None:
    """Write the numbers of a logarithmic horizontal axis as text, ``1e-05``, not as formulas."""
    from matplotlib.ticker import LogFormatter

    axes.xaxis.set_major_formatter(LogFormatter())
    axes.xaxis.set_minor_formatter(LogFormatter())


def lowest_shown(percent: Array) -> float:
    """Return the lowest accuracy to show; those far below the others would hide differences."""
    lower, upper = np.percentile(percent, [25, 75])
    return float(percent[percent >= lower - 3 * max(upper - lower, 1.0)].min())


def accuracy_colours(percent: Array) -> Look:
    """Return colour map and scale of accuracies: darker is better.

    The map is viridis without its yellow, which is invisible on white. Accuracies far below the
    others do not extend the scale.
    """
    from matplotlib.colors import Normalize

    low, high = lowest_shown(percent), float(percent.max())
    norm = Normalize(low if low < high else high - 1, high)
    return {"cmap": part_of("viridis_r", 0.1, 1), "norm": norm}


def part_of(name: str, start: float, end: float) -> Colormap:
    """Return a section of one of matplotlib's colour maps."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    return ListedColormap(colormaps[name](np.linspace(start, end, 256)))


def colour_bar(figure: Figure, drawn: ScalarMappable, percent: Array, name: str) -> None:
    """Add the scale of `accuracy_colours` next to what is drawn with them."""
    axes = figure.axes[0]
    extend = "min" if percent.min() < lowest_shown(percent) else "neither"
    bar = figure.colorbar(drawn, ax=axes, label=name, extend=extend)
    bar.formatter.set_useOffset(False)  # type: ignore[attr-defined]
    if bar.solids:
        bar.solids.set_alpha(1)


def label_axes(figure: Figure, x: str, y: str, title: str | None = None) -> None:
    """Label the axes, write accuracies in full on the vertical one, and add a legend below."""
    axes = figure.axes[0]
    axes.ticklabel_format(axis="y", useOffset=False, style="plain")
    axes.set(xlabel=x, ylabel=y)
    quiet(axes)
    legend(figure, title)


def legend(figure: Figure, title: str | None = None) -> None:
    """Add a legend of the first axes below the figure, whose height increases."""
    labels = figure.axes[0].get_legend_handles_labels()[1]
    if not labels:
        return
    labels = [textwrap.fill(label, LEGEND_CHARACTERS) for label in labels]
    longest = max(map(len, labels))
    columns = next((n for limit, n in LEGEND_COLUMNS.items() if longest <= limit), 1)
    columns = min(columns, len(labels))
    rows = math.ceil(sum(1 + label.count("\n") for label in labels) / columns) + bool(title)
    figure.set_figheight(figure.get_figheight() + LEGEND_ROW * rows)
    place_legend(figure, labels, columns, title)


def place_legend(
    figure: Figure, labels: Sequence[str], columns: int, title: str | None = None
) -> None:
    """Add a legend of the first axes below all axes."""
    figure.legend(
        figure.axes[0].get_legend_handles_labels()[0],
        labels,
        loc="outside lower center",
        ncols=columns,
        fontsize="small",
        title=title,
        title_fontsize="small",
        frameon=False,
    )
