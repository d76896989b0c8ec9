"""Colours, dashes and legends that all figures share."""

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from tsslbp.figures import style
from tsslbp.figures.run import training_curves

from .parts import drawn


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
