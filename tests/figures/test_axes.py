"""Tests that values on the axes of parallel coordinates agree with the ticks."""

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tsslbp.figures import axes as parallel_axes


def axis(values: list, name: str = "epochs") -> tuple[Axes, np.ndarray]:
    host = Figure().subplots()
    heights = parallel_axes.hyperparameter_axis(host, 0, 1, name, values)
    return host.figure.axes[-1], heights


def names(axes: Axes) -> list[str]:
    return [label.get_text() for label in axes.get_yticklabels()]


def test_many_values_get_round_ticks_between_them() -> None:
    axes, heights = axis(np.linspace(1.5, 9.8, 50).tolist())
    assert axes.get_yscale() == "linear"
    assert names(axes) == ["1.5", "3.0", "4.5", "6.0", "7.5", "9.0"]
    assert np.diff(heights) == pytest.approx(np.diff(heights)[0])


def test_many_decades_have_a_tick_each() -> None:
    axes, _ = axis(np.logspace(-5, -1, 50).tolist())
    assert axes.get_yscale() == "log"
    assert names(axes) == ["1e-05", "0.0001", "0.001", "0.01", "0.1"]


@pytest.mark.parametrize(
    ("values", "log"),
    [
        ([1, 10], True),
        ([1, 9.9], False),
        ([0, 10], False),
        ([-1, 10], False),
        ([0.01, None, 1], True),
    ],
)
def test_positive_numbers_over_a_decade_get_a_logarithmic_axis(values: list, log: bool) -> None:
    assert (axis(values)[0].get_yscale() == "log") == log


def test_the_learning_rates_axis_is_logarithmic_however_near_they_lie() -> None:
    assert axis([0.001, 0.002], "learning_rate")[0].get_yscale() == "log"
    assert axis([0.001, 0.001], "learning_rate")[0].get_yscale() == "log"


def test_text_gets_categories_even_beside_numbers() -> None:
    axes, heights = axis(["never", 5, "always", "never"])
    assert names(axes) == ["5", "always", "never"]
    assert heights[0] == heights[3] > heights[2] > heights[1]


def test_ticks_too_close_to_read_are_left_out() -> None:
    assert names(axis([1, 1.001, 5, 9])[0]) == ["1", "5", "9"]


def test_missing_values_lie_below_all_others() -> None:
    _, heights = axis([None, 1.0, float("nan"), 2.0])
    assert heights[0] == heights[2] == parallel_axes.FOOT < heights[1] < heights[3] < 1


def test_spread_keeps_the_order_and_the_middle() -> None:
    heights = parallel_axes.spread(np.array([0.5, 0.2, 0.5, 0.5]))
    assert heights[1] == 0.2
    assert heights[0] < heights[2] == 0.5 < heights[3]
