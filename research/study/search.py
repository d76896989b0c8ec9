"""The search of the study's Section 4.3: its three figures, and answers to its questions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tsslbp import wording
from tsslbp.errors import RunError
from tsslbp.figures import run as run_figures
from tsslbp.figures import study as study_figures
from tsslbp.report.blocks import Table
from tsslbp.report.figures import hyperparameters
from tsslbp.run.results import Result

from . import accuracy, drops
from .drawing import COLUMN, Drawing
from .records import facts

KEYS = {"time_steps": "window T", "epochs": "epochs", "learning_rate": "learning rate"}
MEASURE = "best-test"  # the search's objective, as in the study


def command() -> str:
    """Return the command that makes the search."""
    one = facts()["search"]
    return (
        f"tsslbp sweep {one['recipe']} --space {one['space']} --objective test --trials "
        f"{one['trials']} --set train_images={one['train_images']} --out runs/search"
    )


def images(trials: Sequence[Result]) -> int:
    """Return the number of training images, which is the same in all trials.

    Raises:
        RunError: it is not.
    """
    wanted: int = facts()["search"]["train_images"]
    found = {str(one.experiment.train_images) for one in trials}
    if found != {str(wanted)}:
        raise RunError(
            f"the trials of the search have train_images = {wording.joined(sorted(found))}, "
            f"expected {wanted}: make them with the command of docs/study.md"
        )
    return wanted


def figures(trials: Sequence[Result]) -> dict[str, Drawing]:
    """Return figures 1 to 3, if there are trials to draw."""
    if len(trials) < 2:
        return {}
    accuracies = [one.accuracy[MEASURE] for one in trials]
    rates = [one.experiment.learning_rate for one in trials]
    epochs = [one.experiment.epochs for one in trials]
    size = (0.72 * COLUMN, COLUMN)
    names = [name(one, trials) for one in trials]
    return {
        "search-parallel": lambda: study_figures.parallel_coordinates(
            hyperparameters(trials), accuracies, size
        ),
        "search-rates": lambda: study_figures.learning_rate_against_epochs(
            rates, epochs, accuracies, size
        ),
        "search-training": lambda: run_figures.training_panels(
            dict(zip(names, map(drops.curve, trials), strict=True)),
            dict(zip(names, map(drops.depths, trials), strict=True)),
            COLUMN,
        ),
    }


def name(one: Result, trials: Sequence[Result]) -> str:
    """Return a trial's name: what the search chose, and the seed if it chose that repeatedly."""
    steps, epochs, rate = _settings(one)
    text = f"T {steps}, rate {rate:g}, {epochs} ep."
    alike = sum(_settings(trial) == _settings(one) for trial in trials)
    return f"{text}, seed {one.experiment.seed}" if alike > 1 else text


def trials_table(trials: Sequence[Result]) -> Table:
    """Return a table of every trial, the best first."""
    ordered = sorted(trials, key=lambda one: -one.accuracy[MEASURE])
    rows = [
        (
            *(f"{getattr(one.experiment, key):g}" for key in KEYS),
            f"{100 * one.accuracy[MEASURE]:.2f}",
            f"{100 * one.accuracy['last']:.2f}",
            str(accuracy.epochs_needed([one])[0]),
            str(len(drops.of(one))),
            wording.duration(one.seconds),
        )
        for one in ordered
    ]
    head = ("best test epoch", "last epoch", "epochs needed", "sudden drops", "training time")
    return Table("", (*KEYS.values(), *head), tuple(rows), text_columns=0)


def values_table(trials: Sequence[Result]) -> Table:
    """Return a table of the number of trials and their accuracies for each value tried."""
    rows: list[tuple[str, ...]] = []
    for key, title in KEYS.items():
        rows.append((title,))
        for value, reached in _by_value(trials, key).items():
            rows.append(
                (f"{value:g}", str(len(reached)), f"{max(reached):.2f}", f"{np.mean(reached):.2f}")
            )
    return Table("", ("", "trials", "best", "mean"), tuple(rows))


def answers(trials: Sequence[Result]) -> list[str]:
    """Return the best trial and, if all trials have ended, answers on window, epochs and rate."""
    best = max(trials, key=lambda one: one.accuracy[MEASURE])
    needed = accuracy.epochs_needed(trials)
    steps, rates = (_by_value(trials, key) for key in ("time_steps", "learning_rate"))
    shortest, *longer = steps
    near = [rate for rate, reached in rates.items() if max(reached) >= _top(trials) - 0.1]
    lines = [
        f"The best trial: {name(best, trials)}, {100 * best.accuracy[MEASURE]:.2f} % at the best "
        f"test epoch, {images(trials):,} training images."
    ]
    if len(trials) < facts()["search"]["trials"]:
        return lines
    if longer:
        counts = [len(steps[shortest]), sum(len(steps[one]) for one in longer)]
        difference = max(max(steps[one]) for one in longer) - max(steps[shortest])
        lines.append(
            f"Does a longer window help? The best of {wording.count(counts[1], 'trial')} with more "
            f"than {shortest:g} steps differs by {difference:+.2f} points from the best of "
            f"{counts[0]} with {shortest:g}. The trials also differ in learning rate and epochs, "
            "so this is no test; the claim on time steps above has paired seeds."
        )
    lines.append(
        "How many epochs are needed? Half of the trials come within 0.1 points of their own best "
        f"test epoch after {np.median(needed):.0f} epochs or fewer, all after {max(needed)}. An "
        "epoch on fewer images has fewer steps: these numbers cannot be compared with the study's."
    )
    lines.append(
        "Which learning rates work well? Within 0.1 points of the best trial: "
        f"{wording.joined([f'{rate:g}' for rate in near])}. One run of each is little evidence, "
        "since 0.1 points are also the standard error of an accuracy on 10,000 test images."
    )
    return lines


def _settings(one: Result) -> tuple[int, int, float]:
    return one.experiment.time_steps, one.experiment.epochs, one.experiment.learning_rate


def _by_value(trials: Sequence[Result], key: str) -> dict[Any, list[float]]:
    """Return accuracies in percent by the value of a setting, in rising order."""
    found: dict[Any, list[float]] = {}
    for one in sorted(trials, key=lambda one: float(getattr(one.experiment, key))):
        value = getattr(one.experiment, key)
        found.setdefault(value, []).append(100 * one.accuracy[MEASURE])
    return found


def _top(trials: Sequence[Result]) -> float:
    return max(100 * one.accuracy[MEASURE] for one in trials)
