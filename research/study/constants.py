"""Runs that change one setting of `mnist`: constants that the paper lacks, and time steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tsslbp import stats, wording
from tsslbp.figures.study import Line
from tsslbp.report import tables
from tsslbp.report.blocks import Table
from tsslbp.run.comparison import Comparison, compare, correct, shared
from tsslbp.run.results import Group, changes, settings_of

from .accuracy import Missing
from .records import FINDINGS, REFERENCE, Family, Records, facts

MEASURE = "best-validation"
DECIDED = ("higher", "lower")  # verdicts on a statistically significant effect
WHAT = "Constants of the code, one at a time"
FOLDER = f"{FINDINGS}/constants-mnist"  # of the runs below results/
COMMAND = "tsslbp trials mnist --seeds 5 --protocol validated --epochs 10 --set train_images=10000"


@dataclass(frozen=True)
class Effect:
    """The effect of another value of a constant on one data set."""

    constant: dict[str, Any]  # from facts.toml
    value: Any
    family: Family
    comparison: Comparison[Group] | None  # with the code's value; None if every run diverged
    diverged: int  # number of the runs with this value that diverged

    @property
    def data(self) -> str:
        """The data set."""
        return self.family.reference.experiment.data

    @property
    def runs(self) -> int:
        """Number of runs that have ended, including those that diverged."""
        return self.diverged + (len(self.comparison.first.results) if self.comparison else 0)

    @property
    def verdict(self) -> str:
        """Whether the accuracy is higher or lower than with the code's value.

        It is ``"identical"`` if it is the same for every seed, so that the value has no effect.
        """
        if self.comparison is None or self.diverged:
            return f"diverged ({self.diverged} of {wording.count(self.runs, 'run')})"
        return "identical" if _is_identical(self.comparison) else self.comparison.verdict


def effects(records: Records) -> list[Effect]:
    """Return all effects in the order of facts.toml, with Holm's correction over each data set."""
    found = []
    for data in dict.fromkeys(one.reference.experiment.data for one in records.families):
        families = [one for one in records.families if one.reference.experiment.data == data]
        of_data = [one for family in families for one in _effects(family)]
        corrected = iter(correct([one.comparison for one in of_data if one.comparison]))
        found += [
            replace(one, comparison=next(corrected)) if one.comparison else one for one in of_data
        ]
    order = facts()["constants"]
    return sorted(found, key=lambda one: (order.index(one.constant), one.data, one.value))


def table(found: Sequence[Effect]) -> Table:
    """Return a table of the effects, with a heading for each constant."""
    rows: list[tuple[str, ...]] = []
    for constant in facts()["constants"]:
        mine = [one for one in found if one.constant is constant]
        rows.append((f"{constant['symbol']}: {constant['name']} ({constant['key']})",))
        rows += [_row(one) for one in mine]
        tried = {one.value for one in mine}
        rows += [
            (f"{value:g}", "", "not run", "0", "", "", "")
            for value in constant["values"]
            if value not in tried
        ]
    head = (
        "value",
        "data",
        "verdict",
        "seeds",
        "test accuracy",
        "difference from the code's value",
        "p",
    )
    return Table("", head, tuple(rows), text_columns=3)


def lines(found: Sequence[Effect]) -> list[Line]:
    """Return the effects as lines of a figure, filled where decided."""
    drawn = []
    for one in found:
        if one.comparison and (difference := one.comparison.difference):
            data = one.data.replace("mnist", "MNIST")
            name = f"{one.constant['key'].removeprefix('rule.')} {one.value:g}, {data.capitalize()}"
            name = name.replace("Fashion-mnist", "Fashion-MNIST").replace("Mnist", "MNIST")
            filled = one.verdict in DECIDED
            drawn.append(Line(name, difference.mean, difference.interval, filled=filled))
    return drawn


