"""The published figures for a browser, as plotly's tables of ``data`` and ``layout``.

They show the figures of `tsslbp.figures.study`. The tables are made without plotly's own classes,
which take seconds to import; a test checks them against its schema.
"""

from __future__ import annotations

import base64
import gzip
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import printable
from ..figures.axes import LOGARITHMIC, is_logarithmic
from ..figures.style import Array

COLOURS = {"colorscale": "Viridis", "reversescale": True}
POINTS_IN_ALL = 20_000  # of the training curves together
HEIGHT = 460  # pixels, without the legend
LEGEND_ROW, LEGEND_ROWS = 18, 12
FEW = 8  # values of a logarithmic axis that are its ticks
RING, RINGS = 4, 8  # pixels of a ring, and how many at most
LEGEND_BELOW = {
    "font": {"size": 11},
    "orientation": "v",
    "y": -0.2,
    "yanchor": "top",
    "x": 0,
    "xanchor": "left",
    "maxheight": LEGEND_ROW * LEGEND_ROWS,
    "title": {"text": "click: hide or show, double click: isolate", "font": {"size": 11}},
}


def library() -> str | None:
    """plotly.js, compressed by gzip and written in base 64; None where plotly is missing."""
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        return None
    content = gzip.compress(get_plotlyjs().encode(), compresslevel=6, mtime=0)
    return base64.b64encode(content).decode()


def parallel_coordinates(
    trials: Sequence[Mapping[str, Any]], accuracies: Sequence[float] | Array
) -> dict[str, Any]:
    """Hyperparameters side by side, a line a trial, coloured by accuracy; needs WebGL.

    Args:
        trials: the hyperparameters of each, by name.
        accuracies: 0 to 1.
    """
    order = np.argsort(accuracies, kind="stable").tolist()  # the best on top
    trials, accuracies = [trials[index] for index in order], np.asarray(accuracies)[order]
    names = dict.fromkeys(name for trial in trials for name in trial)
    axes = [_axis(name, [trial.get(name) for trial in trials]) for name in names]
    percent = _percent(accuracies)
    axes.append({"label": "test accuracy (%)", "values": percent})
    trace = {"type": "parcoords", "dimensions": axes, "line": COLOURS | {"color": percent}}
    return {"data": [trace], "layout": _layout(margin={"l": 70, "r": 70, "t": 60, "b": 30})}


def training_curves(
    curves: Mapping[str, tuple[Array, Array]], drops: Mapping[str, Sequence[float]] | None = None
) -> dict[str, Any]:
    """Training accuracy of runs over their steps, named by their hyperparameters.

    Args:
        curves: by name, steps ``[n]`` and accuracies ``[n]``, 0 to 1.
        drops: by the same names, the steps of sudden drops, which are marked.
    """
    points = max(20, POINTS_IN_ALL // max(1, len(curves)))
    traces: list[dict[str, Any]] = []
    for name, (steps, accuracies) in curves.items():
        kept = np.unique(np.linspace(0, len(steps) - 1, min(points, len(steps))).astype(int))
        mode = "lines+markers" if len(kept) < 3 else "lines"
        x, y = steps[kept].astype(int).tolist(), _percent(accuracies[kept])
        line = {"type": "scatter", "mode": mode, "name": _quoted(name), "x": x, "y": y}
        traces.append(line | {"line": {"width": 1.5}})
    if drops and any(drops.values()):
        traces.append(_drop_marks(curves, drops))
    layout = _layout(
        xaxis={"title": {"text": "training step"}},
        yaxis={"title": {"text": "training accuracy (%)"}},
        hovermode="closest",
        hoverlabel={"namelength": -1},
        showlegend=True,
        legend=LEGEND_BELOW,
        height=HEIGHT + LEGEND_ROW * min(len(curves) + 1, LEGEND_ROWS),
    )
    return {"data": traces, "layout": layout}


def learning_rate_against_epochs(
    learning_rates: Sequence[float], epochs: Sequence[int], accuracies: Sequence[float]
) -> dict[str, Any]:
    """Trials as points, coloured by their test accuracy (0 to 1); rings around the best."""
    order = np.argsort(accuracies, kind="stable")
    x, y = np.asarray(epochs)[order].tolist(), np.asarray(learning_rates)[order].tolist()
    percent, rates = _percent(np.asarray(accuracies)[order]), _log_ticks(learning_rates)
    places = list(zip(x, y, strict=True))
    better = [places[index + 1 :].count(place) for index, place in enumerate(places)]
    trace = {
        "type": "scatter",
        "mode": "markers",
        "x": x,
        "y": y,
        "marker": COLOURS
        | {
            "size": [12 + RING * min(count, RINGS) for count in better],
            "line": {"width": 0.8, "color": "white"},
            "color": percent,
            "showscale": True,
            "colorbar": {"title": {"text": "test accuracy (%)", "side": "right"}},
        },
        "customdata": percent,
        "hovertemplate": "%{x} epochs, learning rate %{y}: %{customdata:.2f} %<extra></extra>",
    }
    layout = _layout(
        xaxis={"title": {"text": "epochs"}, "tickvals": sorted(set(epochs))},
        yaxis={
            "title": {"text": "learning rate"},
            "type": "log",
            "automargin": True,
            **_ticks(rates, [f"{rate:g}" for rate in rates]),
        },
    )
    return {"data": [trace], "layout": layout}


def _drop_marks(
    curves: Mapping[str, tuple[Array, Array]], drops: Mapping[str, Sequence[float]]
) -> dict[str, Any]:
    marks = [(name, step) for name, steps in drops.items() for step in steps]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "sudden drop",
        "x": [step for _, step in marks],
        "y": _percent([np.interp(step, *curves[name]) for name, step in marks]),
        "text": [_quoted(name) for name, _ in marks],
        "hovertemplate": "step %{x}: %{text}<extra>sudden drop</extra>",
        "marker": {"symbol": "triangle-down-open", "size": 10, "color": "#8a929b"},
    }


