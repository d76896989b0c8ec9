"""Constants that the paper does not give: the effect of each, from runs that change only it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tsslbp import stats, wording
from tsslbp.figures.study import Line
from tsslbp.report import tables
from tsslbp.report.blocks import Table
from tsslbp.run.comparison import Comparison, compare, correct
from tsslbp.run.results import Group, changes

from .accuracy import BUDGET, CONSTANTS, Missing
from .records import Family, Records, facts

MEASURE = "best-validation"


@dataclass(frozen=True)
class Effect:
    """The effect of another value of a constant on one data set."""

    constant: dict[str, Any]  # from facts.toml
    value: Any
    family: Family
    comparison: Comparison[Group]  # with the code's value


def effects(records: Records) -> list[Effect]:
    """Return all effects in the order of facts.toml, with Holm's correction over each data set."""
    found = []
    for data in dict.fromkeys(one.reference.experiment.data for one in records.families):
        families = [one for one in records.families if one.reference.experiment.data == data]
        of_data = [one for family in families for one in _effects(family)]
        corrected = correct([one.comparison for one in of_data])
        found += [
            Effect(one.constant, one.value, one.family, comparison)
            for one, comparison in zip(of_data, corrected, strict=True)
        ]
    order = facts()["constants"]
    return sorted(found, key=lambda one: order.index(one.constant))


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
        if difference := one.comparison.difference:
            data = one.family.reference.experiment.data.replace("mnist", "MNIST")
            name = f"{one.constant['key'].removeprefix('rule.')} {one.value:g}, {data.capitalize()}"
            name = name.replace("Fashion-mnist", "Fashion-MNIST").replace("Mnist", "MNIST")
            filled = one.comparison.verdict != "undecided"
            drawn.append(Line(name, difference.mean, difference.interval, filled=filled))
    return drawn


def missing(found: Sequence[Effect]) -> Missing | None:
    """Return the missing runs with their commands, or None if there are none."""
    tried = {(one.constant["key"], one.value) for one in found}
    wanted = [
        (constant["key"], value)
        for constant in facts()["constants"]
        for value in constant["values"]
        if (constant["key"], value) not in tried
    ]
    if not wanted:
        return None
    commands = [f"tsslbp trials mnist {BUDGET} --out runs/{CONSTANTS}/revised"]
    commands += [
        f"tsslbp trials mnist {BUDGET} --set {key}={value:g} "
        f"--out runs/{CONSTANTS}/{key.removeprefix('rule.')}-{value:g}"
        for key, value in wanted
    ]
    values = wording.count(len(wanted), "value")
    why = f"{values}, five seeds each, to be put into `results/findings/{CONSTANTS}/`"
    return Missing("Constants of the code, one at a time", why, commands)


def _effects(family: Family) -> list[Effect]:
    """Return the effects of the constants that a family's runs change one at a time."""
    base = family.reference
    found = []
    for group in family.others:
        differing = changes(group.settings, base.settings)
        for constant in facts()["constants"]:
            if list(differing) == [constant["key"]]:
                value = differing[constant["key"]][0]
                found.append(Effect(constant, value, family, compare(group, base, MEASURE)))
    return found


def _row(one: Effect) -> tuple[str, ...]:
    group = one.comparison.first
    seeds, difference, p = tables.difference_cells(one.comparison)
    accuracy = tables.reached(stats.summary(100 * group.accuracies(MEASURE)))
    data = group.experiment.data
    return (f"{one.value:g}", data, one.comparison.verdict, seeds, accuracy, difference, p)
