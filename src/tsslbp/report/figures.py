"""The figures of a report: figures of the runs on one data set, and blocks made of drawings."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import stats
from ..experiment import settings_table
from ..figures import run as run_figures
from ..figures import study as study_figures
from ..figures.study import Estimate, Point
from ..figures.style import Array
from ..figures.svg import svg_text
from ..reading import find, read_whole
from ..run.results import MEASURES, Group, Result, measures
from ..toml_files import flat
from . import interactive
from .blocks import Figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing


SHOWN_GROUPS = 8  # in the figures that compare groups
LAYERED_GROUPS = 4  # with a figure of their layers, and their run's own figures
OWN_FIGURES = ("confusion", "image-*", "histograms")
OWN_IMAGES = 3  # of each run
MOST_OF_FIGURE = 1 << 24  # bytes
TIME_STEPS = re.compile(r", time_steps = \d+")  # in the label of a group
UNFIT = re.compile(r"[^\w-]")  # characters in the name of a figure
UNTOLD = ("seed", "description", "mean", "std", "desired_train", "padding")  # no axes of a search


def draw(
    prefix: str, groups: Sequence[Group], unfinished: Sequence[Result], measure: str
) -> list[Figure]:
    """Figures of the runs on one data set.

    Args:
        prefix: of the figures' names, unique in the report.
        groups: of finished runs.
        unfinished: runs that are drawn in the training curves only.
        measure: of the accuracy in the figures of a search, one of `MEASURES`.
    """
    finished = [result for group in groups for result in group.results]
    best = sorted(groups, key=lambda group: -group.accuracies(measure).max())
    best_runs = {
        group.label: max(group.results, key=lambda one: one.accuracy[measure])
        for group in best[:LAYERED_GROUPS]
    }
    return [
        *_search(prefix, finished, measure),
        _curves(prefix, [*finished, *unfinished]),
        *_latency(prefix, best, measure),
        *_spikes(prefix, best, measure),
        *_energy(prefix, best),
        *_time_steps(prefix, best, measure),
        *_layers(prefix, best_runs),
        *_own(prefix, best_runs),
    ]


def figure(
    name: str,
    title: str,
    caption: str,
    drawing: Drawing,
    table: dict[str, Any] | None = None,
    webgl: bool = False,
) -> Figure:
    """Matplotlib's drawing as a block of the report; `table`: the same from `interactive`."""
    svg = svg_text(drawing, name, title)
    return Figure(name, title, caption, svg=svg, interactive=table, drawing=drawing, webgl=webgl)


def hyperparameters(results: Sequence[Result]) -> list[dict[str, Any]]:
    """The settings of each run in which the runs differ, except for the seed."""
    tables = [flat(settings_table(result.experiment)) for result in results]
    names = dict.fromkeys(key for table in tables for key in table if key not in UNTOLD)
    varying = [key for key in names if len({str(table.get(key)) for table in tables}) > 1]
    return [{key: table.get(key) for key in varying} for table in tables]


def _search(prefix: str, results: Sequence[Result], measure: str) -> Iterator[Figure]:
    """The figures of a search, if at least three settings were tried."""
    trials = hyperparameters(results)
    if len({str(trial) for trial in trials}) < 3:
        return
    accuracies = [result.accuracy[measure] for result in results]
    coloured = f"per run; the colour is the test accuracy ({MEASURES[measure]})."
    yield figure(
        f"{prefix}-search",
        "Hyperparameters and accuracy",
        f"One line {coloured}",
        study_figures.parallel_coordinates(trials, accuracies),
        interactive.parallel_coordinates(trials, accuracies),
        webgl=True,
    )
    rates = [result.experiment.learning_rate for result in results]
    epochs = [result.experiment.epochs for result in results]
    if len(set(rates)) > 1:
        yield figure(
            f"{prefix}-rates",
            "Learning rate against epochs",
            f"One point {coloured}",
            study_figures.learning_rate_against_epochs(rates, epochs, accuracies),
            interactive.learning_rate_against_epochs(rates, epochs, accuracies),
        )