def _axis(name: str, values: Sequence[Any]) -> dict[str, Any]:
    """An axis of parallel coordinates: of numbers, of logarithms of numbers, or of names."""
    numbers = [value for value in values if isinstance(value, int | float)]
    if len(numbers) < len(values) or any(isinstance(value, bool) for value in values):
        words = sorted({str(value) for value in values})
        places = [words.index(str(value)) for value in values]
        return {"label": _quoted(name), "values": places} | _ticks(range(len(words)), words)
    known = sorted(set(numbers))
    if name in LOGARITHMIC or is_logarithmic(np.array(known)):
        few = _log_ticks(numbers)
        logs = [math.log10(value) for value in few]
        values = [math.log10(value) for value in numbers]
        return {"label": _quoted(name), "values": values} | _ticks(
            logs, [f"{value:g}" for value in few]
        )
    ticks = _ticks(known, [f"{value:g}" for value in known]) if len(known) <= 12 else {}
    return {"label": _quoted(name), "values": list(numbers)} | ticks


def _ticks(places: Sequence[float], words: Sequence[str]) -> dict[str, Any]:
    return {"tickvals": list(places), "ticktext": [_quoted(word) for word in words]}


def _quoted(word: str) -> str:
    """A word without markup: plotly reads some of HTML in its labels."""
    return printable(word).replace("&", "&amp;").replace("<", "&lt;")


def _log_ticks(values: Sequence[float]) -> list[float]:
    """Ticks of a logarithmic axis: the values if they are few and round, else 1, 2, 5, 10, ..."""
    known = sorted(set(values))
    if len(known) <= FEW and all(math.isclose(float(f"{value:.1g}"), value) for value in known):
        return known
    low, high = known[0], known[-1]
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    parts = (1, 2, 5) if high < 1e4 * low else (1,)
    ticks = [float(f"{part}e{decade}") for decade in decades for part in parts]
    return [tick for tick in ticks if low <= tick <= high] or known


def _percent(shares: Sequence[float] | Array) -> list[float]:
    return [round(100 * float(share), 3) for share in shares]


def _layout(**parts: Any) -> dict[str, Any]:
    layout = {
        "height": HEIGHT,
        "margin": {"l": 70, "r": 20, "t": 20, "b": 60},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": "#8a929b", "activecolor": "#1d2126"},
        "font": {"family": "system-ui, sans-serif", "size": 13},
    }
    return layout | parts
