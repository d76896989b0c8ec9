"""Tests that the microscope's figure shows the values of its arrays."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from tsslbp.figures import microscope as figures


def rows(*values: Sequence[float]) -> np.ndarray:
    return np.array(values)


def test_figure_shows_truth_and_rules_of_every_layer(tmp_path: Path) -> None:
    nothing = [np.nan] * 3
    truth = {
        name: {"A": rows([0.5, 0.4, 0.6], [0.7, 0.6, 0.8]), "B": rows(nothing, [-0.2, -0.3, -0.1])}
        for name in ("conv1", "linear2", "linear3", "linear4", "output")
    }
    between = dict.fromkeys(truth, rows([1, -0.25], [-0.25, np.nan]))
    figure = figures.microscope([0.1, 0.3], truth, between, dict.fromkeys(truth, 0.999))
    panels = {axes.get_title(): axes for axes in figure.axes if axes.lines}
    assert list(panels) == [f"{name}\ncontrol 0.999" for name in truth]
    for axes in panels.values():
        first, second = (part for part in axes.containers)
        assert first.lines[0].get_ydata().tolist() == [0.5, 0.7]
        assert second.lines[0].get_ydata()[1] == -0.2
        low, high = axes.get_ylim()
        assert low < -0.3 and high > 1
    matrices = [axes for axes in figure.axes if axes.images]
    assert len(matrices) == 5
    assert [text.get_text() for text in matrices[0].texts] == ["1.00", "-0.25", "-0.25"]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.texts] == ["1  A", "2  B"]
    figure.savefig(tmp_path / "figure.png")


def test_figure_of_one_width() -> None:
    truth = {"output": {"A": rows([0.5, 0.4, 0.6])}}
    figure = figures.microscope([0.1], truth, {"output": rows([1])}, {"output": 1.0})
    low, high = figure.axes[0].get_xlim()
    assert low < 0.1 < high
