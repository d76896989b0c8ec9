"""Figures show what the arrays hold."""

from itertools import pairwise

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from tsslbp.figures import run as figures

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
    """The ends of every spike's tick, by layer."""
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


@pytest.mark.parametrize("shape", [(4, 6), (1, 4, 6), (2, 4, 6)])
def test_image_in_grey_and_full_contrast(shape: tuple[int, ...]) -> None:
    drawn = axes()
    figures.draw_image(drawn, np.arange(np.prod(shape), dtype=np.uint8).reshape(shape))
    shown = drawn.images[0].get_array()
    assert shown.shape == (4, 6)
    assert (shown.min(), shown.max()) == (0, 1)
    assert shown[0, 1] == pytest.approx(1 / 23)


def test_image_in_colour() -> None:
    drawn = axes()
    image = np.zeros((3, 4, 6), np.float32)
    image[1] = 2.0
    figures.draw_image(drawn, image)
    assert drawn.images[0].get_array()[0, 0].tolist() == [0, 1, 0]


def test_image_of_one_colour_divides_by_no_zero() -> None:
    drawn = axes()
    figures.draw_image(drawn, np.full((1, 3, 3), 7.0))
    assert (drawn.images[0].get_array() == 0).all()


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


def test_frames_have_the_colour_of_their_polarity() -> None:
    frames = np.zeros((2, 2, 3, 4))
    frames[0, 1, 0, 1] = 1  # brighter
    frames[1, 0, 2, 3] = 1  # darker
    frames[1, :, 1, 1] = 1  # both
    colours = figures.colour_frames(frames)
    assert colours.shape == (2, 3, 4, 3)
    assert colours[0, 0, 1] == pytest.approx(to_rgb(figures.BRIGHTER))
    assert colours[1, 2, 3] == pytest.approx(to_rgb(figures.DARKER))
    both = (np.array(to_rgb(figures.BRIGHTER)) + to_rgb(figures.DARKER)) / 2
    assert colours[1, 1, 1] == pytest.approx(both)
    silent = frames.sum(1) == 0
    assert (colours[silent] == 1).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_frames_without_two_polarities_are_grey(channels: int) -> None:
    frames = np.zeros((1, channels, 2, 2))
    frames[0, 0, 0, 0] = 2
    frames[0, -1, 1, 1] = 1
    colours = figures.colour_frames(frames)
    assert colours[0, 0, 0] == pytest.approx(0, abs=0.06)
    assert colours[0, 0, 1] == pytest.approx(1)
    assert 0.3 < colours[0, 1, 1, 0] < 0.7 and np.ptp(colours[0, 1, 1]) == 0


def test_more_events_are_darker_up_to_the_full_colour() -> None:
    frames = np.arange(100.0).reshape(1, 1, 10, 10)
    shades = figures.colour_frames(frames)[0, :, :, 0].ravel()
    assert (np.diff(shades) <= 0).all()
    assert shades[0] == 1 and (shades[96:] == 0).all() and shades[90] > 0
    assert (figures.colour_frames(-frames) == 1).all()


def test_frames_stand_side_by_side_with_their_sums() -> None:
    frames = np.zeros((10, 2, 3, 4))
    frames[9, 1, 2, 3] = 5
    figure = figures.frames_figure(frames, "a recording")
    shown = [axes for axes in figure.axes if axes.images]
    assert len(shown) == 10
    assert shown[0].get_title() == "1: 0" and shown[9].get_title() == "10: 5"
    last = np.asarray(shown[9].images[0].get_array())
    assert last[2, 3] == pytest.approx(to_rgb(figures.BRIGHTER))
    assert figure.get_suptitle() == "a recording"


def test_animation_shows_every_frame(tmp_path) -> None:
    from PIL import Image, ImageChops

    frames = np.zeros((3, 2, 4, 4))
    for step in range(3):
        frames[step, 0, step, step] = 1
    figures.animation(frames, "moving").save(tmp_path / "moving.gif", writer="pillow")
    with Image.open(tmp_path / "moving.gif") as moving:
        assert moving.n_frames == 3
        shown = []
        for step in range(3):
            moving.seek(step)
            shown.append(moving.convert("RGB"))
    assert all(ImageChops.difference(*pair).getbbox() for pair in pairwise(shown))
