"""Statistics of a few runs: means with intervals, differences with tests.

All functions take arrays and return numbers. A run is one observation: conclusions apply to
training with other seeds, not to other test images. Nothing depends on the unit, so accuracies may
be between 0 and 1 or in percent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from .errors import InvalidInput, require

Array = npt.NDArray[Any]

CONFIDENCE = 0.95
LEVEL = 0.05  # the largest p at which a difference is significant
BOOTSTRAP_RUNS = 20  # at least; with 5 normal values it covers the mean in 85 %, with 20 in 92 %
RESAMPLES = 9999
SHOWN_RUNS = 3  # at least, for an interval to be shown
RESAMPLING_SEED = 0  # so that the same runs always give the same interval

Verdict = Literal["higher", "lower", "undecided"]


class Interval(NamedTuple):
    """A 95 % confidence interval."""

    low: float
    high: float


@dataclass(frozen=True)
class Summary:
    """Summary of the results of several runs.

    Attributes:
        runs: number of runs.
        mean: mean over the runs.
        sd: sample standard deviation, with n - 1; None for one run.
        best: highest value. It grows with the number of runs, so do not compare it.
        interval: confidence interval of the mean; None for one run.
    """

    runs: int
    mean: float
    sd: float | None
    best: float
    interval: Interval | None


@dataclass(frozen=True)
class Difference:
    """Difference between two means.

    Attributes:
        mean: first minus second.
        interval: confidence interval of the difference.
        p: two-sided p-value, before a correction by `holm`.
    """

    mean: float
    interval: Interval
    p: float

    @property
    def verdict(self) -> Verdict:
        """Whether the first is higher or lower; undecided if the interval contains zero."""
        if self.interval.low <= 0 <= self.interval.high:
            return "undecided"
        return "higher" if self.mean > 0 else "lower"


def summary(values: npt.ArrayLike) -> Summary:
    """Return mean, sample standard deviation, best value, and the interval of the mean.

    The interval is Student's t. With at least `BOOTSTRAP_RUNS` runs it is the bias-corrected and
    accelerated bootstrap (Efron 1987), which assumes no normal distribution but needs more values.

    Args:
        values: ``[runs]``, one per run.

    Raises:
        InvalidInput: there are no values, or some are not finite; or SciPy is not installed.
    """
    array = _values(values, "values")
    runs, best = len(array), float(array.max())
    mean, sd = _moments(array)
    if runs == 1:
        return Summary(runs, mean, None, best, None)
    is_bootstrapped = runs >= BOOTSTRAP_RUNS and sd > 0
    interval = _bootstrap(array) if is_bootstrapped else t_interval(mean, sd, runs)
    return Summary(runs, mean, sd, best, interval)


def shown_interval(
    summary: Summary, low: float = -math.inf, high: float = math.inf
) -> Interval | None:
    """Return the interval of a mean for tables and figures, clipped to the possible range.

    It is None with fewer than `SHOWN_RUNS` runs: with one degree of freedom, Student's t interval
    is wider than any plausible range, and the individual values say more.

    Args:
        summary: summary of the runs.
        low, high: bounds of the quantity, such as 0 and 100 for accuracies in percent.
    """
    if summary.interval is None or summary.runs < SHOWN_RUNS:
        return None
    return Interval(max(low, summary.interval.low), min(high, summary.interval.high))


def t_interval(mean: float, sd: float, runs: int) -> Interval:
    """Return Student's t interval of a mean, for example a published one, from its deviation.

    Args:
        mean: the mean.
        sd: sample standard deviation, in the same unit.
        runs: number of runs.

    Raises:
        InvalidInput: there are fewer than two runs; or SciPy is not installed.
    """
    if runs < 2:
        raise InvalidInput(f"an interval needs at least 2 runs, got {runs}")
    return _interval(mean, sd / math.sqrt(runs), runs - 1)


def paired(first: npt.ArrayLike, second: npt.ArrayLike) -> Difference:
    """Paired t test of two recipes over the same seeds: `first` minus `second`.

    If all differences are equal, the interval is a point, and p is 0, or 1 if they are zero.

    Args:
        first, second: ``[runs]``, in the same order of seeds; at least two.

    Raises:
        InvalidInput: the lengths differ, or values are not finite; or SciPy is not installed.
    """
    differences = _differences(first, second, ("first", "second"))
    runs = len(differences)
    if runs < 2:
        raise InvalidInput("a paired test needs at least 2 runs of each, got 1")
    mean, sd = _moments(differences)
    return _test(mean, sd / math.sqrt(runs), runs - 1)


def paired_accuracies(first: npt.ArrayLike, second: npt.ArrayLike) -> Difference:
    """Like `paired`, but p is 1 if all differences are equal, since these show no spread.

    Accuracies on few test images often differ by equal amounts.
    """
    difference = paired(first, second)
    low, high = difference.interval
    return replace(difference, p=1.0) if low == high else difference


def welch(values: npt.ArrayLike, mean: float, sd: float, runs: int) -> Difference:
    """Welch's t test of our runs against published numbers: our mean minus the published mean.

    If neither varies, the interval is a point, and p is 0, or 1 if the means are equal.

    Args:
        values: ``[runs]``, our values; at least two.
        mean, sd: published mean and sample standard deviation, in the unit of `values`.
        runs: number of published runs; at least two.

    Raises:
        InvalidInput: there are fewer than two runs on either side, so a spread is unknown; numbers
            are not finite; `sd` is negative; or SciPy is not installed.
    """
    array = _values(values, "values")
    for name, count in (("own", len(array)), ("published", runs)):
        if count < 2:
            raise InvalidInput(f"Welch's test needs at least 2 {name} runs, got {count}")
    if not (math.isfinite(mean) and math.isfinite(sd) and sd >= 0):
        raise InvalidInput(f"expected a finite mean and sd >= 0, got mean {mean} and sd {sd}")
    ours, our_sd = _moments(array)
    errors = np.array([our_sd / math.sqrt(len(array)), sd / math.sqrt(runs)])
    error = float(np.hypot(*errors))
    if error == 0:
        return _test(ours - mean, 0.0, 1.0)
    shares = (errors / error) ** 2
    # Welch-Satterthwaite degrees of freedom, from shares, because squared variances underflow.
    freedom = 1 / float((shares**2 / [len(array) - 1, runs - 1]).sum())
    return _test(ours - mean, error, freedom)


def holm(p_values: npt.ArrayLike) -> Array:
    """Holm's (1979) adjustment of p-values for several comparisons, in the order of the input.

    If all adjusted p-values up to 0.05 are called significant, the probability of at least one
    false positive among all comparisons is at most 5 %.

    Args:
        p_values: ``[comparisons]``, between 0 and 1.

    Raises:
        InvalidInput: `p_values` is not such a list.
    """
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise InvalidInput(f"p-values must be a list of numbers from 0 to 1, got {p_values!r:.80}")
    order = np.argsort(p)
    scaled = p[order] * np.arange(len(p), 0, -1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return adjusted


def selection_bias(best_test: npt.ArrayLike, validation_chosen: npt.ArrayLike) -> Summary:
    """Return the apparent gain in accuracy when a run's epoch is chosen on the test images.

    This summarises the differences between the best test epoch and the epoch chosen on validation
    images. None of them is negative, because the best epoch has the highest accuracy. The bias is
    therefore not negative either, even if its interval extends below zero.

    Args:
        best_test, validation_chosen: ``[runs]``, test accuracies in the same order of runs.

    Raises:
        InvalidInput: the lengths differ, values are not finite, or a difference is negative.
    """
    names = ("best_test", "validation_chosen")
    differences = _differences(best_test, validation_chosen, names)
    if (differences < 0).any():
        raise InvalidInput(
            "the best test epoch cannot have a lower accuracy than the epoch chosen on validation "
            "images: give the accuracies of the same runs in the same order"
        )
    return summary(differences)


def _values(values: npt.ArrayLike, name: str) -> Array:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or len(array) == 0:
        raise InvalidInput(f"{name}: expected one number per run, got shape {array.shape}")
    if not np.isfinite(array).all():
        raise InvalidInput(f"{name}: expected finite numbers, got {array.tolist()!r:.80}")
    return array


def _differences(first: npt.ArrayLike, second: npt.ArrayLike, names: tuple[str, str]) -> Array:
    ours, theirs = _values(first, names[0]), _values(second, names[1])
    if len(ours) != len(theirs):
        raise InvalidInput(
            f"{names[0]} and {names[1]} must have one value per run each, got {len(ours)} and "
            f"{len(theirs)}"
        )
    return ours - theirs


def _moments(values: Array) -> tuple[float, float]:
    """Return mean and sample standard deviation, which is 0 for one value or equal values."""
    shifted = values - values[0]  # so that rounding causes no spread
    sd = float(shifted.std(ddof=1)) if len(values) > 1 else 0.0
    return float(values[0] + shifted.mean()), sd


def _test(mean: float, error: float, freedom: float) -> Difference:
    if error == 0:
        p = 1.0 if mean == 0 else 0.0
    else:
        p = 2 * float(_special().stdtr(freedom, -abs(mean) / error))
    return Difference(mean, _interval(mean, error, freedom), p)


def _interval(mean: float, error: float, freedom: float) -> Interval:
    if error == 0:
        return Interval(mean, mean)
    half = error * float(_special().stdtrit(freedom, (1 + CONFIDENCE) / 2))
    return Interval(mean - half, mean + half)


def _bootstrap(values: Array) -> Interval:
    _special()
    from scipy.stats import bootstrap

    origin = values[0]  # as in _moments
    found = bootstrap(
        (values - origin,),
        np.mean,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="BCa",
        random_state=np.random.default_rng(RESAMPLING_SEED),
    ).confidence_interval
    return Interval(float(origin + found.low), float(origin + found.high))


def _special() -> Any:
    require("statistics need", "study", "scipy")
    from scipy import special

    return special
