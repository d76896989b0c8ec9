"""The search of the study's Section 4.3: its three figures, and answers to its questions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tsslbp import wording
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


def figures(trials: Sequence[Result]) -> dict[str, Drawing]:
    """Return figures 1 to 3, if there are trials to draw."""
    if len(trials) < 2:
        return {}
    accuracies = [one.accuracy[MEASURE] for one in trials]
    rates = [one.experiment.learning_rate for one in trials]
    epochs = [one.experiment.epochs for one in trials]
    size = (0.72 * COLUMN, COLUMN)
    return {
        "search-parallel": lambda: study_figures.parallel_coordinates(
            hyperparameters(trials), accuracies, size
        ),
        "search-rates": lambda: study_figures.learning_rate_against_epochs(
            rates, epochs, accuracies, size
        ),
        "search-training": lambda: run_figures.training_panels(
            {name(one): drops.curve(one) for one in trials},
            {name(one): drops.depths(one) for one in trials},
            COLUMN,
        ),
    }


def name(one: Result) -> str:
    """Return a trial's name, made of what the search chose."""
    experiment = one.experiment
    return f"T {experiment.time_steps}, rate {experiment.learning_rate:g}, {experiment.epochs} ep."


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
    """Return answers on window, epochs and learning rate from the trials."""
    best = max(trials, key=lambda one: one.accuracy[MEASURE])
    needed = accuracy.epochs_needed(trials)
    steps, rates = (_by_value(trials, key) for key in ("time_steps", "learning_rate"))
    shortest, *longer = steps
    near = [rate for rate, reached in rates.items() if max(reached) >= _top(trials) - 0.1]
    lines = [f"The best trial: {name(best)}: {100 * best.accuracy[MEASURE]:.2f} %."]
    if longer:
        difference = max(max(steps[one]) for one in longer) - max(steps[shortest])
        lines.append(
            f"Does a longer window help? The best trial with more than {shortest:g} steps differs "
            f"by {difference:+.2f} points from the best with {shortest:g}. Each setting was run "
            "once, so no test is possible; the claim on time steps above has paired seeds."
        )
    lines.append(
        "How many epochs are needed? Half of the trials come within 0.1 points of their own best "
        f"test epoch after {np.median(needed):.0f} epochs or fewer, all after {max(needed)}."
    )
    lines.append(
        "Which learning rates work well? Within 0.1 points of the best trial: "
        f"{wording.joined([f'{rate:g}' for rate in near])}."
    )
    return lines


def _by_value(trials: Sequence[Result], key: str) -> dict[Any, list[float]]:
    """Return accuracies in percent by the value of a setting, in rising order."""
    found: dict[Any, list[float]] = {}
    for one in sorted(trials, key=lambda one: float(getattr(one.experiment, key))):
        value = getattr(one.experiment, key)
        found.setdefault(value, []).append(100 * one.accuracy[MEASURE])
    return found


def _top(trials: Sequence[Result]) -> float:
    return max(100 * one.accuracy[MEASURE] for one in trials)
