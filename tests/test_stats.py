"""Tests of the statistics by manual calculations, textbook values and general properties."""

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsslbp import stats
from tsslbp.errors import InvalidInput
from tsslbp.stats import Difference, Interval

# Student's sleep data (1908), hours gained by ten patients under two drugs; results from R's t.test
FIRST = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
SECOND = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]

numbers = st.integers(-1000, 1000).map(float)
samples = st.lists(numbers, min_size=2, max_size=8)
shifts, scales = st.integers(-100, 100), st.sampled_from([0.01, 0.5, 3.0, 100.0])
probabilities = st.lists(st.floats(0, 1), max_size=10)


def test_summary_worked_by_hand() -> None:
    found = stats.summary([1, 2, 3, 4, 5])
    half = 2.776445 * 2.5**0.5 / 5**0.5  # t of 4 degrees of freedom, times the standard error
    assert (found.runs, found.mean, found.best) == (5, 3.0, 5.0)
    assert found.sd == pytest.approx(2.5**0.5)
    assert found.interval == pytest.approx((3 - half, 3 + half), abs=1e-6)


def test_interval_of_a_published_mean() -> None:
    values = [99.36, 99.4, 99.46]
    found = stats.summary(values)
    assert stats.t_interval(found.mean, found.sd, found.runs) == found.interval
    with pytest.raises(InvalidInput, match="at least 2 runs, got 1"):
        stats.t_interval(99.4, 0.1, 1)


def test_one_run_has_no_spread() -> None:
    assert stats.summary([0.995]) == stats.Summary(1, 0.995, None, 0.995, None)


@pytest.mark.parametrize("runs", [2, 5, 19, 20, 40])
def test_equal_runs_have_an_interval_of_one_point(runs: int) -> None:
    found = stats.summary([0.1] * runs)
    assert (found.mean, found.sd, found.interval) == (0.1, 0.0, Interval(0.1, 0.1))


def test_t_interval_covers_the_mean_as_promised() -> None:
    random = np.random.RandomState(0)
    intervals = [stats.summary(random.randn(5)).interval for _ in range(4000)]
    covered = np.mean([low <= 0 <= high for low, high in intervals])
    assert covered == pytest.approx(0.95, abs=0.015)


def test_bootstrap_of_five_runs_does_not() -> None:
    """A 95 % bootstrap interval of five runs covers the mean in 84 %, so it needs more runs."""
    random = np.random.RandomState(0)
    values, drawn = random.randn(2000, 5), random.randint(0, 5, (500, 5))
    low, high = np.quantile(values[:, drawn].mean(2), [0.025, 0.975], axis=1)
    assert np.mean((low <= 0) & (high >= 0)) == pytest.approx(0.84, abs=0.03)


def test_from_twenty_runs_the_bootstrap_takes_over() -> None:
    skewed = np.random.RandomState(0).exponential(size=20)
    few, many = stats.summary(skewed[:19]).interval, stats.summary(skewed).interval
    assert few and sum(few) / 2 == pytest.approx(skewed[:19].mean())  # symmetric
    assert many and sum(many) / 2 > skewed.mean() + 0.01  # longer on the side of the tail
    assert many == stats.summary(skewed).interval


def test_bootstrap_covers_the_mean() -> None:
    random = np.random.RandomState(0)
    intervals = [stats.summary(random.randn(20)).interval for _ in range(150)]
    assert np.mean([low <= 0 <= high for low, high in intervals]) > 0.86  # 0.92 in the long run


def test_paired_agrees_with_r() -> None:
    found = stats.paired(FIRST, SECOND)
    assert found.mean == pytest.approx(-1.58)
    assert found.interval == pytest.approx((-2.4598858, -0.7001142), abs=1e-7)
    assert found.p == pytest.approx(0.002833, abs=5e-7)
    assert found.verdict == "lower"
    assert stats.paired(SECOND, FIRST).verdict == "higher"


def test_equal_differences_of_accuracies_are_no_evidence() -> None:
    assert stats.paired_accuracies(FIRST, SECOND) == stats.paired(FIRST, SECOND)
    equal = stats.paired_accuracies([98.0, 99.0], [97.0, 98.0])
    assert (equal.mean, equal.p, equal.interval) == (1.0, 1.0, (1.0, 1.0))


def test_welch_agrees_with_r() -> None:
    found = stats.welch(FIRST, np.mean(SECOND), np.std(SECOND, ddof=1), len(SECOND))
    assert found.mean == pytest.approx(-1.58)
    assert found.interval == pytest.approx((-3.3654832, 0.2054832), abs=1e-7)
    assert found.p == pytest.approx(0.07939, abs=5e-6)
    assert found.verdict == "undecided"


def test_welch_with_unequal_runs_agrees_with_scipy() -> None:
    from scipy.stats import ttest_ind_from_stats

    ours = [99.41, 99.44, 99.39]
    theirs = (99.50, 0.02, 5)
    expected = ttest_ind_from_stats(
        np.mean(ours), np.std(ours, ddof=1), 3, *theirs, equal_var=False
    )
    found = stats.welch(ours, *theirs)
    assert found.p == pytest.approx(expected.pvalue)
    assert found.verdict == "lower"


