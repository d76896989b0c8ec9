"""Tests that images and frames are drawn according to their pixels."""

from itertools import pairwise

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from tsslbp.figures import sample


def axes() -> Axes:
    return Figure().subplots()


@pytest.mark.parametrize("shape", [(4, 6), (1, 4, 6), (2, 4, 6)])
def test_image_in_grey_and_full_contrast(shape: tuple[int, ...]) -> None:
    drawn = axes()
    sample.draw_image(drawn, np.arange(np.prod(shape), dtype=np.uint8).reshape(shape))
    shown = drawn.images[0].get_array()
    assert shown.shape == (4, 6)
    assert (shown.min(), shown.max()) == (0, 1)
    assert shown[0, 1] == pytest.approx(1 / 23)


def test_image_in_colour() -> None:
    drawn = axes()
    image = np.zeros((3, 4, 6), np.float32)
    image[1] = 2.0
    sample.draw_image(drawn, image)
    assert drawn.images[0].get_array()[0, 0].tolist() == [0, 1, 0]


def test_image_of_one_colour_divides_by_no_zero() -> None:
    drawn = axes()
    sample.draw_image(drawn, np.full((1, 3, 3), 7.0))
    assert (drawn.images[0].get_array() == 0).all()


def test_frames_have_the_colour_of_their_polarity() -> None:
    frames = np.zeros((2, 2, 3, 4))
    frames[0, 1, 0, 1] = 1  # brighter
    frames[1, 0, 2, 3] = 1  # darker
    frames[1, :, 1, 1] = 1  # both
    colours = sample.colour_frames(frames)
    assert colours.shape == (2, 3, 4, 3)
    assert colours[0, 0, 1] == pytest.approx(to_rgb(sample.BRIGHTER))
    assert colours[1, 2, 3] == pytest.approx(to_rgb(sample.DARKER))
    both = (np.array(to_rgb(sample.BRIGHTER)) + to_rgb(sample.DARKER)) / 2
    assert colours[1, 1, 1] == pytest.approx(both)
    silent = frames.sum(1) == 0
    assert (colours[silent] == 1).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_frames_without_two_polarities_are_grey(channels: int) -> None:
    frames = np.zeros((1, channels, 2, 2))
    frames[0, 0, 0, 0] = 2
    frames[0, -1, 1, 1] = 1
    colours = sample.colour_frames(frames)
    assert colours[0, 0, 0] == pytest.approx(0, abs=0.06)
    assert colours[0, 0, 1] == pytest.approx(1)
    assert 0.3 < colours[0, 1, 1, 0] < 0.7 and np.ptp(colours[0, 1, 1]) == 0


def test_more_events_are_darker_up_to_the_full_colour() -> None:
    frames = np.arange(100.0).reshape(1, 1, 10, 10)
    shades = sample.colour_frames(frames)[0, :, :, 0].ravel()
    assert (np.diff(shades) <= 0).all()
    assert shades[0] == 1 and (shades[96:] == 0).all() and shades[90] > 0
    assert (sample.colour_frames(-frames) == 1).all()


def test_frames_stand_side_by_side_with_their_sums() -> None:
    frames = np.zeros((10, 2, 3, 4))
    frames[9, 1, 2, 3] = 5
    figure = sample.frames_figure(frames, "a recording")
    shown = [axes for axes in figure.axes if axes.images]
    assert len(shown) == 10
    assert shown[0].get_title() == "1: 0" and shown[9].get_title() == "10: 5"
    last = np.asarray(shown[9].images[0].get_array())
    assert last[2, 3] == pytest.approx(to_rgb(sample.BRIGHTER))
    assert figure.get_suptitle() == "a recording"


def test_animation_shows_every_frame(tmp_path) -> None:
    from PIL import Image, ImageChops

    frames = np.zeros((3, 2, 4, 4))
    for step in range(3):
        frames[step, 0, step, step] = 1
    sample.animation(frames, "moving").save(tmp_path / "moving.gif", writer="pillow")
    with Image.open(tmp_path / "moving.gif") as moving:
        assert moving.n_frames == 3
        shown = []
        for step in range(3):
            moving.seek(step)
            shown.append(moving.convert("RGB"))
    assert all(ImageChops.difference(*pair).getbbox() for pair in pairwise(shown))
