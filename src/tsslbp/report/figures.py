"""The figures of a report: those of the runs on one data set, and how a drawing becomes one."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from ..figures import run as run_figures
from ..figures import study as study_figures
from ..figures.svg import svg_text
from ..run.results import MEASURES, Group, Result, flat, measures
from . import interactive
from .blocks import Figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

Array = npt.NDArray[Any]
T = TypeVar("T")

SHOWN_GROUPS = 8  # in the figures that compare groups
LAYERED_GROUPS = 4  # with a figure of their layers, and their run's own figures
OWN_FIGURES = ("confusion", "image-*", "histograms")
OWN_IMAGES = 3  # of each run
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
    figures = [
        *_search(prefix, finished, measure),
        _curves(prefix, [*finished, *unfinished]),
        _latency(prefix, best, measure),
        _energy(prefix, best, measure),
        *_layers(prefix, best[:LAYERED_GROUPS], measure),
        *_own(prefix, best[:LAYERED_GROUPS], measure),
    ]
    return [figure for figure in figures if figure is not None]


def figure(
    name: str,
    title: str,
    caption: str,
    drawing: Drawing,
    table: dict[str, Any] | None = None,
    webgl: bool = False,
) -> Figure:
    """A drawing as a block of the report.

    Args:
        name, title, caption, webgl: see `Figure`.
        drawing: matplotlib's figure.
        table: the same for a browser, from `interactive`.
    """
    svg = svg_text(drawing, name, title)
    return Figure(name, title, caption, svg=svg, interactive=table, webgl=webgl)


def hyperparameters(results: Sequence[Result]) -> list[dict[str, Any]]:
    """The settings of each run in which the runs differ, but for the seed."""
    tables = [flat(result.experiment.to_table()) for result in results]
    names = dict.fromkeys(key for table in tables for key in table if key not in UNTOLD)
    varying = [key for key in names if len({str(table.get(key)) for table in tables}) > 1]
    return [{key: table.get(key) for key in varying} for table in tables]


def _search(prefix: str, results: Sequence[Result], measure: str) -> list[Figure]:
    """The figures of a search, where at least three settings were tried."""
    trials = hyperparameters(results)
    if len({str(trial) for trial in trials}) < 3:
        return []
    accuracies = [result.accuracy[measure] for result in results]
    figures = [
        figure(
            f"{prefix}-search",
            "Hyperparameters and accuracy",
            f"One line per run, coloured by test accuracy ({MEASURES[measure]}).",
            study_figures.parallel_coordinates(trials, accuracies),
            interactive.parallel_coordinates(trials, accuracies),
            webgl=True,
        )
    ]
    rates = [result.experiment.learning_rate for result in results]
    epochs = [result.experiment.epochs for result in results]
    if len(set(rates)) > 1:
        figures.append(
            figure(
                f"{prefix}-rates",
                "Learning rate against epochs",
                f"One point per run, coloured by test accuracy ({MEASURES[measure]}).",
                study_figures.learning_rate_against_epochs(rates, epochs, accuracies),
                interactive.learning_rate_against_epochs(rates, epochs, accuracies),
            )
        )
    return figures


def _drops(result: Result) -> list[Mapping[str, Any]]:
    """Sudden drops whose step is known; another version may have recorded them otherwise."""
    drops = [drop for one in result.epochs for drop in one.get("drops", ())]
    return [drop for drop in drops if "step" in drop]


def _curves(prefix: str, results: Sequence[Result]) -> Figure:
    names = _names(results)
    curves = {name: _curve(result) for name, result in zip(names, results, strict=True)}
    drops = {
        name: [drop["step"] for drop in _drops(result)]
        for name, result in zip(names, results, strict=True)
    }
    return figure(
        f"{prefix}-training",
        "Training accuracy",
        "Training accuracy of every run at the end of each epoch, over its training steps.",
        run_figures.training_curves(curves, drops),
        interactive.training_curves(curves, drops),
    )


def _latency(prefix: str, groups: Sequence[Group], measure: str) -> Figure | None:
    curves = {}
    for group in groups:
        rows = [_chosen(one, measure).get("test_accuracy_by_step") for one in group.results]
        if rows and all(rows):
            curves[group.label] = np.array(rows)
    if not curves:
        return None
    return figure(
        f"{prefix}-latency",
        "Latency",
        "Test accuracy when the output is read after fewer time steps: the line is the mean of the "
        f"runs, the band spans the lowest to the highest ({MEASURES[measure]}).{_left_out(curves)}",
        study_figures.latency(_first(curves)),
    )


def _energy(prefix: str, groups: Sequence[Group], measure: str) -> Figure | None:
    points = {}
    for group in groups:
        records = [_chosen(one, measure) for one in group.results]
        records = [one for one in records if one.get("spikes_per_image")]
        if records:
            points[group.label] = (
                np.array([one["spikes_per_image"] for one in records]),
                np.array([one["test_accuracy"] for one in records]),
            )
    if not points:
        return None
    return figure(
        f"{prefix}-energy",
        "Energy",
        f"Test accuracy against the spikes that an image causes ({MEASURES[measure]})."
        f"{_left_out(points)}",
        study_figures.energy(_first(points)),
    )


def _layers(prefix: str, groups: Sequence[Group], measure: str) -> list[Figure]:
    return [
        figure(
            f"{prefix}-layers-{number}",
            f"Layers: {group.label}",
            f"Firing rate of each layer and its share in warm-up, seed {best.experiment.seed}.",
            run_figures.layers_over_training(best.epochs),
        )
        for number, group in enumerate(groups, 1)
        if (best := _best(group, measure)).epochs[-1].get("firing_rate")
    ]


def _own(prefix: str, groups: Sequence[Group], measure: str) -> list[Figure]:
    """What `tsslbp draw` left in the folder of each group's best run."""
    figures = []
    for number, group in enumerate(groups, 1):
        best = _best(group, measure)
        for pattern in OWN_FIGURES:
            for file in sorted((best.folder / "figures").glob(f"{pattern}.svg"))[:OWN_IMAGES]:
                name = re.sub(r"[^\w-]", "-", file.stem)
                figures.append(
                    Figure(
                        f"{prefix}-run-{number}-{name}",
                        f"{file.stem.replace('-', ' ').capitalize()}: {group.label}",
                        f"From the folder of the best run, seed {best.experiment.seed}.",
                        file=file,
                    )
                )
    return figures


def _names(results: Sequence[Result]) -> list[str]:
    """Runs by what tells them apart: hyperparameters and seed; equal ones numbered."""
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


def _first(groups: Mapping[str, T]) -> dict[str, T]:
    return dict(list(groups.items())[:SHOWN_GROUPS])


def _left_out(groups: Mapping[str, Any]) -> str:
    if len(groups) <= SHOWN_GROUPS:
        return ""
    return f" Shown are the {SHOWN_GROUPS} of {len(groups)} settings with the best runs."


def _best(group: Group, measure: str) -> Result:
    return max(group.results, key=lambda one: one.accuracy[measure])


def _chosen(result: Result, measure: str) -> Mapping[str, Any]:
    """The record behind a measure."""
    return measures(result.epochs)[measure]
