"""Comparisons of learning rules: the runs of a comparison, and their results.

All runs of a comparison differ only in `APART`: every rule has the same data order, initial
weights, optimiser and number of epochs. For each rule and number of time steps T, one run per
learning rate is trained with the first seed. The rate with the best accuracy on validation images
is chosen, and the other seeds are run with it. No choice uses test images.

A run that diverged counts as finished: its learning rate or its seed is excluded.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import experiment as experiments
from ..checked import check_number, check_whole
from ..errors import Error, InvalidInput, RunError
from ..experiment import Experiment
from ..reading import read_table
from ..rules import from_config
from ..run import write_json
from ..run.comparison import Comparison, compare, correct
from ..run.results import Result, check_settings, measures
from ..storage import hold_folder
from . import trials
from .trials import RECIPE, Trial

Array = npt.NDArray[Any]

FILE = "compare.json"  # in the folder of a comparison
FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)  # default learning rates, in units of the recipe's
APART = ("rule", "time_steps", "learning_rate", "seed")  # keys in which the runs differ
GROWING = ("rules", "time_steps", "learning_rates")  # lists that can only be extended in a folder
MOST = 1000  # entries of a list
MEASURE = "best-validation"  # for all accuracies here
MACHINE = ("cpu", "threads", "cores")  # keys of an environment that affect training times


@dataclass(frozen=True)
class RuleStudy:
    """Learning rules to be compared, and the conditions of the comparison.

    Attributes:
        experiment: the recipe; its rule is not used. It is changed to the validated protocol, and
            to no `patience`, which would give rules unequal budgets.
        rules: as text that `tsslbp.rules.from_config` reads; all other rules are compared with the
            first.
        time_steps: all values of T; empty: the recipe's.
        learning_rates: rates to try for every rule and T; empty: the recipe's times `FACTORS`.
        seeds: number of runs of each rule and T at the chosen rate, from the recipe's seed upward.

    Raises:
        InvalidInput: a value is not allowed, or a rule is given twice.
    """

    experiment: Experiment
    rules: tuple[str, ...]
    time_steps: tuple[int, ...] = ()
    learning_rates: tuple[float, ...] = ()
    seeds: int = 3

    def __post_init__(self) -> None:
        base = replace(self.experiment, protocol="validated", patience=None)
        for name in GROWING:
            if len(getattr(self, name)) > MOST:
                raise InvalidInput(f"{name} must have at most {MOST:,} entries")
        rates = self.learning_rates or [factor * base.learning_rate for factor in FACTORS]
        values = {
            "experiment": base,
            "rules": tuple(map(_tidy, self.rules)),
            "time_steps": tuple(
                sorted(check_whole("time_steps", one) for one in self.time_steps)
                or [base.time_steps]
            ),
            "learning_rates": tuple(
                sorted(float(f"{check_number('learning rate', rate):.6g}") for rate in rates)
            ),
            "seeds": check_whole("seeds", self.seeds, most=trials.MOST_SEEDS),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)
        _check_distinct("rules", self.rules, [from_config(rule) for rule in self.rules])
        _check_distinct("time steps", self.time_steps, self.time_steps)
        _check_distinct("learning rates", self.learning_rates, self.learning_rates)
        for pair in self.pairs:
            self.variant(*pair, self.learning_rates[0])

    @property
    def pairs(self) -> list[tuple[str, int]]:
        """Return every pair of rule and T, in the order of T."""
        return [(rule, steps) for steps in self.time_steps for rule in self.rules]

    def variant(self, rule: str, time_steps: int, learning_rate: float) -> Experiment:
        """Return the experiment with one rule, T and learning rate, and the first seed."""
        return replace(
            self.experiment,
            rule=from_config(rule),
            time_steps=time_steps,
            learning_rate=learning_rate,
        )

    def runs(self, folder: Path, rule: str, time_steps: int, rate: float) -> list[Trial]:
        """Return the runs of one rule, T and learning rate over the seeds, below `folder`."""
        place = folder / slug(rule) / f"T{time_steps}" / f"lr-{rate:g}"
        variant = self.variant(rule, time_steps, rate)
        return trials.planned(variant, self.seeds, ["validated"], place, folder)

    def tuning(self, folder: Path) -> list[Trial]:
        """Return the runs that determine the learning rates."""
        return [
            self.runs(folder, *pair, rate)[0] for pair in self.pairs for rate in self.learning_rates
        ]


@dataclass(frozen=True)
class RuleResult:
    """The results of one rule at one T."""

    rule: str
    time_steps: int
    rates: tuple[float, ...]  # the learning rates to try
    validation: Mapping[float, float]  # accuracy, 0 to 1, by rate; only finished runs
    diverged: Mapping[float, str]  # why the training diverged, by rate
    rate: float | None  # the chosen rate; None if rates are left to try, or all diverged
    results: tuple[Result, ...] = ()  # finished, at the chosen rate, in the order of their seeds
    diverged_seeds: tuple[int, ...] = ()  # at the chosen rate
    seeds: int = 1  # number of runs wanted

    @property
    def name(self) -> str:
        """The rule and T, as messages name the result: ``"TSSLBP, T = 5"``."""
        return f"{self.rule}, T = {self.time_steps}"

    @property
    def at_edge(self) -> bool:
        """Whether the chosen rate is the lowest or highest of several, so a better may lie beyond.

        False if the next rate was tried and diverged.
        """
        ends = (self.rates[0], self.rates[-1])
        return len(self.rates) > 1 and self.rate in ends

    @property
    def missing(self) -> int:
        """Number of runs that are still to be made if none diverges."""
        untried = len(self.rates) - len(self.validation) - len(self.diverged)
        if self.rate is None:
            return untried + (self.seeds - 1 if untried else 0)
        return self.seeds - len(self.results) - len(self.diverged_seeds)

    @property
    def state(self) -> str:
        """Describe what is missing; "" if nothing is."""
        if len(self.diverged) == len(self.rates):
            return "diverged at every learning rate"
        tried = len(self.validation) + len(self.diverged)
        if self.rate is None:
            return f"{tried} of {len(self.rates)} learning rates tried"
        words = []
        if self.missing:
            words.append(f"{len(self.results)} of {self.seeds} seeds finished")
        if self.diverged_seeds:
            words.append(f"diverged with seed {', '.join(map(str, self.diverged_seeds))}")
        return "; ".join(words)

    @cached_property
    def accuracies(self) -> Array:
        """Test accuracies, 0 to 1, at the epoch chosen on validation images ``[runs]``."""
        return np.array([result.accuracy[MEASURE] for result in self.results])

    @cached_property
    def spikes(self) -> Array:
        """Spikes per image at the same epoch ``[runs]``; empty if a record lacks them."""
        chosen = [measures(result.epochs)[MEASURE] for result in self.results]
        known = [one["spikes_per_image"] for one in chosen if "spikes_per_image" in one]
        return np.array(known if len(known) == len(chosen) else [])

    @cached_property
    def seconds(self) -> Array:
        """Time spent on training, without the evaluations ``[runs]``."""
        return np.array([result.seconds for result in self.results])


def prepare(study: RuleStudy, folder: Path) -> RuleStudy:
    """Write the comparison, with its recipe, into `folder`, where the runs will be.

    An existing comparison can be extended by rules, time steps, learning rates and seeds.

    Returns:
        The study, whose network's file, if any, is the copy in `folder`.

    Raises:
        RunError: the folder contains a comparison with other settings, or with more entries than
            requested, is in use, or cannot be written; or a rule is written differently there.
    """
    with hold_folder(folder):
        if os.path.exists(folder / FILE):
            _check_growth(study, folder)
        study = replace(study, experiment=trials.prepare(study.experiment, folder))
        for trial in study.tuning(folder):
            trials.prepare(trial.experiment, trial.recipe.parent)
        write_json(folder / FILE, {name: getattr(study, name) for name in (*GROWING, "seeds")})
    return study


def _check_growth(study: RuleStudy, folder: Path) -> None:
    """Raise `RunError` if the comparison in a folder cannot be extended to this one."""
    there = read(folder)
    what = f"{folder} holds a comparison"
    kept = ("description", "rule", "time_steps")
    check_settings(what, there.experiment, study.experiment, kept)
    for here, asked in product(there.rules, study.rules):
        if here != asked and from_config(here) == from_config(asked):
            raise RunError(f"{what} that has the rule {asked} as {here}: write it in that way")
    for name in GROWING:
        if left_out := [x for x in getattr(there, name) if x not in getattr(study, name)]:
            words = ", ".join(map(str, left_out))
            raise RunError(
                f"{what} with more {name.replace('_', ' ')} ({words}): include these as well, "
                "or choose another --out"
            )


def read(folder: Path) -> RuleStudy:
    """Read the comparison in a folder.

    Raises:
        RunError: there is none, or it cannot be read.
    """
    path = folder / FILE
    try:
        plan = read_table(path)
        experiment = experiments.load_recipe(folder / RECIPE)
        rules, time_steps, rates = (tuple(plan[name]) for name in GROWING)
        return RuleStudy(experiment, rules, time_steps, rates, plan["seeds"])
    except (Error, OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"cannot read the comparison {path}: {error}") from error


def read_results(study: RuleStudy, folder: Path) -> list[RuleResult]:
    """Return the results of every rule at every T, from the records of the runs.

    Raises:
        RunError: a run has other settings than the comparison, or cannot be read.
    """
    return [_read_result(study, folder, *pair) for pair in study.pairs]


def finals(study: RuleStudy, folder: Path) -> list[Trial]:
    """Return the runs at the chosen learning rates, for those rules and T that have one."""
    return [
        trial
        for one in read_results(study, folder)
        if one.rate is not None
        for trial in study.runs(folder, one.rule, one.time_steps, one.rate)
    ]


def choose(accuracies: Mapping[float, float], rate: float) -> float:
    """Return the learning rate with the best accuracy on validation images.

    Ties are broken by the smallest ratio to the recipe's `rate`, then by the lower rate.
    """
    return min(
        accuracies, key=lambda one: (-accuracies[one], round(abs(math.log(one / rate)), 9), one)
    )


def against_first(results: Sequence[RuleResult]) -> list[Comparison[RuleResult]]:
    """Compare every rule with the first, at each T, with Holm's correction over all of them."""
    pairs = [
        (one, first)
        for steps in dict.fromkeys(one.time_steps for one in results)
        for first, *others in [[one for one in results if one.time_steps == steps]]
        for one in others
    ]
    diverged = [sum(len(side.diverged_seeds) for side in pair) for pair in pairs]
    compared = zip(pairs, diverged, strict=True)
    return correct([compare(*pair, MEASURE, diverged=count) for pair, count in compared])


