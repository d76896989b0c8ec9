"""The tables of a report. Accuracies are in percent on the test images.

Groups hold finished runs only, with no seed twice.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from .. import stats, wording
from ..run.comparison import Comparison
from ..run.results import MEASURES, Group, Result
from ..stats import Summary
from ..wording import count, duration, p_value
from . import published
from .blocks import Lines, Table
from .published import Accuracy, Row
from .verdicts import Judgement, row_of

NONE = "-"
FOLD_ABOVE = 25  # rows
SHOWN_OF_MANY = 10
HEAD = (
    "runs",
    "last epoch",
    "chosen on validation",
    "best test epoch",
    "best run",
    "bias of choosing on test",
)
MEANING = (
    "Mean ± standard deviation of the runs; in small print the 95 % interval of the mean "
    "(Student's t, or the bootstrap from 20 runs on)."
)
VERDICTS = ("supported", "not supported", "undecided")  # in the order of the tables
DETAILS = ("command", "resumed")  # of an environment, which may differ from run to run


def published_tables(groups: Sequence[Group], names: Iterable[str]) -> list[Table]:
    """Published, reproduction study and ours, for those of the tables in which we have a run."""
    ours: dict[str, list[Group]] = {}
    for group in groups:
        if found := row_of(group):
            ours.setdefault(found[0].name, []).append(group)
    tables = []
    for name in names:
        rows = [row for row in published.rows() if row.table == name]
        if not any(row.name in ours for row in rows):
            continue
        cells = [line for row in rows for line in _row_lines(row, ours.get(row.name, []))]
        caption = f"{rows[0].title.partition(',')[0]}: test accuracy (%). {MEANING}"
        tables.append(Table(caption, ("", *HEAD), tuple(cells)))
    return tables


def other_tables(groups: Sequence[Group], measure: str) -> list[Table]:
    """Groups that belong to no published row, best first within a data set.

    Of very many all but the first are folded away.
    """
    others = [group for group in groups if row_of(group) is None]
    others.sort(key=lambda one: (one.experiment.data, -one.accuracies(measure).mean()))
    rows = tuple(_group_line(group.label, group) for group in others)
    shown = len(rows) if len(rows) <= FOLD_ABOVE else SHOWN_OF_MANY
    head = ("settings", *HEAD)
    caption = f"Test accuracy (%), best first by {MEASURES[measure]}. {MEANING}"
    tables = [Table(caption, head, rows[:shown]), Table("The others.", head, rows[shown:])]
    return [replace(one, folded=one is not tables[0]) for one in tables if one.rows]


def claims_table(judgements: Sequence[Judgement]) -> Table | None:
    """Claims that some run can test, decided ones first."""
    seen = sorted(
        (one for one in judgements if one.seen), key=lambda one: VERDICTS.index(one.verdict)
    )
    rows = [(one.claim, one.verdict, one.reason, p_value(one.p)) for one in seen]
    caption = "Claims that these runs can test; p after Holm's correction over all tests here."
    return Table(caption, ("claim", "verdict", "why", "p"), tuple(rows), 3) if rows else None


def open_claims_table(judgements: Sequence[Judgement]) -> Table | None:
    """Claims that no run can test."""
    rows = tuple((one.claim, one.reason) for one in judgements if not one.seen)
    caption = "Claims that no run here can test yet."
    return Table(caption, ("claim", "why"), rows, 2, folded=True) if rows else None


def comparison_table(comparisons: Sequence[Comparison[Group]]) -> Table:
    rows = [
        (f"{one.first.label}\nagainst {one.second.label}", one.verdict, *difference_cells(one))
        for one in comparisons
    ]
    caption = (
        "First minus second in percentage points of test accuracy, paired by seed, with the 95 % "
        "interval. Accuracies are those of the epoch chosen on validation images where both groups "
        "held some out, otherwise those of the last epoch. p of the paired t test after Holm's "
        "correction over this table."
    )
    head = ("settings", "first is", "seeds", "difference", "p")
    return Table(caption, head, tuple(rows), text_columns=2, folded=len(rows) > FOLD_ABOVE)


def compute_table(groups: Sequence[Group]) -> Table:
    """Time and memory by group; unfinished runs count too."""
    rows = [_compute_line(group) for group in groups]
    results = [result for group in groups for result in group.results]
    rows.append(("all runs", str(len(results)), *[""] * 4, duration(_seconds(results)), ""))
    caption = (
        "Time spent on training, without the evaluations: mean per epoch, mean per run, and total; "
        "median of the images per second; largest resident memory."
    )
    head = ("settings", "runs", "epochs", "epoch", "images/s", "run", "total", "memory")
    return Table(caption, head, tuple(rows), folded=len(rows) > FOLD_ABOVE)


def run_table(
    results: Sequence[Result], labels: Mapping[Path, str], names: Mapping[Path, str]
) -> Table:
    """Every run by itself.

    Args:
        results: the runs.
        labels: of the runs' groups, by the runs' folders.
        names: of the folders, as they are shown.
    """
    rows = [
        (
            names[result.folder],
            labels[result.folder],
            "finished" if result.finished else "unfinished",
            str(result.experiment.seed),
            f"{len(result.epochs)}/{result.experiment.epochs}",
            *(_percent(result.accuracy.get(measure)) for measure in MEASURES),
            duration(result.seconds),
            str(sum(len(one.get("drops", ())) for one in result.epochs)),
        )
        for result in results
    ]
    head = ("folder", "settings", "state", "seed", "epochs", "last", "validation", "best test")
    caption = "Every run: test accuracy (%) by measure, training time, number of sudden drops."
    return Table(
        caption,
        (*head, "time", "drops"),
        tuple(rows),
        text_columns=3,
        folded=len(rows) > FOLD_ABOVE,
    )


def environment_table(results: Sequence[Result]) -> Table:
    """The environments that differ, and how many runs were made in each."""
    counts: dict[str, int] = {}
    for result in results:
        table = {key: value for key, value in result.environment.items() if key not in DETAILS}
        key = json.dumps(table, sort_keys=True)
        counts[key] = counts.get(key, 0) + 1
    tables = [json.loads(key) for key in counts]
    keys = dict.fromkeys(key for table in tables for key in table)
    varying = [key for key in keys if len({str(table.get(key)) for table in tables}) > 1]
    rows = [("runs", *map(str, counts.values()))]
    rows += [(key, *(_plain(table.get(key)) for table in tables)) for key in keys]
    caption = "Environments of the runs"
    if varying:
        caption += f", which differ in {', '.join(varying)}"
    head = ("", *(f"environment {number}" for number in range(1, len(tables) + 1)))
    return Table(f"{caption}.", head, tuple(rows), text_columns=1 + len(tables))


def notes(results: Sequence[Result]) -> Lines | None:
    """Caveats of the data, and every accuracy that they concern."""
    concerned: dict[str, list[Result]] = {}
    for result in results:
        for note in dict.fromkeys(one["note"] for one in result.epochs if one.get("note")):
            concerned.setdefault(note, []).append(result)
    lines = [
        f"{note}: all accuracies of {count(len(those), 'run')} "
        f"({', '.join(sorted({one.experiment.data for one in those}))})"
        for note, those in concerned.items()
    ]
    return Lines(tuple(lines)) if lines else None


def machine(result: Result) -> str:
    """Where a run was trained, in words."""
    environment = result.environment
    cpu = environment.get("cpu") or "unknown processor"
    threads, cores = environment.get("threads"), environment.get("cores")
    words = f"{cpu}, {threads} of {cores} cores" if threads and cores else str(cpu)
    return f"GPU beside {words}" if "device_peak_memory" in result.epochs[-1] else words


def reached(summary: Summary) -> str:
    """Such as ``"99.40 ± 0.04"`` and, on a line of its own, the interval."""
    words = wording.mean_and_deviation(summary.mean, summary.sd)
    return f"{words}\n{wording.interval(summary.interval)}" if summary.interval else words


def difference_cells(comparison: Comparison[Any]) -> tuple[str, str, str]:
    """Shared seeds, the difference with its interval, and p."""
    seeds, difference = str(comparison.seeds), comparison.difference
    if difference is None:
        return (seeds, NONE, NONE)
    words = f"{difference.mean:+.2f}\n{wording.interval(difference.interval, '+')}"
    return (seeds, words, p_value(comparison.p))


def _row_lines(row: Row, groups: Sequence[Group]) -> list[tuple[str, ...]]:
    lines: list[tuple[str, ...]] = [(f"{row.title}: {row.network}, T = {row.time_steps}",)]
    lines.append(_accuracy_line("published", row.published))
    if row.study:
        lines.append(_accuracy_line("reproduction study", row.study))
    lines += [_group_line(f"ours: {group.label}", group) for group in groups]
    return lines


def _accuracy_line(name: str, accuracy: Accuracy) -> tuple[str, ...]:
    mean, sd, runs, best = accuracy.mean, accuracy.sd, accuracy.runs, accuracy.best
    interval = None if sd is None else stats.t_interval(mean, sd, runs)
    summary = Summary(runs, mean, sd, best, interval)
    return (name, str(runs), NONE, NONE, reached(summary), f"{best:.2f}", NONE)


def _group_line(name: str, group: Group) -> tuple[str, ...]:
    values = {measure: 100 * group.accuracies(measure) for measure in MEASURES}
    complete = {name: one for name, one in values.items() if len(one) == len(group.results)}
    bias = NONE
    if "best-validation" in complete:
        bias = reached(stats.selection_bias(values["best-test"], values["best-validation"]))
    return (
        name,
        str(len(group.results)),
        *(
            reached(stats.summary(complete[measure])) if measure in complete else NONE
            for measure in MEASURES
        ),
        f"{values['best-test'].max():.2f}",
        bias,
    )


def _compute_line(group: Group) -> tuple[str, ...]:
    results = group.results
    machines = dict.fromkeys(map(machine, results))
    epochs = [len(result.epochs) for result in results]
    records = [record for result in results for record in result.epochs]
    rates = [one["images_per_second"] for one in records if one.get("images_per_second")]
    memory = [one["peak_memory"] for one in records if one.get("peak_memory")]
    span = f"{min(epochs)}" if len(set(epochs)) == 1 else f"{min(epochs)} to {max(epochs)}"
    seconds = _seconds(results)
    return (
        f"{group.label}\n{'; '.join(machines)}",
        str(len(results)),
        span,
        duration(seconds / len(records)),
        f"{np.median(rates):,.0f}" if rates else NONE,
        duration(seconds / len(results)),
        duration(seconds),
        f"{max(memory) / 2**30:.1f} GiB" if memory else NONE,
    )


def _seconds(results: Iterable[Result]) -> float:
    return sum(result.seconds for result in results)


def _percent(share: float | None) -> str:
    return NONE if share is None else f"{100 * share:.2f}"


def _plain(value: Any) -> str:
    return NONE if value is None else str(value)
