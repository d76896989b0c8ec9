"""The tables of a report. Accuracies are in percent on the test images.

Groups hold finished runs only, with no seed twice.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from .. import stats, wording
from ..run.comparison import Comparison
from ..run.results import AVERAGED_MEASURES, MEASURES, Costs, Group, Result
from ..stats import Summary
from ..wording import count, duration, p_value
from . import published
from .blocks import Table
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
    "Mean ± standard deviation over the runs; in small print, for three or more runs, the 95 % "
    "confidence interval of the mean (Student's t; bootstrap from 20 runs)."
)
VERDICTS = ("supported", "not supported", "undecided")  # in the order of the tables
DETAILS = ("command", "resumed")  # of an environment, which may differ from run to run


def published_tables(groups: Sequence[Group], names: Iterable[str]) -> list[Table]:
    """Published, reproduction study and ours, for the tables for which there is a run."""
    present = {found[0].table for found in map(row_of, groups) if found}
    return [published_table(groups, name) for name in names if name in present]


def published_table(groups: Sequence[Group], name: str) -> Table:
    """Published, reproduction study and ours, for one of the tables."""
    ours: dict[str, list[Group]] = {}
    for group in groups:
        if found := row_of(group):
            ours.setdefault(found[0].name, []).append(group)
    rows = published.find(name)
    cells = [line for row in rows for line in _row_lines(row, ours.get(row.name, []))]
    caption = f"{rows[0].title.partition(',')[0]}: test accuracy (%). {MEANING}"
    return Table(caption, ("", *HEAD), tuple(cells))


def other_tables(groups: Sequence[Group], measure: str) -> list[Table]:
    """Groups that belong to no published row, best first within a data set.

    If there are many, all but the first are in a folded table.
    """
    others = [group for group in groups if row_of(group) is None]
    others.sort(key=lambda one: (one.experiment.data, -one.accuracies(measure).mean()))
    rows = tuple(line for group in others for line in _group_lines(group.label, group))
    shown = len(rows) if len(rows) <= FOLD_ABOVE else SHOWN_OF_MANY
    head = ("settings", *HEAD)
    caption = f"Test accuracy (%), best first by {MEASURES[measure]}. {MEANING}"
    tables = [Table(caption, head, rows[:shown]), Table("Other settings.", head, rows[shown:])]
    return [replace(one, folded=one is not tables[0]) for one in tables if one.rows]


def claims_tables(judgements: Sequence[Judgement]) -> list[Table]:
    """Claims with matching runs, decided ones first; and claims without."""
    ordered = sorted(judgements, key=lambda one: VERDICTS.index(one.verdict))
    seen = tuple((x.claim, x.verdict, x.reason, p_value(x.p)) for x in ordered if x.seen)
    unseen = tuple((one.claim, one.reason) for one in judgements if not one.seen)
    caption = "Claims tested by these runs. p is corrected by Holm's method over all these tests."
    open_caption = "Claims without matching runs."
    tables = [
        Table(caption, ("claim", "verdict", "reason", "p"), seen, 3),
        Table(open_caption, ("claim", "reason"), unseen, 2, folded=True),
    ]
    return [one for one in tables if one.rows]


def comparison_table(comparisons: Sequence[Comparison[Group]]) -> Table:
    rows = [
        (f"{one.first.label}\nvs. {one.second.label}", one.verdict, *difference_cells(one))
        for one in comparisons
    ]
    caption = (
        "Difference of test accuracy, first minus second settings, in percentage points, paired by "
        "seed, with the 95 % confidence interval. The verdict says whether the first is higher or "
        "lower. Accuracies are those of the epoch chosen on validation images if both groups held "
        "some out, otherwise those of the last epoch. p is that of the paired t test, with Holm's "
        "correction over this table."
    )
    head = ("settings", "verdict", "seeds", "difference", "p")
    return Table(caption, head, tuple(rows), text_columns=2, folded=len(rows) > FOLD_ABOVE)


def compute_table(groups: Sequence[Group]) -> Table:
    """Time and memory by group; unfinished runs count too."""
    rows = [_compute_line(group) for group in groups]
    results = [result for group in groups for result in group.results]
    total = duration(sum(one.seconds for one in results))
    rows.append(("all runs", str(len(results)), *[""] * 5, total, ""))
    caption = (
        "Training time without evaluations: mean per epoch, mean per run, and total. Mean time of "
        "an epoch's evaluations. Median of the images per second of training. Largest resident "
        "memory."
    )
    times = ("epoch", "evaluations", "images/s", "run", "total")
    head = ("settings", "runs", "epochs", *times, "memory")
    return Table(caption, head, tuple(rows), folded=len(rows) > FOLD_ABOVE)


def cost_tables(groups: Sequence[Group]) -> list[Table]:
    """The cost of networks per image, by group, as the mean of the runs that have a record."""
    rows = []
    for group in groups:
        if costs := [run.cost for run in group.results if run.cost]:
            rows.append((group.label, str(len(costs)), *_cost_cells(costs)))
    caption = (
        "Operations per image, over all time steps: multiply-adds of a dense pass, which is the "
        "cost of the same network with ReLU; multiply-adds and additions of the spiking network; "
        "updates of membrane potentials. Energy for 32-bit numbers at 45 nm (Horowitz 2014): 4.6 "
        "pJ per multiply-add, 0.9 pJ per addition, without memory. In small print, the energy "
        "without the updates, as papers often count it."
    )
    head = ("settings", "runs", "neurons", "parameters", "dense", "multiplied", "added", "updates")
    ends = ("energy", "with ReLU", "ratio")
    folded = len(rows) > FOLD_ABOVE
    return [Table(caption, (*head, *ends), tuple(rows), folded=folded)] if rows else []


def run_table(groups: Sequence[Group], names: Mapping[Path, str]) -> Table:
    """Every run, in the order of `names`, the names of the folders."""
    runs = {run.folder: (group.label, run) for group in groups for run in group.results}
    rows = [
        (
            name,
            label,
            "finished" if result.finished else "unfinished",
            str(result.experiment.seed),
            f"{len(result.epochs)}/{result.experiment.epochs}",
            *(f"{100 * reached[x]:.2f}" if x in reached else NONE for x in MEASURES),
            duration(result.seconds),
            str(sum(len(one.get("drops", ())) for one in result.epochs)),
        )
        for folder, name in names.items()
        for label, result in [runs[folder]]
        for reached in [result.accuracy]
    ]
    head = ("folder", "settings", "state", "seed", "epochs", "last", "validation", "best test")
    caption = "All runs: test accuracy (%) by measure, training time, number of sudden drops."
    folded = len(rows) > FOLD_ABOVE
    return Table(caption, (*head, "time", "drops"), tuple(rows), text_columns=3, folded=folded)


def environment_table(results: Sequence[Result]) -> Table:
    """The different environments, and the number of runs made in each."""
    environments = (result.environment.items() for result in results)
    counts = Counter(
        json.dumps({key: value for key, value in one if key not in DETAILS}, sort_keys=True)
        for one in environments
    )
    tables = [json.loads(text) for text in counts]
    keys = dict.fromkeys(key for table in tables for key in table)
    varying = [key for key in keys if len({str(table.get(key)) for table in tables}) > 1]
    rows = [("runs", *map(str, counts.values()))]
    rows += [
        (key, *(NONE if one.get(key) is None else str(one[key]) for one in tables)) for key in keys
    ]
    caption = "Environments of the runs"
    if varying:
        caption += f", which differ in {', '.join(varying)}"
    head = ("", *(f"environment {number}" for number in range(1, len(tables) + 1)))
    return Table(f"{caption}.", head, tuple(rows), text_columns=1 + len(tables))


def notes(results: Sequence[Result]) -> list[str]:
    """Caveats of the data, and the accuracies that they apply to."""
    concerned: dict[str, list[Result]] = {}
    for result in results:
        for note in dict.fromkeys(one["note"] for one in result.epochs if one.get("note")):
            concerned.setdefault(note, []).append(result)
    return [
        f"{note}: all accuracies of {count(len(those), 'run')} "
        f"({', '.join(sorted({one.experiment.data for one in those}))})"
        for note, those in concerned.items()
    ]


def machine(result: Result) -> str:
    """Where a run was trained, in words."""
    environment = result.environment
    cpu = environment.get("cpu") or "unknown processor"
    threads, cores = environment.get("threads"), environment.get("cores")
    words = f"{cpu}, {threads} of {cores} cores" if threads and cores else cpu
    return f"GPU, with {words}" if "device_peak_memory" in result.epochs[-1] else words


def reached(summary: Summary, low: float = 0.0, high: float = 100.0) -> str:
    """Such as ``"99.40 ± 0.04"`` and, on a separate line, the interval, clipped to the bounds."""
    words = wording.mean_and_deviation(summary.mean, summary.sd)
    interval = stats.shown_interval(summary, low, high)
    return f"{words}\n{wording.interval(interval)}" if interval else words


def difference_cells(comparison: Comparison[Any]) -> tuple[str, str, str]:
    """Shared seeds, the difference with its interval, and p."""
    words = NONE
    if difference := comparison.difference:
        words = f"{difference.mean:+.2f}"
        if comparison.seeds >= stats.SHOWN_RUNS:
            low, high = difference.interval
            words += f"\n{wording.interval((max(low, -100), min(high, 100)), '+')}"
    return (str(comparison.seeds), words, p_value(comparison.p))


def _row_lines(row: Row, groups: Sequence[Group]) -> list[tuple[str, ...]]:
    return [
        (f"{row.title}: {row.network}, T = {row.time_steps}",),
        _accuracy_line("published", row.published),
        *([_accuracy_line("reproduction study", row.study)] if row.study else []),
        *(line for group in groups for line in _group_lines(f"ours: {group.label}", group)),
    ]


def _accuracy_line(name: str, one: Accuracy) -> tuple[str, ...]:
    interval = None if one.sd is None else stats.t_interval(one.mean, one.sd, one.runs)
    summary = Summary(one.runs, one.mean, one.sd, one.best, interval)
    return (name, str(one.runs), NONE, NONE, reached(summary), f"{one.best:.2f}", NONE)


def _group_lines(name: str, group: Group) -> list[tuple[str, ...]]:
    """A group's line, and one for averaged weights if all its runs have them."""
    lines = [_group_line(name, group)]
    for measure, title in AVERAGED_MEASURES.items():
        values = 100 * group.accuracies(measure)
        if len(values) == len(group.results):
            cells = [reached(stats.summary(values)), NONE, NONE]
            line = (f"{name}, {title}", str(len(values)), *cells, f"{values.max():.2f}", NONE)
            lines.append(line)
    return lines


