"""Comparisons of groups of runs, and the verdicts on claims that follow from them.

All differences are in percentage points of test accuracy. Groups hold finished runs only, with no
seed twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, permutations
from typing import Any, Literal

from .. import stats, wording
from ..run.comparison import Comparison, compare, correct, holm, shared
from ..run.results import MEASURES, Group, changes, shipped
from ..stats import LEVEL, Difference
from ..wording import count
from . import published
from .published import Change, Claim, Exceeds, Reaches, Row, Settings

Verdict = Literal["supported", "not supported", "undecided"]

FREE = ("seed", "description", "protocol", "validation_images", "precision")  # of a recipe's runs
MAX_COMPARISONS = 40


@dataclass(frozen=True)
class Judgement:
    """A verdict on a claim."""

    claim: str  # its text
    verdict: Verdict
    reason: str  # one line
    p: float | None = None  # of the test, corrected for the number of tests; None without one
    seen: bool = True  # whether there are matching runs


def judge(claims: Sequence[Claim], groups: Sequence[Group]) -> list[Judgement]:
    """Judge every claim by the available runs; Holm's correction over all tests made here.

    A claim about a changed setting is judged once for every pair of groups that differ in it.
    """
    recipes = _by_recipe(groups)
    found = [one for claim in claims for one in _judge(claim, groups, recipes)]
    adjusted = holm(one.p for one in found)
    tests = sum(p is not None for p in adjusted)
    return [
        one if p is None else _corrected(one, p, tests)
        for one, p in zip(found, adjusted, strict=True)
    ]


def compare_groups(
    groups: Sequence[Group], against: Sequence[Group] = ()
) -> tuple[list[Comparison[Group]], int]:
    """Compare groups of the same data that share two seeds or more, the most similar first.

    Args:
        groups: to be compared.
        against: reference groups among them; every other group is compared only with these.

    Returns:
        At most `MAX_COMPARISONS`, with Holm's correction over all of them, and the number of pairs
        that were left out.
    """
    if against:
        rest = [one for one in groups if one not in against]
        wanted = [(one, other) for other in groups if other in against for one in rest]
    else:
        wanted = list(combinations(groups, 2))
    pairs = [
        (first, second)
        for first, second in wanted
        if first.settings["data"] == second.settings["data"]
        and len(set(first.seeds) & set(second.seeds)) > 1
    ]
    pairs.sort(key=lambda pair: len(changes(*(one.settings for one in pair))))
    shown = [compare(*pair, _measure(*pair)) for pair in pairs[:MAX_COMPARISONS]]
    return correct(shown), len(pairs) - len(shown)


def row_of(group: Group) -> tuple[Row, str] | None:
    """The published row that a group's runs belong to, and the recipe; None if there is none.

    They may differ from the recipe in `FREE` settings, and train on an inexact copy of the data.
    """
    for row in published.rows():
        for recipe in row.recipes:
            differences = set(changes(group.settings, shipped()[recipe]))
            if group.settings["data"] in (row.data, *row.copies):
                differences.discard("data")
            if differences <= set(FREE):
                return row, recipe
    return None


def _judge(
    claim: Claim, groups: Sequence[Group], recipes: Mapping[str, Group]
) -> Iterable[Judgement]:
    if isinstance(claim, Change):
        return _judge_change(claim, groups)
    names = (claim.recipe, claim.other) if isinstance(claim, Settings) else (claim.recipe,)
    for name in names:
        if name is None or name not in recipes:
            lacking = f"there is no finished run of {name} with the published protocol"
            reason = "there is no recipe for it" if name is None else lacking
            return [Judgement(claim.text, "undecided", reason, seen=False)]
    found = [recipes[str(name)] for name in names]
    match claim:
        case Reaches():
            return [_judge_reaches(claim, found[0])]
        case Exceeds():
            return [_judge_exceeds(claim, found[0])]
        case Settings():
            return [_test_pair(claim, found[0], found[1], "best-test", 0.0)]


def _judge_reaches(claim: Reaches, group: Group) -> Judgement:
    row = next(row for row in published.rows() if row.name == claim.row)
    target = row.reached(claim.against)
    assert target is not None  # `published.read` has checked it
    mean, sd, runs = target.mean, target.sd, target.runs
    values = 100 * group.accuracies("best-test")
    if sd is None or len(values) < 2:
        single = "a single published run" if sd is None else "a single run"
        reason = f"{values.mean() - mean:+.2f} points, but {single} cannot be tested"
        return Judgement(claim.text, "undecided", reason)
    return _test(
        claim,
        lambda margin: stats.welch(values + margin, mean, sd, runs),
        claim.margin,
        f"{count(len(values), 'run')} compared with {runs}{_note(group)}",
    )


def _judge_exceeds(claim: Exceeds, group: Group) -> Judgement:
    summary = stats.summary(100 * group.accuracies("best-test"))
    reason = f"{summary.mean - claim.rival:+.2f} points"
    if summary.interval:
        reason += f" (95 % interval of ours {wording.interval(summary.interval)})"
    reason += f", but a published number without a spread cannot be tested{_note(group)}"
    return Judgement(claim.text, "undecided", reason)


def _judge_change(claim: Change, groups: Sequence[Group]) -> Iterator[Judgement]:
    """Judge by groups that differ only in the claim's setting.

    If there are several such pairs on one data set and network, as from a sweep, use the one with
    the most seeds, and among these the one closest to a shipped recipe.
    """
    best: dict[str, tuple[Group, Group, Any]] = {}
    for first, second in permutations(groups, 2):
        here, there = (one.settings.get(claim.key) for one in (first, second))
        if (
            here in claim.values
            and (there in claim.others if claim.others else there not in claim.values)
            and list(changes(first.settings, second.settings)) == [claim.key]
        ):
            pair = (first, second, there)
            data, network = first.settings["data"], first.settings["network"]
            place = f"{data} {network} {here!r} {there!r}"
            best[place] = max(
                best.get(place, pair),
                pair,
                key=lambda one: (len({*one[0].seeds} & {*one[1].seeds}), -one[0].label.count(",")),
            )
    if not best:
        reason = f"there are no two groups of runs that differ only in {claim.key}"
        yield Judgement(claim.text, "undecided", reason, seen=False)
    for one, other, there in best.values():
        judgement = _test_pair(claim, one, other, _measure(one, other), claim.margin or 0.0)
        what = f"{claim.text}: {one.label}, compared with {claim.key} = {there!r}"
        yield replace(judgement, claim=what)


def _test_pair(claim: Claim, first: Group, second: Group, measure: str, margin: float) -> Judgement:
    one, other = shared(first, second, measure)
    if len(one) < 2:
        reason = f"the two share {count(len(one), 'seed')}; a test needs two or more"
        return Judgement(claim.text, "undecided", reason)
    return _test(
        claim,
        lambda shift: stats.paired_accuracies(one + shift, other),
        margin,
        f"{count(len(one), 'seed')}, {MEASURES[measure]}{_note(first)}",
    )


def _test(
    claim: Claim, test: Callable[[float], Difference], margin: float, evidence: str
) -> Judgement:
    """Decide whether a difference is above minus the margin, or below zero.

    Args:
        claim: to be judged.
        test: returns the difference after raising our accuracies by its argument.
        margin: in percentage points; 0: the difference itself must be positive.
        evidence: stated in the reason.
    """
    plain, raised = test(0.0), test(margin)
    reason = f"{wording.difference(plain.mean, plain.interval)}; {evidence}"
    if margin:
        reason = f"{reason}; margin {margin:g}"
    if raised.verdict == "higher" and raised.p <= LEVEL:
        return Judgement(claim.text, "supported", reason, raised.p)
    if plain.verdict == "lower" and plain.p <= LEVEL:
        return Judgement(claim.text, "not supported", reason, plain.p)
    return Judgement(claim.text, "undecided", reason, raised.p)


def _corrected(judgement: Judgement, p: float, tests: int) -> Judgement:
    if judgement.verdict == "undecided" or p <= LEVEL:
        return replace(judgement, p=p)
    reason = f"{judgement.reason}; not significant after Holm's correction over {tests} tests"
    return replace(judgement, verdict="undecided", reason=reason, p=p)


def _by_recipe(groups: Sequence[Group]) -> dict[str, Group]:
    """The largest group of each recipe's runs by the published protocol."""
    found: dict[str, Group] = {}
    for group in sorted(groups, key=lambda one: len(one.results)):
        if group.experiment.protocol == "published" and (row := row_of(group)):
            found[row[1]] = group
    return found


def _note(group: Group) -> str:
    """The caveats of a group's data, as the end of a reason."""
    notes = dict.fromkeys(one.epochs[-1].get("note", "") for one in group.results)
    return "".join(f"; {note}" for note in notes if note)


def _measure(first: Group, second: Group) -> str:
    """The measure for two groups: chosen on validation images if both have some, else last."""
    validated = all(
        "best-validation" in one.accuracy for group in (first, second) for one in group.results
    )
    return "best-validation" if validated else "last"