def _curves(prefix: str, results: Sequence[Result]) -> Figure:
    named = dict(zip(_names(results), results, strict=True))
    curves = {name: _curve(result) for name, result in named.items()}
    drops = {
        name: [drop["step"] for one in result.epochs for drop in one.get("drops", ())]
        for name, result in named.items()
    }
    return figure(
        f"{prefix}-training",
        "Training accuracy",
        "Training accuracy of every run at the end of each epoch, by training step.",
        run_figures.training_curves(curves, drops),
        interactive.training_curves(curves, drops),
    )


def _latency(prefix: str, groups: Sequence[Group], measure: str) -> Iterator[Figure]:
    curves = {}
    for group in groups:
        rows = [measures(one.epochs)[measure].get("test_accuracy_by_step") for one in group.results]
        if rows and all(rows):
            curves[group.label] = np.array(rows)
    caption = (
        "Test accuracy if the output is read after fewer time steps. The line is the mean of the "
        f"runs; the band spans the lowest to the highest ({MEASURES[measure]})."
    )
    yield from _of_best(prefix, "Latency", caption, study_figures.latency, curves)


def _spikes(prefix: str, groups: Sequence[Group], measure: str) -> Iterator[Figure]:
    points = {}
    for group in groups:
        records = [measures(one.epochs)[measure] for one in group.results]
        records = [one for one in records if one.get("spikes_per_image")]
        if records:
            points[group.label] = (
                np.array([one["spikes_per_image"] for one in records]),
                np.array([one["test_accuracy"] for one in records]),
            )
    caption = f"Test accuracy against the number of spikes per image ({MEASURES[measure]})."
    draw = study_figures.accuracy_against_spikes
    yield from _of_best(prefix, "Spikes", caption, draw, points)


def _energy(prefix: str, groups: Sequence[Group]) -> Iterator[Figure]:
    """A figure if at least two settings have runs whose cost is recorded."""
    known = [replace(one, results=tuple(filter(_has_cost, one.results))) for one in groups]
    known = [one for one in known if one.results]
    if len(known) < 2:
        return

    def point(one: Group) -> Point:
        costs = [run.cost for run in one.results if run.cost]
        accuracies = np.array([cost.test_accuracy for cost in costs])
        energies = np.array([cost.energy / 1000 for cost in costs])
        steps = one.experiment.time_steps
        return Point(steps, _estimate(accuracies, 1.0), _estimate(energies))

    caption = (
        "Test accuracy against the energy of the operations per image, for 32-bit numbers (45 nm), "
        "with the weights whose cost is recorded: mean of the runs and, for three or more, its "
        "95 % confidence interval. Lines connect settings that differ only in T."
    )

    def draw(curves: Mapping[str, Sequence[Point]]) -> Drawing:
        return study_figures.accuracy_against_cost(curves, "energy per image (nJ)")

    yield from _of_best(prefix, "Energy", caption, draw, _by_time_steps(known, point))


def _time_steps(prefix: str, groups: Sequence[Group], measure: str) -> Iterator[Figure]:
    """A figure if some settings differ only in the number of time steps."""

    def point(one: Group) -> Point:
        return Point(one.experiment.time_steps, _estimate(one.accuracies(measure), 1.0))

    curves = _by_time_steps(groups, point)
    curves = {name: points for name, points in curves.items() if len(points) > 1}
    caption = (
        "Test accuracy of networks trained with different numbers of time steps T: mean of the "
        f"runs and, for three or more, its 95 % confidence interval ({MEASURES[measure]})."
    )
    draw = study_figures.accuracy_against_time_steps
    yield from _of_best(prefix, "Time steps", caption, draw, curves)


def _has_cost(run: Result) -> bool:
    return run.cost is not None