def _group_line(name: str, group: Group) -> tuple[str, ...]:
    values = {measure: 100 * group.accuracies(measure) for measure in MEASURES}
    complete = {name: one for name, one in values.items() if len(one) == len(group.results)}
    cells = [reached(stats.summary(complete[one])) if one in complete else NONE for one in MEASURES]
    bias = NONE
    if "best-validation" in complete:
        bias = reached(stats.selection_bias(values["best-test"], values["best-validation"]), -100)
    best = f"{values['best-test'].max():.2f}"
    return (name, str(len(group.results)), *cells, best, bias)


def _cost_cells(costs: Sequence[Costs]) -> tuple[str, ...]:
    def mean(key: str) -> float:
        return float(np.mean([getattr(one, key) for one in costs]))

    energy, connections, relu = map(mean, ("energy", "connection_energy", "relu_energy"))
    counts = ("neurons", "parameters", "dense_multiplications")
    return (
        *(f"{mean(key):,.0f}" for key in (*counts, "multiplications", "additions", "updates")),
        f"{wording.energy(energy)}\n{wording.energy(connections)}",
        wording.energy(relu),
        f"{energy / relu:.2f}\n{connections / relu:.2f}" if relu else NONE,
    )


def _compute_line(group: Group) -> tuple[str, ...]:
    results = group.results
    machines = dict.fromkeys(map(machine, results))
    epochs = [len(result.epochs) for result in results]
    records = [record for result in results for record in result.epochs]
    rates = [one["images_per_second"] for one in records if one.get("images_per_second")]
    memory = [one["peak_memory"] for one in records if one.get("peak_memory")]
    evaluations = [one["evaluation_seconds"] for one in records if one.get("evaluation_seconds")]
    span = f"{min(epochs)}" if len(set(epochs)) == 1 else f"{min(epochs)} to {max(epochs)}"
    seconds = sum(one.seconds for one in results)
    return (
        f"{group.label}\n{'; '.join(machines)}",
        str(len(results)),
        span,
        duration(seconds / len(records)),
        duration(float(np.mean(evaluations))) if evaluations else NONE,
        f"{np.median(rates):,.0f}" if rates else NONE,
        duration(seconds / len(results)),
        duration(seconds),
        f"{max(memory) / 2**30:.1f} GiB" if memory else NONE,
    )
