"""Tests of the colours, dashes, legends and settings that all figures share."""

import ast
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

pytest.importorskip("matplotlib")

import matplotlib
from matplotlib.animation import Animation

from tsslbp.errors import printable
from tsslbp.figures import microscope, run, sample, study, style, svg
from tsslbp.figures.run import training_curves

from .parts import drawn


@pytest.fixture(autouse=True)
def no_pixels() -> None:
    """Override the fixture that replaces pictures, since these tests draw them."""


def test_legend_of_many_entries_leaves_the_axes_their_height() -> None:
    steps = np.arange(3)
    curves = {f"a long name of a run {run}": (steps, steps / 3) for run in range(15)}
    few, many = (drawn(training_curves(dict(list(curves.items())[:count]))) for count in (1, 15))
    assert many.get_figheight() > few.get_figheight()
    height = [one.axes[0].get_position().height * one.get_figheight() for one in (few, many)]
    assert height[1] == pytest.approx(height[0], rel=0.1)


def test_colours_are_told_apart_by_brightness_or_dashes() -> None:
    styles = [tuple(style.line_style(index).values()) for index in range(28)]
    assert len(set(styles)) == 28
    assert len(set(style.PALETTE)) == len(style.PALETTE)


FIGURES = Path(style.__file__).parent
NAMES = ["$\\bad$ $x <b>& 花", "_a\x1b[31mb\udc80" + "x" * 200]
ODD = {  # settings of a user, each of which changes a figure
    "font.size": 30,
    "text.usetex": True,
    "axes.facecolor": "black",
    "axes.prop_cycle": matplotlib.cycler(color=["red"]),
    "axes.formatter.use_mathtext": True,
    "figure.dpi": 30,
    "image.interpolation": "bilinear",
    "lines.linewidth": 9,
    "path.sketch": (1, 100, 2),
    "savefig.bbox": "tight",
    "savefig.dpi": 10,
    "savefig.transparent": True,
    "svg.fonttype": "path",
    "svg.image_inline": False,
    "legend.loc": "center",
}


def figures(name: str = "a") -> dict[str, Callable[[], object]]:
    """Return everything that the package draws, with a name from data wherever one is shown."""
    spikes, steps = (np.arange(24).reshape(4, 1, 6) % 3 == 0) * 1.0, np.arange(3)
    potentials, epochs = {name: spikes}, [{"epoch": 1, "test_accuracy": 0.5, "note": name}]
    epochs[0] |= {"firing_rate": {name: 0.5}, "warm_up": {name: None}}
    curve = {name: (steps, steps / 3)}
    pixels, frames, classes = np.arange(16.0).reshape(4, 4), np.ones((2, 2, 3, 3)), (name, "b")
    point = [study.Point(2, study.Estimate(0.5, (0.4, 0.6)), study.Estimate(3.0, None))]
    trials = [{name: name, "rate": 0.1}, {name: "b", "rate": 1.0}, {name: None, "rate": 10.0}]
    rows = {"A": np.array([[0.5, 0.4, 0.6]]), name: np.array([[0.1, 0.0, 0.2]])}
    weights = {name: pixels - 5}
    return {
        "picture": lambda: run.run_picture(pixels, 0, 1, {name: spikes}, epochs, classes),
        "training": lambda: run.training_curves(curve, {name: [1.0]}),
        "panels": lambda: run.training_panels(curve, {name: [(1.0, 0.1)]}),
        "layers": lambda: run.layers_over_training(epochs),
        "confusion": lambda: run.confusion(np.array([[5, 1], [0, 5]]), classes),
        "trace": lambda: run.image_trace(
            pixels, 0, 1, {name: spikes}, potentials, {name: 1.0}, classes, output=name
        ),
        "histograms": lambda: run.histograms(weights, weights),
        "raster": lambda: run.raster({name: spikes}),
        "search": lambda: study.parallel_coordinates(trials, [0.5, 0.6, 0.7]),
        "rates": lambda: study.learning_rate_against_epochs([0.1, 1.0], [1, 2], [0.5, 0.6]),
        "latency": lambda: study.latency({name: np.array([[0.1, 0.5], [0.2, 0.6]])}),
        "spikes": lambda: study.accuracy_against_spikes({name: (steps + 1.0, steps / 3)}),
        "steps": lambda: study.accuracy_against_time_steps({name: point}),
        "cost": lambda: study.accuracy_against_cost({name: point}, "cost"),
        "intervals": lambda: study.intervals([study.Line(name, 0.5, (0.4, 0.6))], "x"),
        "image": lambda: sample.image_figure(pixels, name),
        "frames": lambda: sample.frames_figure(frames, name),
        "animation": lambda: sample.animation(frames, name),
        "microscope": lambda: microscope.microscope(
            [0.1], {name: rows}, {name: np.eye(2)}, {name: 1.0}
        ),
    }


