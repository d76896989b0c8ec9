"""Tests that figures of many runs show the values of the arrays."""

import math

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from matplotlib.figure import Figure

from tsslbp.figures import axes as parallel_axes
from tsslbp.figures import study as study_figures
from tsslbp.figures.study import Estimate, Point

from .parts import collections, drawn, legend

TRIALS = [
    {"epochs": 50, "learning_rate": 0.0001, "warm_up": "never"},
    {"epochs": 200, "learning_rate": 0.001, "warm_up": "always"},
    {"epochs": 100, "learning_rate": 0.01, "warm_up": "never"},
]


def point(
    steps: int,
    accuracy: float,
    interval: tuple[float, float] | None = None,
    cost: float | None = None,
    cost_interval: tuple[float, float] | None = None,
) -> Point:
    return Point(
        steps,
        Estimate(accuracy, interval),
        None if cost is None else Estimate(cost, cost_interval),
    )


def heights(figure: Figure) -> np.ndarray:
    """Return each trial's height on each axis of parallel coordinates, with the best trial last."""
    (lines,) = collections(figure)
    return np.array(lines.get_segments())[:, :, 1]


def ticks(axes) -> list[str]:
    return [label.get_text() for label in axes.get_yticklabels()]


def test_parallel_coordinates_have_a_line_a_trial_and_an_axis_a_key() -> None:
    figure = drawn(study_figures.parallel_coordinates(TRIALS, [0.9, 0.99, 0.95]))
    host, epochs, rate, warm_up, accuracy, *_ = figure.axes
    names = [label.get_text() for label in host.get_xticklabels()]
    assert names == ["epochs", "learning_rate", "warm_up", "accuracy (%)"]
    assert [one.get_yscale() for one in (epochs, rate, accuracy)] == ["linear", "log", "linear"]
    assert ticks(epochs) == ["50", "100", "200"]
    assert ticks(rate) == ["0.0001", "0.001", "0.01"]
    assert ticks(warm_up) == ["always", "never"]
    (lines,) = collections(figure)
    assert lines.get_array().tolist() == pytest.approx([90, 95, 99])
    worst, middle, best = heights(figure)
    assert worst[1] < best[1] == pytest.approx((worst[1] + middle[1]) / 2)  # on a log axis
    assert worst[3] < middle[3] < best[3]
    assert figure.axes[-1].get_ylabel() == "accuracy (%)"  # the colour bar


def test_parallel_lines_that_share_a_value_are_told_apart() -> None:
    trials = [{"window": 5, "epochs": epochs} for epochs in (1, 2, 3)]
    shared, alone, _ = heights(study_figures.parallel_coordinates(trials, [0.1, 0.2, 0.3])).T
    assert np.all(np.diff(shared) > 0)
    assert np.ptp(shared) <= 2 * parallel_axes.SPREAD
    assert np.diff(alone).tolist() == pytest.approx([np.ptp(alone) / 2] * 2)


def test_parallel_coordinates_without_some_values() -> None:
    trials = [{"a": 1.0}, {"a": 3.0, "b": "x"}, {"a": None, "b": "y"}, {"a": math.nan, "b": True}]
    figure = drawn(study_figures.parallel_coordinates(trials, [0.5, 0.4, 0.7, 0.6]))
    foot = heights(figure)[:, :2] < 0.1
    assert foot.tolist() == [[False, False], [False, True], [True, False], [True, False]]
    assert ticks(figure.axes[2]) == ["True", "x", "y"]
    assert [text.get_text() for text in figure.axes[0].texts] == ["none"] * 2


def test_one_far_lower_accuracy_does_not_hide_the_others() -> None:
    accuracies = [0.1, 0.99, 0.991, 0.992, 0.993]
    figure = study_figures.parallel_coordinates([{"a": one} for one in range(5)], accuracies)
    (lines,) = collections(figure)
    assert (lines.norm.vmin, lines.norm.vmax) == pytest.approx((99, 99.3))
    assert ticks(figure.axes[2])[0] == "≤ 99"
    assert np.ptp(heights(figure)[1:, 1]) > 0.8


