"""Tests that groups are paired by seed and corrected for the number of comparisons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("scipy")

from tsslbp import stats
from tsslbp.experiment import Experiment
from tsslbp.run import comparison
from tsslbp.run.results import Result


@dataclass(frozen=True)
class Runs:
    """Runs with given test accuracies, by seed."""

    results: tuple[Result, ...]


def runs(accuracies: Mapping[int, float]) -> Runs:
    def result(seed: int, accuracy: float) -> Result:
        epoch = {"epoch": 1, "test_accuracy": accuracy, "seconds": 1.0}
        return Result(Path(str(seed)), Experiment("digits", "5", seed=seed), {}, [epoch])

    return Runs(tuple(result(*pair) for pair in accuracies.items()))


LOW = {0: 0.90, 1: 0.91, 2: 0.92}
HIGH = {2: 0.971, 1: 0.96, 0: 0.95, 7: 0.1}


def test_only_shared_seeds_count_and_their_order_does_not_matter() -> None:
    ours, theirs = comparison.shared(runs(HIGH), runs(LOW), "last")
    assert ours.tolist() == pytest.approx([95, 96, 97.1])
    assert theirs.tolist() == pytest.approx([90, 91, 92])
    found = comparison.compare(runs(HIGH), runs(LOW), "last")
    assert found.seeds == 3
    assert found.difference == stats.paired(ours, theirs)
    assert (found.p, found.verdict) == (found.difference.p, "higher")
    assert comparison.compare(runs(LOW), runs(HIGH), "last").verdict == "lower"


@pytest.mark.parametrize("other", [{0: 0.1}, {5: 0.1, 6: 0.2}])
def test_without_two_shared_seeds_there_is_no_test(other: dict[int, float]) -> None:
    found = comparison.compare(runs(HIGH), runs(other), "last")
    assert (found.difference, found.p, found.verdict) == (None, None, "undecided")


def test_a_run_that_diverged_leaves_the_rest_undecided() -> None:
    found = comparison.compare(runs(HIGH), runs(LOW), "last", diverged=1)
    assert found.p is not None and found.p < stats.LEVEL
    assert found.verdict == "undecided"


def test_the_correction_is_for_the_comparisons_with_a_test() -> None:
    tested = comparison.compare(runs(HIGH), runs({0: 0.900, 1: 0.912, 2: 0.917}), "last")
    untested = comparison.compare(runs(HIGH), runs({0: 0.1}), "last")
    assert tested.p is not None and tested.verdict == "higher"
    first, none, second = comparison.correct([tested, untested, tested])
    assert first.p == second.p == pytest.approx(2 * tested.p)
    assert none == untested
    many = comparison.correct([tested] * 100)
    assert {one.verdict for one in many} == {"undecided"}


def test_holm_leaves_out_what_has_no_p() -> None:
    adjusted = comparison.holm([0.03, None, 0.01, None, 0.02])
    assert adjusted[1] is adjusted[3] is None
    given = np.array([p for p in adjusted if p is not None])
    assert given == pytest.approx(stats.holm([0.03, 0.01, 0.02]))
    assert comparison.holm([]) == []