def _by_time_steps(
    groups: Sequence[Group], point: Callable[[Group], Point]
) -> dict[str, list[Point]]:
    """Points of groups that differ only in T, in the order of T, by their common settings."""
    shared: dict[str, list[Group]] = {}
    for one in groups:
        settings = {key: value for key, value in one.settings.items() if key != "time_steps"}
        shared.setdefault(json.dumps(settings, sort_keys=True), []).append(one)
    curves: dict[str, list[Point]] = {}
    for members in shared.values():
        name = members[0].label
        if len(members) > 1:
            name = TIME_STEPS.sub("", name)
        members.sort(key=lambda one: one.experiment.time_steps)
        curves[name] = [point(one) for one in members]
    return curves


def _estimate(values: Array, high: float = math.inf) -> Estimate:
    summary = stats.summary(values)
    return Estimate(summary.mean, stats.shown_interval(summary, 0.0, high))


def _layers(prefix: str, best: Mapping[str, Result]) -> list[Figure]:
    return [
        figure(
            f"{prefix}-layers-{number}",
            f"Layers: {label}",
            f"Firing rate and fraction in warm-up of each layer, seed {run.experiment.seed}.",
            run_figures.layers_over_training(run.epochs),
        )
        for number, (label, run) in enumerate(best.items(), 1)
        if run.epochs[-1].get("firing_rate")
    ]


def _own(prefix: str, best: Mapping[str, Result]) -> list[Figure]:
    """The figures that `tsslbp draw` left in the folder of each group's best run."""
    return [
        Figure(
            f"{prefix}-run-{number}-{UNFIT.sub('-', file.stem)}",
            f"{file.stem.replace('-', ' ').capitalize()}: {label}",
            f"From the folder of the best run, seed {run.experiment.seed}.",
            image=image,
            file=file,
        )
        for number, (label, run) in enumerate(best.items(), 1)
        for file in _own_files(run.folder / "figures")
        if (image := _image(file, run.folder))
    ]


def _own_files(folder: Path) -> list[Path]:
    """The files of a run's own figures; of images the first."""
    found = [find(folder, f"{pattern}.svg")[:OWN_IMAGES] for pattern in OWN_FIGURES]
    return [file for some in found for file in some]


def _image(file: Path, folder: Path) -> bytes:
    """The content of a figure in a run folder; empty if unreadable, or a link to elsewhere.

    A link could show the readers of a report a private file of its author.
    """
    try:
        if not file.resolve().is_relative_to(folder.resolve()):
            return b""
        return read_whole(file, MOST_OF_FIGURE)
    except (OSError, RuntimeError):  # the latter: links in a circle
        return b""


def _names(results: Sequence[Result]) -> list[str]:
    """Names of runs by hyperparameters and seed; equal names are numbered."""
    names: list[str] = []
    seen: Counter[str] = Counter()
    for result, varying in zip(results, hyperparameters(results), strict=True):
        parts = [f"{key.removeprefix('rule.')} = {value}" for key, value in varying.items()]
        name = ", ".join([*parts, f"seed {result.experiment.seed}"])
        seen[name] += 1
        names.append(f"{name} #{seen[name]}" if seen[name] > 1 else name)
    return names


def _curve(result: Result) -> tuple[Array, Array]:
    """Steps done and training accuracy at the end of every epoch."""
    last = result.epochs[-1]
    images = last.get("images_per_second", 0) * last["seconds"]
    steps = max(1, math.ceil(round(images) / result.experiment.batch_size))
    numbers = np.array([one["epoch"] for one in result.epochs])
    return steps * numbers, np.array([one["train_accuracy"] for one in result.epochs], float)


def _of_best(
    prefix: str, title: str, caption: str, draw: Callable[[Any], Drawing], of: Mapping[str, Any]
) -> Iterator[Figure]:
    """A figure of the first groups, if there are any."""
    if len(of) > SHOWN_GROUPS:
        caption += f" Only the {SHOWN_GROUPS} of {len(of)} settings with the best runs are shown."
    if of:
        drawing = draw(dict(list(of.items())[:SHOWN_GROUPS]))
        yield figure(f"{prefix}-{title.lower().replace(' ', '-')}", title, caption, drawing)