def written(make: Callable[[], Any], folder: Path) -> list[bytes]:
    """Return a figure as the bytes of its files."""
    figure = make()
    if isinstance(figure, Animation):
        svg.save_gif(figure, folder / "a.gif")
        return [(folder / "a.gif").read_bytes()]
    return [svg.svg_text(figure).encode()]


def test_all_that_draws_does_so_under_our_own_settings() -> None:
    """Functions that return or write a figure or an animation are decorated with `own_settings`."""
    drawing = []
    for path in sorted(FIGURES.glob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if not isinstance(node, ast.FunctionDef) or node.name in ("new_figure", "new_axes"):
                continue
            made = ast.unparse(node.returns) if node.returns else ""
            first = ast.unparse(node.args.args[0].annotation or node) if node.args.args else ""
            writes = path.name == "svg.py" and {first} <= {"Figure", "Animation"}
            if made in ("Figure", "Animation") or (writes and node.name != "save_svg"):
                found = [ast.unparse(one) for one in node.decorator_list]
                assert [one.removeprefix("style.") for one in found] == ["own_settings()"], (
                    node.name
                )
                drawing.append(node.name)
    writing = ["annotate", "svg_text", "save_png", "save_gif", "save"]
    assert len(drawing) == len(figures()) + len(writing)


@pytest.mark.parametrize("what", figures())
def test_the_users_settings_change_no_byte(what: str, tmp_path: Path) -> None:
    with matplotlib.rc_context({"backend": "agg"}):
        expected = written(figures()[what], tmp_path)
        matplotlib.rcParams.update(ODD)
        before = dict(matplotlib.rcParams)
        assert written(figures()[what], tmp_path) == expected
        assert dict(matplotlib.rcParams) == before


def test_a_picture_of_pixels_is_the_same_whatever_the_settings(tmp_path: Path) -> None:
    found = []
    for settings in ({}, ODD):
        with matplotlib.rc_context({"backend": "agg"} | settings):
            figure = sample.image_figure(np.arange(16.0).reshape(4, 4), "$\\bad$ 花")
            svg.annotate(figure, "a caveat")
            svg.save_png(figure, tmp_path / "a.png", 50)
            found.append((tmp_path / "a.png").read_bytes())
    assert found[0] == found[1]


@pytest.mark.parametrize("name", NAMES)
def test_names_from_data_are_text(name: str, tmp_path: Path) -> None:
    for what, make in figures(name).items():
        (content,) = written(make, tmp_path)
        if what not in ("animation", "rates"):
            texts = " ".join(ElementTree.fromstring(content.decode()).itertext())
            shown = printable(name)[: 10 if what in ("search", "training") else 30]
            assert shown in texts.replace("\n", " "), what


BROKEN = """
import sys
from pathlib import Path
sys.path.insert(0, {path!r})
import numpy as np
from tsslbp.figures import sample, svg
svg.save_png(sample.image_figure(np.eye(4), "$"), Path("a.png"), 50)
import matplotlib
assert "matplotlib.pyplot" not in sys.modules
"""


@pytest.mark.parametrize(
    ("environment", "settings"),
    [
        ({"MPLBACKEND": "module://matplotlib_inline.backend_inline"}, b""),
        ({"MPLBACKEND": "nothing of the kind"}, b"\xff\xfe"),
        ({}, b"backend: TkAgg\nfont.size: many\nno such key: 1\n"),
    ],
)
def test_settings_that_matplotlib_does_not_take(
    environment: dict[str, str], settings: bytes, tmp_path: Path
) -> None:
    (tmp_path / "matplotlibrc").write_bytes(settings)
    code = BROKEN.format(path=str(FIGURES.parents[1]))
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.png").stat().st_size > 100
