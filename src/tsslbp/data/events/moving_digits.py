"""Moving digits: the data set ``digits`` moving in front of a simulated event camera.

A digit of 8 x 8 pixels, enlarged to 16 x 16, moves in three straight saccades of 30 ms along a
triangle, as in N-MNIST, in front of a sensor of 24 x 24 pixels. Position, amplitude and contrast
differ between recordings; a digit that moves far is cut off at the sensor's edge. The camera is
ideal: a pixel with the brightness ``L = log(intensity)`` emits an event when L has changed by
`THRESHOLD` since its last event. The polarity is 1 if L has risen and 0 if it has fallen, and the
time is that of the crossing if L changes linearly within a simulated step. At any time, the signed
number of a pixel's events times the threshold therefore equals the change of L up to less than one
threshold.

A pixel that the digit has left is as bright as before the digit came: exactly one threshold below
its last event, if there was any. This must cause an event on every machine. Changes are therefore
rounded to `DECIMALS`, which is far coarser than the errors of the logarithm and the matrix product,
which differ between machines.

Source of the camera's model: Gallego et al., "Event-based vision: a survey" (IEEE TPAMI 2022),
section "Event generation model"; Rebecq, Gehrig and Scaramuzza, "ESIM: an open event camera
simulator" (CoRL 2018).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...experiment.seeding import derive
from .. import catalogue
from ..catalogue import Entry
from ..images import digits
from .recording import Events, EventSet

PURPOSE = "moving-digits"  # of the random numbers
SIDE = 24  # of the sensor, in pixels
ENLARGED = 2  # factor of enlargement
VERSION = 2  # of the simulation; another version makes other recordings

STEP = 1000  # microseconds of a simulated step
STEPS = 90
THRESHOLD = 0.4
DECIMALS = 9  # of a change of brightness in thresholds
BACKGROUND = 0.1  # intensity where there is no digit; the digit's is 1 at most
CORNERS = ((0.0, 0.0), (3.0, 6.0), (6.0, 0.0), (0.0, 0.0))  # of the path: right, down; in pixels

Array = npt.NDArray[Any]


def source(entry: Entry, data_dir: Path | None = None) -> EventSet:
    """Return the recordings; each is simulated when it is read.

    There is one recording of each digit; the test recordings are those of the test digits in
    ``digits``. There are no files, so `data_dir` is ignored.
    """
    data_set = digits.load(catalogue.find("digits"))
    parts = [np.asarray(images)[:, 0] for images in (data_set.train_images, data_set.test_images)]
    labels = data_set.train_labels.tolist(), data_set.test_labels.tolist()

    def read(item: tuple[int, int]) -> Iterator[tuple[int, Events]]:
        part, number = item
        random = np.random.RandomState(derive(VERSION, PURPOSE, part, number) % (1 << 32))
        yield labels[part][number], record(*moving(parts[part][number], random))

    train, test = ([(part, n) for n in range(len(labels[part]))] for part in (0, 1))
    known = hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()
    fingerprint = f"{VERSION} {known}"
    return EventSet(entry.name, *entry.shape[1:], entry.classes, train, test, read, fingerprint)


def moving(digit: Array, random: np.random.RandomState) -> tuple[Array, Array]:
    """Return the brightness of every pixel while a digit moves, and the times.

    Args:
        digit: ``[8, 8]``, 0 to 1.
        random: source of position, path and contrast.

    Returns:
        ``[S + 1, SIDE, SIDE]`` logarithms of intensities, and ``[S + 1]`` microseconds.
    """
    steps = np.arange(STEPS + 1)
    corners = np.array(CORNERS) * random.uniform(0.8, 1.2)
    times = np.linspace(0, STEPS, len(corners))
    right, down = (np.interp(steps, times, corners[:, axis]) for axis in (0, 1))
    left, top = random.uniform(0, 2, 2)
    light = random.uniform(0.5, 1.0)
    image = sampled(digit, left + right, top + down)
    return np.log(BACKGROUND + light * image), steps * STEP


def sampled(digit: Array, left: Array, top: Array) -> Array:
    """Return an enlarged digit at several positions, interpolated linearly, 0 around it.

    Args:
        digit: ``[h, w]``.
        left, top: ``[S]``, position of its corner on the sensor, in pixels.

    Returns:
        ``[S, SIDE, SIDE]``.
    """
    padded = np.pad(digit, 1)
    rows = _weights(top, len(padded))  # [S, SIDE, h + 2]
    columns = _weights(left, padded.shape[1])
    return np.asarray(rows @ padded @ columns.transpose(0, 2, 1))


def _weights(corner: Array, size: int) -> Array:
    """Return the weight of each pixel of a padded line in each sensor pixel ``[S, SIDE, size]``."""
    place = (np.arange(SIDE) + 0.5 - corner[:, None]) / ENLARGED + 0.5  # in the padded line
    return np.asarray(np.maximum(0, 1 - np.abs(place[:, :, None] - np.arange(size))))


def record(brightness: Array, times: Array) -> Events:
    """Return the events that the camera emits.

    Args:
        brightness: ``[S + 1, H, W]`` logarithms of intensities, linear in between.
        times: ``[S + 1]`` times of these, whole microseconds, increasing.
    """
    levels = brightness.reshape(len(times), -1)
    change = np.round((levels - levels[0]) / THRESHOLD, DECIMALS)  # [S + 1, H * W]
    reached = np.zeros_like(change)  # at a pixel's last event, a whole number of thresholds
    for k in range(len(times) - 1):
        reached[k + 1] = reached[k] + np.trunc(change[k + 1] - reached[k])
    number = np.diff(reached, axis=0).astype(np.int64)
    step, pixel = np.nonzero(number)
    count = np.abs(number[step, pixel])
    rank = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + 1
    step, pixel = np.repeat(step, count), np.repeat(pixel, count)
    sign = np.sign(number[step, pixel])
    before, after = change[step, pixel], change[step + 1, pixel]
    share = (reached[step, pixel] + sign * rank - before) / (after - before)
    length = times[step + 1] - times[step]
    t = times[step] + np.floor(share * length).astype(np.int64)
    width = brightness.shape[2]
    x, y = (pixel % width).astype(np.int16), (pixel // width).astype(np.int16)
    events = Events(x, y, t, (sign > 0).astype(np.uint8))
    return events.only(np.argsort(t, kind="stable"))
