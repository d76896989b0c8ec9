"""Figures of a study show what the arrays hold, and their SVG stands in a page beside others."""

import math
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from tsslbp.figures import axes as parallel_axes
from tsslbp.figures import study as study_figures
from tsslbp.figures.run import PALETTE
from tsslbp.figures.study import Point

TRIALS = [
    {"epochs": 50, "learning_rate": 0.0001, "warm_up": "never"},
    {"epochs": 200, "learning_rate": 0.001, "warm_up": "always"},
    {"epochs": 100, "learning_rate": 0.01, "warm_up": "never"},
]


def collections(figure: Figure) -> list[LineCollection]:
    found = [one for axes in figure.axes for one in axes.collections]
    return [one for one in found if isinstance(one, LineCollection) and one.get_array() is not None]


def heights(figure: Figure) -> np.ndarray:
    """How high each trial lies on each axis of parallel coordinates, the best trial last."""
    (lines,) = collections(figure)
    return np.array(lines.get_segments())[:, :, 1]


def ticks(axes) -> list[str]:
    return [label.get_text() for label in axes.get_yticklabels()]


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for one in figure.legends for text in one.get_texts()]


def drawn(figure: Figure) -> Figure:
    """The figure after it was laid out, which warns where something has no room."""
    figure.draw_without_rendering()
    return figure


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
    figure = drawn(study_figures.parallel_coordinates(trials, [0.5, math.nan, 0.7, 0.6]))
    (lines,) = collections(figure)
    assert lines.get_array().mask.tolist() == [True, False, False, False]
    foot = heights(figure) < 0.1
    assert foot.tolist() == [
        [False, False, True],
        [False, True, False],
        *[[True, False, False]] * 2,
    ]
    assert ticks(figure.axes[2]) == ["True", "x", "y"]
    assert [text.get_text() for text in figure.axes[0].texts] == ["none"] * 3


def test_one_far_lower_accuracy_does_not_hide_the_others() -> None:
    accuracies = [0.1, 0.99, 0.991, 0.992, 0.993]
    figure = study_figures.parallel_coordinates([{"a": one} for one in range(5)], accuracies)
    (lines,) = collections(figure)
    assert (lines.norm.vmin, lines.norm.vmax) == pytest.approx((99, 99.3))
    assert ticks(figure.axes[2])[0] == "≤ 99"
    assert np.ptp(heights(figure)[1:, 1]) > 0.8


def test_trials_that_all_failed() -> None:
    failed = [math.nan] * 2
    figure = drawn(study_figures.parallel_coordinates([{"a": 1}, {"b": None}], failed))
    assert (heights(figure)[:, 2] < 0.1).all()
    drawn(study_figures.learning_rate_against_epochs([0.1, 0.1], [5, 5], failed))


@pytest.mark.parametrize("count", [0, 1, 500])
def test_parallel_coordinates_of_any_number_of_trials(count: int) -> None:
    random = np.random.default_rng(0)
    trials = [{"rate": float(10**-number), "kind": "a"} for number in 4 * random.random(count)]
    figure = drawn(study_figures.parallel_coordinates(trials, random.random(count)))
    assert sum(len(lines.get_segments()) for lines in collections(figure)) == count


def test_training_curves_in_percent_with_their_names() -> None:
    curves = {"rate 0.1": ([0, 10, 20], [0.5, 0.75, 1.0]), "rate 0.01": ([0, 10], [0.25, 0.5])}
    curves = {name: tuple(map(np.array, curve)) for name, curve in curves.items()}
    figure = drawn(study_figures.training_curves(curves, {"rate 0.1": [15], "unknown": [3]}))
    first, second, mark = figure.axes[0].lines
    assert first.get_xydata().tolist() == [[0, 50], [10, 75], [20, 100]]
    assert second.get_color() != first.get_color()
    assert mark.get_xydata().tolist() == [[15, 87.5]]
    assert legend(figure) == ["rate 0.1", "rate 0.01", "sudden drop"]
    assert figure.axes[0].get_ylabel() == "training accuracy (%)"


