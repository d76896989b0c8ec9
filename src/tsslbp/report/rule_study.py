"""The section on comparisons of learning rules, read from the folders of `tsslbp compare`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from .. import stats, wording
from ..errors import Error, printable
from ..experiment import network_name
from ..figures import study as study_figures
from ..figures.study import Estimate, Point
from ..figures.style import Array
from ..reading import folders_with
from ..run.comparison import Comparison
from ..run.results import Result
from ..studies import compare
from ..studies.compare import RuleResult, RuleStudy
from ..wording import duration
from .blocks import Block, Lines, Section, Table
from .figures import figure
from .tables import NONE, difference_cells, reached

CAPTION = (
    "Test accuracy (%) at the epoch chosen on validation images: mean ± standard deviation over "
    "the seeds; in small print, for three or more seeds, the 95 % confidence interval of the mean. "
    "Spikes per image are counted at the same epoch, over all layers and time steps. Training time "
    "is that of one run, without evaluations."
)


@dataclass(frozen=True)
class StudyRecord:
    """A study of learning rules, its folder, and the results of every rule at every T."""

    folder: Path
    study: RuleStudy
    results: Sequence[RuleResult]

    def holds(self, run: Result) -> bool:
        """Whether a run belongs to the study."""
        return run.folder.resolve().is_relative_to(self.folder.resolve())

    def counts(self, run: Result) -> bool:
        """Whether a run is one of those at the chosen learning rates."""
        return run.folder.resolve() in self._counted

    @cached_property
    def _counted(self) -> set[Path]:
        return {run.folder.resolve() for one in self.results for run in one.results}


def find(paths: Iterable[Path]) -> tuple[list[StudyRecord], list[str]]:
    """Studies at or below `paths`, and a line for each that could not be read."""
    folders = {
        folder.resolve(): folder for path in paths for folder in folders_with(path, [compare.FILE])
    }
    found, problems = [], []
    for folder in folders.values():
        try:
            study = compare.read(folder)
            found.append(StudyRecord(folder, study, compare.read_results(study, folder)))
        except Error as error:
            problems.append(str(error))
        except OSError as error:
            problems.append(f"{folder} cannot be read: {printable(str(error))}")
    return found, problems


def section(number: int, record: StudyRecord, runs: Sequence[Result]) -> Section:
    """The section of a study; `number`: its own, `runs`: all of the report, for their time."""
    study, results = record.study, record.results
    lines, comparisons = compare.cautions(study, results), compare.against_first(results)
    blocks: list[Block] = [
        Lines("paragraph", (_conditions(study),)),
        *([Lines("list", tuple(lines))] if lines else []),
        _table(results),
        *([_comparison_table(comparisons)] if comparisons else []),
        _rate_table(study, results),
        Lines("paragraph", (_spent(record, runs),)),
    ]
    if any(one.results for one in results):
        blocks += _figures(f"rules-{number}", study, results)
    title = f"Learning rules side by side: {study.experiment.data}"
    return Section(f"rules-{number}", title, blocks)


def _conditions(study: RuleStudy) -> str:
    experiment = study.experiment
    network = network_name(experiment.network)
    rates = ", ".join(f"{rate:g}" for rate in study.learning_rates)
    images = f"{experiment.train_images:,}" if experiment.train_images else "all other"
    return (
        f"The runs differ only in learning rule, number of time steps T, learning rate and seed. "
        f"All use the same initial weights, order of images and optimiser, and train for "
        f"{experiment.epochs} epochs. The network is {network} and the loss is {experiment.loss}. "
        f"They train on {images} images; {experiment.validation_images:,} are held out for "
        f"validation. For each rule and T, runs with seed {experiment.seed} tried the learning "
        f"rates {rates}. The rate with the best validation accuracy was chosen; its run counts as "
        f"a result, and the other seeds were run at that rate. No choice used test images."
    )


def _table(results: Sequence[RuleResult]) -> Table:
    rows: list[tuple[str, ...]] = []
    for steps in dict.fromkeys(one.time_steps for one in results):
        rows += [(f"T = {steps}",), *(_row(one) for one in results if one.time_steps == steps)]
    head = ("rule", "learning rate", "seeds", "test accuracy", "spikes per image", "training time")
    return Table(CAPTION, head, tuple(rows))


def _row(one: RuleResult) -> tuple[str, ...]:
    name = f"{one.rule}\n{one.state}" if one.state else one.rule
    rate = NONE if one.rate is None else f"{one.rate:g}"
    if one.at_edge:
        rate += "\nedge of the grid"
    if not one.results:
        return (name, rate, "0", NONE, NONE, NONE)
    return (
        name,
        rate,
        str(len(one.results)),
        reached(stats.summary(100 * one.accuracies)),
        f"{one.spikes.mean():,.0f}" if len(one.spikes) else NONE,
        duration(one.seconds.mean()),
    )


def _comparison_table(comparisons: Sequence[Comparison[RuleResult]]) -> Table:
    rows = [
        (pair.first.rule, pair.verdict, f"{pair.first.time_steps}", *difference_cells(pair))
        for pair in comparisons
    ]
    caption = (
        f"Each rule compared with the first, {comparisons[0].second.rule}: difference in "
        "percentage points of test accuracy, paired by seed, with the 95 % confidence interval. p "
        "is that of the paired t test, with Holm's correction over this table. The verdict is "
        f"undecided if the interval contains zero, p is above {stats.LEVEL:g} after the "
        "correction, a run diverged, or there are fewer than two shared seeds."
    )
    head = ("rule", "verdict", "T", "seeds", "difference", "p")
    return Table(caption, head, tuple(rows), text_columns=2)


def _rate_table(study: RuleStudy, results: Sequence[RuleResult]) -> Table:
    rows = [(one.name, *(_tried(one, rate) for rate in study.learning_rates)) for one in results]
    caption = (
        "Choice of the learning rate: best validation accuracy (%) of the run at each rate, with "
        f"seed {study.experiment.seed}."
    )
    head = ("rule", *(f"{rate:g}" for rate in study.learning_rates))
    return Table(caption, head, tuple(rows), folded=True)


def _tried(one: RuleResult, rate: float) -> str:
    if rate in one.diverged:
        return "diverged"
    if rate not in one.validation:
        return NONE
    return f"{100 * one.validation[rate]:.2f}" + ("\nchosen" if rate == one.rate else "")


def _spent(record: StudyRecord, runs: Sequence[Result]) -> str:
    mine = [run for run in runs if record.holds(run)]
    tuning = [run for run in mine if not record.counts(run)]
    total, rest = (duration(sum(run.seconds for run in some)) for some in (mine, tuning))
    return (
        f"{wording.count(len(mine), 'run')} took {total} of training time in total. {len(tuning)} "
        f"of them ({rest}) did not use a chosen learning rate; they count only here and in the "
        f"compute."
    )


def _figures(prefix: str, study: RuleStudy, results: Sequence[RuleResult]) -> list[Block]:
    caption = (
        "Mean over the seeds at the chosen learning rates and, for three or more seeds, its 95 % "
        "confidence interval."
    )
    against_cost = study_figures.accuracy_against_cost
    spikes = _curves(study, results, lambda one: one.spikes)
    seconds = _curves(study, results, lambda one: one.seconds)
    drawings = {
        ("steps", "time steps"): study_figures.accuracy_against_time_steps(_curves(study, results)),
        ("spikes", "spikes per image"): against_cost(spikes, "spikes per image"),
        ("seconds", "training time"): against_cost(seconds, "training time per run (s)"),
    }
    return [
        figure(f"{prefix}-{name}", f"Accuracy against {axis}", caption, drawing)
        for (name, axis), drawing in drawings.items()
    ]


def _curves(
    study: RuleStudy,
    results: Sequence[RuleResult],
    cost: Callable[[RuleResult], Array] | None = None,
) -> dict[str, list[Point]]:
    """The points of every rule, in the order of T."""
    curves: dict[str, list[Point]] = {rule: [] for rule in study.rules}
    for one in results:
        if one.results:
            spent = _estimate(cost(one)) if cost and len(cost(one)) else None
            curves[one.rule].append(Point(one.time_steps, _estimate(one.accuracies, 1.0), spent))
    return curves


def _estimate(values: Array, high: float = math.inf) -> Estimate:
    summary = stats.summary(values)
    return Estimate(summary.mean, stats.shown_interval(summary, 0.0, high))