def test_trials_of_equal_accuracy() -> None:
    figure = drawn(study_figures.parallel_coordinates([{"a": 1}, {"b": None}], [0.0, 0.0]))
    assert np.isfinite(heights(figure)).all()
    drawn(study_figures.learning_rate_against_epochs([0.1, 0.1], [5, 5], [0.0, 0.0]))


@pytest.mark.parametrize("count", [1, 500])
def test_parallel_coordinates_of_any_number_of_trials(count: int) -> None:
    random = np.random.default_rng(0)
    trials = [{"rate": float(10**-number), "kind": "a"} for number in 4 * random.random(count)]
    figure = drawn(study_figures.parallel_coordinates(trials, random.random(count)))
    assert sum(len(lines.get_segments()) for lines in collections(figure)) == count


def test_learning_rate_against_epochs() -> None:
    rates, epochs = [0.001, 0.0001, 0.001, 0.001], [50, 200, 50, 100]
    figure = drawn(study_figures.learning_rate_against_epochs(rates, epochs, [0.9, 0.8, 0.95, 0.7]))
    axes = figure.axes[0]
    (points,) = axes.collections
    assert axes.get_yscale() == "log"
    assert ticks(axes) == ["0.0001", "0.001"]
    assert points.get_offsets().tolist() == [[100, 0.001], [200, 0.0001], [50, 0.001], [50, 0.001]]
    assert points.get_array().tolist() == pytest.approx([70, 80, 90, 95])
    _, single, below, above = points.get_sizes()
    assert below > above == single  # the better lies on top, with the other around it
    assert [text.get_text() for text in axes.texts] == ["2 trials"]


@pytest.mark.parametrize("count", [1, 500])
def test_learning_rates_of_any_number_of_trials(count: int) -> None:
    same = [0.001] * count
    drawn(study_figures.learning_rate_against_epochs(same, same, same))


def test_latency_is_the_mean_and_the_range() -> None:
    figure = drawn(study_figures.latency({"T = 3": np.array([[0.1, 0.5, 0.9], [0.3, 0.5, 0.8]])}))
    axes = figure.axes[0]
    (line,), (band,) = axes.lines, axes.collections
    assert line.get_xydata() == pytest.approx(np.array([[1, 20], [2, 50], [3, 85]]))
    extents = band.get_paths()[0].get_extents()
    assert (extents.ymin, extents.ymax) == pytest.approx((10, 90))
    assert legend(figure) == ["T = 3: 85.00 %"]
    assert "time step" in axes.get_xlabel()


@pytest.mark.parametrize(("runs", "steps"), [(1, 1), (5, 1), (1, 100)])
def test_latency_of_any_number_of_steps(runs: int, steps: int) -> None:
    figure = drawn(study_figures.latency({"a": np.full((runs, steps), 0.5)}))
    (line,) = figure.axes[0].lines
    assert len(line.get_xdata()) == steps
    assert len(figure.axes[0].collections) == (runs > 1)
    assert (line.get_marker() == "None") == (steps == 100)  # one point is seen by its marker


def test_energy_by_group() -> None:
    groups = {"a": (np.array([100.0, 120]), np.array([0.9, 0.95]))}
    groups["b"] = (np.array([300.0]), np.array([0.97]))
    figure = drawn(study_figures.accuracy_against_spikes(groups))
    first, second = figure.axes[0].lines
    assert first.get_xydata().tolist() == [[100, 90], [120, 95]]
    assert first.get_marker() != second.get_marker()
    assert figure.axes[0].get_xscale() == "linear"
    wide = study_figures.accuracy_against_spikes(
        groups | {"c": (np.array([5000.0]), np.array([0.98]))}
    )
    assert drawn(wide).axes[0].get_xscale() == "log"