def test_long_training_curves_are_averaged() -> None:
    values = np.tile([0.0, 1.0], 60_000)
    (line,) = study_figures.training_curves({"a": (np.arange(120_000), values)}).axes[0].lines
    assert len(line.get_xdata()) == study_figures.POINTS
    assert line.get_ydata() == pytest.approx(50, abs=0.2)


def test_rise_at_the_start_does_not_hide_the_rest() -> None:
    values = np.r_[0.1, np.full(99, 0.99), 1.0]
    axes = study_figures.training_curves({"a": (np.arange(101), values)}).axes[0]
    assert axes.get_ylim() == pytest.approx((98.95, 100.05))


def test_many_training_curves_share_a_scale_of_colours() -> None:
    random = np.random.default_rng(0)
    curves = {str(run): (np.arange(2000), random.random(2000)) for run in range(500)}
    figure = drawn(study_figures.training_curves(curves, {"3": [100]}))
    (lines,) = collections(figure)
    assert len(lines.get_segments()) == 500
    assert sum(map(len, lines.get_segments())) <= study_figures.POINTS_IN_ALL
    assert legend(figure) == ["sudden drop"]
    assert np.all(np.diff(lines.get_array()) >= 0)  # the best on top
    assert len(study_figures.svg_text(figure)) < 2_000_000


def test_legend_of_many_entries_leaves_the_axes_their_height() -> None:
    steps = np.arange(3)
    curves = {f"a long name of a run {run}": (steps, steps / 3) for run in range(15)}
    few, many = (
        drawn(study_figures.training_curves(dict(list(curves.items())[:count])))
        for count in (1, 15)
    )
    assert many.get_figheight() > few.get_figheight()
    height = [one.axes[0].get_position().height * one.get_figheight() for one in (few, many)]
    assert height[1] == pytest.approx(height[0], rel=0.1)


def test_learning_rate_against_epochs() -> None:
    rates, epochs = [0.001, 0.0001, 0.001, 0.001], [50, 200, 50, 100]
    figure = drawn(
        study_figures.learning_rate_against_epochs(rates, epochs, [0.9, 0.8, 0.95, math.nan])
    )
    axes = figure.axes[0]
    (points,) = axes.collections
    assert axes.get_yscale() == "log"
    assert ticks(axes) == ["0.0001", "0.001"]
    assert points.get_offsets().tolist() == [[100, 0.001], [200, 0.0001], [50, 0.001], [50, 0.001]]
    assert points.get_array().tolist()[1:] == pytest.approx([80, 90, 95])
    _, single, below, above = points.get_sizes()
    assert below > above == single  # the better one lies on the other, which is seen around it
    assert points.get_facecolors()[0] == pytest.approx(to_rgba(study_figures.MISSING))
    assert [text.get_text() for text in axes.texts] == ["2 trials"]


@pytest.mark.parametrize("count", [0, 1, 500])
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
    figure = drawn(study_figures.energy(groups))
    first, second = figure.axes[0].lines
    assert first.get_xydata().tolist() == [[100, 90], [120, 95]]
    assert first.get_marker() != second.get_marker()
    assert figure.axes[0].get_xscale() == "linear"
    wide = study_figures.energy(groups | {"c": (np.array([5000.0]), np.array([0.98]))})
    assert drawn(wide).axes[0].get_xscale() == "log"


