"""Compares two groups of runs over the same seeds, in percentage points of test accuracy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeVar

import numpy as np

from .. import stats
from ..stats import Array, Difference, Verdict
from .results import Result


class Runs(Protocol):
    """Runs that differ only in their seed, with each seed once."""

    @property
    def results(self) -> tuple[Result, ...]: ...


R = TypeVar("R", bound=Runs)


@dataclass(frozen=True)
class Comparison(Generic[R]):
    """The difference between two groups of runs over the seeds that both have.

    Attributes:
        first, second: the groups.
        seeds: number of seeds that both have.
        difference: first minus second, in percentage points; None with fewer than two seeds.
        p: p-value of the paired t test; None without a difference. `correct` adjusts it.
        diverged: number of runs of either group that diverged; without them the remaining runs are
            a biased sample.
    """

    first: R
    second: R
    seeds: int
    difference: Difference | None
    p: float | None
    diverged: int = 0

    @property
    def verdict(self) -> Verdict:
        """Whether the first group is higher or lower.

        Undecided if the interval contains zero, if p is above `stats.LEVEL`, if a run diverged, or
        if there are too few seeds for a test.
        """
        if self.diverged or self.difference is None or self.p is None or self.p > stats.LEVEL:
            return "undecided"
        return self.difference.verdict


def compare(first: R, second: R, measure: str, diverged: int = 0) -> Comparison[R]:
    """Compare two groups by the paired t test.

    Args:
        first, second: the groups.
        measure: measure of accuracy, one of `tsslbp.run.results.MEASURES`.
        diverged: number of runs of either group that diverged.
    """
    ours, theirs = shared(first, second, measure)
    difference = stats.paired_accuracies(ours, theirs) if len(ours) > 1 else None
    p = difference.p if difference else None
    return Comparison(first, second, len(ours), difference, p, diverged)


def correct(comparisons: Sequence[Comparison[R]]) -> list[Comparison[R]]:
    """Return the comparisons with p adjusted by Holm's correction over all of them."""
    adjusted = holm(one.p for one in comparisons)
    return [replace(one, p=p) for one, p in zip(comparisons, adjusted, strict=True)]


def holm(p_values: Iterable[float | None]) -> list[float | None]:
    """Apply `stats.holm` to the comparisons that have a test; None marks one without a test."""
    given = list(p_values)
    adjusted = iter(stats.holm([p for p in given if p is not None]).tolist())
    return [None if p is None else next(adjusted) for p in given]


def shared(first: Runs, second: Runs, measure: str) -> tuple[Array, Array]:
    """Return the accuracies in percent of two groups at their common seeds ``[seeds]``."""
    ours, theirs = (
        {one.experiment.seed: 100 * one.accuracy[measure] for one in group.results}
        for group in (first, second)
    )
    seeds = sorted(ours.keys() & theirs.keys())
    return np.array([ours[seed] for seed in seeds]), np.array([theirs[seed] for seed in seeds])
