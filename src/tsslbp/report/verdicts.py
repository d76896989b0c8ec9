"""Comparisons of groups of runs, and the verdicts on claims that follow from them.

All differences are in percentage points of test accuracy. Groups hold finished runs only, with no
seed twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, permutations
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .. import stats
from ..run.results import MEASURES, Group, changes, settings_of, shipped
from ..stats import LEVEL, Difference, Interval, paired_accuracies
from . import published
from .published import Change, Claim, Exceeds, Reaches, Row, Settings

Array = npt.NDArray[Any]
Verdict = Literal["supported", "not supported", "cannot tell"]

FREE = ("seed", "description", "protocol", "validation_images", "precision")  # of a recipe's runs
CANNOT_TELL: Literal["cannot tell"] = "cannot tell"
MAX_COMPARISONS = 40


@dataclass(frozen=True)
class Judgement:
    """A verdict on a claim.

    Attributes:
        claim: its text.
        verdict: computed from the records.
        reason: one line.
        p: of the test that decided, corrected for the number of tests; None without a test.
        seen: whether any run speaks to it.
    """

    claim: str
    verdict: Verdict
    reason: str
    p: float | None = None
    seen: bool = True


@dataclass(frozen=True)
class Comparison:
    """Two groups over the same seeds.

    Attributes:
        first, second: the groups.
        keys: the settings in which they differ.
        measure: of accuracy, one of `MEASURES`.
        seeds: how many the groups share.
        difference: first minus second, in percentage points.
        p: corrected by Holm's method for all comparisons.
    """

    first: Group
    second: Group
    keys: tuple[str, ...]
    measure: str
    seeds: int
    difference: Difference
    p: float

    @property
    def verdict(self) -> str:
        """``"higher"``, ``"lower"`` or ``"cannot tell"``, after the correction."""
        return self.difference.verdict if self.p <= LEVEL else CANNOT_TELL


def judge(claims: Sequence[Claim], groups: Sequence[Group]) -> list[Judgement]:
    """Judge every claim by the runs at hand; Holm's correction over all tests made here.

    A claim about a changed setting is judged once for every pair of groups that shows it.
    """
    recipes = _by_recipe(groups)
    found = [one for claim in claims for one in _judge(claim, groups, recipes)]
    tested = [index for index, one in enumerate(found) if one.p is not None]
    for index, p in zip(
        tested, stats.holm([found[index].p or 0.0 for index in tested]), strict=True
    ):
        found[index] = _corrected(found[index], float(p), len(tested))
    return found


def compare(groups: Sequence[Group], against: Sequence[Group] = ()) -> tuple[list[Comparison], int]:
    """Compare groups of the same data that share two seeds or more, the most alike first.

    Args:
        groups: to be compared.
        against: those among them that all others, and nothing else, are compared with.

    Returns:
        At most `MAX_COMPARISONS`, and how many were left out.
    """
    settings = [settings_of(group.experiment) for group in groups]
    fixed = [number for number, one in enumerate(groups) if one in against]
    every = range(len(groups))
    pairs = [
        (first, second, keys)
        for first, second in (
            [(one, other) for other in fixed for one in every if one not in fixed]
            if against
            else combinations(every, 2)
        )
        if settings[first]["data"] == settings[second]["data"]
        and len(set(groups[first].seeds) & set(groups[second].seeds)) > 1
        and (keys := tuple(changes(settings[first], settings[second])))
    ]
    pairs.sort(key=lambda pair: len(pair[2]))
    shown = [
        (groups[first], groups[second], keys, _measure(groups[first], groups[second]))
        for first, second, keys in pairs[:MAX_COMPARISONS]
    ]
    differences = [
        paired_accuracies(*shared(first, second, measure)) for first, second, _, measure in shown
    ]
    comparisons = [
        Comparison(*pair, len(shared(*pair[:2], pair[3])[0]), difference, float(p))
        for pair, difference, p in zip(
            shown, differences, stats.holm([one.p for one in differences]), strict=True
        )
    ]
    return comparisons, len(pairs) - len(shown)


def row_of(group: Group) -> tuple[Row, str] | None:
    """The published row that a group's runs belong to, and the recipe; None where there is none.

    They may differ from the recipe in `FREE` settings, and train on an inexact copy of the data.
    """
    settings = settings_of(group.experiment)
    for row in published.rows():
        for recipe in row.recipes:
            differences = tuple(changes(settings, shipped()[recipe]))
            if settings["data"] in (row.data, *row.copies):
                differences = tuple(key for key in differences if key != "data")
            if not set(differences) - set(FREE):
                return row, recipe
    return None


def shared(first: Group, second: Group, measure: str) -> tuple[Array, Array]:
    """Accuracies in percent of two groups at the seeds that both have ``[seeds]``."""
    accuracies = [
        {one.experiment.seed: 100 * one.accuracy[measure] for one in group.results}
        for group in (first, second)
    ]
    seeds = sorted(accuracies[0].keys() & accuracies[1].keys())
    return (
        np.array([accuracies[0][seed] for seed in seeds]),
        np.array([accuracies[1][seed] for seed in seeds]),
    )


def describe(difference: Difference) -> str:
    """Such as ``"+0.10 points (95 % interval -0.02 to +0.22)"``."""
    low, high = difference.interval.low, difference.interval.high
    return f"{difference.mean:+.2f} points (95 % interval {low:+.2f} to {high:+.2f})"


def _judge(
    claim: Claim, groups: Sequence[Group], recipes: Mapping[str | None, Group]
) -> Iterator[Judgement]:
    match claim:
        case Reaches():
            yield _judge_reaches(claim, recipes)
        case Exceeds():
            yield _judge_exceeds(claim, recipes)
        case Settings():
            yield _judge_settings(claim, recipes)
        case Change():
            yield from _judge_change(claim, groups)


def _judge_reaches(claim: Reaches, recipes: Mapping[str | None, Group]) -> Judgement:
    row = next(row for row in published.rows() if row.name == claim.row)
    target = row.reached(claim.against)
    group = recipes.get(claim.recipe)
    if target is None or group is None:
        return _unseen(claim, _no_run(claim.recipe))
    values = 100 * group.accuracies("best-test")
    difference = values.mean() - target.mean
    if target.sd is None:
        return _untested(
            claim, f"{difference:+.2f} points, but a single published run allows no test"
        )
    if len(values) < 2:
        return _untested(claim, f"{difference:+.2f} points, but a single run allows no test")
    mean, sd, runs = target.mean, target.sd, target.runs
    return _test(
        claim,
        lambda margin: stats.welch(values + margin, mean, sd, runs),
        claim.margin,
        f"{_runs(len(values))} against {runs}{_note(group)}",
    )


def _judge_exceeds(claim: Exceeds, recipes: Mapping[str | None, Group]) -> Judgement:
    group = recipes.get(claim.recipe)
    if group is None:
        return _unseen(claim, _no_run(claim.recipe))
    summary = stats.summary(100 * group.accuracies("best-test"))
    reason = f"{summary.mean - claim.rival:+.2f} points"
    if summary.interval:
        reason += f" (ours 95 % interval {_interval(summary.interval)})"
    return _untested(
        claim, f"{reason}, but one published number without its spread allows no test{_note(group)}"
    )


def _judge_settings(claim: Settings, recipes: Mapping[str | None, Group]) -> Judgement:
    first, second = recipes.get(claim.recipe), recipes.get(claim.other)
    for name, group in ((claim.recipe, first), (claim.other, second)):
        if group is None:
            return _unseen(claim, _no_run(name))
    assert first is not None and second is not None
    return _test_pair(claim, first, second, "best-test", 0.0)


def _judge_change(claim: Change, groups: Sequence[Group]) -> Iterator[Judgement]:
    """Judge by groups that differ in the claim's setting alone.

    Of several such pairs on one data set and network, as a sweep makes them, by the one with the
    most seeds, and among these by that nearest to a shipped recipe.
    """
    settings = [settings_of(group.experiment) for group in groups]
    best: dict[str, tuple[Group, Group, Any]] = {}
    for first, second in permutations(range(len(groups)), 2):
        here, there = settings[first].get(claim.key), settings[second].get(claim.key)
        if (
            here in claim.values
            and _is_other(there, claim)
            and tuple(changes(settings[first], settings[second])) == (claim.key,)
        ):
            pair = (groups[first], groups[second], there)
            place = f"{settings[first]['data']} {settings[first]['network']} {here!r} {there!r}"
            best[place] = max(best.get(place, pair), pair, key=_weight)
    if not best:
        yield _unseen(claim, f"no two recipes that differ in {claim.key} alone have been run")
    for one, other, there in best.values():
        judgement = _test_pair(claim, one, other, _measure(one, other), claim.margin or 0.0)
        what = f"{claim.text}: {one.label}, against {claim.key} = {there!r}"
        yield replace(judgement, claim=what)


def _weight(pair: tuple[Group, Group, Any]) -> tuple[int, int]:
    first, second, _ = pair
    return len(set(first.seeds) & set(second.seeds)), -first.label.count(",")


def _test_pair(claim: Claim, first: Group, second: Group, measure: str, margin: float) -> Judgement:
    one, other = shared(first, second, measure)
    if len(one) < 2:
        return _untested(claim, f"the two share {_seeds(len(one))}; a test needs two or more")
    return _test(
        claim,
        lambda shift: paired_accuracies(one + shift, other),
        margin,
        f"{_seeds(len(one))}, {MEASURES[measure]}{_note(first)}",
    )


def _test(
    claim: Claim, test: Callable[[float], Difference], margin: float, evidence: str
) -> Judgement:
    """Decide whether a difference lies above minus the margin, or below zero.

    Args:
        claim: to be judged.
        test: returns the difference after our accuracies were raised by its argument.
        margin: in percentage points; 0: the difference itself must be positive.
        evidence: said in the reason.
    """
    plain, raised = test(0.0), test(margin)
    reason = f"{describe(plain)}; {evidence}"
    if margin:
        reason = f"{reason}; margin {margin:g}"
    if raised.verdict == "higher" and raised.p <= LEVEL:
        return Judgement(claim.text, "supported", reason, raised.p)
    if plain.verdict == "lower" and plain.p <= LEVEL:
        return Judgement(claim.text, "not supported", reason, plain.p)
    return Judgement(claim.text, CANNOT_TELL, reason, raised.p)


def _corrected(judgement: Judgement, p: float, tests: int) -> Judgement:
    if judgement.verdict == CANNOT_TELL or p <= LEVEL:
        return replace(judgement, p=p)
    reason = f"{judgement.reason}; not after Holm's correction over {tests} tests"
    return replace(judgement, verdict=CANNOT_TELL, reason=reason, p=p)


def _interval(interval: Interval) -> str:
    return f"{interval.low:.2f} to {interval.high:.2f}"


def _untested(claim: Claim, reason: str) -> Judgement:
    return Judgement(claim.text, CANNOT_TELL, reason)


def _unseen(claim: Claim, reason: str) -> Judgement:
    return Judgement(claim.text, CANNOT_TELL, reason, seen=False)


def _by_recipe(groups: Sequence[Group]) -> dict[str | None, Group]:
    """The largest group of each recipe's runs by the published protocol."""
    found: dict[str | None, Group] = {}
    for group in sorted(groups, key=lambda one: len(one.results)):
        if group.experiment.protocol == "published" and (row := row_of(group)):
            found[row[1]] = group
    return found


def _no_run(recipe: str | None) -> str:
    if recipe is None:
        return "no recipe for it yet"
    return f"no finished run of {recipe} by the published protocol yet"


def _note(group: Group) -> str:
    """The caveats of a group's data, as the end of a reason."""
    notes = dict.fromkeys(one.epochs[-1].get("note", "") for one in group.results)
    return "".join(f"; {note}" for note in notes if note)


def _runs(count: int) -> str:
    return f"{count} runs" if count != 1 else "1 run"


def _seeds(count: int) -> str:
    return f"{count} seeds" if count != 1 else "1 seed"


def _is_other(value: Any, claim: Change) -> bool:
    return value in claim.others if claim.others else value not in claim.values


def _measure(first: Group, second: Group) -> str:
    """How two groups are compared: by validation images where both held some out, else last."""
    validated = all(
        "best-validation" in one.accuracy for group in (first, second) for one in group.results
    )
    return "best-validation" if validated else "last"