def test_accuracy_against_time_steps_with_intervals() -> None:
    """Rules at one T stand side by side, in equal distances around it on the logarithmic axis."""
    rules = {
        "a": [Point(1, 0.90, (0.88, 0.92)), Point(5, 0.95)],
        "b": [Point(1, 0.91), Point(5, 0.96, (0.95, 0.97))],
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
    """A colour a rule, a marker a T; where the cost is not known there is no point."""
    rules = {
        "a": [Point(1, 0.9, None, 100, (90, 110)), Point(5, 0.95, (0.94, 0.96), 300)],
        "b": [Point(1, 0.91, None, 120), Point(5, 0.97)],
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
    wide = rules | {"c": [Point(1, 0.9, None, 2000)]}
    assert drawn(study_figures.accuracy_against_cost(wide, "x")).axes[0].get_xscale() == "log"


@pytest.mark.parametrize("rules", [{}, {"a": []}, {"a": [Point(1, 0.9)]}])
def test_rules_without_costs(rules: dict[str, list[Point]]) -> None:
    drawn(study_figures.accuracy_against_cost(rules, "spikes"))
    drawn(study_figures.accuracy_against_time_steps(rules))


def test_layers_over_training() -> None:
    records = [
        {"epoch": 1, "firing_rate": {"conv1": 0.1, "output": 0.2}, "warm_up": {"conv1": 0.8}},
        {"epoch": 2, "firing_rate": {"conv1": 0.3, "output": 0.1}, "warm_up": {"conv1": None}},
    ]
    figure = drawn(study_figures.layers_over_training(records))
    rate, warm_up = figure.axes
    assert [line.get_ydata().tolist() for line in rate.lines] == [[0.1, 0.3], [0.2, 0.1]]
    assert warm_up.lines[0].get_ydata()[0] == 80
    assert math.isnan(warm_up.lines[0].get_ydata()[1])
    assert legend(figure) == ["conv1", "output"]
    assert all(tick == int(tick) for tick in rate.get_xticks())


@pytest.mark.parametrize("warm_up", [{}, {"warm_up": {"conv1": math.nan}}])
def test_layers_of_a_rule_without_warm_up(warm_up: dict) -> None:
    records = [{"epoch": 1, "firing_rate": {"conv1": 0.1}, **warm_up}]
    rate, empty = drawn(study_figures.layers_over_training(records)).axes
    assert rate.lines[0].get_marker() == "o"
    assert [text.get_text() for text in empty.texts] == ["no warm up in these records"]


def test_confusion_colours_the_errors_alone() -> None:
    matrix = np.array([[980, 0, 20], [1, 99, 0], [0, 0, 0]])
    figure = drawn(study_figures.confusion(matrix))
    axes = figure.axes[0]
    diagonal, errors = (image.get_array() for image in axes.images)
    assert diagonal.mask.tolist() == (~np.eye(3, dtype=bool)).tolist()
    assert errors.compressed().tolist() == [2, 1]  # percent of the row
    written = {text.get_position(): text.get_text() for text in axes.texts}
    assert written == {(0, 0): "980", (2, 0): "20", (0, 1): "1", (1, 1): "99"}
    assert axes.get_title() == "21 of 1,100 images wrong (1.91 %)"
    assert axes.get_ylabel() == "true class"
    colours = axes.images[1].cmap(axes.images[1].norm([1.0]))
    assert colours[0, 2] < 0.6  # one error in a hundred stands out from the white around it


@pytest.mark.parametrize(("classes", "numbered"), [(1, 1), (20, 20), (100, 0)])
def test_confusion_of_any_number_of_classes(classes: int, numbered: int) -> None:
    axes = drawn(study_figures.confusion(np.eye(classes, dtype=int))).axes[0]
    assert len(axes.texts) == numbered
    assert len(axes.get_xticks()) <= 20
    assert "0 of" in axes.get_title()


def traced(steps: int = 4, label: int = 1, prediction: int = 2) -> Figure:
    spikes = {"conv1": np.zeros((steps, 2, 2, 2)), "output": np.zeros((steps, 3))}
    potentials = {name: np.full(train.shape, 0.5) for name, train in spikes.items()}
    spikes["conv1"][0, 1, 0, 1] = 1
    potentials["conv1"][0, 1, 0, 1] = 2
    potentials["conv1"][0, 0, 1, 1] = 0.9
    image = np.eye(4)
    return drawn(study_figures.image_trace(image, label, prediction, spikes, potentials, 1.0))


def test_image_trace_follows_the_most_active_neurons_and_all_classes() -> None:
    picture, raster, conv1, output = traced().axes
    assert picture.get_title() == "class 1, predicted 2"
    assert [label.get_text() for label in raster.get_yticklabels()] == ["conv1", "output"]
    threshold, *lines = conv1.lines
    assert list(threshold.get_ydata()) == [1, 1]
    assert [line.get_label() for line in lines] == ["(1, 0, 1)", "(0, 1, 1)", "(0, 0, 0)"]
    assert lines[0].get_xydata().tolist() == [[1, 2], [2, 0.5], [3, 0.5], [4, 0.5]]
    assert [list(line.get_markevery()) for line in lines] == [[0], [], []]
    names = [line.get_label() for line in output.lines[1:]]
    assert names == ["others", "2 predicted", "1 true"]


@pytest.mark.parametrize("steps", [1, 100])
def test_image_trace_of_any_number_of_steps(steps: int) -> None:
    *_, conv1, output = traced(steps, 1, 1).axes
    assert output.lines[-1].get_label() == "1 true and predicted"
    assert (conv1.lines[2].get_marker() == "_") == (steps == 1)  # no spike, but still to be seen


def test_histograms_count_every_weight_and_gradient() -> None:
    random = np.random.default_rng(0)
    weights = {"conv1": random.normal(size=(4, 5, 5)), "output": random.normal(size=(10, 30))}
    gradients = {"conv1": weights["conv1"] * 1e-4, "output": np.zeros((10, 30))}
    gradients["conv1"][0, 0, :3] = [0, 0, np.nan]
    figure = drawn(study_figures.histograms(weights, gradients))
    panels = np.array(figure.axes).reshape(2, 2)
    assert [one.patches[0].get_data().values.sum() for one in panels[:, 0]] == [100, 300]
    assert panels[0, 1].patches[0].get_data().values.sum() == 97
    assert panels[0, 1].get_xscale() == "log"
    assert panels[0, 1].get_title() == "conv1: 2 % zero (2), 1 not finite"
    assert panels[1, 1].get_title() == "output: 100 % zero (300)"
    assert len(panels[1, 1].patches) == 0


def test_histograms_of_a_network_that_does_not_learn() -> None:
    zeros = {"conv1": np.zeros((2, 3)), "output": np.zeros((4, 2))}
    figure = drawn(study_figures.histograms(zeros, zeros))
    assert all(text.get_text() == "no gradient but 0" for one in figure.axes for text in one.texts)


def test_svg_is_the_same_every_time() -> None:
    first, second = (study_figures.svg_text(traced(), "a") for _ in range(2))
    assert first == second


def test_svg_has_ids_of_its_own_and_reads_nothing() -> None:
    figure = study_figures.parallel_coordinates(TRIALS, [0.9, 0.99, 0.95])
    text = study_figures.svg_text(figure, "search", 'a "search" & more')
    root = ElementTree.fromstring(text)
    ids = [one.get("id") for one in root.iter() if one.get("id")]
    assert root.get("id") == "search"
    assert root.get("aria-label") == 'a "search" & more'
    assert len(ids) == len(set(ids))
    assert all(one.startswith("search") for one in ids)
    for one in root.iter():
        for key, value in one.items():
            if key.endswith("href"):
                assert value.startswith("data:") or value.removeprefix("#") in ids
            if value.startswith("url("):
                assert value[len("url(#") : -1] in ids
    assert "<!DOCTYPE" not in text
    assert "metadata" not in text
    assert "#search *{" in text


def test_svg_keeps_its_text_in_the_readers_font() -> None:
    text = study_figures.svg_text(study_figures.confusion(np.array([[5, 1], [0, 5]])))
    written = [one.text for one in ElementTree.fromstring(text).iter() if one.tag.endswith("text")]
    assert "true class" in written
    assert "sans-serif" in text
    assert "DejaVu" not in text


def test_save_svg(tmp_path: Path) -> None:
    figure = study_figures.energy({'a id="b" <c>': (np.array([1.0]), np.array([1.0]))})
    study_figures.annotate(figure, "caveat " * 40)
    study_figures.save_svg(figure, tmp_path / "energy.svg", "energy")
    root = ElementTree.parse(tmp_path / "energy.svg").getroot()
    written = [one.text for one in root.iter() if one.tag.endswith("text")]
    assert root.get("id") == "figure-energy"
    assert 'a id="b" <c>' in written
    assert sum("caveat" in (text or "") for text in written) > 1  # in lines


def test_colours_are_told_apart_by_brightness_or_dashes() -> None:
    styles = [tuple(study_figures._line(index).values()) for index in range(28)]
    assert len(set(styles)) == 28
    assert len(set(PALETTE)) == len(PALETTE)