@pytest.mark.parametrize(
    ("shift", "p", "verdict"),
    [(0.0, 1.0, "undecided"), (0.25, 0.0, "higher"), (-0.25, 0.0, "lower")],
)
def test_differences_without_spread(shift: float, p: float, verdict: str) -> None:
    values = np.array([0.5, 0.75, 0.625])
    found = stats.paired(values + shift, values)
    assert (found.interval, found.p, found.verdict) == ((shift, shift), p, verdict)
    published = stats.welch([0.5 + shift] * 3, 0.5, 0.0, 5)
    assert (published.interval, published.p, published.verdict) == ((shift, shift), p, verdict)


def test_an_interval_that_ends_at_zero_is_undecided() -> None:
    assert Difference(0.5, Interval(0.0, 1.0), 0.05).verdict == "undecided"


@given(samples, samples, shifts, scales)
def test_shift_and_scale(first: list, second: list, shift: int, scale: float) -> None:
    """Another unit scales means, intervals and deviations, and changes neither p nor verdict."""
    runs = min(len(first), len(second))
    ours, theirs = np.array(first[:runs]), np.array(second[:runs])
    for one, other in (
        (stats.paired(ours, theirs), stats.paired(scale * ours + shift, scale * theirs + shift)),
        (
            stats.welch(ours, 7.0, 2.0, 4),
            stats.welch(scale * ours + shift, scale * 7 + shift, scale * 2, 4),
        ),
    ):
        assert other.mean == pytest.approx(scale * one.mean, abs=1e-9)
        assert other.interval == pytest.approx(
            [scale * end for end in one.interval], rel=1e-6, abs=1e-7
        )
        assert (other.p, other.verdict) == (pytest.approx(one.p, abs=1e-9), one.verdict)
    one, other = stats.summary(ours), stats.summary(scale * ours + shift)
    assert other.interval == pytest.approx(
        [scale * end + shift for end in one.interval or ()], rel=1e-6, abs=1e-7
    )
    assert other.sd == pytest.approx(scale * (one.sd or 0), abs=1e-9)


@given(samples, st.randoms())
def test_p_and_interval_agree(values: list, random) -> None:
    others = random.sample(values, len(values))
    found = stats.paired(values, others)
    assert (found.p > 0.05) == (found.verdict == "undecided") or found.p == pytest.approx(0.05)
    swapped = stats.paired(others, values)
    assert swapped.p == pytest.approx(found.p)
    assert swapped.interval == pytest.approx((-found.interval.high, -found.interval.low))


def test_holm_agrees_with_r() -> None:
    """The adjusted p-values are those of R's p.adjust(p, "holm")."""
    p = [0.03, 0.01, 0.05, 0.02, 0.04]
    assert stats.holm(p) == pytest.approx([0.09, 0.05, 0.09, 0.08, 0.09])


@given(probabilities)
def test_holm(p: list) -> None:
    adjusted = stats.holm(p)
    order = np.argsort(p)
    assert (np.diff(adjusted[order]) >= 0).all()
    assert (adjusted >= p).all() and (adjusted <= 1).all()
    assert np.array_equal(stats.holm(p[::-1]), adjusted[::-1])
    if p:
        assert adjusted.min() == min(1, len(p) * min(p))  # the smallest is that of Bonferroni


def test_selection_bias() -> None:
    found = stats.selection_bias([0.75, 0.5, 1.0], [0.5, 0.5, 0.5])
    assert (found.mean, found.best, found.sd) == (0.25, 0.5, 0.25)
    with pytest.raises(InvalidInput, match="same runs"):
        stats.selection_bias([0.5, 0.5], [0.5, 0.625])


@pytest.mark.parametrize("values", [[], [0.5, np.nan], [np.inf], [[0.5, 0.75]], 0.5])
def test_values_must_be_finite_numbers_of_runs(values: object) -> None:
    with pytest.raises(InvalidInput, match="values: expected"):
        stats.summary(values)


def test_bad_comparisons() -> None:
    with pytest.raises(InvalidInput, match="got 2 and 3"):
        stats.paired([1, 2], [1, 2, 3])
    with pytest.raises(InvalidInput, match="at least 2 runs"):
        stats.paired([1], [2])
    with pytest.raises(InvalidInput, match="at least 2 published runs, got 1"):
        stats.welch([1, 2], 1.0, 0.0, 1)
    with pytest.raises(InvalidInput, match="at least 2 own runs, got 1"):
        stats.welch([1], 1.0, 0.1, 5)
    for mean, sd in ((np.nan, 0.1), (1.0, -0.1), (1.0, np.inf)):
        with pytest.raises(InvalidInput, match="finite mean"):
            stats.welch([1, 2], mean, sd, 5)
    for p in ([0.5, 1.5], [-0.1], [np.nan], 0.5):
        with pytest.raises(InvalidInput, match="p-values"):
            stats.holm(p)


def test_without_scipy_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy", None)
    assert stats.summary([0.5]).mean == 0.5
    for values in ([0.5, 0.75], range(30)):
        with pytest.raises(InvalidInput, match=r"tsslbp\[study\]"):
            stats.summary(values)