def missing(records: Records) -> list[Missing]:
    """Return the missing runs with their commands: more time steps, and values of constants."""
    ended = {(one.constant["key"], one.value): one.runs for one in effects(records)}
    wanted = [
        (constant["key"], value)
        for constant in facts()["constants"]
        for value in constant["values"]
        if ended.get((constant["key"], value), 0) < facts()["seeds"]
    ]
    there = _steps_run(records)
    steps = [one for one in facts()["time_steps"] if one not in there]
    found = []
    if steps:
        what = f"Claim 2: `mnist` in {wording.joined([str(one) for one in steps])} time steps"
        why = "five seeds each"
        found.append(Missing(what, why, [_command("time_steps", one) for one in steps]))
    if wanted:
        why = f"{wording.count(len(wanted), 'value')}, five seeds each"
        commands = [_command(key, value) for key, value in wanted]
        found.append(Missing(WHAT, why, commands))
    references = [one.reference for one in _own(records)]
    if found and sum(len(one.results) for one in references) < facts()["seeds"]:
        why = "the runs with which those of the next two paragraphs are compared"
        first = f"{COMMAND} --out runs/{FOLDER}/{REFERENCE}"
        found.insert(0, Missing("`mnist` with a small budget", why, [first]))
    return found


def _command(key: str, value: float) -> str:
    name = f"{key.removeprefix('rule.')}-{value:g}"
    return f"{COMMAND} --set {key}={value:g} --out runs/{FOLDER}/{name}"


def _own(records: Records) -> list[Family]:
    """Return the family that the page's commands make, if there is one."""
    return [one for one in records.families if f"{FINDINGS}/{one.name}" == FOLDER]


def _steps_run(records: Records) -> set[int]:
    """Return the numbers of time steps that have been run with all seeds."""
    return {
        group.experiment.time_steps
        for family in _own(records)
        for group in family.others
        if list(changes(group.settings, family.reference.settings)) == ["time_steps"]
        and len(group.results) >= facts()["seeds"]
    }


def _effects(family: Family) -> list[Effect]:
    """Return the effects of the constants that a family's runs change one at a time."""
    base = family.reference
    groups: dict[tuple[str, Any], Group | None] = {}
    diverged: dict[tuple[str, Any], int] = {}
    for one in family.diverged:
        if change := _one_change(settings_of(one), base):
            groups[change] = None
            diverged[change] = diverged.get(change, 0) + 1
    for group in family.others:
        if change := _one_change(group.settings, base):
            groups[change] = group
    constants = {one["key"]: one for one in facts()["constants"]}
    found = []
    for (key, value), among in groups.items():
        count = diverged.get((key, value), 0)
        comparison = compare(among, base, MEASURE, count) if among else None
        if comparison and _is_identical(comparison):
            comparison = replace(comparison, p=None)  # there is nothing to test
        found.append(Effect(constants[key], value, family, comparison, count))
    return found


def _one_change(settings: Mapping[str, Any], base: Group) -> tuple[str, Any] | None:
    """Return the constant that alone differs from the reference, and its value; or None."""
    differing = changes(settings, base.settings)
    keys = {one["key"] for one in facts()["constants"]}
    if len(differing) != 1 or not differing.keys() <= keys:
        return None
    ((key, (value, _)),) = differing.items()
    return key, value


def _is_identical(comparison: Comparison[Group]) -> bool:
    ours, theirs = shared(comparison.first, comparison.second, MEASURE)
    return len(ours) > 1 and bool((ours == theirs).all())


def _row(one: Effect) -> tuple[str, ...]:
    if one.comparison is None:
        return (f"{one.value:g}", one.data, one.verdict, "0", "", "", "")
    group = one.comparison.first
    seeds, difference, p = tables.difference_cells(one.comparison)
    accuracy = tables.reached(stats.summary(100 * group.accuracies(MEASURE)))
    return (f"{one.value:g}", one.data, one.verdict, seeds, accuracy, difference, p)
