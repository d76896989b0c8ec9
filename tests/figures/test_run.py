"""Tests that figures of a run show the values of its records and arrays."""

import math

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from matplotlib.figure import Figure

from tsslbp.figures import run as figures
from tsslbp.figures.svg import svg_text

from .parts import collections, drawn, legend

EPOCHS = [
    {"epoch": 1, "train_accuracy": 0.5, "validation_accuracy": 0.6, "test_accuracy": 0.55},
    {"epoch": 2, "train_accuracy": 0.75, "validation_accuracy": 0.8, "test_accuracy": 0.775},
]


def axes():
    return Figure().subplots()


def spikes(steps: int = 4, neurons: tuple[int, ...] = (5,), at: tuple[int, ...] = ()) -> np.ndarray:
    train = np.zeros((steps, 1, *neurons))
    if at:
        train[(at[0], 0, *at[1:])] = 1
    return train


def segments(drawn) -> list[list[tuple[float, float]]]:
    """Return the ends of every spike's tick, by layer."""
    return [[tuple(map(tuple, ends)) for ends in part.get_segments()] for part in drawn.collections]


def test_raster_puts_every_spike_in_its_place() -> None:
    drawn = axes()
    trains = {"conv1": spikes(4, (2, 3, 3), (0, 1, 2, 2)), "output": spikes(4, (5,), (3, 2))}
    figures.draw_raster(drawn, trains)
    (first,), (second,) = segments(drawn)
    assert first[0][0] == 1  # the first step is called 1
    assert first[0][1] == pytest.approx(figures.BAND * 17 / 18)
    assert second[0][0] == 4
    assert second[0][1] == pytest.approx(1 + figures.BAND * 2 / 5)
    assert second[1][1] < 1 + figures.BAND * 3 / 5
    assert [label.get_text() for label in drawn.get_yticklabels()] == ["conv1", "output"]
    assert drawn.get_xlim() == (0.5, 4.5)
    assert drawn.get_xticks().tolist() == [1, 2, 3, 4]


def test_raster_of_silent_layers_and_one_step() -> None:
    drawn = axes()
    figures.draw_raster(drawn, {"linear1": spikes(1), "output": spikes(1)})
    assert segments(drawn) == [[], []]
    assert drawn.get_xticks().tolist() == [1]


def test_raster_shows_wide_layers_in_part_and_numbers_few_neurons() -> None:
    drawn = axes()
    figures.draw_raster(drawn, {"wide": np.ones((2, 1, 1000)), "output": np.ones((2, 1, 10))})
    wide, output = segments(drawn)
    assert len(wide) == 2 * figures.NEURONS_SHOWN
    assert len(output) == 20
    assert max(ends[1][1] for ends in wide) < 1 <= min(ends[0][1] for ends in output)
    assert [text.get_text() for text in drawn.texts] == [str(number) for number in range(10)]
    many = axes()
    figures.draw_raster(many, {"output": np.ones((2, 1, 11))})
    assert len(many.texts) == 0


def test_raster_of_many_steps_keeps_its_ticks_apart() -> None:
    drawn = axes()
    figures.draw_raster(drawn, {"output": spikes(100)})
    assert len(drawn.get_xticks()) == 10


def test_training_curves() -> None:
    drawn = axes()
    figures.draw_training(drawn, EPOCHS)
    curves = {line.get_label(): line.get_xydata().tolist() for line in drawn.lines}
    assert curves == {
        "training 75.00 %": [[1, 50], [2, 75]],
        "validation 80.00 %": [[1, 60], [2, 80]],
        "test 77.50 %": [[1, pytest.approx(55)], [2, 77.5]],
    }
    assert all(tick == int(tick) for tick in drawn.get_xticks())


def test_training_without_validation_and_of_one_epoch() -> None:
    drawn = axes()
    figures.draw_training(drawn, [{"epoch": 1, "train_accuracy": 0.5, "test_accuracy": 0.25}])
    assert [line.get_label() for line in drawn.lines] == ["training 50.00 %", "test 25.00 %"]
    assert all(line.get_marker() == "o" for line in drawn.lines)