def cautions(study: RuleStudy, results: Iterable[RuleResult] = ()) -> list[str]:
    """Return the caveats of a comparison, one line each."""
    results = list(results)
    lines = []
    if study.experiment.loss != "softmax" and len(study.time_steps) > 1:
        lines.append(
            f"with loss = {study.experiment.loss} the desired output depends on T, so accuracies "
            "at different T cannot be compared fairly: use --set loss=softmax"
        )
    lines += [
        f"{one.name}: the chosen learning rate, {one.rate:g}, is the lowest or highest of those "
        "tried; a better one may lie beyond it"
        for one in results
        if one.at_edge
    ]
    lines += [
        f"{one.name}: diverged at learning rate {rate:g} ({reason})"
        for one in results
        for rate, reason in one.diverged.items()
    ]
    lines += [f"{one.name}: {one.state}" for one in results if one.state]
    runs = [run for one in results for run in one.results]
    machines = {tuple(str(run.environment.get(key)) for key in MACHINE) for run in runs}
    if len(machines) > 1:
        lines.append(
            "the runs were made on different machines or with different threads: do not compare "
            "their times"
        )
    return lines


def slug(rule: str) -> str:
    """Return a rule's text as the name of a folder, such as ``"TSSLBP-warm_up=always"``."""
    return re.sub(r"[^\w.=+-]+", "-", re.sub(r"[\s\"']", "", rule)).strip("-")