def test_accuracy_against_time_steps_with_intervals() -> None:
    """Rules at the same T stand at equal distances around it on the logarithmic axis."""
    rules = {
        "a": [point(1, 0.90, (0.88, 0.92)), point(5, 0.95)],
        "b": [point(1, 0.91), point(5, 0.96, (0.95, 0.97))],
    }
    axes = drawn(study_figures.accuracy_against_time_steps(rules)).axes[0]
    first, interval, second, other = axes.lines
    assert first.get_ydata().tolist() == [90, 95] and second.get_ydata().tolist() == [91, 96]
    assert interval.get_ydata() == pytest.approx([88, 92])
    assert set(interval.get_xdata()) == {first.get_xdata()[0]}
    assert set(other.get_xdata()) == {second.get_xdata()[1]}
    assert np.multiply(first.get_xdata(), second.get_xdata()) == pytest.approx([1, 25])
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["1", "5"]
    assert legend(axes.figure) == ["a", "b"]


def test_accuracy_against_cost_with_intervals() -> None:
    """Each rule has a colour and each T a marker; results without a known cost have no point."""
    rules = {
        "a": [point(1, 0.9, None, 100, (90, 110)), point(5, 0.95, (0.94, 0.96), 300)],
        "b": [point(1, 0.91, None, 120), point(5, 0.97)],
    }
    figure = drawn(study_figures.accuracy_against_cost(rules, "spikes"))
    axes = figure.axes[0]
    points = {tuple(*one.get_xydata()): one for one in axes.lines if len(one.get_xdata()) == 1}
    assert points.keys() == {(100, 90), (300, 95), (120, 91)}
    assert points[100, 90].get_marker() == points[120, 91].get_marker()
    assert points[100, 90].get_marker() != points[300, 95].get_marker()
    assert points[100, 90].get_color() == points[300, 95].get_color() != points[120, 91].get_color()
    spans = [one.get_xydata().tolist() for one in axes.lines if len(one.get_xdata()) == 2]
    assert [[90, 90], [110, 90]] in spans
    assert np.isclose(spans, [[300, 94], [300, 96]]).all((1, 2)).any()
    assert legend(figure) == ["a", "b", "T = 1", "T = 5"]
    assert axes.get_xscale() == "linear"
    wide = rules | {"c": [point(1, 0.9, None, 2000)]}
    assert drawn(study_figures.accuracy_against_cost(wide, "x")).axes[0].get_xscale() == "log"


@pytest.mark.parametrize("rules", [{}, {"a": []}, {"a": [point(1, 0.9)]}])
def test_rules_without_costs(rules: dict[str, list[Point]]) -> None:
    (axes,) = drawn(study_figures.accuracy_against_cost(rules, "spikes")).axes
    assert [text.get_text() for text in axes.texts] == ["no runs"]


def test_intervals_are_lines_with_their_runs() -> None:
    lines = [
        study_figures.Line("decided", 1.0, (0.5, 1.5), [0.8, 1.2]),
        study_figures.Line("open", -0.2, None, filled=False),
    ]
    figure = drawn(study_figures.intervals(lines, "points", zero=True, width=3.5))
    (axes,) = figure.axes
    assert ticks(axes) == ["decided", "open"]
    top, bottom = axes.get_ylim()
    assert top > bottom  # the first line above
    interval, decided, runs, open_, none, zero = axes.lines
    assert list(interval.get_xdata()) == [0.5, 1.5]
    assert (decided.get_markerfacecolor(), open_.get_markerfacecolor()) == ("black", "white")
    assert list(runs.get_xdata()) == [0.8, 1.2] and len(none.get_xdata()) == 0
    assert list(zero.get_xdata()) == [0, 0]


def test_names_of_axes_that_have_no_room_are_turned() -> None:
    wide, narrow = (
        study_figures.parallel_coordinates(TRIALS, [0.9, 0.99, 0.95], (2.5, width))
        for width in (7.2, 3.5)
    )
    turns = [one.axes[0].get_xticklabels()[0].get_rotation() for one in (wide, narrow)]
    assert turns == [0, 25]