def test_run_picture(tmp_path) -> None:
    layers = {"conv1": spikes(neurons=(2, 2, 2)), "output": spikes()}
    figure = figures.run_picture(np.eye(8)[None], 3, 5, layers, EPOCHS)
    left, middle, right = figure.axes
    assert left.get_title() == "class 3, predicted 5"
    assert len(left.images) == 1
    assert len(middle.get_yticklabels()) == 2
    assert len(right.lines) == 3
    figure.savefig(tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 1000


def test_run_picture_says_the_caveat_of_its_accuracies() -> None:
    noted = [one | {"note": "111 of 60,000 images re-encoded"} for one in EPOCHS]
    figure = figures.run_picture(np.eye(8), 3, 5, {"output": spikes()}, noted)
    assert figure.get_suptitle() == "111 of 60,000 images re-encoded"
    plain = figures.run_picture(np.eye(8), 3, 5, {"output": spikes()}, EPOCHS)
    assert plain.get_suptitle() == ""


def test_training_curves_in_percent_with_their_names() -> None:
    curves = {"rate 0.1": ([0, 10, 20], [0.5, 0.75, 1.0]), "rate 0.01": ([0, 10], [0.25, 0.5])}
    curves = {name: tuple(map(np.array, curve)) for name, curve in curves.items()}
    figure = drawn(figures.training_curves(curves, {"rate 0.1": [15], "unknown": [3]}))
    first, second, mark = figure.axes[0].lines
    assert first.get_xydata().tolist() == [[0, 50], [10, 75], [20, 100]]
    assert second.get_color() != first.get_color()
    assert mark.get_xydata().tolist() == [[15, 87.5]]
    assert legend(figure) == ["rate 0.1", "rate 0.01", "sudden drop"]
    assert figure.axes[0].get_ylabel() == "training accuracy (%)"


def test_long_training_curves_are_averaged() -> None:
    values = np.tile([0.0, 1.0], 60_000)
    (line,) = figures.training_curves({"a": (np.arange(120_000), values)}).axes[0].lines
    assert len(line.get_xdata()) == figures.POINTS
    assert line.get_ydata() == pytest.approx(50, abs=0.2)


def test_rise_at_the_start_does_not_hide_the_rest() -> None:
    values = np.r_[0.1, np.full(99, 0.99), 1.0]
    axes = figures.training_curves({"a": (np.arange(101), values)}).axes[0]
    assert axes.get_ylim() == pytest.approx((98.95, 100.05))


def test_many_training_curves_share_a_scale_of_colours() -> None:
    random = np.random.default_rng(0)
    curves = {str(run): (np.arange(2000), random.random(2000)) for run in range(500)}
    figure = drawn(figures.training_curves(curves, {"3": [100]}))
    (lines,) = collections(figure)
    assert len(lines.get_segments()) == 500
    assert sum(map(len, lines.get_segments())) <= figures.POINTS_IN_ALL
    assert legend(figure) == ["sudden drop"]
    assert np.all(np.diff(lines.get_array()) >= 0)  # the best on top
    assert len(svg_text(figure)) < 2_000_000


def test_layers_over_training() -> None:
    records = [
        {"epoch": 1, "firing_rate": {"conv1": 0.1, "output": 0.2}, "warm_up": {"conv1": 0.8}},
        {"epoch": 2, "firing_rate": {"conv1": 0.3, "output": 0.1}, "warm_up": {"conv1": None}},
    ]
    figure = drawn(figures.layers_over_training(records))
    rate, warm_up = figure.axes
    assert [line.get_ydata().tolist() for line in rate.lines] == [[0.1, 0.3], [0.2, 0.1]]
    assert warm_up.lines[0].get_ydata()[0] == 80
    assert math.isnan(warm_up.lines[0].get_ydata()[1])
    assert legend(figure) == ["conv1", "output"]
    assert all(tick == int(tick) for tick in rate.get_xticks())


@pytest.mark.parametrize("warm_up", [{}, {"warm_up": {"conv1": math.nan}}])
def test_layers_of_a_rule_without_warm_up(warm_up: dict) -> None:
    records = [{"epoch": 1, "firing_rate": {"conv1": 0.1}, **warm_up}]
    rate, empty = drawn(figures.layers_over_training(records)).axes
    assert rate.lines[0].get_marker() == "o"
    assert [text.get_text() for text in empty.texts] == ["no warm up in these records"]


def test_confusion_colours_the_errors_alone() -> None:
    matrix = np.array([[980, 0, 20], [1, 99, 0], [0, 0, 0]])
    figure = drawn(figures.confusion(matrix))
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
    axes = drawn(figures.confusion(np.eye(classes, dtype=int))).axes[0]
    assert len(axes.texts) == numbered
    assert len(axes.get_xticks()) <= 20
    assert "0 of" in axes.get_title()


def test_classes_have_names() -> None:
    """Figures show class names if they are given, and a dollar sign starts no formula."""
    names = ("cat", "big $dog$", "hen")
    axes = drawn(figures.confusion(np.eye(3, dtype=int), names)).axes[0]
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        assert [one.get_text() for one in labels] == ["cat", "big $dog$", "hen"]
    spikes = {"output": np.zeros((4, 3))}
    traced = figures.image_trace(np.eye(4), 0, 2, spikes, spikes, {"output": 1.0}, names)
    picture = figures.run_picture(
        np.eye(4), 0, 2, spikes, [{"epoch": 1, "test_accuracy": 1}], names
    )
    for figure in (traced, picture):
        assert drawn(figure).axes[0].get_title() == "class cat, predicted hen"
    entries = traced.axes[-1].get_legend().get_texts()
    assert {"cat true", "hen predicted"} <= {one.get_text() for one in entries}


def traced(steps: int = 4, label: int = 1, prediction: int = 2) -> Figure:
    spikes = {"conv1": np.zeros((steps, 2, 2, 2)), "output": np.zeros((steps, 3))}
    potentials = {name: np.full(train.shape, 0.5) for name, train in spikes.items()}
    spikes["conv1"][0, 1, 0, 1] = 1
    potentials["conv1"][0, 1, 0, 1] = 2
    potentials["conv1"][0, 0, 1, 1] = 0.9
    image = np.eye(4)
    thresholds = {"conv1": 1.0, "output": 0.7}
    return drawn(figures.image_trace(image, label, prediction, spikes, potentials, thresholds))


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
    assert (conv1.lines[2].get_marker() == "_") == (steps == 1)  # visible even without a spike


def test_histograms_count_every_weight_and_gradient() -> None:
    random = np.random.default_rng(0)
    weights = {"conv1": random.normal(size=(4, 5, 5)), "output": random.normal(size=(10, 30))}
    gradients = {"conv1": weights["conv1"] * 1e-4, "output": np.zeros((10, 30))}
    gradients["conv1"][0, 0, :3] = [0, 0, np.nan]
    figure = drawn(figures.histograms(weights, gradients))
    panels = np.array(figure.axes).reshape(2, 2)
    assert [one.patches[0].get_data().values.sum() for one in panels[:, 0]] == [100, 300]
    assert panels[0, 1].patches[0].get_data().values.sum() == 97
    assert panels[0, 1].get_xscale() == "log"
    assert panels[0, 1].get_title() == "conv1: 2 % zero (2), 1 not finite"
    assert panels[1, 1].get_title() == "output: 100 % zero (300)"
    assert len(panels[1, 1].patches) == 0


def test_histograms_of_a_network_that_does_not_learn() -> None:
    zeros = {"conv1": np.zeros((2, 3)), "output": np.zeros((4, 2))}
    figure = drawn(figures.histograms(zeros, zeros))
    assert all(text.get_text() == "the gradient is 0" for one in figure.axes for text in one.texts)


def test_training_panels_share_their_axes_and_reach_down_to_the_drops() -> None:
    steps = np.arange(1, 41)
    curves = {"a": (steps, np.linspace(0.9, 0.99, 40)), "b": (steps, np.full(40, 0.95))}
    figure = drawn(figures.training_panels(curves, {"b": [(20, 0.5)]}, width=3.5))
    first, second = figure.axes
    assert [one.get_title() for one in figure.axes] == ["a", "b"]
    assert first.get_ylim() == second.get_ylim() and first.get_ylim()[0] < 50
    _, stroke, mark = second.lines
    assert stroke.get_ydata().tolist() == pytest.approx([95, 50])
    assert mark.get_xydata().tolist() == [[20, 50]]
    assert {line.get_color() for axes in figure.axes for line in axes.lines} == {"black"}


def test_training_panels_of_an_odd_number_leave_a_gap() -> None:
    curves = {name: (np.array([1]), np.array([0.5])) for name in "abc"}
    figure = drawn(figures.training_panels(curves, width=3.5))
    assert [axes.axison for axes in figure.axes] == [True, True, True, False]
