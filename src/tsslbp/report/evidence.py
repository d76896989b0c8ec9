"""The evidence of a report: its runs, read, grouped and compared once."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from ..errors import InvalidInput, RunError
from ..experiment import settings_table
from ..run.comparison import Comparison
from ..run.results import Group, Result, group, read_all
from . import published, rule_study
from .rule_study import StudyRecord
from .verdicts import Judgement, compare_groups, judge


@dataclass(frozen=True)
class Evidence:
    """Everything that a report shows."""

    results: Sequence[Result]  # each folder and each pair of settings and seed once
    problems: Sequence[str]  # a line for each folder that could not be read
    studies: Sequence[StudyRecord]  # of learning rules; their runs have separate sections
    tuning: int  # number of runs that only chose a learning rate: they count only in compute
    groups: Sequence[Group]  # all runs by their settings
    finished: Sequence[Group]  # the finished runs that count
    others: Sequence[Group]  # those of them that belong to no study of learning rules
    unfinished: Sequence[Result]  # the unfinished runs that belong to none
    judgements: Sequence[Judgement]  # of the published claims, by the finished runs
    comparisons: Sequence[Comparison[Group]]  # of the others
    left_out: int  # pairs of them that were not compared

    @cached_property
    def names(self) -> dict[Path, str]:
        """The name of each run's folder: its path below the common parent folder."""
        folders = {result.folder: result.folder.absolute() for result in self.results}
        base = os.path.commonpath([folder.parent for folder in folders.values()])
        return {one: folder.relative_to(base).as_posix() for one, folder in folders.items()}


def gather(paths: Sequence[Path], against: Path | None = None) -> Evidence:
    """Read all runs at or below `paths`, and compare them.

    Args:
        paths, against: as `tsslbp.report.write` takes them.

    Raises:
        InvalidInput: no finished run outside a comparison of learning rules is at or below
            `against`.
        RunError: no run could be read.
    """
    found, problems = read_all(paths)
    results, repeats = _once(found)
    problems += repeats
    if not results:
        raise RunError(f"no run to report on{f': {problems[0]}' if problems else ''}")
    studies, unreadable = rule_study.find(paths)

    def in_study(result: Result) -> bool:
        return any(study.holds(result) for study in studies)

    def counts(result: Result) -> bool:
        return not in_study(result) or any(study.counts(result) for study in studies)

    groups = group(results)
    # Runs of no study first: of equal evidence on a claim the first group is taken.
    ordered = sorted(groups, key=lambda one: all(map(in_study, one.results)))
    finished = _only(ordered, lambda one: one.finished and counts(one))
    others = _only(finished, lambda one: not in_study(one))
    comparisons, left_out = compare_groups(others, _below(against, others) if against else ())
    return Evidence(
        results=results,
        problems=[*problems, *unreadable],
        studies=studies,
        tuning=sum(not counts(one) for one in results),
        groups=groups,
        finished=finished,
        others=others,
        unfinished=[one for one in results if not one.finished and not in_study(one)],
        judgements=judge(published.claims(), finished),
        comparisons=comparisons,
        left_out=left_out,
    )


def _only(groups: Sequence[Group], wanted: Callable[[Result], bool]) -> list[Group]:
    """The groups with only the wanted runs, without groups that have none."""
    kept = (replace(one, results=tuple(filter(wanted, one.results))) for one in groups)
    return [one for one in kept if one.results]


def _below(folder: Path, groups: Sequence[Group]) -> list[Group]:
    """The groups of which a run is at or below a folder."""
    place = folder.resolve()
    found = [
        one
        for one in groups
        if any(result.folder.resolve().is_relative_to(place) for result in one.results)
    ]
    if not found:
        raise InvalidInput(
            f"no finished run of the report is at or below {folder} (those of a comparison of "
            "learning rules are compared in its own section)"
        )
    return found


def _once(results: Sequence[Result]) -> tuple[list[Result], list[str]]:
    """Results, each folder and each pair of settings and seed once; finished runs have priority."""
    folders = {result.folder.resolve(): result for result in results}
    kept: dict[str, Result] = {}
    repeats = []
    for result in sorted(folders.values(), key=lambda one: not one.finished):
        key = json.dumps(settings_table(result.experiment) | {"description": ""}, sort_keys=True)
        if key in kept:
            repeats.append(f"{result.folder} has the settings and seed of {kept[key].folder}")
        else:
            kept[key] = result
    return list(kept.values()), repeats