def _tidy(rule: str) -> str:
    """Return a rule's text with spaces, quotation marks and empty brackets normalised."""
    from_config(rule)  # raises an error that quotes the given text
    return ", ".join(re.sub(r"[\s\"']", "", rule).removesuffix("()").split(","))


def _read_result(study: RuleStudy, folder: Path, rule: str, steps: int) -> RuleResult:
    runs = {rate: study.runs(folder, rule, steps, rate) for rate in study.learning_rates}
    validation, diverged = {}, {}
    for rate, (first, *_) in runs.items():
        if result := _finished(first):
            validation[rate] = measures(result.epochs)[MEASURE]["validation_accuracy"]
        elif reason := first.divergence():
            diverged[rate] = reason
    found = RuleResult(
        rule, steps, study.learning_rates, validation, diverged, None, seeds=study.seeds
    )
    if not validation or len(validation) + len(diverged) < len(runs):
        return found
    rate = choose(validation, study.experiment.learning_rate)
    results = [(trial, _finished(trial)) for trial in runs[rate]]
    out = [trial.experiment.seed for trial, one in results if not one and trial.divergence()]
    finished = tuple(result for _, result in results if result)
    return replace(found, rate=rate, results=finished, diverged_seeds=tuple(out))


def _finished(trial: Trial) -> Result | None:
    """Return a run that was trained for exactly the epochs of the study, or None."""
    result = trial.result()
    if result is None or not result.finished:
        return None
    if len(result.epochs) != trial.experiment.epochs:
        raise RunError(
            f"{trial.folder} was trained for {len(result.epochs)} epochs, but the comparison has "
            f"{trial.experiment.epochs}: remove it, and the same command makes it again"
        )
    return result


def _check_distinct(what: str, given: Sequence[object], values: Sequence[object]) -> None:
    if not values:
        raise InvalidInput(f"expected at least one of the {what}")
    for index, value in enumerate(values):
        if (first := values.index(value)) < index:
            raise InvalidInput(f"{what}: {given[first]} and {given[index]} are the same")
